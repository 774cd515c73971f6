"""Failures that a stage can name. `__main__` writes them to error.json; what is not named here is our own fault."""

import errno
import re

STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE}


class StageError(Exception):
    """One line for `sweep status`; `failure_class` is one of the classes of docs/formats.md (error.json)."""

    failure_class = "code"

    def __init__(self, message: str, *, damaged_key: str = "") -> None:
        super().__init__(message)
        self.damaged_key = damaged_key
        """With `damaged_input`: the parent whose checkpoint is damaged."""


class ConfigError(StageError):
    """The job asks for what its data, its parent or this version cannot give."""


class DataError(StageError):
    """A data set is missing, malformed, or has more bad samples than the limit."""

    failure_class = "data"


class OtherRankError(DataError):
    """Another process of the job has failed, and records why; this one only ends with it."""


class DivergedError(StageError):
    """The loss or the gradient is not a number any more."""

    failure_class = "diverged"


class DamagedInputError(StageError):
    """A parent's checkpoint does not match its own record."""

    failure_class = "damaged_input"


class StorageError(StageError):
    """The file system refused a write: full, over quota, read-only."""

    failure_class = "storage"


def find_storage_errno(error: Exception) -> int | None:
    """The errno by which the file system refused a write; None if `error` is about something else.

    safetensors reports I/O errors as text ("... (os error 28)") and not as OSError.
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in STORAGE_ERRNOS else None
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found and int(found[1]) in STORAGE_ERRNOS else None
