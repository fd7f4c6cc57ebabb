"""Test sets by name: the tiny model's own, the paper's, OpenAudioBench, recordings, built data."""

from collections.abc import Callable
from pathlib import Path

from llama_omni.errors import ConfigError
from llama_omni.evaluate.records import EvalSet
from llama_omni.interfaces import Synthesizer

NAMES = (
    "tiny",
    "instructs2s_eval:FILE",
    "openaudiobench:FOLDER",
    "openaudiobench:FOLDER/SUBSET",
    "folder:FOLDER",
    "FOLDER:SPLIT of a data set",
)


def open_set(
    spec: str,
    *,
    voice: str = "",
    open_synthesizer: Callable[[str], Synthesizer] | None = None,
) -> EvalSet:
    """Return a test set.

    Args:
        spec: one of `NAMES`, with its path after the colon; or the folder of a data set that
            `llama-omni data build` made, and its split where it holds out several.
        voice: speaks the instructions of a set that has only text.
        open_synthesizer: opens the voice's program, by the name before its colon.

    Raises:
        ConfigError: there is no such set; lists those that there are.
        InputError: its files are missing or hold something else.
    """
    name, _, path = spec.partition(":")
    if name == "tiny" and not path:
        from llama_omni.evaluate.sets.shipped import ShippedSet

        return ShippedSet()
    if name == "instructs2s_eval" and path:
        from llama_omni.evaluate.sets.instructs2s_eval import InstructS2SEval

        return InstructS2SEval(path, voice=voice, open_synthesizer=open_synthesizer)
    if name == "openaudiobench" and path:
        from llama_omni.evaluate.sets.openaudiobench import OpenAudioBench

        return OpenAudioBench(Path(path))
    if name == "folder" and path:
        from llama_omni.evaluate.sets.recordings import Recordings

        return Recordings(Path(path))
    whole = Path(spec).is_dir()
    folder, _, split = (spec, "", "") if whole else spec.rpartition(":")
    if whole or "/" in folder or (folder and Path(folder).is_dir()):
        from llama_omni.evaluate.sets.built import BuiltSet

        return BuiltSet(Path(folder), split)
    raise ConfigError(f"--set must be one of {', '.join(NAMES)}; got {spec!r}")
