import math
from collections import defaultdict

import pytest

from llama_omni.backends.ngram import END, START, NgramModel
from llama_omni.errors import ConfigError, InputError, OutputError
from llama_omni.metrics import spoken_words

SENTENCES = (
    "The capital of France is Paris.",
    "The capital of Spain is Madrid.",
    "Three plus four is seven.",
    "Four plus three is seven!",
    "Is it seven?",
)


def read_arpa(path):
    """Probability of a word after a context, as a reader of back-off files finds it."""
    grams, length = {}, 0
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("\\"):
            length = int(line[1]) if line[1].isdigit() else 0
        elif length and line:
            value, words, *weight = line.split("\t")
            assert len(words.split()) == length
            grams[tuple(words.split())] = float(value), float(weight[0]) if weight else 0.0

    def log_probability(word, context):
        if (*context, word) in grams:
            return grams[*context, word][0]
        weight = grams[context][1] if context in grams else 0.0
        return weight + log_probability(word, context[1:])

    return grams, lambda word, context: 10 ** log_probability(word, context)


@pytest.mark.parametrize("order", [2, 3])
def test_probabilities_of_the_file_sum_to_one_after_every_context(order, tmp_path):
    model = NgramModel(SENTENCES, order=order)
    model.save(tmp_path / "a.lm")
    grams, probability = read_arpa(tmp_path / "a.lm")
    contexts = {gram[:-1] for gram in grams} | {("never", "seen"), ("plus", "paris")}
    assert () in contexts
    assert (START,) in contexts
    for context in contexts:
        total = sum(probability(word, context) for word in model.words)
        assert total == pytest.approx(1.0, abs=2e-5), context
        for word in model.words:
            given = probability(word, context)
            assert given == pytest.approx(model.probability(word, context), rel=1e-4)


def test_probabilities_worked_by_hand():
    model = NgramModel(["a b", "a c", "a b"])
    # 9 events: a 3, b 2, c 1, end 3; 4 words, so uniform is 1/4 and the unigrams' mass 9 + 4.
    assert model.probability("b") == pytest.approx((2 + 4 / 4) / 13)
    # After a: b 2, c 1; two distinct words.
    assert model.probability("b", ["a"]) == pytest.approx((2 + 2 * 3 / 13) / 5)
    assert model.back_off(("a",)) == pytest.approx(2 / 5)
    assert model.probability(END, ["a"]) == pytest.approx(2 / 5 * 4 / 13)
    assert model.probability("never", ["a"]) == 0.0
    assert model.probability("a", [START]) == pytest.approx((3 + 4 / 13) / 4)


def test_header_counts_the_lines_and_the_start_has_no_probability(tmp_path):
    NgramModel(SENTENCES, order=3).save(tmp_path / "a.lm")
    text = (tmp_path / "a.lm").read_text()
    sections = defaultdict(list)
    for line in text.splitlines():
        if line.startswith("\\"):
            section = sections[line[1]]
        elif "\t" in line:
            section.append(line)
    for length in (1, 2, 3):
        assert f"ngram {length}={len(sections[str(length)])}\n" in text
    assert any(line.startswith(f"-99.000000\t{START}\t") for line in sections["1"])
    assert text.endswith("\\end\\\n")
    assert not list(tmp_path.glob(".*"))


def test_the_same_sentences_give_the_same_bytes(tmp_path):
    for name in ("a.lm", "b.lm"):
        NgramModel(reversed(SENTENCES) if name == "b.lm" else SENTENCES).save(tmp_path / name)
    assert (tmp_path / "a.lm").read_bytes() == (tmp_path / "b.lm").read_bytes()


def test_what_cannot_be_counted_or_written_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="order must be 2 or 3, got 4"):
        NgramModel(SENTENCES, order=4)
    with pytest.raises(InputError, match="sentences must hold at least one word"):
        NgramModel(["", " ... "])
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"a\.lm must be writable, got: (File|Not)"):
        NgramModel(SENTENCES).save(tmp_path / "file" / "a.lm")


def test_a_likelier_sentence_is_likelier_with_more_context():
    def log_likelihood(model, sentence):
        words = [START, *spoken_words(sentence), END]
        return sum(math.log(model.probability(words[i], words[:i])) for i in range(1, len(words)))

    held_out = "The capital of France is Madrid."
    by_order = [log_likelihood(NgramModel(SENTENCES, order=order), held_out) for order in (2, 3)]
    assert by_order[0] < by_order[1]
