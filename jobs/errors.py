"""Errors of execution that a user can put right; `str(error)` is one line. `sweep` turns them into its own."""

import errno

from jobs.store.sharing import explain_denial

STORAGE_ERRORS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file may not grow any more (ulimit -f)",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EIO: "the disk or network file system failed",
    errno.ESTALE: "the network file system lost the file",
    errno.ENOLCK: "the file system gives no locks",
}
"""Why a store refused, by errno."""


class JobsError(Exception):
    """Base of the errors below."""


class StoreRefusedError(JobsError):
    """The store cannot be read or written: disk full, quota, read-only, permission."""


class RunnerBusyError(JobsError):
    """Another local runner uses this store."""


class SubmitterBusyError(JobsError):
    """Another process submits jobs of this sweep."""


class NoSchedulerError(JobsError):
    """Slurm is not installed here, or does not answer."""


class ClusterChoiceError(JobsError):
    """Several clusters are named, or another one than a sweep's jobs are on."""


class InfeasibleJobError(JobsError):
    """A job asks for more than the cluster has."""


class AttemptSetupError(JobsError):
    """An attempt cannot be set up: the manifest or the installation is at fault."""


def describe_storage_error(error: OSError) -> str:
    """The file and the reason, in one line; of a file that is another user's, also whose, and what to do."""
    reason = STORAGE_ERRORS.get(error.errno or 0, error.strerror or str(error))
    return f"{error.filename or 'the store'}: {add_denial(reason, error)}"


def add_denial(reason: str, error: OSError) -> str:
    """The reason, and of a file that is another user's also whose, and what to do."""
    whose = explain_denial(error)
    return f"{reason}: {whose}" if whose else reason
