"""What all batches of training have in common: they are built when asked for, or ahead, by processes of their own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stages.data.ahead import Ahead
from stages.data.builder import Builder, Built, Place
from stages.data.collate import Batch
from stages.data.progress import Progress
from stages.data.workers import ClosedError, Workers
from stages.errors import OtherRankError


class Made(NamedTuple):
    """A batch, and the state of the data after it."""

    batch: Batch
    state: list[dict[str, Any]]


class PreparedBatches(ABC):
    """Batches, of each this rank's part. `close` ends what was started; also a `with` block does.

    The numbers do not depend on how many processes build them.
    """

    def __init__(self, builder: Builder, state: list[dict[str, Any]], *, workers: int, prefetch_batches: int) -> None:
        """`state`: that of the beginning. `workers`: processes that build ahead of the loop; 0: batches are built when
        asked for, in this process. `prefetch_batches`: how many are ready ahead.
        """
        self._builder, self._state = builder, state
        self._count, self._prefetch = workers, prefetch_batches
        self._workers: Workers | None = None
        self._ahead: Ahead[Made] | None = None

    @property
    def progress(self) -> list[Progress]:
        """After the batch that was returned last."""
        return [Progress.of(entry) for entry in self._state]

    def next_batch(self) -> Batch:
        """The next global batch. DataError for bad data beyond the limit, or if a worker or another rank has failed."""
        if self._count and self._ahead is None:
            self._workers = Workers(self._builder, self._count)
            self._ahead = Ahead(self._make, self._prefetch)
        try:
            made = self._ahead.take() if self._ahead is not None else self._make()
        except ClosedError as error:
            raise OtherRankError("another rank has ended; its log says why") from error
        self._state = made.state
        return made.batch

    def state(self) -> list[dict[str, Any]]:
        """For `restore`, as JSON: after the batch that was returned last, whatever was built ahead."""
        return self._state

    def restore(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Goes on after the batch at which `state` was taken."""
        self.close()
        self._state = self._go_to(state)

    def close(self) -> None:
        """Ends the thread and the processes; batches that were built ahead are dropped. All ranks are to call it."""
        if self._ahead is None or self._workers is None:
            return
        self._workers.cancel()
        self._ahead.close()
        self._workers.close()
        self._ahead = self._workers = None
        self._go_to(self._state)

    def __enter__(self) -> "PreparedBatches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self, places: Sequence[Place]) -> list[Built]:
        """The sequences that begin there."""
        if self._workers is not None:
            return self._workers.build(places)
        return [self._builder.build(place) for place in places]

    @abstractmethod
    def _make(self) -> Made:
        """The next batch; perhaps in a thread of its own, ahead of the loop."""

    @abstractmethod
    def _go_to(self, state: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Makes `_make` go on after the batch at which `state` was taken; returns that state as it is now written."""
