"""Measure the seams of streamed speech: ours against vocoding each chunk alone.

    python -m benchmarks.vocoder_seams                    # the published run
    python -m benchmarks.vocoder_seams --vocoder FOLDER   # another vocoder, as saved by us

Both systems wait for the same unit before the first sound leaves: ours counts the units that it
holds back. Distances are of log-mel spectra to the same reply vocoded at once. A chunk alone gets
other durations near its ends, so its spectra are compared at the same fraction of the same unit.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from llama_omni.bench.machine import describe
from llama_omni.engine.vocoding import DEFAULT_CROSSFADE_S, DEFAULT_LOOKAHEAD, StreamingVocoder
from llama_omni.model.vocoder import UnitVocoder, vocoder_preset

ROOT = Path(__file__).parents[1]
CHUNK_SIZES = (10, 20, 40, 100)  # Omega, units
LOOKAHEADS = (0, 1, 2, 3, 5, 8, 10)  # units
CROSSFADES_S = (0.0, 0.0025, 0.005, 0.01, 0.02)
SEAM_FRAMES = 3  # unit frames on each side of a seam that count as the seam
FLOOR_DB = 80.0  # below the loudest bin, differences do not count
STEPS = 4  # spectra per unit frame


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """A reply spoken in pieces."""

    audio: Tensor  # (S,)
    durations: list[int]  # frames of each unit
    seams: list[int]  # units that begin a piece
    delay_units: int  # known when the first sound left
    first_frames: int  # of sound that left then
    work: float  # frames synthesised for each frame given


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system at one chunk size, over all replies."""

    system: str
    chunk_size: int
    lookahead: int | None  # None: naive
    held_units: int
    crossfade_ms: float
    seam_db: float
    overall_db: float
    click: float  # see `click`
    num_seams: int
    delay_units: float  # known when the first sound leaves
    delay_ms: float  # of speech that they hold
    first_sound_ms: float
    work: float


@torch.inference_mode()
def speak_chunks_alone(vocoder: UnitVocoder, units: Sequence[int], chunk_size: int) -> Streamed:
    """Vocode each chunk as if it were a whole reply, as the reference's demo does."""
    chunks = torch.tensor(list(units)).split(chunk_size)
    durations = [vocoder.durations(chunk[None])[0].tolist() for chunk in chunks]
    return Streamed(
        audio=torch.cat([vocoder(chunk) for chunk in chunks]),
        durations=[frames for chunk in durations for frames in chunk],
        seams=list(range(chunk_size, len(units), chunk_size)),
        delay_units=min(chunk_size, len(units)),
        first_frames=sum(durations[0]),
        work=1.0,
    )


def speak_streaming(
    vocoder: UnitVocoder,
    streaming: StreamingVocoder,
    units: Sequence[int],
    chunk_size: int,
    durations: list[int],
) -> Streamed:
    """Push chunk by chunk through the engine's streaming vocoder."""
    state, spoken, delays, synthesised = streaming.start(), [], [], []
    hook = vocoder.generator.register_forward_pre_hook(
        lambda _, inputs: synthesised.append(inputs[0].shape[2])
    )
    for start in range(0, len(units), chunk_size):
        end = min(start + chunk_size, len(units))
        sound, state = streaming.push(units[start:end], state, final=end == len(units))
        if len(sound.audio):
            spoken.append(sound)
            delays.append(end)
    hook.remove()
    audio = torch.cat([sound.audio for sound in spoken])
    return Streamed(
        audio=audio,
        durations=durations,
        seams=[sound.first_unit for sound in spoken[1:]],
        delay_units=delays[0],
        first_frames=len(spoken[0].audio) // vocoder.hop,
        work=sum(synthesised) * vocoder.hop / len(audio),
    )


def log_mel(audio: Tensor, sample_rate: int, hop: int) -> Tensor:
    """Return (steps, 80) mel levels in dB: 20 ms windows, one every `hop` samples."""
    size = round(0.02 * sample_rate)
    spectra = torch.stft(
        audio, size, hop, window=torch.hann_window(size), pad_mode="constant", return_complex=True
    )  # (bins, steps)
    filters = mel_filter_bank(
        size // 2 + 1, 80, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
    )
    power = spectra.abs().square().T @ torch.from_numpy(filters).float()  # (steps, 80)
    return 10 * power.clamp(min=1e-12).log10()


def matching_steps(exact: Sequence[int], other: Sequence[int]) -> Tensor:
    """Return, for each step of the exact reply, the other's at the same place of the same unit."""
    frames, others = torch.tensor(exact), torch.tensor(other)
    unit = torch.repeat_interleave(torch.arange(len(exact)), frames * STEPS)
    place = torch.arange(len(unit)) - (_begins(exact) * STEPS)[unit]
    fraction = place / (frames[unit] * STEPS)
    return ((_begins(other)[unit] + fraction * others[unit]) * STEPS).round().long()


def _begins(durations: Sequence[int]) -> Tensor:
    """Return the first frame of each unit."""
    frames = torch.tensor(durations)
    return frames.cumsum(0) - frames


def distances(
    exact: Tensor, durations: Sequence[int], reply: Streamed, rate: int, hop: int
) -> tuple[Tensor, Tensor]:
    """Return dB of log-mel distance at each step of the exact reply, and which steps are a seam."""
    ours, theirs = (log_mel(audio, rate, hop // STEPS) for audio in (exact, reply.audio))
    floor = ours.max() - FLOOR_DB
    steps = matching_steps(durations, reply.durations)
    gap = (ours[: len(steps)].clamp(min=floor) - theirs[steps].clamp(min=floor)).abs().mean(dim=1)
    seam = torch.zeros(len(steps), dtype=torch.bool)
    for middle in (_begins(durations)[reply.seams] * STEPS).tolist():
        seam[max(0, middle - SEAM_FRAMES * STEPS) : middle + SEAM_FRAMES * STEPS] = True
    return gap, seam


def click(exact: Tensor, durations: Sequence[int], reply: Streamed, hop: int) -> float:
    """Return how far the step into a seam is from the exact one, over the reply's mean step."""
    steps = exact.diff()
    into = steps[_begins(durations)[reply.seams] * hop - 1]
    theirs = reply.audio.diff()[_begins(reply.durations)[reply.seams] * hop - 1]
    return ((theirs - into).abs().mean() / steps.abs().mean()).item()


class Bench:
    """One vocoder, some replies, and what they are offline."""

    def __init__(self, vocoder: UnitVocoder, replies: Sequence[Sequence[int]]) -> None:
        self.vocoder, self.replies = vocoder, replies
        with torch.inference_mode():
            whole = [torch.tensor(units) for units in replies]
            self.durations = [vocoder.durations(units[None])[0].tolist() for units in whole]
            self.exact = [vocoder(units) for units in whole]

    def naive(self, chunk_size: int) -> Row:
        """Measure each chunk alone."""
        spoken = [speak_chunks_alone(self.vocoder, units, chunk_size) for units in self.replies]
        return self._row("naive", chunk_size, None, 0, 0.0, spoken)

    def ours(self, chunk_size: int, lookahead: int, crossfade_s: float) -> Row:
        """Measure the engine's streaming."""
        streaming = StreamingVocoder(self.vocoder, lookahead=lookahead, crossfade_s=crossfade_s)
        spoken = [
            speak_streaming(self.vocoder, streaming, units, chunk_size, durations)
            for units, durations in zip(self.replies, self.durations, strict=True)
        ]
        held = streaming.held_units
        return self._row("ours", chunk_size, lookahead, held, crossfade_s, spoken)

    def _row(
        self,
        system: str,
        chunk_size: int,
        lookahead: int | None,
        held_units: int,
        crossfade_s: float,
        spoken: Sequence[Streamed],
    ) -> Row:
        rate, hop = self.vocoder.sample_rate, self.vocoder.hop
        aligned = list(zip(self.exact, self.durations, spoken, strict=True))
        measured = [distances(*each, rate, hop) for each in aligned]
        gap, seam = (torch.cat(each) for each in zip(*measured, strict=True))
        known = [sum(durations[: reply.delay_units]) for _, durations, reply in aligned]
        return Row(
            system=system,
            chunk_size=chunk_size,
            lookahead=lookahead,
            held_units=held_units,
            crossfade_ms=1000 * crossfade_s,
            seam_db=gap[seam].mean().item(),
            overall_db=gap.mean().item(),
            click=fmean(click(*each, hop) for each in aligned),
            num_seams=sum(len(reply.seams) for reply in spoken),
            delay_units=fmean(reply.delay_units for reply in spoken),
            delay_ms=1000 * hop / rate * fmean(known),
            first_sound_ms=1000 * hop / rate * fmean(reply.first_frames for reply in spoken),
            work=fmean(reply.work for reply in spoken),
        )


def measure(bench: Bench, chunk_sizes: Sequence[int], lookaheads: Sequence[int]) -> list[Row]:
    """Return naive and the sweep for each chunk size, then cross-fades at the smallest."""
    rows = []
    for chunk_size in chunk_sizes:
        rows.append(bench.naive(chunk_size))
        swept: dict[int, Row] = {}
        for lookahead in lookaheads:
            held = max(lookahead, bench.vocoder.duration_context)  # fewer sound the same
            if held not in swept:
                swept[held] = bench.ours(chunk_size, lookahead, DEFAULT_CROSSFADE_S)
            rows.append(replace(swept[held], lookahead=lookahead))
    others = [each for each in CROSSFADES_S if each != DEFAULT_CROSSFADE_S]
    return rows + [bench.ours(min(chunk_sizes), DEFAULT_LOOKAHEAD, each) for each in others]


def smallest_sufficient(rows: Sequence[Row]) -> int | None:
    """Return the fewest held units that at least halve naive's error at every chunk size."""
    naive = {row.chunk_size: row for row in rows if row.lookahead is None}
    for held in sorted({row.held_units for row in rows if row.lookahead is not None}):
        here = [row for row in rows if row.held_units == held and _is_swept(row)]
        if all(
            row.delay_units <= naive[row.chunk_size].delay_units
            and row.seam_db <= 0.5 * naive[row.chunk_size].seam_db
            for row in here
        ):
            return held
    return None


def _is_swept(row: Row) -> bool:
    return row.lookahead is not None and row.crossfade_ms == 1000 * DEFAULT_CROSSFADE_S


def make_replies(num_units: int, count: int, length: int, seed: int) -> list[list[int]]:
    """Draw reduced unit sequences: some units much more frequent than others, none repeated."""
    rng = random.Random(seed)
    order = rng.sample(range(num_units), num_units)
    weights = [1 / (rank + 10) for rank in range(num_units)]
    replies = []
    for _ in range(count):
        units: list[int] = []
        while len(units) < length:
            unit = rng.choices(order, weights)[0]
            if not units or unit != units[-1]:
                units.append(unit)
        replies.append(units)
    return replies


def load_vocoders(folders: Sequence[Path], seed: int) -> dict[str, UnitVocoder]:
    """Return the vocoders to measure; without a folder, the two that hold random weights."""
    if folders:
        return {folder.name: UnitVocoder.from_pretrained(folder).eval() for folder in folders}
    torch.manual_seed(seed)
    golden = ROOT / "tests" / "golden" / "vocoder"
    return {
        "km1000 size, random weights": UnitVocoder(vocoder_preset("8b")).eval(),
        "golden (small), random weights": UnitVocoder.from_fairseq(
            golden / "g.pt", golden / "config.json"
        ),
    }


def table(rows: Sequence[Row]) -> str:
    """Return the Markdown table of one vocoder: the sweep, then the cross-fades."""
    naive = {row.chunk_size: row for row in rows if row.lookahead is None}
    lines = [
        "| Omega | system | look-ahead | held | cross-fade ms | seams dB | of naive | overall dB "
        "| of naive | click | delay units | delay ms of speech | first sound ms | work |",
        "|" + " --- |" * 14,
    ]
    for row in rows:
        base = naive[row.chunk_size]
        lookahead = "-" if row.lookahead is None else str(row.lookahead)
        lines.append(
            f"| {row.chunk_size} | {row.system} | {lookahead} | {row.held_units} "
            f"| {row.crossfade_ms:g} "
            f"| {row.seam_db:.3f} | {row.seam_db / base.seam_db:.3f} | {row.overall_db:.3f} "
            f"| {row.overall_db / base.overall_db:.3f} | {row.click:.2f} | {row.delay_units:.0f} "
            f"| {row.delay_ms:.0f} | {row.first_sound_ms:.0f} | {row.work:.2f} |"
        )
    return "\n".join(lines)


def report(about: dict[str, Any], rows: dict[str, list[Row]]) -> str:
    """Return the Markdown page of a run."""
    versions = about["versions"]
    parts = [
        "# Seams of streamed speech",
        "",
        f"Made by `{about['command']}` on {about['cpu']}, {about['threads']} threads, float32, "
        f"with torch {versions['torch']} and transformers {versions['transformers']}: "
        f"{about['replies']} replies of {about['units']} units a vocoder, seed {about['seed']}.",
        "",
        "**The vocoders hold random weights**: no trained one exists here yet. Distances between "
        "systems on the same vocoder can be compared; their absolute size says nothing of speech."
        if about["random_weights"]
        else "The vocoders were given as folders; the unit sequences are drawn, not spoken.",
        "",
        "Distances are mean absolute differences of 80-band log-mel levels to the same reply "
        f"vocoded at once, within {SEAM_FRAMES} unit frames of a seam and overall. Delay: units "
        "known when the first sound leaves, and the speech they hold; ours counts the units held "
        "back. A look-ahead below 2 holds 2 back, where durations become certain. Click: how far "
        "the step from the last sample before a seam to the first after it is from the step "
        "offline, over the mean step. Work: frames synthesised for each frame given.",
    ]
    for name, each in rows.items():
        chosen = smallest_sufficient(each)
        parts += ["", f"## {name}", "", table(each), ""]
        parts.append(
            "Fewest units held back whose error at seams is at most half of naive's, at the same "
            f"delay and every Omega: **{'none' if chosen is None else chosen}**."
        )
    return "\n".join(parts) + "\n"


def plot(rows: dict[str, list[Row]], path: Path) -> None:
    """Draw the error at seams over the look-ahead, a line for each chunk size."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(rows), figsize=(5.2 * len(rows), 4.2), sharey=True, squeeze=False
    )
    for axis, (name, each) in zip(axes[0], rows.items(), strict=True):
        for place, naive in enumerate(row for row in each if row.lookahead is None):
            size, color = naive.chunk_size, f"C{place}"
            swept = [row for row in each if row.chunk_size == size and _is_swept(row)]
            points = zip(*((row.lookahead, row.seam_db) for row in swept), strict=True)
            axis.plot(*points, "o-", color=color, label=f"ours, Omega = {size}")
            axis.axhline(naive.seam_db, ls="--", color=color, label=f"naive, Omega = {size}")
        axis.set(title=name, xlabel="look-ahead (units)", yscale="log", ylim=(1e-4, 20))
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("log-mel distance to offline at seams (dB)")
    axes[0][0].legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables and write the files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vocoder_seams")
    parser.add_argument("--vocoder", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--replies", type=int, default=3, help="replies for each vocoder")
    parser.add_argument("--units", type=int, default=300, help="units of each reply")
    parser.add_argument("--chunk-sizes", type=int, nargs="+", default=list(CHUNK_SIZES))
    parser.add_argument("--lookaheads", type=int, nargs="+", default=list(LOOKAHEADS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks/results", metavar="FOLDER"
    )
    parser.add_argument("--plot", type=Path, default=ROOT / "docs/img/vocoder-seams.png")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = {}
    for name, vocoder in load_vocoders(options.vocoder, options.seed).items():
        replies = make_replies(vocoder.num_units, options.replies, options.units, options.seed)
        rows[name] = measure(Bench(vocoder, replies), options.chunk_sizes, options.lookaheads)
        print(f"{name}\n{table(rows[name])}\n")
    about = {
        "command": "python -m benchmarks.vocoder_seams",
        **describe(torch.device("cpu"), torch.float32),
        "replies": options.replies,
        "units": options.units,
        "seed": options.seed,
        "random_weights": not options.vocoder,
    }
    vocoders = {
        name: {"sufficient": smallest_sufficient(each), "rows": [asdict(row) for row in each]}
        for name, each in rows.items()
    }
    result = {"about": about, "vocoders": vocoders}
    options.output.mkdir(parents=True, exist_ok=True)
    texts = {"json": json.dumps(result, indent=1) + "\n", "md": report(about, rows)}
    for suffix, text in texts.items():
        (options.output / f"vocoder-seams.{suffix}").write_text(text, encoding="utf-8")
    plot(rows, options.plot)


if __name__ == "__main__":
    main()
