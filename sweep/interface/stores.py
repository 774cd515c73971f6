"""How the calls enter a store: errors of one kind, files that the group may write."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jobs.store.sharing import adopt_group_umask
from sweep.arguments import find_default_store
from sweep.errors import UsageError
from sweep.interface.cells import PlannedCell
from sweep.phases import PHASES
from sweep.stored_sweep import print_user_errors


def find_store(given: "str | os.PathLike[str] | None") -> Path:
    """The folder that is given (`~` is the user's home), else the one that the command line would take.

    Absolute: a script that goes to another folder later, or a thread of it, still means the same store.
    """
    path = (find_default_store() if given is None else Path(given).expanduser()).absolute()
    return path.resolve() if ".." in path.parts else path


def list_cell_words(given: Sequence[object]) -> tuple[str, ...]:
    """Names and keys as the command line takes them; of a `PlannedCell` its name. UsageError for anything else."""
    for each in given:
        if not isinstance(each, str | PlannedCell):
            raise UsageError(
                f"cells are given by name, one by one, and {str(each)[:60]!r} ({type(each).__name__}) is none; "
                "of a list: submit(*names)"
            )
    return tuple(each.name if isinstance(each, PlannedCell) else str(each) for each in given)


def check_phase(phase: str | None) -> None:
    """UsageError for a word that is no phase."""
    if phase is not None and phase not in PHASES:
        raise UsageError(f"there is no phase {phase!r}; phases are {', '.join(PHASES)}")


@contextmanager
def enter_store(root: Path) -> Iterator[None]:
    """What goes wrong in the block is a SweepError; what it creates in a shared store is the group's to write."""
    with print_user_errors(), adopt_group_umask(root):
        yield
