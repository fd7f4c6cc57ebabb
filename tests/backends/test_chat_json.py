"""JSON within a reply's words, and how it fits a schema."""

import pytest

from llama_omni.backends.chat_json import find_json, misfit


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 1}', {"a": 1}),
        ('Here: {"a": {"b": "}"}} ok?', {"a": {"b": "}"}}),
        ('```\n{"a": 1}\n```', {"a": 1}),
        ('{broken} {"a": 1}', {"a": 1}),
        ("[1, 2]", [1, 2]),
    ],
)
def test_find_json_reads(text, value):
    assert find_json(text) == value


@pytest.mark.parametrize("text", ["", "no", '{"a": 1', "{" * 5000, "[" * 100_000])
def test_find_json_refuses(text):
    with pytest.raises(ValueError, match="JSON"):
        find_json(text)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"n": 1, "l": ["a"]}, None),
        ({"n": True}, "the reply.n must be of type integer, got bool"),
        ({}, "the reply must have the field 'n', got []"),
        ({"n": 1, "x": 1}, "the reply must not have the field 'x'"),
        ({"n": 1, "l": ["c"]}, "the reply.l[0] must be one of ['a', 'b'], got 'c'"),
        ([], "the reply must be of type object, got list"),
    ],
)
def test_misfit_names_the_place(value, problem):
    items = {"type": "string", "enum": ["a", "b"]}
    properties = {"n": {"type": "integer"}, "l": {"type": "array", "items": items}}
    schema = {"type": "object", "properties": properties, "required": ["n"]}
    assert misfit(value, {**schema, "additionalProperties": False}) == problem
