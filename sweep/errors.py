"""Errors that a user can put right: one line on stderr and an exit code, never a traceback.

SweepError                 exit code 1
├── SweepFileError         a sweep file or a catalog file is wrong: FILE:LINE: what, what would do
├── ManifestError          a stored manifest is damaged or of another format
├── PlanConflictError      a new plan would drop begun work or another experiment's plan
├── StoreError             the store is missing, unwritable, or holds something unexpected
├── InputsError           what jobs would read is missing or does not fit
├── NotPlannedError        a sweep, cell or job of that name is not in the store
└── UsageError             the command line asks for something that cannot be (exit code 2)

Everything else that is raised is a bug of ours and keeps its traceback.
"""

from collections.abc import Sequence


class SweepError(Exception):
    """Base of all user-level errors; `str(error)` is what the user reads, one line a problem."""

    exit_code = 1


class SweepFileError(SweepError):
    """One or more problems of a sweep or catalog file, each a line that starts with FILE:LINE."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class ManifestError(SweepError):
    """A manifest on disk cannot be read; names file and line."""


class PlanConflictError(SweepError):
    """A plan that is not stored unless the user insists (`--replace`)."""


class StoreError(SweepError):
    """The store's folder or a file in it is not as it should be, or cannot be written."""


class InputsError(SweepError):
    """What jobs would read is missing or does not fit; a line for each, and what to do next."""


class NotPlannedError(SweepError):
    """A name that no stored manifest knows."""


class UsageError(SweepError):
    """A command line that cannot be carried out."""

    exit_code = 2


class ConfigProblemError(ValueError):
    """Values that make no configuration together; the message says which and what would do."""
