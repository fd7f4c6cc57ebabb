"""Voices that are folders of models: opened once each, and named without where they lie."""

from dataclasses import replace

import pytest

from llama_omni.data.named import find_recipe
from llama_omni.data.recipe import Voices
from llama_omni.data.speaking import synthesizer_spec


@pytest.mark.parametrize(
    ("voice", "given", "opened"),
    [
        ("flite:rms", None, "flite"),
        ("espeak-ng:en-gb+m3", None, "espeak-ng"),
        ("vits:folder", None, "vits:folder"),
        ("vits:owner/name#3", None, "vits:owner/name"),
        ("vits:folder#3", "vits:other", "vits:other"),
        ("endpoint:model/alloy", "endpoint:http://here/v1#model", "endpoint:http://here/v1#model"),
    ],
)
def test_voice_says_what_is_opened_for_it(voice, given, opened):
    assert synthesizer_spec(voice, given) == opened


def test_published_recipe_keeps_all_of_several_voices_and_no_place():
    voices = Voices(question="vits:/far/away/crowd#0,vits:/far/away/crowd#1,flite:rms")
    recipe = replace(find_recipe("custom"), voices=voices)
    published = recipe.published()["voices"]["question"]
    assert published == "vits:crowd#0,vits:crowd#1,flite:rms"
