"""What tests that open PocketSphinx with a language model of their own share."""

from pathlib import Path


def common_words() -> list[str]:
    """Return 2000 words of PocketSphinx's dictionary, to make a small language model larger.

    It enters its whole dictionary into a table as large as the model has words: four take 10 s.
    """
    from pocketsphinx import get_model_path

    lines = Path(get_model_path("en-us/cmudict-en-us.dict")).read_text().splitlines()
    return [word for line in lines[::60] if (word := line.split()[0]).isalpha()]
