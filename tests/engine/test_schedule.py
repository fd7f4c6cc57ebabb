import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_omni.engine.schedule import Playback, Standing, choose_rows, chunk_units
from llama_omni.engine.settings import EngineSettings
from llama_omni.errors import ConfigError

SETTINGS = EngineSettings(cheap_rows=0, max_rows=3)


def standing(ahead_s, *, committed=True, served=0):
    return Standing(ahead_s=ahead_s, committed=committed, served=served)


def test_listener_who_runs_dry_waits_and_then_plays_on():
    playback = Playback()
    playback.start(10.0)
    assert playback.ahead_s(10.0) == 0.0
    assert not playback.is_dry(11.0), "nothing has begun to play"
    playback.give(2.0, 11.0)
    assert playback.ahead_s(11.5) == 1.5
    assert playback.is_dry(13.0)
    playback.give(1.0, 20.0)
    assert playback.ahead_s(20.5) == 0.5


def test_sound_made_before_the_commit_is_buffered_at_the_commit():
    playback = Playback()
    playback.give(2.0, 1.0)
    assert playback.ahead_s(50.0) == 2.0
    playback.start(50.0)
    assert playback.ahead_s(51.0) == 1.0


def test_most_urgent_come_first_and_equals_take_turns():
    rows = [standing(3.0), standing(0.1), standing(1.0, served=9), standing(1.0, served=2)]
    assert choose_rows(rows, SETTINGS, newcomers=False) == [1, 3, 2]


@pytest.mark.parametrize("newcomers", [False, True])
def test_reply_far_ahead_yields_only_while_somebody_is_in_need(newcomers):
    rows = [standing(20.0), standing(1.0)]
    assert choose_rows(rows, SETTINGS, newcomers=newcomers) == ([1] if newcomers else [1, 0])
    rows = [standing(20.0), standing(0.2)]
    assert choose_rows(rows, SETTINGS, newcomers=False) == [1]
    cheap = EngineSettings(cheap_rows=2)
    assert choose_rows(rows, cheap, newcomers=True) == [1, 0]


def test_prepared_reply_comes_after_the_committed_and_stops_at_its_limit():
    rows = [standing(0.0, committed=False), standing(1.0), standing(2.5, committed=False)]
    assert choose_rows(rows, SETTINGS, newcomers=False) == [1, 0]
    assert choose_rows(rows, SETTINGS, newcomers=True) == [1]


@given(
    st.lists(
        st.builds(
            Standing,
            ahead_s=st.floats(0, 30),
            committed=st.just(True),
            served=st.integers(0, 100),
        ),
        min_size=1,
    ),
    st.booleans(),
)
def test_whoever_may_run_dry_is_served_before_all_others(rows, newcomers):
    chosen = choose_rows(rows, SETTINGS, newcomers=newcomers)
    assert len(set(chosen)) == len(chosen) <= SETTINGS.max_rows
    left = [rows[i].ahead_s for i in range(len(rows)) if i not in chosen]
    if chosen and left:
        assert max(rows[i].ahead_s for i in chosen) <= min(left)
    if not newcomers:
        assert chosen


def test_chunks_grow_from_omega_to_their_limit():
    def size(ahead_s, units_per_s=30.0, **changes):
        chosen = EngineSettings(**changes)
        return chunk_units(10, ahead_s=ahead_s, units_per_s=units_per_s, settings=chosen)

    assert size(9.0, units_per_s=None) == 10
    assert [size(s) for s in (0.0, 0.5, 2.0, 4.0, 100.0)] == [10, 10, 30, 60, 120]
    assert size(100.0, chunk_growth=0.0) == 10
    assert chunk_units(None, ahead_s=1.0, units_per_s=30.0, settings=SETTINGS) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_rows": 0}, "max_rows must be at least 1"),
        ({"prepare_s": 0.0}, "prepare_s must be above 0"),
        ({"cache_bytes": 0}, "cache_bytes must be above 0"),
        ({"cheap_rows": 65}, "cheap_rows must be 0 to max_rows=64"),
        ({"far_ahead_s": 0.1}, "far_ahead_s must be at least low_water_s"),
        ({"chunk_growth": 1.0}, "chunk_growth must be at least 0 and below 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        EngineSettings(**changes)
