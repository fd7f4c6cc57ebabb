"""When things came: latency by phase, lagging words, decoding time, speech rate (Tables 2 and 3).

All is in the replies' own lines: nothing is measured anew.
"""

from collections.abc import Mapping
from typing import Any

from llama_omni.evaluate.records import EvalItem, ReplyRow
from llama_omni.evaluate.scoring import Parts, PartsMeasure, Spec
from llama_omni.metrics import count_words


def _ms(name: str, **changes: Any) -> Spec:
    return Spec(name=name, unit="ms", better="lower", scale=1_000.0, **changes)


class TimingMeasure(PartsMeasure):
    """Times of the replies. A system that does not tell its phases has only the totals.

    Source:
        Latency is the paper's: from the complete question to the first sound; its part for the LLM
        ends when the first chunk's units are known. Decoding time is that of the whole reply.
    """

    name = "timing"
    needs_values = False
    specs = (
        _ms("first_audio_ms"),
        _ms("first_audio_median_ms", kind="median", of="first_audio_ms"),
        _ms("first_audio_p95_ms", kind="p95", of="first_audio_ms"),
        _ms("hear_ms"),
        _ms("prefill_ms"),
        _ms("first_token_ms"),
        _ms("first_units_ms"),
        _ms("first_vocode_ms"),
        Spec(name="lagging_words", unit="words", better="lower"),
        Spec(name="decoding_s", unit="s", better="lower"),
        Spec(name="decoding_median_s", unit="s", better="lower", kind="median", of="decoding_s"),
        Spec(name="real_time_factor", better="lower"),
        Spec(name="words_per_second", unit="words/s"),  # of speech, as in the paper's WPS
        Spec(name="units_per_second", unit="units/s"),
        Spec(name="tokens_per_second", unit="tokens/s", better="higher"),
        Spec(name="speech_s", unit="s"),
    )

    def parts(self, row: ReplyRow, item: EvalItem, value: Mapping[str, Any]) -> Parts:  # noqa: ARG002
        """Return what a reply's times add."""
        at = row.timed
        times = {
            "first_audio_ms": at.first_audio_s,
            "first_token_ms": at.first_token_s,
            "first_units_ms": at.first_chunk_units_s,
            "first_vocode_ms": at.first_vocode_s,
            "lagging_words": row.lagging_words,
        }
        found = {name: (float(time), 1.0) for name, time in times.items() if time is not None}
        if at.prefill_s > 0:  # the system tells its phases
            found["hear_ms"] = (at.mel_s + at.encode_s + at.adapt_s, 1.0)
            found["prefill_ms"] = (at.prefill_s, 1.0)
            if row.tokens and at.decode_s > 0:
                found["tokens_per_second"] = (float(row.tokens), at.decode_s)
        if at.total_s > 0:
            found["decoding_s"] = (at.total_s, 1.0)
        if row.duration_s > 0:
            if at.work_s > 0:
                found["real_time_factor"] = (at.work_s, row.duration_s)
            found["words_per_second"] = (float(count_words(row.text)), row.duration_s)
            found["speech_s"] = (row.duration_s, 1.0)
            if row.units:
                found["units_per_second"] = (float(len(row.units)), row.duration_s)
        return found
