"""Work that waits on servers, done by threads, handed out in order."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Item, threading.Event], Result],
    items: Iterable[Item],
    *,
    workers: int,
    look_ahead: int,
) -> Iterator[Result]:
    """Yield the result of each item, in the order of the items.

    At most `look_ahead` items are taken beyond the one that is handed out next, so the source may
    be endless. The first failure, or the reader's leaving, sets the event that `work` is given:
    what waits should then give up, what is under way is waited for.

    Raises:
        Whatever `work` raises, at the place of its item.
    """
    stop = threading.Event()
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="ask")
    try:
        for item in items:
            waiting.append(pool.submit(work, item, stop))
            if len(waiting) > look_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
