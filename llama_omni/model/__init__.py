"""The signal path, one file a part.

| step | value | shape | rate | file |
| --- | --- | --- | --- | --- |
| listen | waveform | (B, S) | 16 kHz | audio.py (above) |
| listen | log-mel | (B, n_mels, F) | 100 Hz | encoder.py |
| encode | features | (B, N, E) | 50 Hz | encoder.py |
| adapt | embeddings | (B, P, D), P = N // k | 10 Hz | adapter.py |
| think | reply tokens, hidden states | (B, M), (B, M, D) | per token | omni.py (the LLM) |
| speak | frame logits | (B, L, K+1) | lambda per token | speech_decoder.py |
| collapse | units | (U,) ragged | up to 50 Hz | ctc.py |
| sound | waveform | (B, S) | 16 kHz | vocoder.py |

`B` batch, `S` samples, `F` mel frames, `N` encoder frames, `P` speech embeddings, `T` LLM positions
(prompt + speech + reply), `M` reply tokens, `L` decoder frames, `U` units, `E`/`D`/`H` widths of
encoder / LLM / speech decoder, `V` text vocabulary, `K` unit vocabulary (blank = K).
"""
