"""Parity with the released system: every number of a golden folder, from its official layout.

`pytest tests/test_golden.py --golden FOLDER` checks any other set in that layout.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.testing import assert_close

from llama_omni.engine.step import Row, Stepper
from llama_omni.interfaces import Turn
from llama_omni.model.ctc import CollapseStream, collapse, frame_lengths, frame_sources
from llama_omni.model.omni import SPEECH_TOKEN
from llama_omni.model.units import KMeansUnits, reduce_units
from llama_omni.model.vocoder import UnitVocoder
from llama_omni.prompt import IGNORE, encode_example, encode_prompt, prompt_template

FLOAT = {"atol": 5e-4, "rtol": 1e-4}
UNIT_LOGITS = {"atol": 2e-3, "rtol": 0.0}
WAVEFORM = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module")
def speech(golden_model, golden_tensors):
    with torch.no_grad():
        features = golden_model.encoder(golden_tensors["speech"].transpose(1, 2))
        rows = golden_model.adapt(features, golden_tensors["speech_lengths"])
    places = (golden_tensors["input_ids"] == SPEECH_TOKEN).any(dim=1).tolist()
    return [row for row, used in zip(rows, places, strict=True) if used]


@pytest.fixture(scope="module")
def spoken_prompt(golden_model, golden_tensors):
    return embeddings_of(golden_model, golden_tensors, golden_tensors["gen_speech_lengths"])


def embeddings_of(model, tensors, speech_length):
    with torch.no_grad():
        features = model.encoder(tensors["mel"][None])
        rows = model.adapt(features, speech_length)
        return model.merge(tensors["gen_input_ids"], rows).embeddings[0]


def stream(model, embeddings, *, count, stop=(), graphs=None):
    """Generate greedily, token by token: tokens and the frame labels of each."""
    stepper = Stepper(model, graphs=graphs)
    row = Row(llm_slot=stepper.llm_cache.allocate(), speech_slot=stepper.speech_cache.allocate())
    result = stepper.first([row], stepper.prefill(row.llm_slot, embeddings))
    tokens, labels = list(result.tokens), list(result.labels)
    while len(tokens) < count and tokens[-1] not in stop:
        result = stepper.step([row], tokens[-1:])
        tokens += result.tokens
        labels += result.labels
    return tokens, labels


def test_log_mel_matches_reference(golden_model, golden_tensors):
    mel, lengths = golden_model.mel(golden_tensors["waveform"][None])
    frames = golden_tensors["mel"].shape[1]
    if mel.shape[-1] == frames:
        assert_close(mel[0], golden_tensors["mel"], **FLOAT)
    assert lengths.tolist() == [mel.shape[-1]]


def test_log_mel_of_padded_window_matches_reference(golden_tensors):
    from llama_omni.model.encoder import log_mel

    waveform = golden_tensors["waveform"]
    padded = torch.nn.functional.pad(waveform, (0, 480_000 - len(waveform)))
    head = golden_tensors["mel30_head"]
    mel = log_mel(padded[None], num_mels=head.shape[0])[0]
    assert_close(mel[:, : head.shape[1]], head, **FLOAT)
    mean, std, highest, lowest, frames = golden_tensors["mel30_stats"].tolist()
    assert mel.shape[1] == frames
    found = mel.double()
    assert [found.mean(), found.std(), found.max(), found.min()] == pytest.approx(
        [mean, std, highest, lowest], abs=5e-4
    )


def test_encoder_and_adapter_match_reference(golden_model, golden_tensors):
    with torch.no_grad():
        features = golden_model.encoder(golden_tensors["speech"].transpose(1, 2))
        assert_close(features, golden_tensors["encoder_out"], **FLOAT)
        assert_close(golden_model.adapter(features), golden_tensors["projector_out"], **FLOAT)
        rows = golden_model.adapt(features, golden_tensors["speech_lengths"])
    assert [len(row) for row in rows] == golden_tensors["speech_embed_lens"].tolist()


def test_merged_embeddings_match_reference(golden_model, golden_tensors, speech):
    merged = golden_model.merge(
        golden_tensors["input_ids"],
        speech,
        attention_mask=golden_tensors["attention_mask"],
        labels=golden_tensors["labels"],
    )
    assert_close(merged.embeddings.detach(), golden_tensors["merged_embeds"], **FLOAT)
    assert torch.equal(merged.labels, golden_tensors["merged_labels"])
    assert torch.equal(merged.mask, golden_tensors["merged_attention_mask"])


@pytest.mark.parametrize(
    ("ctc_states", "name"),
    [
        pytest.param("labelled", "ctc_loss", id="released"),
        pytest.param("predicting", "ctc_loss_shifted", id="shifted"),
    ],
)
def test_losses_and_states_match_reference(golden_model, golden_tensors, speech, ctc_states, name):
    with torch.no_grad():
        output = golden_model(
            golden_tensors["input_ids"],
            speech,
            golden_tensors["attention_mask"],
            golden_tensors["labels"],
            golden_tensors["tgt_units"],
            ctc_states=ctc_states,
        )
    valid = golden_tensors["merged_attention_mask"].bool()
    assert_close(output.logits[valid], golden_tensors["logits_valid"], **FLOAT)
    assert_close(output.hidden[valid], golden_tensors["last_hidden_valid"], **FLOAT)
    assert_close(output.lm_loss, golden_tensors["lm_loss"][0], **FLOAT)
    assert_close(output.ctc_loss, golden_tensors[name][0], **FLOAT)
    if ctc_states == "labelled":
        assert_close(output.loss, golden_tensors["joint_loss"][0], **FLOAT)


def test_gradients_match_reference(golden_model, golden_tensors, speech):
    golden_model.zero_grad()
    features = golden_model.encoder(golden_tensors["speech"].transpose(1, 2))
    rows = golden_model.adapt(features, golden_tensors["speech_lengths"])[: len(speech)]
    output = golden_model(
        golden_tensors["input_ids"],
        rows,
        golden_tensors["attention_mask"],
        golden_tensors["labels"],
        golden_tensors["tgt_units"],
        ctc_states="labelled",
    )
    decoder, llm = golden_model.speech_decoder, golden_model.llm
    weights = {
        "grad_input_proj_bias": decoder.input_proj.bias,
        "grad_output_proj_bias": decoder.output_proj.bias,
        "grad_q_proj_l0_row0": decoder.layers[0].self_attn.q_proj.weight,
    }
    found = torch.autograd.grad(output.ctc_loss, list(weights.values()), retain_graph=True)
    for name, gradient in zip(weights, found, strict=True):
        gradient = gradient[0] if name.endswith("row0") else gradient
        assert_close(gradient, golden_tensors[name], **FLOAT)
    norm, projector = torch.autograd.grad(
        output.lm_loss, [llm.model.norm.weight, golden_model.adapter.linear2.bias]
    )
    assert_close(norm, golden_tensors["grad_final_norm"], **FLOAT)
    assert_close(projector, golden_tensors["grad_projector_linear2_bias"], **FLOAT)


def test_upsampling_matches_reference(golden_tensors):
    lengths = (golden_tensors["merged_labels"] != IGNORE).sum(dim=1)
    targets = (golden_tensors["tgt_units"] != IGNORE).sum(dim=1)
    frames = frame_lengths(lengths, 25, targets)
    assert torch.equal(frames, golden_tensors["train_up_lens"])
    sources, _ = frame_sources(lengths, frames)
    assert torch.equal(sources, golden_tensors["train_up_index"])


def test_decoder_logits_match_reference(golden_model, golden_tensors):
    with torch.no_grad():
        logits, _ = golden_model.speech_decoder(golden_tensors["gen_hidden"][None])
    expected = golden_tensors["gen_ctc_logits"]
    assert_close(logits[0, : len(expected)], expected, **UNIT_LOGITS)
    assert torch.equal(logits.argmax(-1), golden_tensors["gen_ctc_pred"])


@pytest.mark.parametrize("graphs", [None, True], ids=["exact", "bucketed"])
def test_streamed_reply_matches_reference(
    golden_model, golden_tensors, spoken_prompt, streaming, graphs
):
    blank = golden_model.config.speech_decoder.blank
    expected = golden_tensors["gen_ids"][0].tolist()
    tokens, labels = stream(golden_model, spoken_prompt, count=len(expected), graphs=graphs)
    frames = [label for step in labels for label in step]
    assert tokens == expected
    assert frames == golden_tensors["gen_ctc_pred"][0].tolist()
    assert collapse(frames, blank=blank) == golden_tensors["gen_units"].tolist()
    units = CollapseStream(blank)
    assert [units.push(step) for step in labels] == [s["new_units"] for s in streaming["steps"]]
    assert tokens == [step["token"] for step in streaming["steps"]]


def test_streamed_states_and_logits_match_reference(golden_model, golden_tensors, spoken_prompt):
    stepper = Stepper(golden_model)
    slot = stepper.llm_cache.allocate()
    states = [stepper.prefill(slot, spoken_prompt)]
    embed = golden_model.get_input_embeddings()
    for token in golden_tensors["gen_ids"][0, :-1]:
        states.append(stepper.prefill(slot, embed(token[None]).detach()))
    hidden = torch.cat(states)
    assert_close(hidden, golden_tensors["gen_hidden"], **FLOAT)
    with torch.inference_mode():
        logits = golden_model.get_output_embeddings()(hidden)
    assert_close(logits, golden_tensors["gen_step_logits"], **FLOAT)


def test_reply_that_stops_matches_reference(golden_model, golden_tensors, spoken_prompt):
    tokens, labels = stream(
        golden_model, spoken_prompt, count=64, stop=golden_tensors["gen_eos_token"].tolist()
    )
    frames = [label for step in labels for label in step]
    assert tokens == golden_tensors["gen_eos_ids"][0].tolist()
    assert frames == golden_tensors["gen_eos_ctc_pred"][0].tolist()
    units = collapse(frames, blank=golden_model.config.speech_decoder.blank)
    assert units == golden_tensors["gen_eos_units"].tolist()


def test_short_and_written_questions_match_reference(golden_model, golden_tensors):
    blank = golden_model.config.speech_decoder.blank
    short = embeddings_of(golden_model, golden_tensors, golden_tensors["gen_short_len"])
    written = golden_model.merge(golden_tensors["text_input_ids"], []).embeddings[0].detach()
    for embeddings, name in ((short, "gen_short"), (written, "text_gen")):
        expected = golden_tensors[f"{name}_ids"][0].tolist()
        tokens, labels = stream(golden_model, embeddings, count=len(expected))
        assert tokens == expected
        frames = [label for step in labels for label in step]
        assert collapse(frames, blank=blank) == golden_tensors[f"{name}_units"].tolist()


@pytest.mark.parametrize("graphs", [None, True], ids=["exact", "bucketed"])
def test_batched_replies_match_reference(golden_model, golden_tensors, spoken_prompt, graphs):
    """Three conversations of different lengths in one batch, in slots that are no neighbours."""
    short = embeddings_of(golden_model, golden_tensors, golden_tensors["gen_short_len"])
    written = golden_model.merge(golden_tensors["text_input_ids"], []).embeddings[0].detach()
    prompts = {"gen": spoken_prompt, "gen_short": short, "text_gen": written}
    stepper = Stepper(golden_model, graphs=graphs)
    stepper.llm_cache.allocate()
    rows, first = [], []
    for embeddings in prompts.values():
        row = Row(
            llm_slot=stepper.llm_cache.allocate(), speech_slot=stepper.speech_cache.allocate()
        )
        if len(rows) == 0:
            stepper.llm_cache.allocate()  # leaves a gap behind the first row
        rows.append(row)
        first.append(stepper.prefill(row.llm_slot, embeddings))
    result = stepper.first(rows, torch.cat(first))
    tokens = [[token] for token in result.tokens]
    frames = [list(labels) for labels in result.labels]
    for _ in range(5):
        result = stepper.step(rows, [row[-1] for row in tokens])
        for i in range(len(rows)):
            tokens[i].append(result.tokens[i])
            frames[i] += result.labels[i]
    for i, name in enumerate(prompts):
        count = len(tokens[i])
        assert tokens[i] == golden_tensors[f"{name}_ids"][0, :count].tolist()
    assert frames[0] == golden_tensors["gen_ctc_pred"][0, : 25 * 6].tolist()
    blank = golden_model.config.speech_decoder.blank
    for i, name in ((1, "gen_short"), (2, "text_gen")):
        assert collapse(frames[i], blank=blank) == golden_tensors[f"{name}_units"].tolist()


def test_vocoder_matches_reference(golden):
    expected = load_file(golden / "vocoder/outputs.safetensors")
    inputs = load_file(golden / "vocoder/inputs.safetensors")
    vocoder = UnitVocoder.from_fairseq(golden / "vocoder/g.pt", golden / "vocoder/config.json")
    vocoder.eval()
    with torch.inference_mode():
        assert torch.equal(vocoder.durations(inputs["code"]), expected["durations"])
        sound = vocoder(inputs["code"][0])
        assert_close(sound, expected["wav_dur"], **WAVEFORM)
        sound = vocoder(inputs["code"][0], predict_durations=False)
        assert_close(sound, expected["wav_nodur"], **WAVEFORM)
        sound = vocoder(inputs["code_with_negatives"][0])
        assert_close(sound, expected["wav_neg_dur"], **WAVEFORM)


def test_unit_assignment_matches_reference(golden):
    tensors = load_file(golden / "hubert/kmeans.safetensors")
    labels = KMeansUnits(tensors["centroids"]).assign(tensors["features"])
    assert torch.equal(labels, tensors["labels"])
    assert reduce_units(labels.tolist()) == tensors["reduced"].tolist()


def test_prompts_match_reference(golden):
    cases = json.loads((golden / "omni/prompts.json").read_text())["cases"]
    tokenizer = Tokenizer.from_file(str(golden / "omni/tokenizer.json"))
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    spoken = Turn(role="user", audio=np.zeros(1600, np.float32))

    def encode(text):
        return tokenizer.encode(text).ids

    assert cases
    for case in cases:
        human, answer = (turn["value"] for turn in case["conversation"])
        template = replace(prompt_template("llama3"), spoken=human)
        turns = [spoken, Turn(role="assistant", text=answer)]
        ids = encode_prompt(turns[:1], encode, template, bos_token_id=bos)
        assert ids == case["generation_input_ids"]
        for prefix, form in (("", template), ("mm_", template.speech_first())):
            ids, labels = encode_example(turns, encode, form, bos_token_id=bos)
            assert ids == case[f"{prefix}train_input_ids"]
            assert labels == case[f"{prefix}train_labels"]
