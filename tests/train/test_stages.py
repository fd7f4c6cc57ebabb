import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llama_omni.checkpoint.native import load_model
from llama_omni.errors import InputError, TargetError
from llama_omni.model.ctc import ctc_loss
from llama_omni.model.tokenizer import load_tokenizer
from llama_omni.prompt import IGNORE
from llama_omni.train.runner import train
from llama_omni.train.sampler import seeded
from llama_omni.train.state_cache import cached_features, cached_states
from tests.train.runs import lines
from tests.train.talk import (
    Examples,
    example,
    examples,
    loss_of,
    stage_one,
    stage_two,
    talking_model,
    turn,
)


def fit(task, rows, output):
    return train(task, rows, rows.lengths, task._settings, output)


def test_stage_one_overfits_16_samples(tmp_path):
    rows = examples()
    task = stage_one(
        *talking_model(), rows=rows, max_steps=200, batch_size=16, samples=tmp_path / "samples"
    )
    features = cached_features(task.model, task._judge, rows, tmp_path / "cache", device="cpu")
    task.collate = replace(task.collate, features=features)
    result = fit(task, rows, tmp_path / "run")
    assert result.metrics["exact"] >= 15 / 16
    assert result.metrics["loss"] < 0.1
    written = (tmp_path / "samples/step-00000200.jsonl").read_text().splitlines()
    assert json.loads(written[0])["reply"] == json.loads(written[0])["wanted"]


def test_stage_two_overfits_16_samples(tmp_path):
    rows = examples()
    task = stage_two(
        *talking_model(), rows=rows, max_steps=200, batch_size=16, samples=tmp_path / "samples"
    )
    states = cached_states(task.model, task._judge, rows, tmp_path / "cache", device="cpu")
    result = train(task, states, rows.lengths, task._settings, tmp_path / "run")
    assert result.metrics["unit_error"] < 0.1
    assert result.metrics["first_token_recall"] > 0.8
    assert result.metrics["units_per_token"] == pytest.approx(8 / 3, rel=0.1)
    assert (tmp_path / "samples/step-00000200.jsonl").exists()


@pytest.mark.parametrize("stage", [stage_one, stage_two])
def test_20_steps_lower_the_loss(tmp_path, stage):
    rows = examples()
    fit(stage(*talking_model()), rows, tmp_path)
    losses = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert len(losses) == 20
    assert losses[-1] < 0.8 * losses[0]


def test_stage_one_loss_is_that_of_the_model():
    model, tokenizer = talking_model()
    task, rows = stage_one(model, tokenizer), examples(5)
    batch = task.collate(rows)
    features = model.encoder(batch["mel"], batch["mel_lengths"])
    speech = model.adapt(features, batch["mel_lengths"])
    output = model(batch["input_ids"], speech, batch["attention_mask"], batch["labels"])
    assert_close(loss_of(task, rows), output.lm_loss)
    halved = model(
        batch["input_ids"], speech, batch["attention_mask"], batch["labels"],
        lm_normaliser=2 * task.count(batch),
    )  # fmt: skip
    assert_close(halved.lm_loss, output.lm_loss / 2)


@pytest.mark.parametrize("states", ["predicting", "labelled"])
def test_stage_two_loss_is_that_of_the_model(states):
    model, tokenizer = talking_model()
    task, rows = stage_two(model, tokenizer, ctc_states=states), examples(5)
    batch = task.collate(rows)
    speech = model.adapt(model.encoder(batch["mel"], batch["mel_lengths"]), batch["mel_lengths"])
    output = model(
        batch["input_ids"], speech, batch["attention_mask"], batch["labels"], batch["units"],
        ctc_states=states,
    )  # fmt: skip
    assert_close(loss_of(task, rows), output.ctc_loss)


def test_states_are_those_that_predict_the_answer_by_default():
    assert stage_two(*talking_model())._which == "predicting"


def test_states_come_after_the_final_norm():
    model, tokenizer = talking_model()
    task = stage_two(model, tokenizer)
    before = loss_of(task, examples(3))
    model.llm.model.norm.weight.data *= 3
    assert not torch.isclose(loss_of(task, examples(3)), before)


def test_targets_are_padded_with_minus_100_not_with_a_unit():
    task = stage_two(*talking_model())
    rows = [example(0), example(1, units=[3, 4, 3])]
    batch = task.collate(rows)
    assert batch["units"][1].tolist() == [3, 4, 3] + [IGNORE] * 5
    assert task.count(batch) == 11
    alone = sum(loss_of(task, [row], normaliser=1.0) for row in rows)
    assert_close(loss_of(task, rows, normaliser=1.0), alone, rtol=1e-5, atol=1e-4)


def test_labels_cover_the_answer_only():
    task = stage_one(*talking_model())
    rows = [example(0), example(1, history=(turn(3), turn(4, spoken=False)))]
    batch = task.collate(rows)
    for labels in batch["labels"]:
        kept = labels[labels != IGNORE].tolist()
        text = task._judge.tokenizer.inner.decode(kept)
        assert text in ("ax<|eot_id|>", "by<|eot_id|>")
    assert task.count(batch) == 6
    assert len(batch["mel"]) == 3  # two questions and one earlier turn that was spoken


def test_blank_is_the_last_class():
    task = stage_two(*talking_model())
    batch = task.collate(examples(2))
    logits, frames = task._unit_logits(batch)
    silent = torch.full_like(logits, -10.0)
    silent[..., -1] = 10.0
    units = task.model.config.speech_decoder.num_units
    assert logits.shape[-1] == units + 1
    assert ctc_loss(silent, frames, batch["units"]) > 15  # saying nothing is not free
    assert task.model.config.speech_decoder.blank == units


def test_targets_longer_than_frames_are_counted_and_reported(caplog):
    model, tokenizer = talking_model()
    long = example(1, answer="a", units=[0, 1] * 8)  # 16 units, 2 tokens of 5 frames
    impossible = example(2, answer="a", units=[0] * 16)
    rows = [example(0), long, impossible]
    task = stage_two(model, tokenizer)
    batch = task.collate(rows)
    assert batch["too_long"] == ["sample-1", "sample-2"]
    assert batch["ids"] == ["sample-0", "sample-1"]
    result = task.loss(batch, torch.tensor(1.0))
    assert result.numbers["too_long"] == pytest.approx(2 / 3)
    assert torch.isfinite(result.loss)
    assert "targets hold more units than frames: sample-1, sample-2" in caplog.text
    assert stage_two(model, tokenizer, too_long="skip").collate(rows)["ids"] == ["sample-0"]
    with pytest.raises(TargetError, match="sample-1: 16 units with 0 adjacent repeats need 16"):
        stage_two(model, tokenizer, too_long="raise").collate(rows)


@pytest.mark.parametrize(
    ("units", "message"),
    [([], "must have target units, got none"), ([0, 7], "0 to 6, got 7"), ([-100], "got -100")],
)
def test_targets_that_are_no_units_are_refused(units, message):
    with pytest.raises(TargetError, match=f"sample-0: .*{message}"):
        stage_two(*talking_model()).collate([example(0, units=units)])


def test_rows_too_long_for_the_model_are_left_out_by_name():
    task = stage_one(*talking_model(max_positions=30))
    loud = np.zeros(20_000, np.float32)  # 1.25 s for a window of 1 s
    rows = [example(0), example(1, answer="word " * 20), example(2, audio=loud)]
    batch = task.collate(rows)
    assert batch["cut"] == ["sample-1", "sample-2"]
    nothing = task.collate(rows[1:])
    assert task.count(nothing) == 0
    assert float(task.loss(nothing, torch.tensor(1.0)).loss) == 0
    strict = stage_one(*talking_model(max_positions=30))
    strict.collate = replace(strict.collate, skip_cut=False)
    with pytest.raises(InputError, match="sample-1: it must fit max_positions=30, got"):
        strict.collate(rows)


UNFIT = [
    (example(1, audio=np.zeros(20_000, np.float32)), "a turn must be at most 100 mel frames"),
    (example(1, answer="word " * 20), "it must fit max_positions=30"),
    (example(1, audio=np.zeros(0, np.float32)), "its question must have sound, got none"),
]
UNSPEAKABLE = [
    (example(1, units=[]), "it must have target units, got none"),
    (example(1, answer="a", units=[0] * 16), "16 target units are more than its frames"),
]


@pytest.mark.parametrize(
    ("stage", "row", "reason"),
    [(stage, *case) for stage in (stage_one, stage_two) for case in UNFIT]
    + [(stage_two, *case) for case in UNSPEAKABLE],
)
def test_held_out_rows_that_cannot_be_judged_are_left_out(tmp_path, caplog, stage, row, reason):
    rows = [example(0), row, example(2)]
    task = stage(*talking_model(max_positions=30), rows=rows, samples=tmp_path, max_new_tokens=4)
    told = "held-out rows left out split=seen rows=1 of=3; sample sample-1: "
    assert told + reason in caplog.text
    with torch.no_grad():
        numbers = task.evaluate(1)
    assert all(np.isfinite(value) for value in numbers.values())
    written = (tmp_path / "step-00000001.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in written] == ["sample-0", "sample-2"]


@pytest.mark.parametrize(
    ("others", "skip_cut"), [(0, True), (1, False)], ids=["no other", "none may be left out"]
)
def test_held_out_rows_that_must_be_judged_and_cannot_are_refused(others, skip_cut):
    rows = [UNFIT[0][0], *examples(others)]
    with pytest.raises(InputError, match=f"split 'seen' must .*, got 1 of {1 + others} that"):
        stage_one(*talking_model(), rows=rows, skip_cut=skip_cut)


def test_held_out_rows_are_spread_over_their_split():
    rows = examples(9)
    task = stage_one(*talking_model(), rows=rows, held_out_rows=3)
    assert [row.id for row in task._rows["seen"]] == ["sample-0", "sample-4", "sample-8"]


def test_question_without_sound_is_refused():
    with pytest.raises(InputError, match="sample-0: its question must have sound"):
        stage_one(*talking_model()).collate([example(0, audio=np.zeros(0, np.float32))])


def test_a_share_of_the_questions_is_written():
    task = stage_one(*talking_model(), text_share=0.5)
    np.random.seed(0)
    batch = task.collate(examples(16))
    spoken = len(batch["mel"])
    assert 2 < spoken < 14
    assert torch.isfinite(loss_of(task, examples(16)))
    written = stage_one(*talking_model(), text_share=1.0)
    assert "mel" not in written.collate(examples(2))
    assert torch.isfinite(loss_of(written, examples(2)))


@pytest.mark.parametrize("llm", ["whole", "lora", "frozen"])
def test_llm_learns_whole_by_lora_or_not_at_all(tmp_path, llm):
    rows, (model, tokenizer) = examples(), talking_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    task = stage_one(model, tokenizer, llm=llm)
    fit(task, rows, tmp_path / "run")
    losses = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert losses[-1] < losses[0]
    folder = tmp_path / "run/final"
    again = load_model(folder)
    load_tokenizer(folder)
    changed = {
        name.split(".")[0]
        for name, value in again.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == {"adapter"} | ({"llm"} if llm != "frozen" else set())
    model.eval()
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert_close(again(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)


def test_teacher_of_a_frozen_llm_is_that_llm():
    model, tokenizer = talking_model()
    task = stage_one(model, tokenizer, llm="frozen", distill_weight=1.0)
    assert task._teacher is not None
    assert task._teacher._llm is None
    assert torch.isfinite(loss_of(task, examples(2)))


@pytest.mark.parametrize("llm", ["whole", "lora"])
def test_teacher_is_the_llm_as_it_was(tmp_path, llm):
    rows, (model, tokenizer) = examples(), talking_model()
    task = stage_one(model, tokenizer, llm=llm, distill_weight=1.0, distill_temperature=2.0)
    batch = task.collate(rows[:4])
    same = {**batch, "input_ids": batch["written_input_ids"], "labels": batch["written_labels"]}
    same["attention_mask"] = batch["written_attention_mask"]
    same = {name: v for name, v in same.items() if name not in ("mel", "mel_lengths")}
    result = task.loss(same, torch.tensor(1.0))
    assert float(result.numbers["divergence"]) == pytest.approx(0, abs=1e-5)  # itself, reading
    fit(task, rows, tmp_path)
    moved = task.loss(same, torch.tensor(1.0))
    assert float(moved.numbers["divergence"]) > 1e-3
    assert "divergence" in lines(tmp_path)[0]


def test_stage_two_changes_the_speech_decoder_only(tmp_path):
    rows, (model, tokenizer) = examples(), talking_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(stage_two(model, tokenizer), rows, tmp_path)
    changed = {
        n.split(".")[0] for n, v in model.state_dict().items() if not torch.equal(v, before[n])
    }
    assert changed == {"speech_decoder"}


@pytest.mark.parametrize("stage", [stage_one, stage_two])
def test_gradient_checkpointing_gives_the_same_losses(tmp_path, stage):
    rows = examples()
    for name, on in (("plain", False), ("checkpointed", True)):
        task = stage(*talking_model(), gradient_checkpointing=on, max_steps=3)
        fit(task, rows, tmp_path / name)
    for a, b in zip(lines(tmp_path / "plain"), lines(tmp_path / "checkpointed"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 1.0], ids=["", "teacher"])
def test_gradient_checkpointing_reaches_a_frozen_llm(tmp_path, weight):
    rows, passes = examples(), {}
    for on in (False, True):
        task = stage_one(
            *talking_model(),
            llm="frozen",
            gradient_checkpointing=on,
            max_steps=2,
            distill_weight=weight,
        )
        calls = []
        first = task.model.llm.model.layers[0].input_layernorm
        first.register_forward_pre_hook(
            lambda *_, calls=calls: calls.append(torch.is_grad_enabled())
        )
        fit(task, rows, tmp_path / str(on))
        passes[on] = sum(calls)
    assert passes == {False: 2, True: 4}  # each a second time for its gradients
    for a, b in zip(lines(tmp_path / "False"), lines(tmp_path / "True"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("stage", [stage_one, stage_two])
def test_bf16_comes_near(tmp_path, stage):
    rows = examples()
    for name, precision in (("full", "float32"), ("half", "bf16")):
        fit(stage(*talking_model(), precision=precision, max_steps=5), rows, tmp_path / name)
    full, half = (
        [line["loss"] for line in lines(tmp_path / name) if "loss" in line]
        for name in ("full", "half")
    )
    assert half == pytest.approx(full, rel=0.05)


def test_history_of_earlier_turns_changes_the_loss():
    task = stage_one(*talking_model())
    plain = loss_of(task, [example(0)])
    spoken = loss_of(task, [example(0, history=(turn(3),))])
    written = loss_of(task, [example(0, history=(turn(3, spoken=False),))])
    assert len({round(value.item(), 4) for value in (plain, spoken, written)}) == 3
    without = stage_one(*talking_model(), history=False)
    assert_close(loss_of(without, [example(0, history=(turn(3),))]), plain)


def test_several_rows_equal_each_alone():
    task = stage_one(*talking_model())
    rows = Examples([example(0), example(1, history=(turn(3),)), example(2, answer="longer")])
    alone = sum(loss_of(task, [row], normaliser=1.0) for row in rows)
    assert_close(loss_of(task, rows, normaliser=1.0), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stage", [stage_one, stage_two])
def test_stopped_stage_goes_on_with_identical_losses(tmp_path, stage):
    rows, share = examples(), {"text_share": 0.3} if stage is stage_one else {}
    fit(stage(*talking_model(), max_steps=6, **share), rows, tmp_path / "whole")
    for _ in range(6):
        task = stage(*talking_model(), max_steps=6, stop_after_s=1e-9, **share)
        done = fit(task, rows, tmp_path / "parts").done
    assert done
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")


def test_sounds_vary_by_the_batch_and_repeat_with_its_seed():
    task = stage_one(*talking_model(), augment=True)
    rows = [example(0), example(1, history=(turn(3),))]

    def mel(seed):
        with seeded(seed):
            return task.collate(rows)["mel"]

    assert torch.equal(mel(1), mel(1))
    assert mel(1).shape != mel(2).shape or not torch.equal(mel(1), mel(2))
    assert torch.isfinite(loss_of(task, rows))
    assert task._judge.augmenter is None


def test_varied_and_written_rows_are_the_same_however_a_step_is_divided(tmp_path):
    rows, losses = examples(), {}
    for size in (8, 4, 2):
        changes = {"batch_size": size, "accumulation": 8 // size, "max_steps": 3}
        model, tokenizer = talking_model(max_positions=512)
        task = stage_one(model, tokenizer, text_share=0.4, augment=True, **changes)
        fit(task, rows, tmp_path / str(size))
        losses[size] = [line["loss"] for line in lines(tmp_path / str(size)) if "loss" in line]
    assert len(losses[8]) == 3
    assert losses[4] == pytest.approx(losses[8], rel=1e-4)
    assert losses[2] == pytest.approx(losses[8], rel=1e-4)
