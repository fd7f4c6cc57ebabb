"""The figures of the papers, to stand beside ours. None of them was measured here.

Source:
    arXiv 2409.06666, its first version ("v1", September 2024) and the one of ICLR 2025 ("v2"), on
    InstructS2S-Eval, 199 items, judged by GPT-4o, recognised by Whisper large-v3. The versions use
    other voices and other baselines and cannot be compared with each other. Of v1's Tables 2 and 3
    only what its text says could be recovered.
"""

from dataclasses import dataclass

GPT_4O_LATENCY_MS = 320.0  # quoted by the paper; not measured by its authors
V1, V2 = "v1", "v2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Offline:
    """One system's row of Table 1 (v1) or Table 2 (v2): one chunk, Omega infinite."""

    system: str
    version: str
    s2tif: tuple[float, ...]  # v1: content and style; v2: one score
    s2sif: tuple[float, ...]
    asr_wer: float
    asr_cer: float | None = None
    utmos: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Streaming:
    """One chunk size's row of Table 4 (v2), on one L40."""

    chunk_size: int | None  # None: offline
    llm_ms: float
    vocoder_ms: float
    total_ms: float
    judge_score: float
    asr_wer: float
    utmos: float
    words_per_second: float


def _v1(system: str, *numbers: float) -> Offline:
    a, b, c, d, wer, cer = numbers
    return Offline(system=system, version=V1, s2tif=(a, b), s2sif=(c, d), asr_wer=wer, asr_cer=cer)


def _v2(system: str, *numbers: float) -> Offline:
    a, b, wer, utmos = numbers
    return Offline(system=system, version=V2, s2tif=(a,), s2sif=(b,), asr_wer=wer, utmos=utmos)


def _at(chunk_size: int | None, *numbers: float) -> Streaming:
    llm, vocoder, total, score, wer, utmos, speed = numbers
    return Streaming(
        chunk_size=chunk_size,
        llm_ms=llm,
        vocoder_ms=vocoder,
        total_ms=total,
        judge_score=score,
        asr_wer=wer,
        utmos=utmos,
        words_per_second=speed,
    )


OFFLINE = (
    _v1("SpeechGPT", 2.59, 3.15, 1.58, 1.81, 47.62, 37.26),
    _v1("SALMONN + VITS", 2.57, 2.79, 2.46, 2.84, 21.77, 20.25),
    _v1("Qwen2-Audio + VITS", 2.73, 2.64, 2.32, 2.58, 55.72, 53.09),
    _v1("LLaMA-Omni", 3.23, 3.81, 2.69, 3.12, 11.61, 7.59),
    _v2("SpeechGPT", 2.98, 2.19, 45.00, 3.8958),
    _v2("SALMONN + Orca", 3.44, 3.40, 3.78, 3.8286),
    _v2("Qwen2-Audio + Orca", 3.47, 3.38, 6.77, 3.6119),
    _v2("LLaMA-Omni", 3.99, 3.47, 10.82, 3.9296),
)

STREAMING = (
    _at(10, 206.03, 30.15, 236.18, 3.54, 9.84, 3.2304, 2.76),
    _at(20, 236.18, 45.23, 281.41, 3.56, 9.91, 3.4748, 2.75),
    _at(40, 301.51, 45.23, 346.73, 3.52, 10.37, 3.6688, 2.74),
    _at(60, 361.81, 50.25, 412.06, 3.52, 10.47, 3.7549, 2.74),
    _at(80, 432.16, 55.28, 487.44, 3.50, 10.70, 3.7858, 2.73),
    _at(100, 497.49, 65.33, 562.81, 3.49, 10.71, 3.8242, 2.74),
    _at(None, 1542.71, 211.06, 1753.77, 3.47, 10.82, 3.9296, 2.73),
)

# What v1's text says of its Tables 2 and 3.
V1_STREAMING = "v1: 226 ms and 1.82 lagging words at a chunk of 10 units, about 2 s in one chunk"
V1_DECODING = (
    ("LLaMA-Omni", 1.49, 1.91),  # s an instruction, S2TIF and S2SIF; the second is "1.28 times"
    ("SpeechGPT", None, 25.60),
)
