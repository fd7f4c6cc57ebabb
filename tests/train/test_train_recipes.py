import pytest

from llama_omni.errors import ConfigError
from llama_omni.model.presets import PRESET_NAMES
from llama_omni.overrides import override
from llama_omni.part_recipes import tiny_encoder, tiny_lm, tiny_vocoder
from llama_omni.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_complete_and_says_hardware_and_hours(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    assert recipe.preset in PRESET_NAMES
    text = " ".join((RECIPES[name].__doc__ or "").split())
    assert all(word in text for word in ("Command:", "Hardware", "measured"))


def test_8b_has_the_papers_numbers():
    recipe = find_recipe("8b")
    for stage, rate in ((recipe.stage1, 2e-5), (recipe.stage2, 2e-4)):
        assert stage.batch_size * stage.accumulation * 4 == 32
        assert (stage.epochs, stage.learning_rate, stage.warmup_ratio) == (3.0, rate, 0.03)
        assert stage.schedule == "cosine"
    assert recipe.stage1.llm == "whole"
    assert recipe.stage2.ctc_states == "predicting"


def test_settings_change_by_text_and_keep_their_type():
    changes = ["stage1.learning_rate=1e-4", "stage1.llm=lora", "stage2.max_steps=20"]
    recipe = override(find_recipe("tiny"), changes)
    assert (recipe.stage1.learning_rate, recipe.stage1.llm, recipe.stage2.max_steps) == (
        1e-4,
        "lora",
        20,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage1.learning_rat=1", "no field 'learning_rat'.*learning_rate"),
        ("stage1.learning_rate=fast", "must be a number, got 'fast'"),
        ("stage2.max_steps=1.5", "must be a whole number, got '1.5'"),
        ("stage1.llm=half", "llm must be whole, lora or frozen, got 'half'"),
        ("stage2.ctc_states=next", "ctc_states must be one of predicting, labelled"),
        ("stage1.batch_size=0", "batch_size must be at least 1, got 0"),
        ("stage3.batch_size=1", "no field 'stage3'"),
        ("stage1.held_out_batch=0", "held_out_batch must be at least 1, got 0"),
        ("stage2.max_new_tokens=0", "max_new_tokens must be at least 1, got 0"),
        ("stage1.held_out_rows=-1", "held_out_rows must be at least 0, got -1"),
        ("stage2.samples=-1", "samples must be at least 0, got -1"),
        ("stage2.collapse_stop=-1", "collapse_stop must be at least 0, got -1"),
        ("stage1.lora_dropout=2", "lora_dropout must be 0 or more, below 1, got 2.0"),
        ("stage1.lora_dropout=nan", "lora_dropout must be 0 or more, below 1, got nan"),
        ("stage1.lora_alpha=inf", "lora_alpha must be above 0 and finite, got inf"),
        ("stage1.epochs=inf", "epochs must be above 0 and finite without max_steps, got inf"),
        ("stage1.distill_weight=nan", "distill_weight must be 0 or more and .*, got nan and 1.0"),
        ("stage1.distill_temperature=nan", "temperature above 0, .*, got 0.0 and nan"),
        ("stage1.seed=-1", "seed must be at least 0, got -1"),
        ("seed=-1", "seed must be at least 0, got -1"),
        ("stage1.lora_rank=8", "lora_rank must be left out with llm=whole, got 8; give llm=lora"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        override(find_recipe("tiny"), [change])


@pytest.mark.parametrize(
    ("recipe", "change", "message"),
    [
        (tiny_lm(), "lm.question_weight=nan", "lm.question_weight must be 0 or more .*, got nan"),
        (tiny_lm(), "texts.seed=-1", "texts.seed must be at least 0, got -1"),
        (tiny_lm(), "training.seed=-1", "seed must be at least 0, got -1"),
        (tiny_encoder(), "encoder.aux_weight=nan", "aux_weight must be 0 or more .*, got nan"),
        (tiny_encoder(), "encoder.augment.silence_s=nan", "silence_s must be 0 or more, got nan"),
        (tiny_vocoder(), "training.segment_s=0.001", "segment_s must be at least 0.02, .* 0.001"),
        (tiny_vocoder(), "training.segment_s=inf", "segment_s must be .* finite, got inf"),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)
def test_impossible_settings_of_a_part_are_refused(recipe, change, message):
    with pytest.raises(ConfigError, match=message):
        override(recipe, [change])


def test_unknown_recipe_is_answered_with_the_known():
    with pytest.raises(ConfigError, match="recipe must be one of tiny, 1b, 8b, got 'tny'"):
        find_recipe("tny")
