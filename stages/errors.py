"""Failures that a stage can name. `__main__` writes them to error.json; what is not named here is our own fault."""

import errno
import re

STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""The file system takes no more, from whichever node."""
MOUNT_ERRNOS = {
    *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN, errno.EREMOTEIO, errno.EHOSTDOWN, errno.ENODEV),
    *(errno.ENXIO, errno.EUCLEAN),
}
"""This node's disk, mount or link to a file server has failed: other nodes may read and write the same file."""


# Why: docs/decisions.md, D165
PERMISSION_ERRNOS = {errno.EACCES, errno.EPERM}
"""The file system refuses this user: a ticket has expired, a mount maps users otherwise, a mode was changed."""

MOST_LETTERS = 2_000


def truncate_message(message: str) -> str:
    """A message without its middle, where what it quotes from a file is longer than anybody reads."""
    if len(message) <= MOST_LETTERS:
        return message
    return f"{message[: MOST_LETTERS // 2]} ... {message[-MOST_LETTERS // 4 :]}"


class StageError(Exception):
    """One line for `sweep status`; `failure_class` is one of the classes of docs/formats.md (error.json)."""

    failure_class = "code"
    node_unsure = False
    """With `node_fault`: something else than the node may be to blame."""
    cause_in_log = False
    """The message only says how another program ended; its own words stand in the log."""

    def __init__(self, message: str, *, damaged_key: str = "") -> None:
        super().__init__(truncate_message(message))
        self.damaged_key = damaged_key
        """With `damaged_input`: the parent whose checkpoint is damaged."""


class ConfigError(StageError):
    """The job asks for what its data, its parent or this version cannot give."""


class DataError(StageError):
    """A data set is missing, malformed, or has more bad samples than the limit."""

    failure_class = "data"


class MissingMountError(DataError):
    """A data set is not on this node. Other nodes may have it."""

    failure_class = "node_fault"
    node_unsure = True


class OtherRankError(DataError):
    """Another process of the job has failed, and records why; this one only ends with it."""


class DivergedError(StageError):
    """The loss or the gradient is not a number any more."""

    failure_class = "diverged"


class DamagedInputError(StageError):
    """A parent's checkpoint does not match its own record."""

    failure_class = "damaged_input"


class NodeFaultError(StageError):
    """The node lacks what the job was promised there: a GPU, enough GPUs."""

    failure_class = "node_fault"


class PortTakenError(StageError):
    """Another program has the port on which the job's processes were to meet."""

    failure_class = "port_taken"


class StorageError(StageError):
    """The file system refused a write: full, over quota, read-only, not permitted."""

    failure_class = "storage"


class MountError(StageError):
    """This node's disk or mount has failed (`MOUNT_ERRNOS`). Its file server may be to blame as well.

    On one machine its class is `storage` (`stages.__main__`).
    """

    failure_class = "node_fault"
    node_unsure = True


def find_storage_errno(error: Exception) -> int | None:
    """The errno by which the file system refused a write or this user; None if `error` is about something else."""
    number = find_errno(error)
    return number if number in STORAGE_ERRNOS else find_permission_errno(error)


def find_permission_errno(error: BaseException | None) -> int | None:
    """The errno by which a file or folder is closed to this user; of the causes too, as a reader may have named it
    after its file. What names no file is no matter of the file system."""
    while error is not None:
        if (number := find_errno(error)) in PERMISSION_ERRNOS and getattr(error, "filename", "text") is not None:
            return number
        error = error.__cause__
    return None


def find_mount_errno(error: BaseException | None) -> int | None:
    """Likewise of a disk or mount that has failed; of the causes too, as a reader may have named it after its file."""
    while error is not None:
        if (number := find_errno(error)) in MOUNT_ERRNOS:
            return number
        error = error.__cause__
    return None


def find_errno(error: BaseException) -> int | None:
    """safetensors reports I/O errors as text ("... (os error 28)") and not as OSError."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None
