"""Cases one after the other, with the next one read and the last one written in threads beside the work.

The work stays in the main thread: there an interruption reaches it, and glibc keeps large blocks only there.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Worked = TypeVar("Worked")
Written = TypeVar("Written")

# How long the next item's work waits for the last item's writing, so that its outcome is told at once. Most label maps
# are written in less; probabilities take longer.
_PROMPT_SECONDS = 1.0


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Worked],
    write: Callable[[Item, Worked], Written],
) -> Iterator[Written]:
    """Yield what `write` returns, in the items' order; `read` and `write` run in a thread each.

    Memory holds at most three items at a time: one that is read, one in work, and one that is written. An exception of
    any of them ends the iteration, as does closing it: then no further item is begun, and what is being written is
    written to its end.
    """
    reader, writer = ThreadPoolExecutor(1, "reader"), ThreadPoolExecutor(1, "writer")
    writing: Future[Written] | None = None
    try:
        left = iter(items)
        item = next(left, None)
        reading = None if item is None else reader.submit(read, item)
        while item is not None and reading is not None:
            was_read = reading.result()
            following = next(left, None)
            reading = None if following is None else reader.submit(read, following)
            worked = work(item, was_read)
            del was_read
            if writing is not None:
                yield writing.result()
            writing = writer.submit(write, item, worked)
            del worked
            wait([writing], timeout=_PROMPT_SECONDS)
            if writing.done():
                yield writing.result()
                writing = None
            item = following
        if writing is not None:
            yield writing.result()
    finally:
        reader.shutdown(cancel_futures=True)
        writer.shutdown()
