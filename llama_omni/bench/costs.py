"""FLOPs and bytes of each phase, from the configuration alone.

A multiplication and an addition are two FLOPs. Bytes are what must cross the memory bus however
good the code is: every weight read once, caches read and written; activations are left out, as are
norms, biases and elementwise work (under 1 % of the weights). So a floor is a true lower bound
where weights do not fit in the processor's caches.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig, WhisperConfig

from llama_omni.model.config import AdapterConfig, OmniConfig, SpeechDecoderConfig
from llama_omni.model.vocoder import VocoderConfig

EDGE_KERNEL, DURATION_KERNEL = 7, 3  # of the vocoder
SCALE_BYTES = 4  # the first layer's norm scales are kept in float32


@dataclass(frozen=True, slots=True)
class Cost:
    """What a phase must at least compute and move."""

    flops: int
    bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def floor_s(self, *, flops_per_s: float, bytes_per_s: float) -> float:
        """Seconds that no implementation can beat: computing and moving at once, at full rate."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)


def encode_cost(config: WhisperConfig, *, mel_frames: int, size: int) -> Cost:
    """Whisper's encoder over `mel_frames`; `size` is bytes per number, here and below."""
    F, N, E = mel_frames, (mel_frames + 1) // 2, config.d_model
    conv1, conv2 = 3 * config.num_mel_bins * E, 3 * E * E
    layer = 4 * E * E + 2 * E * config.encoder_ffn_dim
    layers = config.encoder_layers
    attention = 4 * N * N * E  # queries by keys, weights by values
    return Cost(
        flops=2 * F * conv1 + 2 * N * conv2 + layers * (2 * N * layer + attention),
        bytes=(conv1 + conv2 + layers * layer) * size,
    )


def adapt_cost(
    config: AdapterConfig, *, encoder_dim: int, llm_dim: int, features: int, size: int
) -> Cost:
    """The adapter over `features` encoder frames."""
    weights = config.hidden_dim * (config.stack * encoder_dim + llm_dim)
    return Cost(flops=2 * (features // config.stack) * weights, bytes=weights * size)


def prefill_cost(config: PretrainedConfig, *, positions: int, size: int) -> Cost:
    """The LLM over a prompt, without its output layer."""
    llm = _Llm.of(config)
    pairs = positions * (positions + 1) // 2  # causal
    return Cost(
        flops=2 * positions * llm.body + 4 * llm.layers * llm.query_dim * pairs,
        bytes=(llm.body + llm.cached * positions) * size,
    )


def written_step_cost(config: PretrainedConfig, *, positions: int, size: int) -> Cost:
    """One step of the LLM with `positions` in its cache, and its output layer."""
    llm = _Llm.of(config)
    weights = llm.body + llm.head
    return Cost(
        flops=2 * weights + 4 * llm.layers * llm.query_dim * positions,
        bytes=(weights + llm.cached * positions) * size,
    )


def speech_step_cost(config: SpeechDecoderConfig, *, llm_dim: int, tokens: int, size: int) -> Cost:
    """One step of the speech decoder that makes token number `tokens` of a reply."""
    H, frames, labels = config.hidden_size, config.upsample_factor, config.num_units + 1
    later = config.num_layers - 1  # the first layer keeps one row a token (ADR 0007)
    inputs = llm_dim * H * (1 + config.token_embedding)
    layer = 4 * H * H + 3 * H * config.intermediate_size
    weights = inputs + config.num_layers * layer + H * labels
    per_frame = config.num_layers * layer - 2 * H * H + H * labels
    visible = frames * tokens
    later_attention = later * 4 * frames * visible * H
    tables = 1 + config.frame_embedding  # keys of states, and keys of places
    first_attention = tables * 2 * frames * visible * H  # scores
    first_attention += 2 * frames * (tokens + config.frame_embedding * frames) * H  # values
    cached = later * 2 * visible * H + 2 * tokens * H + config.frame_embedding * visible * H
    return Cost(
        flops=2 * (inputs + 2 * H * H + frames * per_frame) + later_attention + first_attention,
        bytes=(weights + cached) * size + visible * SCALE_BYTES,
    )


def vocode_cost(config: VocoderConfig, *, units: int, frames: int, size: int) -> Cost:
    """The vocoder over units that last `frames` in all."""
    hidden = config.duration_hidden_dim
    duration = DURATION_KERNEL * hidden * (config.embedding_dim + hidden) + hidden
    light = config.generator == "convnext-istft"
    flops, weights = (_convnext_cost if light else _hifigan_cost)(config, frames)
    return Cost(flops=flops + 2 * units * duration, bytes=(weights + duration) * size)


def _hifigan_cost(config: VocoderConfig, frames: int) -> tuple[int, int]:
    """Operations over `frames`, and weights."""
    channels, length = config.initial_channels, frames
    weights = config.embedding_dim * channels * EDGE_KERNEL
    flops = 2 * length * weights
    for rate, up_kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
        up = channels * (channels // 2) * up_kernel
        flops += 2 * length * up
        channels, length = channels // 2, length * rate
        blocks = sum(
            2 * len(dilations) * channels * channels * width
            for width, dilations in zip(
                config.resblock_kernel_sizes, config.resblock_dilations, strict=True
            )
        )
        flops += 2 * length * blocks
        weights += up + blocks
    last = channels * EDGE_KERNEL
    return flops + 2 * length * last, weights + last


def _convnext_cost(config: VocoderConfig, frames: int) -> tuple[int, int]:
    """Operations over `frames`, and weights; the inverse transform's few are left out."""
    width, length = config.convnext_dim, frames
    block = width * (config.convnext_kernel_size + 2 * config.convnext_hidden_dim)
    weights = config.embedding_dim * width * EDGE_KERNEL
    flops = 2 * length * weights
    for group, blocks in enumerate(config.convnext_blocks):
        if group:
            flops, weights = flops + 2 * length * 2 * width**2, weights + 2 * width**2
            length *= 2
        flops, weights = flops + 2 * length * blocks * block, weights + blocks * block
    head = width * (config.istft_size + 2)
    return flops + 2 * length * head, weights + head


def question_costs(
    config: OmniConfig, *, mel_frames: int, prompt_positions: int, size: int
) -> dict[str, Cost]:
    """Costs of reading one spoken question."""
    mel_frames = 2 * config.encoder.max_source_positions if config.pad_to_window else mel_frames
    return {
        "encode": encode_cost(config.encoder, mel_frames=mel_frames, size=size),
        "adapt": adapt_cost(
            config.adapter,
            encoder_dim=config.encoder.d_model,
            llm_dim=config.llm.hidden_size,
            features=(mel_frames + 1) // 2,
            size=size,
        ),
        "prefill": prefill_cost(config.llm, positions=prompt_positions, size=size),
    }


def step_cost(config: OmniConfig, *, prompt_positions: int, tokens: int, size: int) -> Cost:
    """One whole step: the LLM, then the speech decoder, for token number `tokens`."""
    return written_step_cost(
        config.llm, positions=prompt_positions + tokens - 1, size=size
    ) + speech_step_cost(
        config.speech_decoder, llm_dim=config.llm.hidden_size, tokens=tokens, size=size
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Llm:
    """Counts of a Llama-like language model."""

    layers: int
    query_dim: int  # all query heads together
    body: int  # weights of its layers
    head: int  # weights of its output layer
    cached: int  # numbers a position leaves in the cache

    @classmethod
    def of(cls, config: Any) -> "_Llm":
        D, layers = config.hidden_size, config.num_hidden_layers
        head_dim = getattr(config, "head_dim", None) or D // config.num_attention_heads
        query_dim = config.num_attention_heads * head_dim
        key_dim = config.num_key_value_heads * head_dim
        layer = 2 * D * query_dim + 2 * D * key_dim + 3 * D * config.intermediate_size
        return cls(
            layers=layers,
            query_dim=query_dim,
            body=layers * layer,
            head=D * config.vocab_size,
            cached=2 * layers * key_dim,
        )
