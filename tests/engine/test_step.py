import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config

from llama_omni.engine.attention import GROUPED
from llama_omni.engine.step import Row, Stepper
from llama_omni.errors import CapacityError
from tests.small import SMALL, small_model

LLMS = {
    "llama": LlamaConfig(**SMALL),
    "qwen2": Qwen2Config(**SMALL),
    "mistral-sliding": MistralConfig(**SMALL, sliding_window=3),
    "gemma3-mixed": Gemma3TextConfig(
        **SMALL, head_dim=8, sliding_window=3, layer_types=["sliding_attention", "full_attention"]
    ),
}


@pytest.fixture(scope="module", params=LLMS, ids=list(LLMS))
def model(request):
    return small_model(LLMS[request.param])


@pytest.fixture(scope="module")
def llama():
    return small_model(LLMS["llama"])


def run(model, prompts, count, *, graphs=None, **sampling):
    """Answer prompts in one batch: tokens and labels of each."""
    stepper = Stepper(model, graphs=graphs)
    rows, states = [], []
    for seed, prompt in enumerate(prompts):
        row = Row(
            llm_slot=stepper.llm_cache.allocate(),
            speech_slot=stepper.speech_cache.allocate(),
            seed=seed,
            **sampling,
        )
        rows.append(row)
        states.append(stepper.prefill(row.llm_slot, prompt))
    result = stepper.first(rows, torch.cat(states))
    tokens, labels = [result.tokens], [result.labels]
    for position in range(1, count):
        rows = [
            Row(
                llm_slot=row.llm_slot,
                speech_slot=row.speech_slot,
                seed=row.seed,
                position=position,
                **sampling,
            )
            for row in rows
        ]
        result = stepper.step(rows, result.tokens)
        tokens.append(result.tokens)
        labels.append(result.labels)
    return [list(row) for row in zip(*tokens, strict=True)], [
        list(row) for row in zip(*labels, strict=True)
    ]


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_llm_step_matches_one_pass_for_any_split(model, data):
    embeddings = torch.randn(data.draw(st.integers(1, 12)), 32)
    stepper = Stepper(model)
    whole = stepper.prefill(stepper.llm_cache.allocate(), embeddings)
    slot, start = stepper.llm_cache.allocate(), 0
    while start < len(embeddings):
        size = data.draw(st.integers(1, len(embeddings) - start))
        last = stepper.prefill(slot, embeddings[start : start + size])
        start += size
    torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-4)
    model.llm.set_attn_implementation("eager")
    with torch.inference_mode():
        reference = model.llm.get_decoder()(inputs_embeds=embeddings[None]).last_hidden_state
    model.llm.set_attn_implementation("sdpa")
    torch.testing.assert_close(whole, reference[:, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("graphs", [None, True], ids=["exact", "bucketed"])
@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.5, "top_p": 0.9}], ids=["greedy", "sampled"]
)
def test_batch_gives_each_reply_what_it_gets_alone(llama, sampling, graphs):
    prompts = [torch.randn(length, 32) for length in (3, 9, 5)]
    tokens, labels = run(llama, prompts, 6, graphs=graphs, **sampling)
    for index, prompt in enumerate(prompts):
        stepper_prompts = [prompts[0][:1]] * index + [prompt]  # same seed, other company
        alone_tokens, alone_labels = run(llama, stepper_prompts, 6, **sampling)
        assert alone_tokens[-1] == tokens[index]
        assert alone_labels[-1] == labels[index]


def test_streamed_labels_equal_the_offline_decoder(llama):
    prompt = torch.randn(4, 32)
    tokens, labels = run(llama, [prompt], 5)
    embed = llama.get_input_embeddings()
    with torch.inference_mode():
        sequence = torch.cat((prompt, embed(torch.tensor(tokens[0][:-1]))))[None]
        hidden = llama.llm.get_decoder()(inputs_embeds=sequence).last_hidden_state[:, 3:]
        logits, _ = llama.speech_decoder(hidden, embed(torch.tensor(tokens[0]))[None])
    assert logits.argmax(-1)[0].tolist() == [label for step in labels[0] for label in step]


def test_eager_attention_is_as_causal_as_sdpa(llama):
    embeddings = torch.randn(9, 32)
    expected = Stepper(llama)
    state = expected.prefill(expected.llm_cache.allocate(), embeddings)
    llama.llm.set_attn_implementation("eager")
    eager = Stepper(llama)
    found = eager.prefill(eager.llm_cache.allocate(), embeddings)
    llama.llm.set_attn_implementation("sdpa")
    torch.testing.assert_close(found, state, rtol=1e-4, atol=1e-4)


def test_prefill_in_pieces_of_the_limit(llama, monkeypatch):
    embeddings = torch.randn(11, 32)
    whole = Stepper(llama)
    expected = whole.prefill(whole.llm_cache.allocate(), embeddings)
    monkeypatch.setattr("llama_omni.engine.step.PREFILL_PIECE", 4)
    pieces = Stepper(llama)
    slot = pieces.llm_cache.allocate()
    torch.testing.assert_close(pieces.prefill(slot, embeddings), expected, rtol=1e-4, atol=1e-4)
    assert pieces.llm_cache.lengths[slot] == 11


def test_prompt_beyond_the_positions_is_refused_before_it_is_read():
    model = small_model(LLMS["llama"], max_positions=8)
    stepper = Stepper(model)
    slot = stepper.llm_cache.allocate()
    with pytest.raises(CapacityError, match="must fit 8 positions, got 9"):
        stepper.prefill(slot, torch.randn(9, 32))
    assert stepper.llm_cache.lengths[slot] == 0


def test_warm_up_meets_every_key_that_a_reply_needs(llama):
    stepper = Stepper(llama, graphs=True)
    keys = []
    run_graph = stepper._graphs.run
    stepper._graphs.run = lambda key, *rest, **more: (
        keys.append((key, more["version"])),
        run_graph(key, *rest, **more),
    )[1]
    stepper.warm_up(tokens=70, prompt=40)
    assert not stepper.llm_cache.lengths
    assert not stepper.speech_cache.lengths
    warmed = set(keys)
    assert len(warmed) == 3  # 64 and 128 positions; 64 and 128 tokens
    for _ in range(2):  # storage stays between replies, so graphs stay valid
        keys.clear()
        row = Row(
            llm_slot=stepper.llm_cache.allocate(), speech_slot=stepper.speech_cache.allocate()
        )
        result = stepper.first([row], stepper.prefill(row.llm_slot, torch.randn(40, 32)))
        for _ in range(69):
            result = stepper.step([row], result.tokens)
        assert set(keys) <= warmed
        stepper.llm_cache.free(row.llm_slot)
        stepper.speech_cache.free(row.speech_slot)


def test_engine_switches_the_llm_to_grouped_attention(llama):
    Stepper(llama)
    assert llama.llm.config._attn_implementation == GROUPED
