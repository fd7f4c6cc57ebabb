"""Questions and answers on their way to speech: by rule, and by a server."""

import pickle
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from llama_omni.backends.chat import ChatEndpoint
from llama_omni.backends.chat_options import ChatOptions
from llama_omni.data.prompts import FOLDER, SHIPPED, load_prompt
from llama_omni.data.records import Exchange, Record, Reject
from llama_omni.data.rewrite import (
    EndpointResponder,
    EndpointRewriter,
    KeepResponder,
    Responder,
    Rewriter,
    RuleRewriter,
)
from llama_omni.data.speech_text import speakable
from llama_omni.errors import ConfigError, ToolError
from tests.stub_server import StubServer

PLAIN = RuleRewriter(filler_share=0.0)


def record(question, answer=None, *, id="a-1", history=()):
    turns = tuple(Exchange(question=asked, answer=said) for asked, said in history)
    return Record(id=id, question=question, answer=answer, history=turns, source="alpaca")


def endpoint(server, **changes):
    given = {"model": "stub", "backoff_s": 0.01, "tries": 2, **changes}
    return ChatEndpoint(ChatOptions(base_url=server.base_url, **given))


# By rule


def test_rules_change_the_question_and_nothing_else():
    given = record("List 3 tips (short) for **sleep** & $5 fun.", "As is: 3.")
    said = PLAIN.rewrite(given)
    assert said.question == "List three tips, short, for sleep and five dollars fun."
    assert (said.id, said.answer, said.source) == ("a-1", "As is: 3.", "alpaca")


def test_rules_rewrite_the_history_too():
    said = PLAIN.rewrite(record("And 5?", history=[("What is 2+2?", "It is 4.")]))
    assert said.history == (Exchange(question="What is two plus two?", answer="It is 4."),)


def test_fillers_depend_on_seed_and_id_only():
    records = [record("What is the capital of Peru?", id=f"r-{index}") for index in range(200)]
    first = [one.question for one in RuleRewriter(seed=1, filler_share=0.5).rewrite_many(records)]
    again = [RuleRewriter(seed=1, filler_share=0.5).rewrite(one).question for one in records[::-1]]
    other = [RuleRewriter(seed=2, filler_share=0.5).rewrite(one).question for one in records]
    assert first == again[::-1] != other
    opened = [text for text in first if not text.startswith("What")]
    assert 70 <= len(opened) <= 130
    assert len(set(opened)) > 5
    assert all(text.endswith(" what is the capital of Peru?") for text in opened)
    assert all(speakable(text) == text for text in opened)


def test_fillers_leave_names_as_they_are():
    for index in range(20):
        said = RuleRewriter(filler_share=1.0).rewrite(record("Paris is where?", id=f"r-{index}"))
        assert said.question.endswith(" Paris is where?")


def test_long_texts_keep_whole_sentences():
    said = RuleRewriter(filler_share=0.0, max_words=5).rewrite(record("One two. Three four. Five!"))
    assert said.question == "One two. Three four. Five!"
    said = RuleRewriter(filler_share=0.0, max_words=4).rewrite(record("One two. Three four. Five!"))
    assert said.question == "One two. Three four."
    answer = "One two three. " * 2000  # the 10-minute answer
    kept = KeepResponder(max_words=10).respond(record("Hey?", answer))
    assert kept.answer == "One two three. One two three. One two three."


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("```\ncode\n```", "code"),
        ("\u041f\u0440\u0438\u0432\u0435\u0442", "letters that are Cyrillic"),
        ("", "nothing to say"),
        ("one two three four five six", "a first sentence of more than 5 words"),
        ("One two three. Four five, or six?", "the question comes after the first 5 words"),
    ],
)
def test_rules_reject_with_a_reason(question, reason):
    rewriter = RuleRewriter(max_words=5)
    expected = Reject(id="a-1", stage="rewrite", reason=reason)
    assert rewriter.rewrite(record(question)) == expected
    assert rewriter.rewrite(record("Fine?", history=[(question, "yes")])) == expected


def test_kept_answers_are_cleaned_or_rejected():
    said = KeepResponder().respond(
        record("Hey?", "It costs $5.\n- yes\n- no", history=[("a", "1")])
    )
    assert said.answer == "It costs five dollars. yes. no"
    assert said.history == (Exchange(question="a", answer="one"),)
    for answer, reason in [(None, "no answer in the source"), ("```x```", "code")]:
        found = KeepResponder().respond(record("Hey?", answer))
        assert found == Reject(id="a-1", stage="respond", reason=reason)


def test_rules_pickle():
    for one in (RuleRewriter(seed=3), KeepResponder(max_words=9)):
        assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RuleRewriter(max_words=0), "max_words must be at least 1, got 0"),
        (lambda: RuleRewriter(filler_share=1.5), r"filler_share must be 0 to 1, got 1\.5"),
        (lambda: KeepResponder(language="German"), "language must be a code such as en, de"),
    ],
    ids=["words", "share", "language"],
)
def test_impossible_options_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_language_without_tables_is_left_as_it_is_written():
    record = Record(
        id="a", question="Wie  hei\u00dft 1 gro\u00dfer See?", answer="Der M\u00fcritz\u2028See."
    )
    asked = RuleRewriter(language="de", filler_share=1.0).rewrite(record)
    assert asked.question == "Wie hei\u00dft 1 gro\u00dfer See?"
    assert KeepResponder(language="de").respond(record).answer == "Der M\u00fcritz See."
    assert "code" in KeepResponder(language="de").respond(replace(record, answer="```x```")).reason


# By a server


def test_endpoint_rewrites_and_answers(tmp_path):
    with StubServer() as server, endpoint(server, cache=tmp_path / "c.sqlite") as chat:
        rewriter, responder = EndpointRewriter(chat), EndpointResponder(chat)
        assert isinstance(rewriter, Rewriter)
        assert isinstance(responder, Responder)
        given = record("What is 2+2?", history=[("Hi", "Old answer")])
        asked = rewriter.rewrite(given)
        done = responder.respond(asked)
    assert asked.question.startswith("So, ")
    assert asked.history[0].answer == "Old answer"
    assert done.question == asked.question
    assert done.answer.startswith("So, ")
    assert done.history[0].answer != "Old answer"
    last = server.bodies[-1]["messages"]
    assert [message["role"] for message in last] == ["system", "user", "assistant", "user"]
    assert last[1]["content"] == asked.history[0].question
    assert last[2]["content"] == done.history[0].answer
    assert last[3]["content"] == asked.question
    assert "What is 2+2?" in server.bodies[1]["messages"][-1]["content"]
    assert "under 60 words" in server.bodies[0]["messages"][0]["content"]


def test_what_the_server_writes_is_cleaned():
    reply = '{"question": "So, is 5% of $10 **more** than 1/2?"}'
    with StubServer(reply=lambda body: reply) as server, endpoint(server) as chat:
        said = EndpointRewriter(chat).rewrite(record("x"))
    assert said.question == "So, is five percent of ten dollars more than one half?"


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("refusing", "refused: I cannot help with that."),
        ("empty", "empty: the server sent no text"),
        ("malformed", "malformed: broken JSON"),
        ("cut", "truncated: the reply reached max_tokens"),
        ("too-long", "rejected: "),
    ],
)
def test_what_the_server_does_not_give_is_a_reject(behaviour, reason):
    with StubServer(behaviour) as server, endpoint(server) as chat:
        found = EndpointRewriter(chat).rewrite(record("x"))
        also = EndpointResponder(chat).respond(record("x"))
    assert (found.id, found.stage, also.stage) == ("a-1", "rewrite", "respond")
    assert found.reason.startswith(reason)
    assert also.reason.startswith(reason)


def test_unspeakable_reply_is_a_reject():
    with StubServer(reply=lambda body: '{"answer": "```x```"}') as server:
        with endpoint(server) as chat:
            found = EndpointResponder(chat).respond(record("x"))
    assert found == Reject(id="a-1", stage="respond", reason="code")


def test_many_records_keep_order_and_a_rerun_pays_nothing(tmp_path):
    records = [record(f"Question {index}?", id=f"r-{index}") for index in range(30)]

    def run(server):
        with endpoint(server, cache=tmp_path / "c.sqlite", concurrency=4) as chat:
            asked = EndpointRewriter(chat).rewrite_many(records)
            return list(EndpointResponder(chat).respond_many(asked))

    with StubServer(delay_s=0.01) as server:
        first = run(server)
    assert [one.id for one in first] == [one.id for one in records]
    assert server.calls == 60
    assert server.most_busy <= 4
    with StubServer("broken") as server:
        assert run(server) == first
    assert server.calls == 0


def test_turns_of_a_conversation_are_paid_once(tmp_path):
    turns = [(f"Turn {index}?", "old") for index in range(4)]
    records = [
        record(turns[index][0], id=f"c-{index}", history=turns[:index]) for index in range(4)
    ]
    with StubServer() as server, endpoint(server, cache=tmp_path / "c.sqlite") as chat:
        asked = list(EndpointRewriter(chat).rewrite_many(records))
        assert server.calls == 4
        done = list(EndpointResponder(chat).respond_many(asked))
    assert server.calls == 8
    for index in range(4):
        earlier = tuple(Exchange(question=one.question, answer=one.answer) for one in done[:index])
        assert done[index].history == earlier


def test_dead_server_stops_all_records_soon():
    with StubServer("broken") as server, endpoint(server, backoff_s=0.2) as chat:
        with pytest.raises(ToolError, match="out of memory"):
            list(EndpointRewriter(chat).rewrite_many(record(str(i)) for i in range(500)))
    assert server.calls < 60


def test_stopped_work_waits_no_longer():
    stop = threading.Event()
    stop.set()
    with StubServer("broken") as server, endpoint(server, backoff_s=60.0) as chat:
        with pytest.raises(ToolError, match="stopped"):
            EndpointRewriter(chat).rewrite(record("x"), stop)


# Prompts


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_prompt_is_whole(name):
    prompt = load_prompt(name)
    system, user = prompt.messages({"question": "Is {max_words} kept?", "max_words": 7})
    assert "Is {max_words} kept?" in user
    assert "under 7 words" in system
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(SHIPPED)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello {question}", r"must have the parts \[system\] and \[user\]"),
        ("[user]\n{question}\n[system]\nx", r"must have the parts \[system\] and \[user\]"),
        ("[system]\n\n[user]\n{question}", r"must say something under \[system\]"),
        ("[system]\nx\n[user]\nhello", r"must hold \{question\} under \[user\]"),
        ("[system]\nx {words}\n[user]\n{question}", r"only the places .*, got \{words\}"),
    ],
)
def test_broken_prompt_is_refused(text, words, tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_prompt(path)


def test_absent_prompt_is_refused():
    with pytest.raises(ConfigError, match="one of rewrite, respond or a readable text file"):
        load_prompt(Path("nowhere.txt"))


def test_own_prompt_is_used(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("[system]\nBe {max_words}.\n[user]\nSay {question} again\n")
    with StubServer() as server, endpoint(server) as chat:
        EndpointRewriter(chat, prompt=load_prompt(path), max_words=9).rewrite(record("this"))
    first, last = server.bodies[0]["messages"]
    assert first["content"].startswith("Be 9.")
    assert last["content"] == "Say this again"


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("One two three. ", 3),
        ("\u0926\u093f\u0928 \u0915\u094d\u092f\u093e \u0939\u0948\u0964 ", 3),
        ("\u5929\u7a7a\u662f\u84dd\u8272\u3002", 4),
    ],
    ids=["latin", "hindi", "chinese"],
)
def test_long_answers_end_after_a_whole_sentence_of_any_script(sentence, kept):
    record = Record(id="a", question="q", answer=sentence * 9)
    said = KeepResponder(language="hi", max_words=10).respond(record).answer
    assert said == (sentence * kept).strip()
