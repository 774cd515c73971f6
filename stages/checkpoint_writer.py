"""Checkpoints written beside the training: one thread, from copies in the CPU's memory."""

from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from stages.checkpoint.files import remove_old_checkpoints, save_checkpoint


class CheckpointWriter:
    """Writes one checkpoint at a time and removes older ones behind it.

    While one is written its tensors are in memory twice: the model's weights and moments, 12 bytes a parameter. Nothing
    of the state is shared with the training, which goes on changing its own.
    """

    def __init__(self, folder: Path, *, always: Collection[int] = ()) -> None:
        """`always`: steps whose checkpoints are never removed."""
        self._folder, self._always = folder, always
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def begin(
        self,
        state: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        moments: Mapping[str, Tensor] | None,
        *,
        keep: int,
    ) -> None:
        """Starts to write; the last one must be over (`wait`). Nobody may change what is given.

        `keep`: newest checkpoints that stay, this one among them.
        """
        self._writing = self._thread.submit(self._write, state, weights, moments, keep)

    def check(self) -> None:
        """Raises what the last write ended with, if it is over: StorageError, FencedError."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    def wait(self) -> None:
        """Until the last write is over; raises its error."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """Waits, and ends the thread. An error that `wait` has not raised is lost: nothing comes after it."""
        self._thread.shutdown()

    def _write(
        self, state: Mapping[str, Any], weights: Mapping[str, Tensor], moments: Mapping[str, Tensor] | None, keep: int
    ) -> Path:
        path = save_checkpoint(self._folder, state, weights, moments)
        remove_old_checkpoints(self._folder, keep=keep, always=self._always)
        return path
