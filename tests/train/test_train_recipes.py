import pytest

from llama_omni.errors import ConfigError
from llama_omni.model.presets import PRESET_NAMES
from llama_omni.overrides import override
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
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        override(find_recipe("tiny"), [change])


def test_unknown_recipe_is_answered_with_the_known():
    with pytest.raises(ConfigError, match="recipe must be one of tiny, 1b, 8b, got 'tny'"):
        find_recipe("tny")
