"""How the calls enter a store: errors of one kind, files that the group may write."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.store.sharing import adopt_group_umask
from sweep.stored_sweep import print_user_errors


def find_default_store() -> Path:
    """That of the command line."""
    return Path(os.environ.get("SWEEP_STORE", "store"))


@contextmanager
def enter_store(root: Path) -> Iterator[None]:
    """What goes wrong in the block is a SweepError; what it creates in a shared store is the group's to write."""
    with print_user_errors(), adopt_group_umask(root):
        yield
