"""A thread that keeps results ready ahead of the one who takes them."""

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
CLOSE_SECONDS = 20.0
"""Longest wait for the thread: it may be waiting for a rank that is gone."""


class Ahead(Generic[T]):
    """Calls `produce` again and again in a thread of its own, so that `ahead` results are ready.

    After n results were taken, exactly n + `ahead` calls have been made or will be, also when it is closed, unless one
    raises: so ranks that exchange something in each call agree on their number.
    """

    def __init__(self, produce: Callable[[], T], ahead: int) -> None:
        self._produce = produce
        self._results: queue.SimpleQueue[T | BaseException] = queue.SimpleQueue()
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True: one more call; False: the end
        for _ in range(ahead):
            self._orders.put(True)
        self._thread = threading.Thread(target=self._run, name="batches ahead", daemon=True)
        self._thread.start()

    def take(self) -> T:
        """The next result; what `produce` raised instead of it is raised here, and again at each further call."""
        result = self._results.get()
        if isinstance(result, BaseException):
            self._results.put(result)
            raise result
        self._orders.put(True)
        return result

    def close(self) -> None:
        """Waits for the calls that are due, and for the thread's end, though not forever."""
        self._orders.put(False)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while self._orders.get():
            try:
                self._results.put(self._produce())
            except BaseException as error:  # noqa: BLE001 - it is the taker's, in the other thread, to deal with
                self._results.put(error)
                return
