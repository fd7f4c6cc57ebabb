"""A speech server that is slow, limited, broken, refusing, dying, or talks nonsense."""

import sys

import numpy as np
import pytest
from stub_speech import StubSpeech

from llama_omni.backends.tts import open_synthesizer
from llama_omni.backends.tts_endpoint import EndpointSynthesizer, SpeechEndpointOptions
from llama_omni.errors import ConfigError, InputError, MissingExtraError, ToolError
from llama_omni.interfaces import Synthesizer

SENTENCE = "What is the capital of France?"
VOICE = "endpoint:kokoro/bella"


@pytest.fixture
def opened(monkeypatch):
    """Open a synthesizer on a stub server."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    closing = []

    def start(*plan, voices=None, **options):
        server = StubSpeech(*plan, voices=voices).__enter__()
        closing.append(lambda: server.__exit__())
        given = {"voices": ("bella", "emma")} if voices is None else {}
        synthesizer = EndpointSynthesizer(
            SpeechEndpointOptions(
                base_url=server.base_url, model="kokoro", **{"retries": 2, **given, **options}
            )
        )
        closing.append(synthesizer.close)
        return synthesizer, server

    yield start
    for close in reversed(closing):
        close()


@pytest.mark.parametrize("form", ["wav", "pcm"])
def test_server_speaks(opened, form):
    synthesizer, server = opened(response_format=form, licence="apache-2.0")
    assert isinstance(synthesizer, Synthesizer)
    assert [voice.name for voice in synthesizer.voices] == [VOICE, "endpoint:kokoro/emma"]
    assert synthesizer.voices[0].licence == "apache-2.0"
    sound = synthesizer.say(SENTENCE, voice=VOICE, speed=1.25)
    assert len(sound) / 16_000 == pytest.approx(0.05 * len(SENTENCE) / 1.25, abs=0.02)
    assert np.abs(sound).max() == pytest.approx(0.3, abs=0.02)
    (body,) = server.bodies
    assert body == {
        "model": "kokoro",
        "voice": "bella",
        "input": SENTENCE,
        "response_format": form,
        "speed": 1.25,
    }


def test_streamed_wav_without_sizes_is_read(opened):
    usual, _ = opened()
    endless, _ = opened("endless")
    np.testing.assert_array_equal(
        endless.say(SENTENCE, voice=VOICE), usual.say(SENTENCE, voice=VOICE)
    )


@pytest.mark.parametrize("plan", [("limited",) * 2, ("broken",), ("dropping",)], ids=lambda p: p[0])
def test_passing_trouble_is_tried_again(opened, plan):
    synthesizer, server = opened(*plan, "normal")
    assert len(synthesizer.say(SENTENCE, voice=VOICE)) > 16_000
    assert len(server.bodies) == len(plan) + 1


@pytest.mark.parametrize(
    ("behaviour", "tries", "message"),
    [
        ("limited", 3, "slow down"),
        ("broken", 3, "out of memory"),
        ("dropping", 3, "must answer model 'kokoro', got: Connection error"),
        ("refused", 1, "voice not allowed"),
        ("absent", 1, "base_url must end in the API's version"),
        ("locked", 1, "the key is read from the variable OPENAI_API_KEY"),
        ("page", 1, "must give a file of sound"),
        ("empty", 1, "must give a file of sound"),
    ],
)
def test_lasting_trouble_is_told_with_the_sentence(opened, behaviour, tries, message):
    synthesizer, server = opened(behaviour)
    with pytest.raises(ToolError, match=r"127.0.0.1:\d+/v1/audio/speech.*") as caught:
        synthesizer.say(SENTENCE, voice=VOICE)
    assert message in str(caught.value)
    assert "asked: 'What is the capital" in str(caught.value)
    assert len(server.bodies) == tries


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [("odd", "must give 16 bit PCM"), ("silent", "must give sound, got 1.00 s of silence")],
)
def test_pcm_that_is_none_is_refused(opened, behaviour, message):
    synthesizer, _ = opened(behaviour, response_format="pcm")
    with pytest.raises(ToolError, match=message):
        synthesizer.say(SENTENCE, voice=VOICE)


def test_slow_server_is_given_up(opened):
    synthesizer, _ = opened("slow", timeout_s=0.2, retries=0)
    with pytest.raises(ToolError, match="Request timed out"):
        synthesizer.say(SENTENCE, voice=VOICE)


def test_server_that_is_not_there_is_told(opened):
    synthesizer = open_synthesizer("endpoint:http://127.0.0.1:9/v1#kokoro?voices=bella")
    with pytest.raises(ToolError, match="Connection error"):
        synthesizer.say(SENTENCE, voice=VOICE)
    synthesizer.close()


def test_key_is_sent_and_never_shown(opened, monkeypatch):
    monkeypatch.setenv("SPEECH_KEY", "secret-12345")
    synthesizer, server = opened("locked", api_key_env="SPEECH_KEY")
    with pytest.raises(ToolError) as caught:
        synthesizer.say(SENTENCE, voice=VOICE)
    assert server.keys == ["Bearer secret-12345"]
    assert "secret-12345" not in str(caught.value)
    assert "SPEECH_KEY" in str(caught.value)


@pytest.mark.parametrize(
    "listed",
    [
        {"voices": ["bella", "emma"]},
        {"voices": [{"id": "bella", "name": "Bella"}, {"name": "emma"}]},
        ["bella", "emma"],
    ],
    ids=["names", "rows", "bare"],
)
def test_voices_are_asked_of_the_server(opened, listed):
    synthesizer, _ = opened(voices=listed)
    assert [voice.name for voice in synthesizer.voices] == [VOICE, "endpoint:kokoro/emma"]


@pytest.mark.parametrize("listed", [{}, {"voices": []}, "nothing"])
def test_server_without_a_list_asks_for_names(opened, listed):
    with pytest.raises(ToolError, match=r"name the voices: endpoint:BASE_URL#MODEL\?voices=A,B"):
        opened(voices=listed)


def test_spec_names_voices_key_and_format(monkeypatch):
    monkeypatch.setenv("SPEECH_KEY", "secret-12345")
    with StubSpeech() as server:
        spec = f"endpoint:{server.base_url}#org/kokoro?voices=bella,emma&key=SPEECH_KEY&format=pcm"
        synthesizer = open_synthesizer(spec)
        names = [voice.name for voice in synthesizer.voices]
        assert names == ["endpoint:org/kokoro/bella", "endpoint:org/kokoro/emma"]
        assert len(synthesizer.say(SENTENCE, voice=names[1])) > 16_000
        synthesizer.close()
    assert server.keys == ["Bearer secret-12345"]
    assert server.bodies[0]["response_format"] == "pcm"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("endpoint:http://here/v1", "must be written as endpoint:BASE_URL#MODEL"),
        ("endpoint:http://here/v1#m?vioces=a", "must be written as endpoint:BASE_URL#MODEL"),
        ("endpoint:here/v1#m?voices=a", "base_url must begin with http"),
        ("endpoint:http://here/v1#m?voices=a&format=mp3", "response_format must be wav or pcm"),
    ],
)
def test_malformed_spec_is_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        open_synthesizer(spec)


def test_unknown_voice_is_refused_before_it_is_asked_for(opened):
    synthesizer, server = opened()
    with pytest.raises(InputError, match="voice must be one of endpoint:kokoro/bella"):
        synthesizer.say(SENTENCE, voice="endpoint:kokoro/nobody")
    assert server.bodies == []


def test_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'llama-omni\[data\]'"):
        open_synthesizer("endpoint:http://here/v1#m?voices=a")
