import pytest
import torch
from transformers import CohereConfig, Gemma2Config, GraniteConfig

from llama_omni.checkpoint import load_model
from llama_omni.engine.step import Row, Stepper
from llama_omni.errors import InputError, TargetError
from llama_omni.model.omni import OmniModel
from llama_omni.prompt import IGNORE, SPEECH_TOKEN
from tests.small import SMALL, small_model


@pytest.fixture(scope="module")
def model():
    return small_model()


def example(prompt=3, answer=4):
    ids = torch.arange(2, 2 + prompt + answer)[None]
    labels = ids.clone()
    labels[:, :prompt] = IGNORE
    return ids, labels


def test_training_shows_the_decoder_what_generation_shows_it(model):
    """States that predict, and the tokens they predicted: the same logits as streamed."""
    prompt = torch.tensor([[2, SPEECH_TOKEN, 3]])
    speech = [torch.randn(4, 32)]
    stepper = Stepper(model)
    embeddings = model.merge(prompt, speech).embeddings[0].detach()
    row = Row(llm_slot=stepper.llm_cache.allocate(), speech_slot=stepper.speech_cache.allocate())
    result = stepper.first([row], stepper.prefill(row.llm_slot, embeddings))
    tokens, frames = list(result.tokens), list(result.labels[0])
    for _ in range(4):
        result = stepper.step([row], tokens[-1:])
        tokens += result.tokens
        frames += result.labels[0]
    model.llm.set_attn_implementation("sdpa")
    ids = torch.cat((prompt, torch.tensor([tokens])), dim=1)
    labels = ids.clone()
    labels[:, :3] = IGNORE
    with torch.no_grad():
        output = model(ids, speech, labels=labels, units=torch.tensor([[1, 2]]))
    assert output.unit_logits.argmax(-1)[0].tolist() == frames
    assert output.logits[0, -6:-1].argmax(-1).tolist() == tokens


def test_loss_weighs_the_ctc_loss():
    model = small_model(ctc_loss_weight=0.25)
    ids, labels = example()
    output = model(ids, labels=labels, units=torch.tensor([[1, 2]]))
    torch.testing.assert_close(output.loss, output.lm_loss + 0.25 * output.ctc_loss)


def test_rows_are_cut_at_max_positions():
    model = small_model(max_positions=5)
    ids, labels = example(prompt=3, answer=4)
    merged = model.merge(ids, [], labels=labels)
    assert merged.embeddings.shape[1] == 5
    assert merged.labels.tolist() == [[IGNORE] * 3 + [5, 6]]


def test_spoken_answer_that_was_cut_is_refused_by_name():
    model = small_model(max_positions=5)
    ids, labels = example(prompt=3, answer=4)
    with pytest.raises(TargetError, match=r"sample 0: an answer of 4 tokens must fit.*room for 2"):
        model(ids, labels=labels, units=torch.tensor([[1, 2]]))


def test_batch_without_an_answer_is_refused(model):
    ids, labels = example()
    with pytest.raises(TargetError, match="labels must mark an answer"):
        model(ids, labels=torch.full_like(labels, IGNORE))


def test_units_need_labels(model):
    with pytest.raises(InputError, match="units need labels"):
        model(example()[0], units=torch.tensor([[1, 2]]))


def test_places_and_spoken_turns_must_number_the_same(model):
    with pytest.raises(InputError, match="hold 1 places for speech, got 0 turns"):
        model.merge(torch.tensor([[2, SPEECH_TOKEN, 3]]), [])


def test_encoder_is_frozen_however_the_model_comes(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = [OmniModel.from_pretrained(tmp_path), load_model(tmp_path), model]
    for one in loaded:
        assert not any(parameter.requires_grad for parameter in one.encoder.parameters())
        assert all(parameter.requires_grad for parameter in one.adapter.parameters())
        one.train()
        assert one.speech_decoder.training
        assert not one.encoder.training
        one.eval()


def test_gradients_reach_all_but_the_encoder(model):
    waveform = torch.randn(1, 3200)
    speech = model.embed_speech(waveform)
    ids = torch.tensor([[2, SPEECH_TOKEN, 3, 4, 5]])
    labels = torch.tensor([[IGNORE, IGNORE, IGNORE, 4, 5]])
    model(ids, speech, labels=labels, units=torch.tensor([[1, 2]])).loss.backward()
    unheard = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None and not name.startswith("encoder.")
    ]
    assert unheard == []
    model.zero_grad()


def test_padded_window_and_own_length_are_two_mels():
    sound = torch.randn(1, 8000)
    own, own_lengths = small_model().mel(sound)
    padded, padded_lengths = small_model(pad_to_window=True).mel(sound)
    assert (own.shape[-1], own_lengths.tolist()) == (50, [50])
    assert (padded.shape[-1], padded_lengths.tolist()) == (100, [100])
    assert padded[..., 60:].max() < padded[..., :50].max()


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=0.5, query_pre_attn_scalar=8),
        GraniteConfig(**SMALL, logits_scaling=8.0),
        CohereConfig(**SMALL, logit_scale=0.25),
    ],
    ids=["gemma2", "granite", "cohere"],
)
def test_token_logits_are_those_of_the_llms_own_head(config):
    model = small_model(config)
    ids = torch.arange(2, 8)[None]
    with torch.no_grad():
        hidden = model.llm.get_decoder()(input_ids=ids).last_hidden_state
        torch.testing.assert_close(model.token_logits(hidden), model.llm(input_ids=ids).logits)


def test_vocabulary_can_grow(model):
    grown = small_model()
    grown.resize_token_embeddings(60)
    assert grown.get_input_embeddings().weight.shape[0] == 60
    assert grown.token_logits(torch.randn(1, 32)).shape == (1, 60)
