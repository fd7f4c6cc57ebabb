"""Fixtures of the command line's tests."""

import pytest

from llama_omni import cli
from tests.cli.shared import FakeAssistant, make_question


@pytest.fixture
def assistant(monkeypatch):
    fake = FakeAssistant()
    fake.loads = []

    def load(model, **options):
        fake.loads.append((model, options))
        return fake

    monkeypatch.setattr(cli, "_load", load)
    return fake


@pytest.fixture
def run(capsys):
    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        seen = capsys.readouterr()
        return code, seen.out, seen.err

    return run


@pytest.fixture
def question(tmp_path):
    return make_question(tmp_path / "question.wav")
