"""Make the shipped test set: `python runs/held_out.py --data FOLDER`.

Questions of the tiny model's held-out splits, evenly over their intents, as Ogg Opus in one file.
The same data give the same file.
"""

import argparse
import json
import random
import sys
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bundle_opus import encode_opus

from llama_omni.data.dataset import SpeechDataset
from llama_omni.data.shards import read_manifest
from llama_omni.errors import LlamaOmniError
from llama_omni.evaluate.sets.shipped import FILE, ITEMS, NOTES

SPLITS = {"test_seen": "trained voice", "test_unseen": "other voice", "outside": "outside"}
REFUSED = 2  # exit code
_DATE = (2026, 1, 1, 0, 0, 0)  # of the files inside: the archive depends on the data alone


def main(arguments: Sequence[str] | None = None) -> int:
    """Make it and return the exit code: 0, or 2 where something was refused."""
    parser = argparse.ArgumentParser(prog="python runs/held_out.py", description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the data set, with its held-out splits")
    add("-o", "--output", type=Path, default=FILE, metavar="FILE")
    add("--count", type=int, default=80, metavar="N", help="of each of the two voice splits (80)")
    add("--outside", type=int, default=20, metavar="N", help="out of the domain (20)")
    add("--level", type=float, default=0.5, help="Opus compression, 0 to 1 (0.5)")
    options = parser.parse_args(arguments)
    try:
        rows = [
            (split, row)
            for split in SPLITS
            for row in _chosen(
                SpeechDataset(options.data, split),
                options.outside if split == "outside" else options.count,
            )
        ]
        _write(options.output, rows, _notes(options.data), options.level)
    except LlamaOmniError as error:
        print(f"held_out: error: {' '.join(str(error).split())}", file=sys.stderr)
        return REFUSED
    print(f"{len(rows)} questions, {options.output.stat().st_size / 2**20:.1f} MiB")
    return 0


def _chosen(dataset: SpeechDataset, count: int) -> list[Any]:
    """Return rows in turn from each intent, drawn by a fixed seed; none that follows up another."""
    chance = random.Random(0)
    intents: dict[str, list[Any]] = defaultdict(list)
    for number in range(len(dataset)):
        row = dataset[number]
        if not row.history:
            intents[row.intent or ""].append(row)
    for rows in intents.values():
        chance.shuffle(rows)
    found: list[Any] = []
    while len(found) < count and any(intents.values()):
        for name in sorted(intents):
            if intents[name] and len(found) < count:
                found.append(intents[name].pop())
    chance.shuffle(found)  # so that the first few are of many intents
    return found


def _write(file: Path, rows: Sequence[tuple[str, Any]], notes: Sequence[str], level: float) -> None:
    lines, sounds = [], {}
    numbers: dict[str, int] = defaultdict(int)
    for split, row in rows:
        numbers[split] += 1
        name = f"{split.removeprefix('test_')}-{numbers[split]:03d}"
        lines.append(
            {
                "id": name,
                "instruction": row.question,
                "references": [row.answer],
                "category": f"{SPLITS[split]}, {row.intent}" if split != "outside" else split,
                "voice": row.voice,
            }
        )
        sounds[f"{name}.opus"] = encode_opus(np.asarray(row.audio, np.float32), level)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    texts = {ITEMS: text.encode(), NOTES: json.dumps([*notes]).encode()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in [*texts.items(), *sounds.items()]:
            about = zipfile.ZipInfo(name, _DATE)
            about.compress_type = zipfile.ZIP_DEFLATED if name in texts else zipfile.ZIP_STORED
            archive.writestr(about, data)


def _notes(data: Path) -> list[str]:
    manifest = read_manifest(data)
    licences = sorted({voice["licence"] for voice in manifest["voices"].values()})
    return [
        "Questions of the tiny model's own domain, held out from its training but for small talk, "
        "abilities, seasons and weekends, whose questions are the training's, spoken anew; half "
        "in voices of the training, half in five others, and some out of the domain, which are "
        "right where they are declined.",
        f"Synthetic speech of Debian's voices; licences of the voices: {', '.join(licences)}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
