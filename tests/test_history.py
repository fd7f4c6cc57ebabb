import weakref

import numpy as np
import pytest

from llama_omni.errors import InputError
from llama_omni.history import History, ReplyRecord
from llama_omni.interfaces import AudioDelta, Reply, ReplyDone, TextDelta, Turn

HELLO, AGAIN = Turn(role="user", text="hello"), Turn(role="user", text="again")


def reply(tokens=4, samples=400, text="abcd"):
    return Reply(
        text=text,
        audio=np.zeros(samples, dtype=np.float32),
        sample_rate=16_000,
        token_ids=tuple(range(tokens)),
        units=(),
        unit_tokens=(),
        sample_tokens=(),
        lagging_words=None,
        finish_reason="stop",
    )


def sound(first, end, tokens, ends=()):
    return AudioDelta(
        audio=np.zeros(end - first, dtype=np.float32),
        sample_rate=16_000,
        first_sample=first,
        end_sample=end,
        first_token=tokens[0],
        end_token=tokens[1],
        token_ends=ends,
    )


EVENTS = [
    *(TextDelta(text="abcd"[i], first_token=i, end_token=i + 1) for i in range(4)),
    sound(0, 150, (0, 2), (100, 150)),
    sound(150, 400, (1, 4), (200, 300, 400)),
    ReplyDone(reply=reply()),
]


def answered(events=EVENTS):
    history = History()
    generation = history.prepare(HELLO)
    history.commit(generation)
    for event in events:
        history.note(generation, event)
    return history


@pytest.mark.parametrize(
    ("samples", "tokens"), [(0, 0), (99, 0), (100, 1), (199, 1), (200, 2), (399, 3), (400, 4)]
)
def test_only_tokens_whose_whole_sound_was_heard_remain(samples, tokens):
    history = answered()
    rest = history.truncate(samples)
    if tokens:
        assert rest.token_ids == tuple(range(tokens))
        assert rest.text == "abcd"[:tokens]
        assert history.turns == (HELLO, rest)
    else:
        assert rest is None
        assert history.turns == (HELLO,)


def test_piece_without_finer_ends_is_heard_as_a_whole_or_not_at_all():
    record = ReplyRecord()
    record.note(sound(0, 150, (0, 2)))
    record.note(sound(150, 300, (3, 4)))
    assert [record.tokens_heard(n) for n in (149, 150, 299, 300)] == [0, 3, 3, 4]


def test_record_keeps_the_length_of_the_sound_and_not_the_sound():
    done = ReplyDone(reply=reply())
    kept, length = weakref.ref(done.reply.audio), len(done.reply.audio)
    record = ReplyRecord()
    record.note(done)
    del done
    assert kept() is None
    assert len(record.reply.audio) == length
    assert record.reply.audio.strides == (0,)  # takes no memory


def test_system_without_tokens_is_cut_by_its_share_of_sound():
    history = answered([ReplyDone(reply=reply(tokens=0, text="one two three four"))])
    assert history.truncate(200).text == "one two"


def test_cut_before_the_end_is_made_at_the_end():
    history = answered(EVENTS[:5])
    assert history.truncate(120).text == "a"
    history.note(1, EVENTS[5])
    history.note(1, EVENTS[6])
    assert history.turns[1].token_ids == (0,)


def test_second_cut_never_gives_back_what_the_first_took():
    history = answered()
    history.truncate(200)
    assert history.truncate(400).token_ids == (0, 1)


def test_answer_has_its_place_before_what_is_added_while_it_is_made():
    history = History()
    history.commit(history.prepare(HELLO))
    history.add(AGAIN)
    for event in EVENTS:
        history.note(1, event)
    assert [turn.text for turn in history.turns] == ["hello", "abcd", "again"]


def test_prepared_reply_is_in_the_history_only_once_committed():
    history = History()
    first = history.prepare(HELLO)
    second = history.prepare(AGAIN)
    assert not history.commit(first)
    assert history.turns == ()
    assert history.commit(second)
    assert history.turns == (AGAIN,)
    assert history.running == second


def test_failed_reply_takes_its_question_along():
    history = History([HELLO])
    generation = history.prepare(AGAIN)
    history.commit(generation)
    history.fail(generation)
    assert history.turns == (HELLO,)
    assert history.running is None


def test_replaced_history_keeps_the_place_of_the_answer_being_made():
    history = History()
    history.commit(history.prepare(HELLO))
    history.replace([AGAIN, HELLO])
    for event in EVENTS:
        history.note(1, event)
    assert [turn.text for turn in history.turns] == ["again", "hello", "abcd"]
    history.replace(history.turns[1:])
    assert history.truncate(100).text == "a"
    assert [turn.text for turn in history.turns] == ["hello", "a"]


def test_generations_grow_and_replies_come_one_at_a_time():
    history = History()
    history.commit(history.prepare(HELLO, generation=7))
    with pytest.raises(InputError, match="one reply at a time"):
        history.prepare(AGAIN)
    history.cancel(7)
    with pytest.raises(InputError, match="generation must be above 7, the last one, got 7"):
        history.prepare(AGAIN, generation=7)
    assert history.prepare(AGAIN) == 8


def test_reply_out_of_band_changes_nothing():
    history = History([HELLO])
    history.commit(history.prepare(AGAIN, in_history=False))
    for event in EVENTS:
        history.note(1, event)
    assert history.turns == (HELLO,)
    assert history.truncate(100, 1) is None
