import threading

import numpy as np
import pytest
import torch

import llama_omni
from llama_omni.errors import AudioError, CapacityError, ConfigError, InputError
from llama_omni.interfaces import Assistant, AudioDelta, Conversation, ReplyDone, ReplyOptions, Turn

SOUND = (0.1 * np.random.default_rng(0).standard_normal(24_000)).astype(np.float32)
OTHER = (0.1 * np.random.default_rng(1).standard_normal(20_000)).astype(np.float32)
SHORT = ReplyOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def assistant():
    return llama_omni.load(preset="tiny", random_weights=True, device="cpu")


@pytest.fixture(autouse=True)
def _clean(assistant):
    yield
    assert not assistant.stepper.llm_cache.lengths, "a slot was left behind"
    assert not assistant.stepper.speech_cache.lengths, "a slot was left behind"
    assert assistant.stepper.llm_cache.num_bytes == 0


def test_assistant_keeps_the_interface(assistant):
    assert isinstance(assistant, Assistant)
    chat = assistant.conversation()
    assert isinstance(chat, Conversation)
    chat.close()


def test_streamed_reply_equals_the_reply_at_once(assistant):
    events = list(assistant.stream(SOUND, SHORT))
    assert isinstance(events[-1], ReplyDone)
    streamed, whole = events[-1].reply, assistant.reply(SOUND, SHORT)
    assert streamed.token_ids == whole.token_ids
    assert streamed.units == whole.units
    np.testing.assert_array_equal(streamed.audio, whole.audio)
    assert whole.finish_reason == "length"
    assert len(whole.token_ids) == 6


def test_chunk_size_changes_neither_text_nor_units_nor_length(assistant):
    replies = [
        assistant.reply(SOUND, ReplyOptions(max_new_tokens=8, chunk_size=size))
        for size in (4, 10, None)
    ]
    assert len({reply.token_ids for reply in replies}) == 1
    assert len({reply.units for reply in replies}) == 1
    assert len({len(reply.audio) for reply in replies}) == 1


def test_look_ahead_of_the_receptive_field_equals_offline(assistant):
    options = ReplyOptions(max_new_tokens=12, chunk_size=7, lookahead=40)
    streamed = assistant.reply(SOUND, options)
    offline = assistant.reply(SOUND, ReplyOptions(max_new_tokens=12, chunk_size=None))
    np.testing.assert_allclose(streamed.audio, offline.audio, atol=1e-4)


def test_written_reply_has_the_same_text_and_no_sound(assistant):
    spoken = assistant.reply(SOUND, SHORT)
    written = assistant.reply(SOUND, ReplyOptions(max_new_tokens=6, speech=False))
    assert written.text == spoken.text
    assert written.token_ids == spoken.token_ids
    assert written.units == ()
    assert len(written.audio) == 0


def test_sampling_depends_on_the_seed_only(assistant):
    def ids(seed):
        options = ReplyOptions(max_new_tokens=6, temperature=3.0, seed=seed)
        return assistant.reply(SOUND, options).token_ids

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


def test_second_turn_reads_only_what_is_new_and_answers_as_if_read_at_once(assistant):
    chat = assistant.conversation(system="Be brief.")
    first = chat.reply(SOUND, SHORT)
    second = chat.reply(Turn(role="user", text="And then?"), SHORT)
    assert chat.reused_positions > 20
    turns = chat.turns
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user", "assistant"]
    assert turns[2].token_ids == first.token_ids
    chat.close()

    again = assistant.conversation(system="Be brief.")
    again.replace(turns[:3])
    fresh = again.reply(Turn(role="user", text="And then?"), SHORT)
    assert again.reused_positions == 0
    assert fresh.token_ids == second.token_ids
    assert fresh.units == second.units
    again.close()


def test_two_conversations_side_by_side_do_not_mix(assistant):
    alone = [assistant.reply(sound, SHORT).token_ids for sound in (SOUND, OTHER)]
    chats = [assistant.conversation() for _ in range(2)]
    streams = [chat.stream(sound, SHORT) for chat, sound in zip(chats, (SOUND, OTHER), strict=True)]
    replies = [None, None]
    while None in replies:
        for index, events in enumerate(streams):
            event = next(events, None)
            if isinstance(event, ReplyDone):
                replies[index] = event.reply
    assert [reply.token_ids for reply in replies] == alone
    for chat in chats:
        chat.close()


@pytest.mark.parametrize("after", [0, 1, 3])
def test_cancelled_reply_leaves_the_engine_clean_and_the_history_true(assistant, after):
    chat = assistant.conversation()
    reply = None
    for count, event in enumerate(chat.stream(SOUND, ReplyOptions(max_new_tokens=50))):
        if count == after:
            chat.cancel()
        if isinstance(event, ReplyDone):
            reply = event.reply
    assert reply.finish_reason == "cancelled"
    assert 0 < len(reply.token_ids) < 50
    assert chat.turns[-1].token_ids == reply.token_ids
    assert not assistant.stepper.speech_cache.lengths
    assert chat.reply(OTHER, SHORT).finish_reason == "length"  # and goes on
    chat.close()


def test_closed_iterator_gives_the_slot_back_at_once(assistant):
    chat = assistant.conversation()
    events = chat.stream(SOUND, ReplyOptions(max_new_tokens=50))
    next(events)
    events.close()
    assert not assistant.stepper.speech_cache.lengths
    assert len(chat.turns) == 2
    chat.close()


def test_cancel_from_another_thread(assistant):
    chat = assistant.conversation()
    heard = threading.Event()

    def stop():
        heard.wait(10)
        chat.cancel()

    thread = threading.Thread(target=stop)
    thread.start()
    for event in chat.stream(SOUND, ReplyOptions(max_new_tokens=1000)):
        if isinstance(event, AudioDelta):
            heard.set()
        if isinstance(event, ReplyDone):
            reply = event.reply
    thread.join()
    assert reply.finish_reason == "cancelled"
    chat.close()


def test_whoever_sees_the_reply_may_ask_again_at_once(assistant):
    chat = assistant.conversation()
    for event in chat.stream(SOUND, SHORT):
        if isinstance(event, ReplyDone):
            break
    assert [turn.role for turn in chat.turns] == ["user", "assistant"]
    assert not assistant.stepper.speech_cache.lengths
    assert len(chat.reply(OTHER, SHORT).token_ids) == 6
    chat.close()


def test_cancel_before_the_first_event_holds_and_keeps_the_question(assistant):
    chat = assistant.conversation()
    events = chat.stream(SOUND, SHORT)
    chat.cancel()
    assert [event.reply.finish_reason for event in events] == ["cancelled"]
    assert [turn.role for turn in chat.turns] == ["user"]
    assert chat.reply(OTHER, SHORT).finish_reason == "length"
    chat.close()


def test_close_during_a_reply_cancels_it_and_gives_everything_back(assistant):
    chat = assistant.conversation()
    events = chat.stream(SOUND, ReplyOptions(max_new_tokens=50))
    next(events)
    chat.close()
    *_, last = events
    assert last.reply.finish_reason == "cancelled"


def test_storage_may_grow_and_slots_be_freed_while_others_talk(assistant):
    chats = [assistant.conversation() for _ in range(2)]
    long = chats[0].stream(SOUND, ReplyOptions(max_new_tokens=80))
    next(long)
    assert len(chats[1].reply(OTHER, ReplyOptions(max_new_tokens=90)).token_ids) == 90
    chats[1].close()
    *_, last = long
    chats[0].close()
    alone = assistant.reply(SOUND, ReplyOptions(max_new_tokens=80))
    assert last.reply.token_ids == alone.token_ids
    assert last.reply.units == alone.units


def test_threads_do_not_mix(assistant):
    sounds = {"one": SOUND, "two": OTHER}
    alone = {name: assistant.reply(sound, SHORT).units for name, sound in sounds.items()}
    found = {}

    def ask(name):
        found[name] = [assistant.reply(sounds[name], SHORT).units for _ in range(3)]

    threads = [threading.Thread(target=ask, args=(name,)) for name in sounds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [units] * 3 for name, units in alone.items()}


def test_noise_follows_the_position_in_the_reply(assistant, monkeypatch):
    positions = []
    step = assistant.stepper.step

    def spy(rows, tokens):
        positions.extend(row.position for row in rows)
        return step(rows, tokens)

    monkeypatch.setattr(assistant.stepper, "step", spy)
    assistant.reply(SOUND, SHORT)
    assert positions == [1, 2, 3, 4, 5]


def test_work_is_counted_without_the_readers_time(assistant):
    timings = assistant.reply(SOUND, SHORT).timings
    parts = (timings.mel_s, timings.encode_s, timings.adapt_s, timings.prefill_s)
    assert all(part > 0 for part in (*parts, timings.decode_s, timings.vocode_s))
    assert timings.work_s <= timings.total_s


def test_any_array_layout_is_heard(assistant):
    backwards = assistant.reply(SOUND[::-1], SHORT)
    frozen = SOUND[::-1].copy()
    frozen.flags.writeable = False
    assert assistant.reply(frozen, SHORT).token_ids == backwards.token_ids


def test_options_may_be_changed_in_the_call(assistant):
    written = assistant.reply(SOUND, SHORT, speech=False, max_new_tokens=3)
    assert (len(written.token_ids), len(written.audio)) == (3, 0)
    *_, last = assistant.stream(SOUND, chunk_size=20, max_new_tokens=4)
    assert len(last.reply.token_ids) == 4
    with pytest.raises(ConfigError, match="no option 'chunksize' of a reply; there are chunk_size"):
        assistant.reply(SOUND, chunksize=3)
    with pytest.raises(ConfigError, match="chunk_size must be at least 1"):
        assistant.reply(SOUND, chunk_size=0)


def test_seed_beyond_64_bits_is_refused():
    with pytest.raises(ConfigError, match="seed must be a 64-bit integer"):
        ReplyOptions(seed=2**63)


def test_loading_leaves_the_callers_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    llama_omni.load(preset="tiny", random_weights=True, seed=1, device="cpu")
    torch.testing.assert_close(torch.rand(3), expected)


def test_conversation_refuses_a_second_reply_while_one_runs(assistant):
    chat = assistant.conversation()
    events = chat.stream(SOUND, SHORT)
    next(events)
    with pytest.raises(InputError, match="one reply at a time"):
        chat.reply(OTHER)
    events.close()
    chat.close()


def test_refused_question_leaves_no_trace(assistant):
    chat = assistant.conversation()
    with pytest.raises(AudioError, match=r"must be at least 0.1 s long"):
        chat.reply(SOUND[:100])
    with pytest.raises(CapacityError, match="must fit 2048 positions"):
        chat.reply(Turn(role="user", text="long " * 600))
    assert chat.turns == ()
    chat.close()


def test_reply_ends_where_the_models_positions_end(assistant):
    chat = assistant.conversation()
    reply = chat.reply(Turn(role="user", text="x" * 1650), ReplyOptions(max_new_tokens=400))
    assert reply.finish_reason == "length"
    assert len(reply.token_ids) < 400
    chat.close()


def test_empty_conversation_can_be_closed_twice(assistant):
    chat = assistant.conversation()
    chat.close()
    chat.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "huge", "random_weights": True}, "preset must be one of 8b, 1b, tiny"),
        ({"preset": "tiny"}, "has no weights of its own; add random_weights"),
        ({"model": "x", "random_weights": True}, "either a model or a preset"),
        ({"preset": "tiny", "random_weights": True, "device": "tpu9"}, "device must be auto, cpu"),
        ({"preset": "tiny", "random_weights": True, "dtype": "int8"}, "dtype must be one of auto"),
        ({"preset": "tiny", "random_weights": True, "threads": 0}, "threads must be 1 to"),
        ({"model": "/no/such/folder"}, "model must be a folder or a hub id"),
    ],
)
def test_load_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        llama_omni.load(**arguments)
