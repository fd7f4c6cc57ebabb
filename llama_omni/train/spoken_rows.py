"""A data set's questions as sound and words, from samples that are decoded once and memory-mapped.

An encoder is trained for many epochs in random order; to decode a row anew from its compressed row
group costs a tenth of a training step on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from torch.utils.data import Dataset

from llama_omni.audio import pcm16
from llama_omni.data.dataset import SpeechDataset
from llama_omni.errors import InputError
from llama_omni.interfaces import Audio
from llama_omni.train.processes import Processes
from llama_omni.train.row_cache import RowCache, data_hash


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpokenRow:
    """One spoken question."""

    id: str
    audio: Audio  # (S,) at 16 kHz
    question: str
    voice: str


class SpokenRows(Dataset[SpokenRow]):
    """One split's questions.

    Args:
        data: A folder that `llama-omni data build` made.
        split: Of it.
        cache: Folder for 16-bit samples, 115 MB for each hour; made once, by all processes.
        processes: Those of the run; all must make this object.
    """

    def __init__(self, data: Path, split: str, *, cache: Path, processes: Processes) -> None:
        texts = SpeechDataset(data, split, columns=())
        spoken = SpeechDataset(data, split, columns=("question_audio",))
        self.ids = texts.ids
        self.seconds = texts.lengths["question_s"]  # (N,)
        examples = [texts[row] for row in range(len(texts))]
        self.questions = [example.question for example in examples]
        self.voices = [example.voice for example in examples]
        self._samples = RowCache(
            cache,
            key={"data": data_hash(spoken), "what": "question samples"},
            fields={"samples": ("int16", 1)},
            num_rows=len(texts),
        )
        missing = self._samples.missing()
        processes.wait()  # until all have seen the same shards missing
        mine = missing[processes.rank :: processes.world]
        console = Console(stderr=True)
        silent = not (mine and processes.is_main)
        for rows in track(mine, "decoding questions", console=console, disable=silent):
            contents = [{"samples": pcm16(spoken[row].audio)} for row in rows]
            self._samples.write(rows, contents)
        processes.wait()

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> SpokenRow:
        samples = self._samples[row]["samples"][:, 0]  # (S,)
        return SpokenRow(
            id=self.ids[row],
            audio=samples.astype(np.float32) / np.float32(32768.0),
            question=self.questions[row],
            voice=self.voices[row],
        )


class Joined(Dataset[SpokenRow]):
    """Several splits as one, without what is too long.

    Args:
        parts: The splits.
        longest_s: Longer questions are left out: half a sound does not go with a whole transcript.

    Raises:
        InputError: nothing is left.
    """

    def __init__(self, parts: Sequence[SpokenRows], *, longest_s: float = float("inf")) -> None:
        self._parts = parts
        places = [(part, row) for part in range(len(parts)) for row in range(len(parts[part]))]
        self._places = [
            (part, row) for part, row in places if parts[part].seconds[row] <= longest_s
        ]
        self.num_left_out = len(places) - len(self._places)
        if not self._places:
            raise InputError(
                f"questions must last at most {longest_s:g} s, which the encoder hears; all of "
                f"{len(places)} are longer"
            )
        self.ids = [parts[part].ids[row] for part, row in self._places]
        self.seconds = np.array([parts[part].seconds[row] for part, row in self._places])  # (N,)
        self.questions = [parts[part].questions[row] for part, row in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> SpokenRow:
        part, place = self._places[row]
        return self._parts[part][place]
