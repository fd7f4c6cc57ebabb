import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_omni.serve.sample_buffer import SampleBuffer

STEP = st.tuples(st.sampled_from(["append", "drop", "restart"]), st.integers(0, 50_000))


@settings(deadline=None, max_examples=50)
@given(st.lists(STEP, max_size=30))
def test_buffer_is_a_window_on_the_stream(steps):
    buffer, first, held, number = SampleBuffer(), 0, np.zeros(0, np.float32), 0
    for name, count in steps:
        if name == "append":
            new = np.arange(number, number + count).astype(np.float32)
            buffer.append(new)
            held, number = np.concatenate([held, new]), number + count
        elif name == "drop":
            buffer.drop(first + count)
            gone = min(count, len(held))
            held, first = held[gone:], first + gone
        else:
            buffer.restart(count)
            held, first = held[:0], count
        assert (buffer.first, buffer.end, len(buffer)) == (first, first + len(held), len(held))
        np.testing.assert_array_equal(buffer.take(0, 10**9), held)
        np.testing.assert_array_equal(buffer.take(first + 5, first + 9), held[5:9])
        assert len(buffer._data) <= max(16_384, 8 * len(held) + 8, 2 * (len(held) + 50_000))


def test_what_was_taken_is_a_copy():
    buffer = SampleBuffer()
    buffer.append(np.ones(10, np.float32))
    buffer.take(0, 10)[:] = 5
    assert (buffer.take(0, 10) == 1).all()
