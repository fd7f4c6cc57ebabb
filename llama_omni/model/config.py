"""The model's configuration: one composite `PretrainedConfig`.

Unusual: unknown keys are refused (Transformers accepts them silently), and the two sub-configs of
our own parts are frozen dataclasses, so that an impossible value never reaches a module.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig, WhisperConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llama_omni.audio import ENCODER_RATE
from llama_omni.errors import ConfigError
from llama_omni.prompt import prompt_template


def _at_least_one(owner: Any, prefix: str, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(owner, name) < 1:
            raise ConfigError(f"{prefix}.{name} must be at least 1, got {getattr(owner, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterConfig:
    """Knobs of the speech adapter. Defaults are the paper's; widths E and D come from its ends."""

    stack: int = 5  # k: encoder frames per embedding; 50 Hz / 5 = 10 Hz
    hidden_dim: int = 2048  # width of the layer between

    def __post_init__(self) -> None:
        _at_least_one(self, "adapter", ("stack", "hidden_dim"))


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechDecoderConfig:
    """Knobs of the streaming CTC speech decoder. Defaults are the paper's and the release's."""

    upsample_factor: int = 25  # lambda: frames per hidden state
    num_units: int = 1000  # K: the blank is label K, the last one
    num_layers: int = 2
    hidden_size: int = 4096  # H
    num_heads: int = 32
    intermediate_size: int = 11008
    rms_norm_eps: float = 1e-5
    rope_parameters: dict[str, Any] = field(
        default_factory=lambda: {"rope_type": "default", "rope_theta": 500000.0}
    )
    frame_embedding: bool = False  # ours: learned embedding of the frame's place in its token
    token_embedding: bool = False  # ours: the chosen token's embedding beside its hidden state

    def __post_init__(self) -> None:
        names = ("upsample_factor", "num_units", "num_layers", "hidden_size", "num_heads")
        _at_least_one(self, "speech_decoder", (*names, "intermediate_size"))
        if self.rms_norm_eps <= 0:
            raise ConfigError(
                f"speech_decoder.rms_norm_eps must be above 0, got {self.rms_norm_eps}"
            )
        kind = self.rope_parameters.get("rope_type", "default")
        known = sorted({"default", *ROPE_INIT_FUNCTIONS})
        if kind not in known:
            raise ConfigError(
                f"speech_decoder.rope_parameters.rope_type must be one of {', '.join(known)}, "
                f"got {kind!r}"
            )
        if self.hidden_size % self.num_heads or self.hidden_size // self.num_heads % 2:
            raise ConfigError(
                "speech_decoder.hidden_size must be num_heads times an even number, "
                f"got {self.hidden_size} for {self.num_heads} heads"
            )

    @property
    def blank(self) -> int:
        """Label of the blank: K, after all units."""
        return self.num_units


class OmniConfig(PretrainedConfig):
    """Everything that `OmniModel` is built from.

    Args:
        encoder: Whisper's configuration (only its encoder is built).
        llm: configuration of any causal language model of Transformers.
        adapter: see `AdapterConfig`.
        speech_decoder: see `SpeechDecoderConfig`.
        prompt: name of the prompt template, see `llama_omni.prompt`.
        pad_to_window: pad or cut the sound to the encoder's whole window (30 s), as the release
            does; otherwise the encoder takes the length that was spoken.
        max_positions: LLM positions (prompt + speech + reply) of a conversation; training
            examples are cut here.
        ctc_states: which LLM state speaks label y_i when training: "predicting" (the paper, and
            what generation does) or "labelled" (the released `forward`: one position later).
        ctc_loss_weight: weight of the CTC loss beside the language model's, where both are used.

    Raises:
        ConfigError: for unknown keys and impossible values.
    """

    model_type = "llama_omni"
    sub_configs: ClassVar[Any] = {"encoder": WhisperConfig, "llm": AutoConfig}  # pyright: ignore

    def __init__(
        self,
        *,
        encoder: dict[str, Any] | WhisperConfig | None = None,
        llm: dict[str, Any] | PretrainedConfig | None = None,
        adapter: dict[str, Any] | AdapterConfig | None = None,
        speech_decoder: dict[str, Any] | SpeechDecoderConfig | None = None,
        prompt: str = "llama3",
        pad_to_window: bool = False,
        max_positions: int = 2048,
        ctc_states: str = "predicting",
        ctc_loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        own = ("encoder", "llm", "adapter", "speech_decoder", "prompt", "pad_to_window")
        own = (*own, "max_positions", "ctc_states", "ctc_loss_weight")
        for key in kwargs:
            if not (key.startswith("_") or key in _INHERITED):
                raise ConfigError(f"no field {key!r} in OmniConfig; it has {', '.join(own)}")
        if ctc_states not in ("predicting", "labelled"):
            raise ConfigError(f"ctc_states must be predicting or labelled, got {ctc_states!r}")
        if ctc_loss_weight < 0:
            raise ConfigError(f"ctc_loss_weight must be 0 or more, got {ctc_loss_weight}")
        prompt_template(prompt)  # refuses unknown names
        if max_positions < 1:
            raise ConfigError(f"max_positions must be at least 1, got {max_positions}")
        self.encoder = _whisper(encoder)
        self.llm = _llm(llm)
        self.adapter = _own(AdapterConfig, adapter, "adapter")
        self.speech_decoder = _own(SpeechDecoderConfig, speech_decoder, "speech_decoder")
        self.prompt = prompt
        self.pad_to_window = pad_to_window
        self.max_positions = max_positions
        self.ctc_states = ctc_states
        self.ctc_loss_weight = ctc_loss_weight
        kwargs.setdefault("tie_word_embeddings", self.llm.tie_word_embeddings)
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON-able values."""
        adapter, speech_decoder = self.adapter, self.speech_decoder
        values = super().to_dict()
        values["adapter"] = asdict(adapter)
        values["speech_decoder"] = asdict(speech_decoder)
        return values

    def get_text_config(self, *_: Any, **__: Any) -> PretrainedConfig:
        """Return the LLM's configuration (Transformers asks for vocabulary and cache sizes)."""
        return self.llm

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Token ids that end a reply."""
        ids = self.llm.eos_token_id
        return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)

    @property
    def window_s(self) -> float:
        """Seconds of sound that the encoder can take."""
        return self.encoder.max_source_positions / ENCODER_RATE


# What Transformers itself writes into a config.json, besides the fields of its base class.
_INHERITED = {item.name for item in fields(PretrainedConfig)} | {  # pyright: ignore
    "attn_implementation", "auto_map", "id2label", "is_encoder_decoder", "label2id", "model_type",
    "num_labels", "output_attentions", "problem_type", "quantization_config",
    "tie_word_embeddings", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


def _own(kind: type, value: Any, name: str) -> Any:
    if value is None or isinstance(value, kind):
        return kind() if value is None else value
    known = [item.name for item in fields(kind)]
    for key in value:
        if key not in known:
            raise ConfigError(f"no field {key!r} in {name}; it has {', '.join(known)}")
    return kind(**value)


def _whisper(value: dict[str, Any] | WhisperConfig | None) -> WhisperConfig:
    if isinstance(value, WhisperConfig):
        return value
    return WhisperConfig(**(value or {}))


def _llm(value: dict[str, Any] | PretrainedConfig | None) -> PretrainedConfig:
    if isinstance(value, PretrainedConfig):
        return value
    values = dict(value or {})
    return AutoConfig.for_model(values.pop("model_type", "llama"), **values)
