"""Makes items on a thread of its own while the caller works on those before."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE = 0.05
"""Seconds between looks at whether the other side is still there."""


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int = 2) -> Generator[T, None, None]:
    """The same items in the same order, up to ``depth`` of them made before they are asked for.

    An exception of ``items`` is raised where its item would have been. The thread ends with the generator.
    """
    queue: Queue[Any] = Queue(maxsize=depth)
    end, stopped = object(), threading.Event()

    def put(item: Any) -> bool:
        while not stopped.is_set():
            try:
                queue.put(item, timeout=PATIENCE)
                return True
            except Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:
            put(_Raised(error))
        else:
            put(end)

    thread = threading.Thread(target=work, name="dpa1-fast ahead", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not end:
            if isinstance(item, _Raised):
                raise item.error
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                queue.get_nowait()
            except Empty:
                thread.join(PATIENCE)
