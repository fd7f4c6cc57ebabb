import shutil
import subprocess

import numpy as np
import pytest

from llama_omni import audio
from llama_omni.backends.asr import open_recognizer
from llama_omni.backends.ngram import NgramModel
from llama_omni.backends.pronunciation import guess_pronunciation
from llama_omni.errors import AudioError, ConfigError, InputError, MissingExtraError
from llama_omni.interfaces import Recognizer
from tests.backends.asr_tools import common_words

ARPABET = set(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W "
    "Y Z ZH".split()
)
DOMAIN = ("the capital of france is paris", "seven plus eight is fifteen", "hello zorblax")

pytest.importorskip("pocketsphinx")
needs_flite = pytest.mark.skipif(
    shutil.which("flite") is None, reason="flite is not installed: apt install flite"
)


@pytest.fixture(scope="module")
def generic():
    return open_recognizer("pocketsphinx")


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    file = tmp_path_factory.mktemp("lm") / "domain.lm"
    NgramModel([*DOMAIN * 100, " ".join(common_words())]).save(file)
    return open_recognizer(f"pocketsphinx:{file}")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    def say(text):
        file = tmp_path_factory.mktemp("said") / "said.wav"
        subprocess.run(["flite", "-voice", "rms", "-t", text, "-o", str(file)], check=True)
        return audio.load(file)

    return say


@needs_flite
def test_generic_model_hears_a_plain_sentence_and_nothing_hangs_on_what_came_before(
    generic, spoken
):
    assert isinstance(generic, Recognizer)
    first, second = spoken("The capital of France is Paris."), spoken("Hello, how can I help you?")
    assert generic.transcribe(first) == "the capital of france is paris"
    found = [generic.transcribe(sound) for sound in (second, 0.1 * second, second, first)]
    assert found[0] == found[2]
    assert found[3] == "the capital of france is paris"


@needs_flite
def test_domain_model_hears_its_own_words_also_one_that_no_dictionary_holds(domain, spoken):
    assert domain.transcribe(spoken("Seven plus eight is fifteen.")) == DOMAIN[1]
    assert domain.transcribe(spoken("Hello, zorblax.")) == DOMAIN[2]
    assert list(domain.guessed) == ["zorblax"]
    assert domain.unsayable == ()


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(np.zeros(16_000, np.float32), id="silence"),
        pytest.param(np.full(16_000, 9e-4, np.float32), id="nearly"),
        pytest.param(np.zeros(0, np.float32), id="nothing"),
        pytest.param(np.ones(1_000, np.float32), id="too short"),
    ],
)
def test_silence_has_no_words(generic, sound):
    assert generic.transcribe(sound) == ""


def test_recognizer_refuses_what_is_no_sound(generic):
    with pytest.raises(AudioError, match="must hold finite samples"):
        generic.transcribe(np.full(16_000, np.nan, np.float32))


@pytest.mark.parametrize("spec", ["whisper", "", "pocketsphinx:", "whisper:"])
def test_unknown_recognizer_is_refused_with_what_there_is(spec):
    with pytest.raises(ConfigError, match="must be one of pocketsphinx, pocketsphinx:FILE"):
        open_recognizer(spec)


def test_unreadable_language_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="must be an ARPA language model, got No such file"):
        open_recognizer(f"pocketsphinx:{tmp_path / 'none.lm'}")
    (tmp_path / "text.lm").write_text("hello\n")
    with pytest.raises(InputError, match="got no section of 1-grams"):
        open_recognizer(f"pocketsphinx:{tmp_path / 'text.lm'}")
    (tmp_path / "bytes.lm").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="bytes that are no UTF-8"):
        open_recognizer(f"pocketsphinx:{tmp_path / 'bytes.lm'}")
    (tmp_path / "torn.lm").write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-1.0\thello\n")
    with pytest.raises(InputError, match="must be an ARPA language model"):
        open_recognizer(f"pocketsphinx:{tmp_path / 'torn.lm'}")


def test_word_that_nothing_can_say_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))  # no espeak-ng
    NgramModel(["hello \u4f60", " ".join(common_words())]).save(tmp_path / "a.lm")
    assert open_recognizer(f"pocketsphinx:{tmp_path / 'a.lm'}").unsayable == ("\u4f60",)


def test_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pocketsphinx", None)
    with pytest.raises(MissingExtraError, match=r"llama-omni\[evaluate\]"):
        open_recognizer("pocketsphinx")


@pytest.mark.parametrize(
    ("word", "sounds"),
    [("cat", "K AE T"), ("plane", "P L AE N"), ("sheep", "SH IY P"), ("S\u00e3o", "S AE AA")],
)
def test_rules_say_a_word_where_no_program_does(word, sounds):
    assert guess_pronunciation(word, program="no-such-program") == sounds


@pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed: apt install espeak-ng"
)
def test_espeak_says_a_name_better_and_never_reads_an_option():
    assert guess_pronunciation("reykjavik") == "R EY K JH AH V IH K"
    assert guess_pronunciation("...") == ""
    assert set(guess_pronunciation("--version").split()) <= ARPABET


@pytest.mark.parametrize("word", ["xylophone", "quetzal", "thought", "rhythm", "zzz", "\u4f60"])
def test_every_guess_is_of_known_sounds(word):
    for program in ("espeak-ng", "no-such-program"):
        assert set(guess_pronunciation(word, program=program).split()) <= ARPABET
