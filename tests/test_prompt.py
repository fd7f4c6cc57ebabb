import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llama_omni.errors import ConfigError, InputError
from llama_omni.interfaces import Turn
from llama_omni.prompt import (
    IGNORE,
    SPEECH_TOKEN,
    TEMPLATES,
    PromptTemplate,
    TextStream,
    encode_example,
    encode_prompt,
    prompt_template,
)

GOLDEN = Path(__file__).parent / "golden" / "omni"
CASES = json.loads((GOLDEN / "prompts.json").read_text())["cases"]
TOY = Tokenizer.from_file(str(GOLDEN / "tokenizer.json"))
TOY_BOS, TOY_EOT = 256, 262
SOUND = np.zeros(1600, np.float32)
SPOKEN = Turn(role="user", audio=SOUND)
SPECIALS = [
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|im_start|>",
    "<|im_end|>",
]
LLAMA_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_bpe(adds_bos):
    """Make a byte-level BPE with merges, that splits words as Llama 3 does."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    text = "\n\nYes\n, the user's speech. " + prompt_template("llama3").system
    bpe.train_from_iterator(
        [text] * 3,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if adds_bos:
        bpe.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
        )
    return bpe


BPE = {True: train_bpe(True), False: train_bpe(False)}


def encoder(tokenizer):
    return lambda text: tokenizer.encode(text).ids


def golden_parts(case, *, speech_first):
    human, gpt = (message["value"] for message in case["conversation"])
    template = replace(prompt_template("llama3"), spoken=human)
    template = template.speech_first() if speech_first else template
    return template, Turn(role="assistant", text=gpt)


@pytest.mark.parametrize("case", CASES, ids=["plain", "speech-in-the-middle", "speech-alone"])
def test_prompt_matches_reference(case):
    template, _ = golden_parts(case, speech_first=False)
    ids = encode_prompt([SPOKEN], encoder(TOY), template, bos_token_id=TOY_BOS)
    assert ids == case["generation_input_ids"]


@pytest.mark.parametrize("speech_first", [False, True])
@pytest.mark.parametrize("case", CASES, ids=["plain", "speech-in-the-middle", "speech-alone"])
def test_example_matches_reference(case, speech_first):
    template, answer = golden_parts(case, speech_first=speech_first)
    ids, labels = encode_example([SPOKEN, answer], encoder(TOY), template, bos_token_id=TOY_BOS)
    prefix = "mm_" if speech_first else ""
    assert ids == case[f"{prefix}train_input_ids"]
    assert labels == case[f"{prefix}train_labels"]
    if speech_first:
        assert template.spoken == case["after_preprocess_multimodal"][0]["value"]


def test_default_spoken_turn_is_the_released_one():
    assert prompt_template("llama3").spoken == CASES[0]["conversation"][0]["value"]


def test_llama3_prompt_starts_with_two_begin_of_text():
    ids = encode_prompt([SPOKEN], encoder(TOY), prompt_template("llama3"), bos_token_id=TOY_BOS)
    assert ids[:3] == [TOY_BOS, TOY_BOS, 259]
    assert ids.count(TOY_BOS) == 2


@pytest.mark.parametrize("adds_bos", [True, False])
def test_begin_of_text_within_later_pieces_is_only_what_the_tokeniser_adds(adds_bos):
    ids = encode_prompt([SPOKEN], encoder(BPE[adds_bos]), prompt_template("llama3"), bos_token_id=0)
    assert ids.count(0) == 1 + adds_bos
    assert (
        BPE[adds_bos]
        .decode([i for i in ids if i != SPEECH_TOKEN], skip_special_tokens=False)
        .endswith("assistant<|end_header_id|>\n\n")
    )


def test_chatml_prompt_reads_as_qwen_writes_it():
    turns = [
        Turn(role="system", text="Be kind."),
        Turn(role="user", text=" Hello "),
        Turn(role="assistant", text="Hi."),
        SPOKEN,
    ]
    ids = encode_prompt(turns, encoder(BPE[False]), prompt_template("chatml"), bos_token_id=None)
    at = ids.index(SPEECH_TOKEN)
    before, after = (
        BPE[False].decode(part, skip_special_tokens=False) for part in (ids[:at], ids[at + 1 :])
    )
    assert before == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi.<|im_end|>\n<|im_start|>user\n"
    )
    assert after == (
        "\nPlease directly answer the questions in the user's speech.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_system_turn_replaces_the_default_and_an_empty_one_removes_it(template):
    def text(turns):
        ids = encode_prompt(turns, encoder(BPE[True]), template, bos_token_id=0)
        return BPE[True].decode(ids, skip_special_tokens=False)

    question = Turn(role="user", text="Why?")
    assert template.system in text([question])
    replaced = text([Turn(role="system", text=" Be brief.\n"), question])
    assert template.system_prefix + "Be brief." + template.system_suffix in replaced
    assert not template.system or template.system not in replaced
    removed = text([Turn(role="system", text=""), question])
    assert removed == (
        f"<|begin_of_text|>{template.bos}{template.user_prefix}Why?{template.user_suffix}"
        f"{template.separator}{template.assistant_prefix}"
    )


words = st.text("aY es,.'\n<>|0é世", max_size=12)
tokens = st.lists(st.integers(6, 390), max_size=8).map(tuple)
questions = st.none() | words  # None is spoken


def ask(text):
    return SPOKEN if text is None else Turn(role="user", text=text)


@given(
    st.sampled_from(list(TEMPLATES)),
    st.booleans(),
    st.lists(words, max_size=1),
    st.lists(st.tuples(questions, tokens, st.booleans()), min_size=1, max_size=4),
    questions,
)
def test_next_prompt_starts_with_last_prompt_and_reply(name, adds_bos, system, past, question):
    template, encode = prompt_template(name), encoder(BPE[adds_bos])
    closing = BPE[False].encode(template.assistant_suffix).ids
    turns, seen = [Turn(role="system", text=text) for text in system], []
    for text, reply, closed in [*past, (question, (), False)]:
        turns.append(ask(text))
        ids = encode_prompt(turns, encode, template, bos_token_id=0)
        assert ids[: len(seen)] == seen
        assert ids.count(SPEECH_TOKEN) == sum(turn.audio is not None for turn in turns)
        token_ids = (*reply, *closing) if closed else reply
        seen = ids + list(token_ids)
        turns.append(Turn(role="assistant", text="as heard", token_ids=token_ids))


@given(st.lists(st.integers(0, 255), max_size=8), st.booleans())
def test_a_reply_is_closed_exactly_once(reply, closed):
    token_ids = (*reply, TOY_EOT) if closed else tuple(reply)
    answer = Turn(role="assistant", text="", token_ids=token_ids)
    template = prompt_template("llama3")
    ids, labels = encode_example([SPOKEN, answer], encoder(TOY), template, bos_token_id=TOY_BOS)
    said = [label for label in labels if label != IGNORE]
    assert said == [*reply, TOY_EOT]
    assert ids[-len(said) :] == said


@given(words.filter(lambda text: not text.startswith("\n")), st.booleans())
def test_example_in_pieces_equals_the_text_encoded_at_once(answer, adds_bos):
    template = prompt_template("llama3")
    turns = [Turn(role="user", text="Why?"), Turn(role="assistant", text=answer)]
    ids, _ = encode_example(turns, encoder(BPE[adds_bos]), template, bos_token_id=0)
    whole = (
        template.bos
        + template.system_prefix
        + template.system
        + template.system_suffix
        + template.user_prefix
        + "Why?"
        + template.user_suffix
        + template.assistant_prefix
        + answer.strip()
        + template.assistant_suffix
    )
    assert ids == BPE[adds_bos].encode(whole).ids


def test_example_labels_every_turn_of_the_assistant():
    turns = [
        SPOKEN,
        Turn(role="assistant", text="One."),
        Turn(role="user", text="And?"),
        Turn(role="assistant", text="Two.", token_ids=(10, 11)),
    ]
    ids, labels = encode_example(
        turns, encoder(TOY), prompt_template("llama3"), bos_token_id=TOY_BOS
    )
    assert len(ids) == len(labels)
    assert all(label in (IGNORE, token) for token, label in zip(ids, labels, strict=True))
    said = [label for label in labels if label != IGNORE]
    assert said == [*TOY.encode("One.").ids[1:], TOY_EOT, 10, 11, TOY_EOT]


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        pytest.param([], "must be the user's, got no turn", id="none"),
        pytest.param([Turn(role="system", text="x")], "the user's, got no turn", id="system-only"),
        pytest.param(
            [SPOKEN, Turn(role="assistant", text="x")], "the user's, got assistant", id="assistant"
        ),
        pytest.param(
            [SPOKEN, Turn(role="system", text="x"), SPOKEN],
            "a system turn must be the first turn",
            id="late-system",
        ),
    ],
)
def test_impossible_conversations_are_refused(turns, message):
    with pytest.raises(InputError, match=message):
        encode_prompt(turns, encoder(TOY), prompt_template("llama3"), bos_token_id=TOY_BOS)


def test_example_without_an_answer_is_refused():
    with pytest.raises(InputError, match="must be the assistant's, got user"):
        encode_example([SPOKEN], encoder(TOY), prompt_template("llama3"), bos_token_id=TOY_BOS)


def test_unknown_template_lists_the_known_ones():
    with pytest.raises(ConfigError, match="must be one of llama3, chatml, compact, got 'vicuna'"):
        prompt_template("vicuna")


@pytest.mark.parametrize("spoken", ["no marker", "<speech> and <speech>"])
def test_template_needs_one_place_for_speech(spoken):
    with pytest.raises(ConfigError, match="must hold '<speech>' exactly once"):
        replace(prompt_template("llama3"), spoken=spoken)


def test_speech_first_keeps_everything_else():
    template = PromptTemplate(
        name="t",
        system_prefix="",
        system_suffix="",
        user_prefix="",
        user_suffix="",
        assistant_prefix="",
        assistant_suffix="",
        spoken="Say <speech> twice",
    )
    assert template.speech_first() == replace(template, spoken="<speech>\nSay  twice")


def byte_decode(pieces):
    """Decode like a byte-level tokeniser whose token i stands for the bytes pieces[i]."""
    return lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace")


def stream_all(decode, ids):
    stream = TextStream(decode)
    return [*(stream.push(i) for i in ids), stream.flush()]


fragments = st.one_of(
    st.binary(max_size=4),  # also tokens of no text at all
    st.text(max_size=3).map(str.encode),
    st.text("é世😀", min_size=1, max_size=3).map(lambda text: text.encode()[1:]),
    st.sampled_from([b"\x98", b"\xe4", b"\xf0\x9f"]),
)


@given(st.lists(fragments, max_size=200))
def test_text_stream_joined_equals_decode_of_everything(pieces):
    decode, ids = byte_decode(pieces), list(range(len(pieces)))
    assert "".join(stream_all(decode, ids)) == decode(ids)


@given(st.lists(st.integers(0, 255), max_size=300), st.sampled_from([1, 2, 3]))
def test_text_stream_bears_long_garbage(values, size):
    pieces = [bytes([0x80 | value] * size) for value in values]
    decode, ids = byte_decode(pieces), list(range(len(pieces)))
    assert "".join(stream_all(decode, ids)) == decode(ids)


@given(st.text("ab é世😀", max_size=40))
def test_text_stream_gives_no_broken_characters(text):
    ids = TOY.encode(text, add_special_tokens=False).ids
    given_out = stream_all(lambda some: TOY.decode(some), ids)
    assert "".join(given_out) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in given_out)


def test_text_stream_keeps_spaces_of_a_tokeniser_that_strips_the_first():
    pieces = [f" w{i}" for i in range(100)]
    parts = stream_all(lambda ids: "".join(pieces[i] for i in ids).lstrip(), list(range(100)))
    assert parts[:3] == ["w0", " w1", " w2"]
    assert "".join(parts) == "".join(pieces).lstrip()


@pytest.mark.parametrize(
    "pieces", [[b"word "] * 5000, [b"\xe4"] * 5000, [b""] * 5000], ids=["words", "garbage", "empty"]
)
def test_text_stream_decodes_a_bounded_window(pieces):
    lengths = []

    def decode(ids):
        lengths.append(len(ids))
        return byte_decode(pieces)(ids)

    stream_all(decode, range(len(pieces)))
    assert max(lengths) <= TextStream.LIMIT + 1
    assert sum(lengths) <= (TextStream.LIMIT + 2) * len(pieces)


def test_flush_begins_a_new_stream():
    decode = byte_decode([b"a", b"\xe4"])
    stream = TextStream(decode)
    assert [stream.push(0), stream.push(1), stream.flush(), stream.flush()] == [
        "a",
        "",
        "\N{REPLACEMENT CHARACTER}",
        "",
    ]
    assert stream.push(0) == "a"


def test_prompt_imports_no_torch():
    code = "import sys, llama_omni.prompt; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
