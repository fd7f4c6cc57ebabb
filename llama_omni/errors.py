"""Every error that this package raises on purpose.

LlamaOmniError
+-- ConfigError          a configuration cannot work; fix the file or the flag (also a ValueError)
+-- InputError           what the caller handed in cannot be used (also a ValueError)
|   +-- AudioError       audio that cannot be read, or has an impossible length, rate or shape
+-- OutputError          a result cannot be written where it was asked for
+-- CheckpointError      a file of weights is missing, damaged, or does not fit the model
+-- TargetError          a training target cannot be used; names the sample (also a ValueError)
+-- CapacityError        a cache or a queue is full
+-- EngineError          a reply failed through no fault of the asker's, or its engine is gone
+-- ToolError            a program or a server that was asked for work is absent, refuses or fails
+-- TrainingError        training cannot go on: a loss that is no number, a collapse, no progress
+-- MissingExtraError    an optional dependency is not installed; names the extra

A message reads `<field or file> must <rule>, got <value>`, and adds what would work where we know.
"""


class LlamaOmniError(Exception):
    """Base class: catch this to catch everything the package raises on purpose."""


class ConfigError(LlamaOmniError, ValueError):
    """A configuration cannot work; the message names the field and what would."""


class InputError(LlamaOmniError, ValueError):
    """What the caller handed in cannot be used; the message says what could."""


class AudioError(InputError):
    """Audio that cannot be read, or has an impossible length, rate or shape."""


class OutputError(LlamaOmniError):
    """A result cannot be written where it was asked for."""


class CheckpointError(LlamaOmniError):
    """A file of weights is missing, damaged, or does not fit the model it is for."""


class TargetError(LlamaOmniError, ValueError):
    """A training target cannot be used; the message names the sample and why."""


class CapacityError(LlamaOmniError):
    """A cache or a queue is full; the message names its limit."""


class EngineError(LlamaOmniError):
    """A reply failed through no fault of the asker's, or what makes replies is gone."""


class ToolError(LlamaOmniError):
    """A program or a server is absent, refuses or fails; the message says what to do."""


class TrainingError(LlamaOmniError):
    """Training cannot go on; the message names the batch or the step, and what to try."""


class MissingExtraError(LlamaOmniError, ImportError):
    """An optional dependency is not installed; the message tells what to install.

    That is an extra of ours, or, where none has the package (`extra` is None), the package.
    """

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        what = package if extra is None else f"'llama-omni[{extra}]'"
        super().__init__(
            f"{purpose} needs the package {package!r}; install it with: pip install {what}"
        )
        self._made_of = (package, extra, purpose)

    def __reduce__(self) -> tuple[type["MissingExtraError"], tuple[str, str | None, str]]:
        """Let it cross from one process to another."""
        return MissingExtraError, self._made_of
