"""The cycle collector: paused while what stays is loaded, once put aside, always switched on."""

import gc
import subprocess
import sys

import pytest

from llama_omni.collector import here_to_stay

ASIDE = """
import gc
from llama_omni.collector import here_to_stay
assert not gc.get_freeze_count()
with here_to_stay():
    assert not gc.isenabled()
    kept = [[] for _ in range(1000)]
first = gc.get_freeze_count()
assert gc.isenabled() and first > 1000, first
assert not any(one is kept for one in gc.get_objects())
with here_to_stay():
    more = [[] for _ in range(1000)]
assert gc.get_freeze_count() <= first, "garbage by then would stay for ever"
assert any(one is more for one in gc.get_objects())
"""


def test_first_block_of_a_process_is_put_aside_and_no_other():
    done = subprocess.run([sys.executable, "-c", ASIDE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_collector_comes_back_after_an_error(monkeypatch):
    monkeypatch.setattr(gc, "freeze", lambda: pytest.fail("a failed load is put aside"))
    with pytest.raises(KeyError), here_to_stay():
        raise KeyError
    assert gc.isenabled()


def test_collector_that_was_off_stays_off(monkeypatch):
    monkeypatch.setattr(gc, "freeze", lambda: None)
    gc.disable()
    try:
        with here_to_stay():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
