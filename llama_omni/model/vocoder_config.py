"""The unit vocoder's configuration, and its named sizes.

Unusual: unknown keys are refused; Transformers accepts them silently.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from transformers import PretrainedConfig

from llama_omni.errors import ConfigError

GENERATOR_NAMES = ("hifigan", "convnext-istft")
# What Transformers itself hands to a configuration.
_INHERITED = {field.name for field in fields(PretrainedConfig)} | set(
    "model_type name_or_path _name_or_path _commit_hash torch_dtype attn_implementation "
    "experts_implementation output_attentions num_labels".split()
)


class VocoderConfig(PretrainedConfig):
    """Knobs of the unit vocoder. Defaults: the km1000 LJSpeech vocoder that the paper uses.

    Those from `initial_channels` to `resblock_dilations` are HiFi-GAN's ("hifigan"), those that
    begin with `convnext` and `istft` are the light generator's ("convnext-istft").

    Raises:
        ConfigError: for unknown keys and impossible values.
    """

    model_type = "llama_omni_vocoder"

    def __init__(
        self,
        *,
        generator: str = "hifigan",
        sample_rate: int = 16000,  # Hz
        num_units: int = 1000,  # K
        embedding_dim: int = 128,
        initial_channels: int = 512,  # halved by each upsampling stage
        upsample_rates: Sequence[int] = (5, 4, 4, 2, 2),  # product: samples per frame (20 ms)
        upsample_kernel_sizes: Sequence[int] = (11, 8, 8, 4, 4),
        resblock_kernel_sizes: Sequence[int] = (3, 7, 11),
        resblock_dilations: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        convnext_dim: int = 192,
        convnext_hidden_dim: int = 576,  # inside a block
        convnext_blocks: Sequence[int] = (4, 5),  # in each group; the rate doubles between groups
        convnext_kernel_size: int = 7,  # of a block's convolution
        istft_size: int = 640,  # samples in a window
        istft_hop: int = 160,  # samples from window to window
        duration_hidden_dim: int = 128,
        duration_dropout: float = 0.5,  # in training only
        **kwargs: Any,
    ) -> None:
        self.generator = generator
        self.sample_rate = sample_rate
        self.num_units = num_units
        self.embedding_dim = embedding_dim
        self.initial_channels = initial_channels
        self.upsample_rates = tuple(upsample_rates)
        self.upsample_kernel_sizes = tuple(upsample_kernel_sizes)
        self.resblock_kernel_sizes = tuple(resblock_kernel_sizes)
        self.resblock_dilations = tuple(tuple(each) for each in resblock_dilations)
        self.convnext_dim = convnext_dim
        self.convnext_hidden_dim = convnext_hidden_dim
        self.convnext_blocks = tuple(convnext_blocks)
        self.convnext_kernel_size = convnext_kernel_size
        self.istft_size = istft_size
        self.istft_hop = istft_hop
        self.duration_hidden_dim = duration_hidden_dim
        self.duration_dropout = duration_dropout
        own = list(vars(self))
        for key in kwargs:
            if key not in _INHERITED:
                raise ConfigError(f"no field {key!r} in VocoderConfig; it has {', '.join(own)}")
        for name in own:
            self._check(name)
        _require(
            len(self.upsample_rates) == len(self.upsample_kernel_sizes)
            and all(
                kernel >= rate and (kernel - rate) % 2 == 0
                for rate, kernel in zip(
                    self.upsample_rates, self.upsample_kernel_sizes, strict=True
                )
            ),
            "upsample_kernel_sizes must be one for each of upsample_rates, larger by an even "
            f"number, got {self.upsample_kernel_sizes} for {self.upsample_rates}",
        )
        halvings = len(self.upsample_rates)
        _require(
            self.initial_channels % 2**halvings == 0,
            f"initial_channels must be a multiple of {2**halvings} (halved by each of {halvings} "
            f"upsampling stages), got {self.initial_channels}",
        )
        _require(
            len(self.resblock_dilations) == len(self.resblock_kernel_sizes),
            "resblock_dilations must be one list for each of resblock_kernel_sizes, "
            f"got {self.resblock_dilations}",
        )
        _require(
            self.convnext_kernel_size % 2 == 1,
            f"convnext_kernel_size must be odd, got {self.convnext_kernel_size}",
        )
        _require(
            self.istft_size % self.istft_hop == 0
            and self.istft_size > self.istft_hop
            and (self.istft_size - self.istft_hop) % 2 == 0,
            "istft_size must be a multiple of istft_hop, larger by an even number, "
            f"got {self.istft_size} for {self.istft_hop}",
        )
        super().__init__(**kwargs)

    def _check(self, name: str) -> None:
        """Refuse an impossible value of one field."""
        value = getattr(self, name)
        if name == "generator":
            known = ", ".join(GENERATOR_NAMES)
            _require(value in GENERATOR_NAMES, f"generator must be one of {known}, got {value!r}")
        elif name == "duration_dropout":
            _require(0.0 <= value < 1.0, f"duration_dropout must be in [0, 1), got {value}")
        elif name == "resblock_dilations":
            _require(
                all(_are_counts(each) for each in value),
                f"{name} must be lists of numbers of at least 1, got {value}",
            )
        elif isinstance(value, tuple):
            _require(_are_counts(value), f"{name} must be numbers of at least 1, got {value}")
            _require(
                name != "resblock_kernel_sizes" or all(kernel % 2 for kernel in value),
                f"{name} must be odd, got {value}",
            )
        else:
            _require(_are_counts([value]), f"{name} must be a number of at least 1, got {value!r}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(f"vocoder.{message}")


def _are_counts(values: Sequence[Any]) -> bool:
    return bool(values) and all(type(value) is int and value >= 1 for value in values)


def _tiny() -> VocoderConfig:
    """Speak 200 units with the light generator, about fifty times real time on one thread."""
    return VocoderConfig(
        generator="convnext-istft",
        num_units=200,
        embedding_dim=192,
        duration_hidden_dim=256,
        duration_dropout=0.1,
    )


_PRESETS: dict[str, Callable[[], VocoderConfig]] = {
    "8b": VocoderConfig,
    "1b": VocoderConfig,
    "tiny": _tiny,
}


def vocoder_preset(name: str) -> VocoderConfig:
    """Return the vocoder configuration of a named size of the whole model.

    Raises:
        ConfigError: for a name that is none of them; the message lists the known ones.
    """
    if name not in _PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(_PRESETS)}, got {name!r}")
    return _PRESETS[name]()
