"""Flite, festival and espeak-ng, as they are installed here; absent ones are skipped."""

import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from llama_omni.backends.tts import open_synthesizer
from llama_omni.backends.tts_common import MARGIN_S
from llama_omni.errors import ConfigError, InputError, ToolError
from llama_omni.interfaces import Synthesizer

RATE = 16_000
SENTENCE = "What is the capital of France?"
PROGRAMS = ("flite", "festival", "espeak-ng")
VOICES = (
    "flite:kal",
    "flite:kal16",
    "flite:awb",
    "flite:rms",
    "flite:slt",
    "festival:kal",
    "festival:ked",
    "festival:slt_hts",
    "espeak-ng:en-us",
    "espeak-ng:en-gb+m3",
    "espeak-ng:en-029+f3",
)
PITCHED = ("flite:kal", "flite:kal16", "festival:kal", "festival:ked", "espeak-ng:en-us")
NASTY = {
    "option": "-voice slt -o never.wav",
    "version": "--version",
    "file": "@/etc/passwd",
    "path": "/etc/passwd",
    "shell": "hello $(touch never) `touch never`; touch never | touch never",
    "scheme": 'hello ") (system "touch never") (quit) ("',
    "backslash": 'hello \\" \\ (system "touch never")',
    "phonemes": "hello [[h@'loU]] there",
    "markup": "<speak>hello <break time='9s'/> there &amp; so</speak>",
    "percent": "hello %s %n %d",
    "lines": "hello\n(quit)\nthere\r\n\0 you",
    "accents": "Café naïve Zürich, \u201cquoted\u201d \u2014 it\u2019s fine",
}


@pytest.fixture(scope="module")
def opened():
    """Give the open synthesizer of a program, or skip."""
    found: dict[str, Synthesizer] = {}

    def give(voice_or_program: str) -> Synthesizer:
        program = voice_or_program.partition(":")[0]
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt install {program}")
        if program not in found:
            found[program] = open_synthesizer(program)
        names = [voice.name for voice in found[program].voices]
        if ":" in voice_or_program and voice_or_program not in names:
            pytest.skip(f"{voice_or_program} is not installed")
        return found[program]

    yield give
    for synthesizer in found.values():
        synthesizer.close()


@pytest.fixture
def festival(opened):
    opened("festival")
    synthesizer = open_synthesizer("festival")
    yield synthesizer
    synthesizer.close()


def children():
    own = f"/proc/{os.getpid()}/task"
    found = ""
    for task in os.listdir(own):
        with open(f"{own}/{task}/children", encoding="ascii") as listing:
            found += listing.read() + " "
    return {int(pid) for pid in found.split()}


def fundamental_hz(sound):
    """The usual pitch of a voice, by autocorrelation of its loud frames."""
    found = []
    for first in range(0, len(sound) - 1024, 512):
        frame = sound[first : first + 1024]
        if np.sqrt(np.mean(frame**2)) > 0.02:
            likeness = np.correlate(frame, frame, "full")[1023:]
            lag = 40 + int(np.argmax(likeness[40:267]))
            if likeness[lag] > 0.5 * likeness[0]:
                found.append(RATE / lag)
    return float(np.median(found))


@pytest.mark.parametrize("program", PROGRAMS)
def test_voices_say_their_name_rate_and_licence(opened, program):
    synthesizer = opened(program)
    assert isinstance(synthesizer, Synthesizer)
    names = [voice.name for voice in synthesizer.voices]
    assert len(set(names)) == len(names) > 0
    for voice in synthesizer.voices:
        assert voice.name.startswith(f"{program}:")
        assert voice.sample_rate in (8_000, 16_000, 22_050, 32_000)
        assert voice.licence not in ("", "unknown")


@pytest.mark.parametrize("voice", VOICES)
def test_speech_has_a_sane_length_and_level(opened, voice):
    sound = opened(voice).say(SENTENCE, voice=voice)
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    assert 1.0 < len(sound) / RATE < 3.5
    assert np.sqrt(np.mean(sound**2)) > 0.01
    assert 0.1 < np.abs(sound).max() <= 1.0
    loud = np.flatnonzero(np.abs(sound) > 0.05 * np.abs(sound).max())
    assert loud[0] < (MARGIN_S + 0.2) * RATE
    assert len(sound) - loud[-1] < (MARGIN_S + 0.3) * RATE


@pytest.mark.parametrize("voice", VOICES)
def test_same_request_gives_same_samples_whatever_was_said_before(opened, voice):
    synthesizer = opened(voice)
    first = synthesizer.say(SENTENCE, voice=voice, speed=1.1, pitch=0.9)
    for other in synthesizer.voices[:3]:
        synthesizer.say("Something else.", voice=other.name, speed=0.7, pitch=1.4)
    again = synthesizer.say(SENTENCE, voice=voice, speed=1.1, pitch=0.9)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("voice", VOICES)
def test_speed_changes_the_length(opened, voice):
    slow, usual, fast = (
        len(opened(voice).say(SENTENCE, voice=voice, speed=speed)) for speed in (0.8, 1.0, 1.25)
    )
    assert slow / usual == pytest.approx(1.25, abs=0.1)
    assert fast / usual == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("voice", VOICES)
def test_pitch_changes_the_tone_where_the_program_can(opened, voice):
    usual, high = (opened(voice).say(SENTENCE, voice=voice, pitch=pitch) for pitch in (1.0, 1.3))
    assert len(high) == pytest.approx(len(usual), rel=0.05)
    if voice in PITCHED:
        assert fundamental_hz(high) / fundamental_hz(usual) > 1.12
    elif not voice.startswith("espeak"):
        np.testing.assert_array_equal(usual, high)


@pytest.mark.parametrize("voice", ["flite:rms", "festival:slt_hts", "festival:kal", "espeak-ng:en"])
@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_text_is_never_a_command(opened, voice, text, tmp_path, monkeypatch):
    voice = voice.replace(":en", ":en-us")
    synthesizer = opened(voice)
    monkeypatch.chdir(tmp_path)
    sound = synthesizer.say(text, voice=voice)
    assert 0.3 < len(sound) / RATE < 15
    assert list(tmp_path.iterdir()) == []
    assert len(synthesizer.say(SENTENCE, voice=voice)) > RATE


@pytest.mark.parametrize(
    ("voice", "text"),
    [
        ("espeak-ng:de", "Wie hei\u00dft die Hauptstadt von \u00d6sterreich?"),
        ("espeak-ng:cmn+f2", "\u8718\u86db\u6709\u51e0\u6761\u817f\uff1f"),
    ],
    ids=["german", "chinese"],
)
def test_espeak_speaks_other_languages(opened, voice, text):
    assert 0.5 < len(opened(voice).say(text, voice=voice)) / RATE < 10


@pytest.mark.parametrize("voice", ["flite:rms", "festival:kal"])
def test_character_that_a_program_cannot_read_is_named(opened, voice):
    with pytest.raises(InputError, match="GREEK SMALL LETTER PI"):
        opened(voice).say("What is \u03c0?", voice=voice)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, "text must hold something to say"),
        ({"text": " ?!... \n"}, "text must hold something to say"),
        ({"text": "word " * 2000}, "text must have at most 5000 characters, got 10000"),
        ({"voice": "flite:nobody"}, "voice must be one of .*, got 'flite:nobody'"),
        ({"speed": 0.0}, "speed must be from 0.5 to 2, got 0.0"),
        ({"pitch": 9.0}, "pitch must be from 0.5 to 2, got 9.0"),
        ({"speed": float("nan")}, "speed must be from"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_impossible_request_is_refused(opened, program, change, message):
    synthesizer = opened(program)
    request = {"text": SENTENCE, "voice": synthesizer.voices[0].name} | change
    with pytest.raises(InputError, match=message):
        synthesizer.say(request.pop("text"), **request)


def test_long_answer_is_spoken_whole(opened):
    text = " ".join(["The capital of France is Paris, and the capital of Spain is Madrid."] * 8)
    for voice in ("flite:rms", "festival:slt_hts", "espeak-ng:en-us"):
        assert len(opened(voice).say(text, voice=voice)) / RATE > 20


# Festival's process


def test_festival_speaks_many_sentences_through_one_process_and_ends_it(festival):
    before = children()
    for number in range(5):
        festival.say(f"This is number {number}.", voice=festival.voices[0].name)
    assert children() == before
    festival.close()
    assert len(children()) == len(before) - 1
    festival.close()
    with pytest.raises(ToolError, match="must still be open"):
        festival.say(SENTENCE, voice=festival.voices[0].name)


def test_memory_of_festival_stays_bounded(festival):
    def megabytes():
        with open(f"/proc/{festival._process.pid}/statm", encoding="ascii") as numbers:
            return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    voice = next((v.name for v in festival.voices if v.name != "festival:slt_hts"), None)
    if voice is None:
        pytest.skip("no diphone voice is installed: apt install festvox-kallpc16k")
    for number in range(120):
        festival.say(f"This is the question that has the number {number}.", voice=voice)
    assert megabytes() < 200


def test_festival_starts_again_after_it_was_killed(festival, opened):
    voice = festival.voices[0].name
    before = festival.say(SENTENCE, voice=voice)
    os.kill(festival._process.pid, signal.SIGKILL)
    np.testing.assert_array_equal(festival.say(SENTENCE, voice=voice), before)


def test_festival_killed_in_the_middle_of_a_sentence_says_it_again(festival):
    text = "A long sentence that takes its time to be made. " * 40
    process = festival._process
    process.send_signal(signal.SIGSTOP)  # else a quick machine may have said it before

    def kill():
        time.sleep(0.3)
        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    sound = festival.say(text, voice=festival.voices[0].name)
    killer.join()
    assert festival._process is not process
    assert len(sound) / RATE > 60


def test_error_inside_festival_is_told_and_the_next_sentence_is_spoken(festival, monkeypatch):
    voice = festival.voices[0].name
    with monkeypatch.context() as patch:
        patch.setattr(
            "llama_omni.backends.tts_festival._literal", lambda text: "(error 'no 'sound)"
        )
        with pytest.raises(ToolError, match=r"festival must say .*, got: .*SIOD ERROR"):
            festival.say(SENTENCE, voice=voice)
    assert len(festival.say(SENTENCE, voice=voice)) > RATE


# Programs that are absent or broken


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Put programs of our own alone on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(name: str, script: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n", encoding="ascii")
        path.chmod(0o755)

    return make


@pytest.mark.parametrize("program", PROGRAMS)
def test_absent_program_is_named_with_how_to_install_it(fake, program):
    with pytest.raises(ToolError, match=f"{program} must be on PATH.*apt install {program}"):
        open_synthesizer(program)


def test_unknown_program_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"flite \(apt install flite\), festival .*'flight'"):
        open_synthesizer("flight")


def test_crash_is_told_with_what_the_program_said(fake):
    fake(
        "flite", 'case "$1" in -lv) echo "Voices available: rms";; *) echo boom >&2; exit 3;; esac'
    )
    with pytest.raises(ToolError, match="flite must end with status 0, got 3: boom"):
        open_synthesizer("flite").say(SENTENCE, voice="flite:rms")


def test_nonsense_instead_of_sound_is_refused(fake):
    fake("flite", 'case "$1" in -lv) echo "Voices available: rms";; *) echo not sound;; esac')
    with pytest.raises(ToolError, match=r"flite with 'What is.* must give a file of sound"):
        open_synthesizer("flite").say(SENTENCE, voice="flite:rms")


def test_program_that_hangs_is_ended(fake):
    fake("flite", 'case "$1" in -lv) echo "Voices available: rms";; *) exec sleep 60;; esac')
    synthesizer = open_synthesizer("flite", timeout_s=0.5)
    with pytest.raises(ToolError, match=r"flite must answer within 0\.5 s"):
        synthesizer.say(SENTENCE, voice="flite:rms")


def test_festival_that_hangs_is_ended(fake):
    fake("festival", "exec sleep 60")
    before = children()
    with pytest.raises(ToolError, match=r"festival must answer within 0\.5 s"):
        open_synthesizer("festival", timeout_s=0.5)
    assert children() == before


def test_festival_that_dies_again_and_again_is_given_up(fake):
    fake("festival", "echo no scheme today; exit 4")
    with pytest.raises(ToolError, match="festival must go on, got status 4: no scheme today"):
        open_synthesizer("festival")


def test_festival_without_a_voice_names_the_packages(fake):
    fake("festival", "sed -u -n 's/.*t \"\\(.*\\)\\\\n\".*/(foo_diphone)\\n\\1/p'")
    with pytest.raises(ToolError, match="apt install festvox-kallpc16k"):
        open_synthesizer("festival")


# Several programs as one


def test_several_programs_speak_as_one(opened):
    for program in PROGRAMS:
        opened(program)
    together = open_synthesizer("flite,festival,espeak-ng")
    try:
        assert isinstance(together, Synthesizer)
        for voice in ("flite:rms", "festival:kal", "espeak-ng:en-us+f3"):
            np.testing.assert_array_equal(
                together.say(SENTENCE, voice=voice), opened(voice).say(SENTENCE, voice=voice)
            )
        with pytest.raises(InputError, match="voice must be one of"):
            together.say(SENTENCE, voice="flite")
    finally:
        together.close()


def test_spec_of_one_voice_has_that_voice_alone(opened):
    opened("flite:rms")
    alone = open_synthesizer("flite:rms")
    assert [voice.name for voice in alone.voices] == ["flite:rms"]
    with pytest.raises(InputError, match="got 'flite:nobody'"):
        open_synthesizer("flite:nobody")


def test_absent_voice_is_answered_with_names_that_begin_like_it(opened):
    with pytest.raises(
        InputError, match=r"must be one of espeak-ng:de, .* more, got 'espeak-ng:deu"
    ):
        opened("espeak-ng").say(SENTENCE, voice="espeak-ng:deutsch")
