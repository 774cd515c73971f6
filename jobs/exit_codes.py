"""How our processes end, for whoever started them: Slurm, the local runner, a person."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `python -m jobs.attempt`, and of the stage that it starts (DONE, FAILED, USAGE and SAVED).

    From 74 on they lie in the range of sysexits.h (64 to 78) or right behind it, where neither Python's own codes nor a
    shell's 128 + signal are.
    stages/ imports nothing of ours and writes its own numbers, which must agree (stages/stop.py).
    """

    DONE = 0
    """The job has a valid result."""
    FAILED = 1
    """The job failed; the attempt's exit.json says why."""
    USAGE = 2
    """The command line is wrong."""
    STORAGE = 74
    """The store refused a read or a write: disk full, quota, permission (EX_IOERR)."""
    SAVED = 75
    """The stage was asked to stop, saved and stopped; it goes on from its checkpoint (EX_TEMPFAIL)."""
    TAKEN = 76
    """Nothing was done: another attempt lives, has this name, or took over."""
    NO_PARENT = 77
    """Nothing was done: a parent has no result, or its checkpoint is set aside. Slurm takes a parent that it has
    forgotten for a finished one."""
    NOT_SET_UP = 78
    """The attempt could not be set up: the manifest or the installation is at fault (EX_CONFIG)."""
    NOT_WANTED = 79
    """Nothing was done: the job is cancelled, was taken out of the queue, or has failed for good."""
