import os
import signal
import threading

import pytest

from llama_omni.train.stop_signals import watch_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_noted_and_the_second_stops_at_once(number):
    before = signal.getsignal(number)
    with watch_signals() as seen:
        os.kill(os.getpid(), number)
        assert seen == [number]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_other_threads_watch_nothing():
    found = []

    def watch():
        before = signal.getsignal(signal.SIGTERM)
        with watch_signals() as seen:
            found.append((seen, signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert found == [([], True)]
