"""The quality measures over replies, with models made for the tests."""

import numpy as np
import pytest

from llama_omni import audio
from llama_omni.errors import AudioError, ConfigError
from llama_omni.evaluate.quality import dnsmos_measure, utmos_measure
from llama_omni.evaluate.records import EvalItem, Measure, ReplyRow

ITEM = EvalItem(id="a", instruction="")


class Loudness:
    """Says how long a sound is, in the fields that are asked for."""

    missing = None

    def __init__(self, *names):
        self.name, self._names = "loudness 1", names

    def score(self, samples):
        return {name: len(samples) / 16000 + shift for shift, name in enumerate(self._names)}


def reply(folder, seconds, name="a"):
    audio.save(folder / f"{name}.flac", np.zeros(int(seconds * 16000), np.float32), 16000)
    return ReplyRow(item=name, condition="s2sif-inf", text="hello", audio=f"{name}.flac")


def test_utmos_is_the_mean_over_replies(tmp_path):
    measure = utmos_measure(lambda: Loudness("utmos"))
    assert isinstance(measure, Measure)
    assert (measure.missing, measure.settings) == (None, {"model": "loudness 1"})
    rows = [reply(tmp_path, seconds, name) for seconds, name in ((1, "a"), (40, "b"))]
    values = [measure.value(row, ITEM, tmp_path) for row in rows]
    assert values == [{"utmos": 1.0}, {"utmos": 40.0}]  # long replies are no error
    (score,) = measure.scores([(row, ITEM, v) for row, v in zip(rows, values, strict=True)], seed=0)
    assert (score.name, score.value, score.count, score.unit) == ("utmos", 20.5, 2, "1 to 5")
    assert score.low == 1.0
    assert score.high == 40.0


def test_dnsmos_gives_four_scores(tmp_path):
    measure = dnsmos_measure(lambda: Loudness("sig", "bak", "ovrl", "p808"))
    row = reply(tmp_path, 1)
    value = measure.value(row, ITEM, tmp_path)
    found = {score.name: score.value for score in measure.scores([(row, ITEM, value)], seed=0)}
    assert found == {"dnsmos_ovrl": 3.0, "dnsmos_sig": 1.0, "dnsmos_bak": 2.0, "dnsmos_p808": 4.0}


def test_only_replies_with_sound_are_heard():
    measure = utmos_measure(None)
    assert not measure.applies(ReplyRow(item="a", condition="s2tif", text="hello"))
    assert not measure.applies(ReplyRow(item="a", condition="s2sif-10", audio="a", error="gone"))
    assert measure.applies(ReplyRow(item="a", condition="s2sif-10", audio="a.flac"))


@pytest.mark.parametrize(
    ("make", "words"), [(utmos_measure, "--utmos FILE"), (dnsmos_measure, r"llama-omni[quality]")]
)
def test_absent_model_says_how_to_get_one(make, words, tmp_path):
    measure = make(None)
    assert words in measure.missing
    assert measure.settings == {"model": None}
    with pytest.raises(ConfigError):
        measure.value(reply(tmp_path, 1), ITEM, tmp_path)


def test_absent_sound_is_an_error(tmp_path):
    row = ReplyRow(item="a", condition="s2sif-10", audio="gone.flac")
    with pytest.raises(AudioError, match=r"gone\.flac"):
        utmos_measure(lambda: Loudness("utmos")).value(row, ITEM, tmp_path)
