"""Voices are drawn by id and seed alone, and those kept for tests are never trained on."""

import shutil
from collections import Counter

import pytest

from llama_omni.backends.tts import open_synthesizer
from llama_omni.data.voices import ANSWER_VOICE, TINY, TINY_UNSEEN, VoicePool, find_pool
from llama_omni.errors import ConfigError, ToolError

IDS = [f"tiny-{number:06d}" for number in range(4000)]


def test_draw_depends_on_id_and_seed_alone():
    forward = {name: TINY.draw(name, seed=3) for name in IDS}
    assert {name: TINY.draw(name, seed=3) for name in reversed(IDS)} == forward
    assert {name: TINY.draw(name, seed=4) for name in IDS} != forward
    thirds = VoicePool(name="thirds", weights={"a": 1.0, "b": 1.0, "c": 1.0})
    assert "".join(thirds.draw(str(number), seed=3) for number in range(12)) == "bcaacccccbba"


def test_draws_follow_the_weights():
    pool = VoicePool(name="three", weights={"a": 1.0, "b": 2.0, "c": 5.0})
    counts = Counter(pool.draw(name, seed=0) for name in IDS)
    assert {voice: count / len(IDS) for voice, count in counts.items()} == pytest.approx(
        {"a": 1 / 8, "b": 2 / 8, "c": 5 / 8}, abs=0.03
    )


def test_every_voice_of_a_pool_is_drawn():
    for pool in (TINY, TINY_UNSEEN):
        assert {pool.draw(name, seed=0) for name in IDS} == set(pool.voices)


def test_unseen_voices_share_no_speaker_accent_or_variant_with_training():
    def parts(voice):
        program, _, name = voice.partition(":")
        return set(name.split("+")) if program == "espeak-ng" else {f"{program}:{name}"}

    trained = set().union(*map(parts, TINY.voices))
    assert len(TINY.voices) >= 12
    for voice in TINY_UNSEEN.voices:
        assert not parts(voice) & trained, voice


@pytest.mark.parametrize("pool", [TINY, TINY_UNSEEN], ids=lambda pool: pool.name)
def test_voices_of_a_pool_can_be_opened_and_heard(pool):
    for program in pool.programs.split(","):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install {program}")
    synthesizer = open_synthesizer(pool.programs)
    try:
        available = [voice.name for voice in synthesizer.voices]
        missing = {name for name in pool.voices if name[:9] == "festival:"} - {*available}
        if missing:
            pytest.skip(f"not installed: {', '.join(sorted(missing))}; see festvox packages")
        pool.check([*available])
        assert ANSWER_VOICE in available or "festival" not in pool.programs
        for voice in pool.voices:
            sound = synthesizer.say("What is two plus three?", voice=voice)
            assert 0.7 < len(sound) / 16_000 < 3.0, voice
            assert abs(sound).max() > 0.1, voice
    finally:
        synthesizer.close()


def test_missing_voices_are_named_with_how_to_install_them():
    with pytest.raises(ToolError, match=r"voices\.tiny-unseen must be installed, missing: fest"):
        TINY_UNSEEN.check(voice for voice in TINY_UNSEEN.voices if "ked" not in voice)


def test_pools_are_found_by_name():
    assert find_pool("tiny-unseen") is TINY_UNSEEN
    with pytest.raises(ConfigError, match="voice pool must be one of tiny, tiny-unseen, got 'x'"):
        find_pool("x")


@pytest.mark.parametrize("weights", [{}, {"a": 0.0}, {"a": float("nan")}])
def test_impossible_pool_is_refused(weights):
    with pytest.raises(ConfigError, match=r"voices\.odd"):
        VoicePool(name="odd", weights=weights)
