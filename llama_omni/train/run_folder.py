"""Which run a folder is of: settings.json tells, so that another one cannot go on in it."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from llama_omni.errors import TrainingError
from llama_omni.files import write_text
from llama_omni.train.processes import Processes

_NAME = "settings.json"


def read_settings(output: Path) -> dict[str, Any]:
    """Return what the folder's settings.json says, {} where no run has begun.

    Raises:
        TrainingError: it cannot be read; says what to do.
    """
    path = output / _NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(found, dict):
        raise _unreadable(path, type(found).__name__)
    return found


def fixed_settings(name: str, settings: Any, *, free: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a part's settings by dotted names, as `--set` has them, for `settle`.

    Args:
        name: Of the part.
        settings: A dataclass.
        free: Fields that change nothing that is learnt.
    """
    return {f"{name}.{key}": v for key, v in asdict(settings).items() if key not in free}


def fixed_sizes(name: str, config: PretrainedConfig) -> dict[str, Any]:
    """Return the sizes in a configuration of Transformers by dotted names, for `settle`.

    Whole numbers only, and no token ids: what else a configuration holds may be called otherwise in
    another version of Transformers, with which a run may well go on.

    Args:
        name: Of the part.
        config: Its configuration.
    """
    sizes = {k: v for k, v in config.to_dict().items() if type(v) is int}  # not a bool
    return {f"{name}.{k}": v for k, v in sizes.items() if not k.endswith("_token_id")}


def settle(
    output: Path,
    *,
    before: Mapping[str, Any],
    fixed: Mapping[str, Any],
    noted: Mapping[str, Any],
    processes: Processes,
    resume: bool = True,
    free: Collection[str] = (),
) -> None:
    """Refuse a folder of another run; note this one's settings if they are not there yet.

    Args:
        output: The run's folder; may not exist yet.
        before: What `read_settings` gave. What it lacks is not compared: an older version's.
        fixed: What must not change while a run goes on.
        noted: What is written beside that when a run begins.
        processes: Of the run. All call this; rank 0 writes.
        resume: False refuses any folder in which a run has begun.
        free: Names among `fixed` that may change this time, and are noted anew.

    Raises:
        TrainingError: the folder holds another run.
        OutputError: the settings cannot be written.
    """
    fixed, noted = (json.loads(json.dumps(dict(each))) for each in (fixed, noted))  # as in the file
    other = [k for k in fixed if k not in free and before.get(k, fixed[k]) != fixed[k]]
    if before and (other or not resume):
        how = f"{other[0]}={before[other[0]]}" if other else _NAME
        now = f" for {fixed[other[0]]}" if other else ""
        raise TrainingError(
            f"{output} must be a new folder, got a run with {how}{now}; "
            "choose another folder, or the same settings to go on with it"
        )
    processes.wait()  # until all have read it
    chosen = {**noted, **before, **fixed}
    if processes.is_main and chosen != before:
        write_text(output / _NAME, json.dumps(chosen, indent=1) + "\n")


def _unreadable(path: Path, found: str) -> TrainingError:
    return TrainingError(
        f"{path} must hold a run's settings as JSON, got: {found}; delete this file, and give the "
        "same settings as before to go on with the run"
    )
