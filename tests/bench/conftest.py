"""The data set of eight questions and its results, made once."""

import pytest

from tests.bench.tiny_tools import CASES, make_data, measure


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"), CASES)


@pytest.fixture(scope="session")
def result(data, tmp_path_factory):
    return measure(data, tmp_path_factory.mktemp("out"))
