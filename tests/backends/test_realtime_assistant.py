import numpy as np
import pytest
from stub_realtime import TONE, StubRealtime, running

from llama_omni.backends.realtime_assistant import RealtimeAssistant
from llama_omni.backends.realtime_options import RealtimeOptions
from llama_omni.errors import ConfigError, EngineError, InputError
from llama_omni.interfaces import Assistant, AudioDelta, Conversation, ReplyDone, TextDelta, Turn

QUESTION = (0.1 * np.sin(np.arange(16_000) / 7)).astype(np.float32)


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "LLAMA_OMNI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def of(url, **options):
    return RealtimeAssistant(RealtimeOptions(url=url, **{"timeout_s": 60.0, **options}))


@pytest.mark.parametrize("beta", [True, False], ids=["beta", "today"])
def test_reply_of_either_names_is_whole(beta):
    stub = StubRealtime(beta=beta)
    with running(stub) as url:
        assistant = of(url, model="gpt-4o")
        events = list(assistant.stream(QUESTION))
    assert isinstance(assistant, Assistant)
    assert isinstance(assistant.conversation(), Conversation)
    reply = events[-1].reply
    assert reply.text == "One two three."
    assert (reply.sample_rate, reply.finish_reason, reply.lagging_words) == (24_000, "stop", 2)
    np.testing.assert_allclose(reply.audio, TONE, atol=1 / 32_768)
    texts = [event for event in events if isinstance(event, TextDelta)]
    sounds = [event for event in events if isinstance(event, AudioDelta)]
    assert [event.end_token for event in texts] == [1, 2, 3]
    assert [(event.first_sample, event.end_sample) for event in sounds] == [(0, 500), (500, 4800)]
    assert [event.end_token for event in sounds] == [2, 2]
    assert 0 < reply.timings.first_token_s <= reply.timings.first_audio_s <= reply.timings.total_s
    assert stub.paths == ["/v1/realtime?model=gpt-4o"]
    (update,) = stub.events("session.update")
    if beta:
        assert update["session"]["turn_detection"] is None
        assert update["session"]["input_audio_format"] == "pcm16"
    else:
        assert update["session"]["audio"]["input"]["turn_detection"] is None
        assert update["session"]["type"] == "realtime"


def test_question_is_sent_at_24_khz_and_committed_before_the_response():
    stub = StubRealtime()
    with running(stub) as url:
        of(url).reply(QUESTION)
    kinds = [event["type"] for event in stub.received]
    assert kinds[0] == "session.update"
    assert set(kinds[1:-2]) == {"input_audio_buffer.append"}
    assert kinds[-2:] == ["input_audio_buffer.commit", "response.create"]
    sent = stub.sound()
    assert len(sent) == 24_000
    middle = sent[1_000:-1_000]  # away from where the resampler sees the ends
    assert np.abs(middle).max() == pytest.approx(0.1 * 32_768, rel=0.02)


def test_time_to_first_audio_counts_from_the_end_of_the_sent_question():
    now = [0.0]
    stub = StubRealtime()
    with running(stub) as url:
        options = RealtimeOptions(url=url, pace="real")
        slept = []

        def sleep(seconds):
            slept.append(seconds)
            now[0] += seconds

        assistant = RealtimeAssistant(options, clock=lambda: now[0], sleep=sleep)
        reply = assistant.reply(QUESTION)
    assert sum(slept) == pytest.approx(1.0)  # as long as the question was spoken
    assert reply.timings.first_audio_s == 0.0  # nothing of that is in the latency


def test_written_reply_has_no_sound():
    stub = StubRealtime(beta=False)
    with running(stub) as url:
        reply = of(url).reply(QUESTION, speech=False)
    assert (reply.text, len(reply.audio), reply.lagging_words) == ("One two three.", 0, None)
    assert reply.timings.first_audio_s is None
    assert stub.events("response.create")[0]["response"] == {"output_modalities": ["text"]}


def test_conversation_keeps_its_session_and_its_history():
    stub = StubRealtime()
    with running(stub) as url:
        talk = of(url).conversation("Be brief.")
        talk.reply(QUESTION)
        talk.reply(Turn(role="user", text="And then?"))
        assert len(stub.paths) == 1
        roles = [turn.role for turn in talk.turns]
        assert roles == ["system", "user", "assistant", "user", "assistant"]
        assert stub.events("session.update")[0]["session"]["instructions"] == "Be brief."
        talk.replace(talk.turns[:3])  # a new session is told the words
        talk.reply(QUESTION)
        talk.close()
    assert len(stub.paths) == 2
    told = [event["item"]["content"][0] for event in stub.events("conversation.item.create")]
    assert told == [
        {"type": "input_text", "text": "And then?"},
        {"type": "input_text", "text": "(spoken)"},
        {"type": "text", "text": "One two three."},
    ]


def test_single_questions_have_sessions_of_their_own():
    stub = StubRealtime()
    with running(stub) as url:
        assistant = of(url)
        assert [assistant.reply(QUESTION).text for _ in range(2)] == ["One two three."] * 2
    assert len(stub.paths) == 2


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param("refuse", r"refused: no such voice \(invalid_voice\)", id="refusal"),
        pytest.param("fail", r"overloaded \(overloaded\)", id="failed response"),
        pytest.param("drop", "ended the connection", id="connection lost"),
        pytest.param("junk", "must send JSON", id="no JSON"),
        pytest.param("silence", "must send an event within 0.5 s, got none", id="silence"),
    ],
)
def test_fault_is_an_error_and_the_next_question_is_answered(fault, message):
    stub = StubRealtime(fault=fault, faults=1)
    with running(stub) as url:
        assistant = of(url, timeout_s=0.5 if fault == "silence" else 60.0)
        with pytest.raises(EngineError, match=message):
            assistant.reply(QUESTION)
        assert of(url).reply(QUESTION).text == "One two three."


def test_server_that_is_not_there_is_an_error():
    with running(StubRealtime()) as url:
        gone = url
    with pytest.raises(EngineError, match="must be a Realtime server that answers"):
        of(gone).reply(QUESTION)


def test_incomplete_response_was_cut():
    with running(StubRealtime(fault="length")) as url:
        assert of(url).reply(QUESTION).finish_reason == "length"


def test_cancelled_reply_says_so():
    stub = StubRealtime(fault="wait")
    with running(stub) as url:
        talk = of(url).conversation()
        events = []
        for event in talk.stream(QUESTION):
            events.append(event)
            if len(events) == 2:
                talk.cancel()
        assert isinstance(events[-1], ReplyDone)
        assert events[-1].reply.finish_reason == "cancelled"
        assert stub.events("response.cancel")[0]["response_id"] == "resp_1"
        talk.close()


def test_second_reply_is_refused_while_one_runs():
    with running(StubRealtime(fault="wait")) as url:
        talk = of(url).conversation()
        events = talk.stream(QUESTION)
        next(events)
        with pytest.raises(InputError, match="one reply at a time"):
            talk.stream(QUESTION)
        events.close()  # ends the session: what is still to come is not the next reply's
        assert talk.turns == ()
        assert next(talk.stream(QUESTION)).text == "One"
        talk.close()


def test_key_comes_from_the_environment_and_is_never_told(monkeypatch):
    monkeypatch.setenv("LLAMA_OMNI_API_KEY", "sk-secret")
    stub = StubRealtime()
    with running(stub) as url:
        of(url, names="beta").reply(QUESTION)
    headers = {name.lower(): value for name, value in stub.headers[0].items()}
    assert headers["authorization"] == "Bearer sk-secret"
    assert headers["openai-beta"] == "realtime=v1"
    assert "secret" not in repr(RealtimeOptions(url=url))


def test_options_are_read_from_a_url():
    found = RealtimeOptions.of("wss://api.example.org/v1?model=gpt-4o&names=ga&pace=real")
    assert found == RealtimeOptions(
        url="wss://api.example.org/v1", model="gpt-4o", names="ga", pace="real"
    )
    assert RealtimeAssistant("ws://host:1/v1").options == RealtimeOptions(url="ws://host:1/v1")
    assert found.address == "wss://api.example.org/v1/realtime?model=gpt-4o"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param("http://host/v1", "must be ws://HOST:PORT/v1 or wss://", id="scheme"),
        pytest.param("ws://host/v1?speed=2", "no 'speed'; it has model, names", id="field"),
        pytest.param("ws://host/v1?names=old", "must be one of auto, ga, beta", id="names"),
        pytest.param("ws://host/v1?timeout_s=soon", "a number of seconds", id="number"),
        pytest.param("ws://host/v1?timeout_s=0", "must be above 0", id="zero"),
        pytest.param("ws://host/v1?key_env=NO_SUCH_KEY", "a variable that is set", id="key"),
    ],
)
def test_impossible_options_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        RealtimeOptions.of(spec)


def test_question_of_another_role_is_refused():
    with pytest.raises(InputError, match="must be the user's turn"):
        of("ws://127.0.0.1:1/v1").reply(Turn(role="assistant", text="Hello."))
