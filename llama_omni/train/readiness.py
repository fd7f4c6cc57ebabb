"""What would stop a stage late is found before the first stage begins, which may take days."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from llama_omni.errors import ConfigError, MissingExtraError, OutputError
from llama_omni.train.stage_settings import StageOneSettings, StageSettings, StageTwoSettings

# What an evaluation gives, over all held-out splits and (the second) of each: `evaluate`.
_METRICS = {
    StageOneSettings: (("loss", "exact"), ("loss", "exact")),
    StageTwoSettings: (
        (
            *("loss", "unit_error", "units_per_token", "wanted_units_per_token"),
            *("first_token_recall", "blank_share"),
        ),
        ("unit_error",),
    ),
}


def check_ready(settings: StageSettings, splits: Sequence[str], *, name: str) -> None:
    """Refuse settings of a stage that could not be carried out.

    Args:
        settings: The stage's.
        splits: Held-out ones; where there is none, no metric is needed.
        name: Of the stage, for the message: "stage1".

    Raises:
        ConfigError: the metric is none that an evaluation gives.
        MissingExtraError: wandb is wanted and not installed.
        OutputError: a cache's folder cannot be made.
    """
    whole, each = _METRICS[type(settings)]
    known = [*whole, *(f"{metric}_{split}" for metric in each for split in splits)]
    if splits and settings.metric not in known:
        raise ConfigError(
            f"{name}.metric must be one of {', '.join(known)}, got {settings.metric!r}"
        )
    if settings.wandb_project and importlib.util.find_spec("wandb") is None:
        raise MissingExtraError("wandb", None, f"{name}.wandb_project")
    for field in ("state_cache", "feature_cache"):
        if folder := getattr(settings, field, ""):
            try:
                Path(folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"{name}.{field} must be a folder that can be made, got {folder}: "
                    f"{error.strerror}"
                ) from error
