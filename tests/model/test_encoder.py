import pytest
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from llama_omni.errors import InputError
from llama_omni.model.encoder import SpeechEncoder, feature_lengths, log_mel


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    config = WhisperConfig(
        num_mel_bins=8,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        max_source_positions=40,
    )
    return SpeechEncoder(config).eval()


def test_full_window_is_whispers_own_forward(encoder):
    mel = torch.randn(2, 8, 80)
    own = WhisperEncoder.forward(encoder, mel).last_hidden_state
    torch.testing.assert_close(encoder(mel), own, rtol=0, atol=0)


def test_variable_length_code_equals_whisper_at_the_full_window(encoder, monkeypatch):
    mel = torch.randn(2, 8, 80)
    whole = encoder(mel)
    monkeypatch.setattr(encoder, "window", 1000)  # take the other way at the same length
    torch.testing.assert_close(encoder(mel), whole, rtol=0, atol=1e-6)


def test_rows_of_a_batch_do_not_influence_each_other(encoder):
    long, short = torch.randn(1, 8, 51), torch.randn(1, 8, 20)
    batch = torch.full((2, 8, 51), 9.0)  # garbage behind the short row
    batch[0], batch[1, :, :20] = long[0], short[0]
    lengths = torch.tensor([51, 20])
    together = encoder(batch, lengths)
    for row, alone in ((0, encoder(long)), (1, encoder(short))):
        n = int(feature_lengths(lengths)[row])
        assert alone.shape[1] == n
        torch.testing.assert_close(together[row, :n], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_short_row_is_alone_beside_one_that_fills_the_window(encoder, implementation):
    encoder.set_attn_implementation(implementation)
    batch = torch.randn(2, 8, 80)
    together = encoder(batch, torch.tensor([80, 20]))
    torch.testing.assert_close(together[1, :10], encoder(batch[1:, :, :20])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[:1], encoder(batch[:1]), rtol=0, atol=1e-5)
    encoder.set_attn_implementation("sdpa")


def test_encoder_refuses_more_than_its_window(encoder):
    with pytest.raises(InputError, match="mel must be at most 80 frames long, got 81"):
        encoder(torch.randn(1, 8, 81))


def test_log_mel_rows_do_not_influence_each_other():
    loud, soft = torch.randn(1, 3200), torch.randn(1, 3200) * 1e-3
    batch = log_mel(torch.cat((loud, soft)), num_mels=80)
    torch.testing.assert_close(batch[1:], log_mel(soft, num_mels=80))


def test_log_mel_of_silence_is_finite_and_flat():
    mel = log_mel(torch.zeros(1, 1600), num_mels=128)
    assert mel.shape == (1, 128, 10)
    assert mel.unique().tolist() == [-1.5]


def test_positions_are_whispers_sinusoids_however_the_encoder_is_built(encoder):
    from transformers.models.whisper.modeling_whisper import sinusoids

    from llama_omni.model.omni import OmniModel
    from llama_omni.model.presets import preset

    torch.testing.assert_close(encoder.embed_positions.weight, sinusoids(40, 16))
    whole = OmniModel(preset("tiny")).encoder.embed_positions.weight
    torch.testing.assert_close(whole, sinusoids(*whole.shape))
    assert not whole.requires_grad
