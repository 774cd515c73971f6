"""What the cluster's word on an execution means for its job, alone and beside the attempt's own record. Pure."""

import re
import signal
from dataclasses import replace

from jobs.reconcile.executions import LOST, Ending
from jobs.reconcile.failures import EXIT_SAVED, Failure, one_line
from jobs.store.records import AttemptExit, FailureClass

NOTHING_DONE = frozenset({76, 77})
"""Exit codes of `jobs.attempt`: another attempt is at work, or a parent is not done yet."""
SUPERVISOR_CODES = {
    74: Failure(failure=FailureClass.STORAGE, message="the store refused before the attempt began"),
    EXIT_SAVED: Failure(failure=FailureClass.INTERRUPTED, message="stopped on request before the attempt began"),
    78: Failure(failure=FailureClass.UNKNOWN, message="the attempt could not be set up (exit code 78)"),
}
"""Exit codes of `jobs.attempt` where it left no record."""
NO_OUTPUT_FILE = 53
"""The `signal` that Slurm reports where it cannot open the job's output file (ExitCode 0:53)."""

LESS_TELLING = {FailureClass.KILLED, FailureClass.PREEMPTED, FailureClass.INTERRUPTED, FailureClass.UNKNOWN}
"""Classes of an attempt's own record that the cluster's word may put more exactly. All others name a cause."""

DEFAULT_WORDS = {
    FailureClass.OUT_OF_MEMORY: "out of memory",
    FailureClass.WALL_CLOCK: "ran into its time limit",
    FailureClass.NODE_FAULT: "its node failed",
    FailureClass.PREEMPTED: "the cluster took the nodes back",
}


def word(ending: Ending) -> Failure | None:
    """The class that the cluster names, with a message; None where its word tells no cause (COMPLETED, FAILED).

    INTERRUPTED is what we took out ourselves; CANCELLED is a person's `scancel`.
    """
    if withdrawn(ending):
        return Failure(failure=FailureClass.INTERRUPTED, message="taken out of the cluster's queue")
    failure = ending.failure
    if failure is None and ending.state == "REQUEUED":
        failure = FailureClass.PREEMPTED  # by an administrator or a site's rule: no fault of the job
    if failure is None:
        return None
    if failure is FailureClass.CANCELLED:
        return Failure(failure=failure, message=_cancelled_words(ending))
    return Failure(failure=failure, message=one_line(ending.message or _default_words(failure, ending)))


def withdrawn(ending: Ending) -> bool:
    """Whether it was cancelled without being a person's wish: by us, or for a dependency that can never be met."""
    if ending.state != "CANCELLED":
        return False
    return ending.failure is None or not (ending.ran or _uid(ending))


def verdict_without_attempt(ending: Ending) -> Failure | None:
    """On an execution that left no attempt folder; None where nothing went wrong or nothing was tried."""
    if ending.state == "COMPLETED" or ending.exit_code in NOTHING_DONE or withdrawn(ending):
        return None
    said = word(ending)
    if said is None and ending.state == LOST:
        return None  # nobody knows that anything was tried
    return said or _by_exit_code(ending)


def idle_words(ending: Ending) -> str:
    """What to say of an execution that left no attempt and counts for nothing (`verdict_without_attempt` is None)."""
    if withdrawn(ending):
        return "taken out of the queue"
    if ending.state == LOST:
        return "never started, or forgotten by the cluster"
    words = {76: "nothing done: another attempt was at work", 77: "nothing done: a parent was not done yet"}
    return words.get(ending.exit_code, "nothing to do: the job was done")


def refined(end: AttemptExit, ending: Ending) -> AttemptExit:
    """The attempt's own record, with the cluster's class where that says more.

    What the stage or its log has named (diverged, data, code, out of memory...) stands, and so does success. A person's
    wish that the job ends outweighs its time limit.
    """
    said = word(ending) if ending.state != LOST else None
    if said is None or said.failure is end.failure or not _outweighs(said.failure, end.failure):
        return end
    return replace(end, failure=said.failure, message=said.message, traceback_digest="")


def _outweighs(said: FailureClass, own: FailureClass | None) -> bool:
    if said is FailureClass.INTERRUPTED:
        return own is FailureClass.KILLED
    if said is FailureClass.CANCELLED and own is FailureClass.WALL_CLOCK:
        return True  # while it saved ahead of its limit
    return own in LESS_TELLING


def returncode(ending: Ending) -> int | None:
    """As `jobs.reconcile.failures.Evidence` wants it: how the attempt's supervisor ended; None where that tells nothing."""
    if ending.state != "FAILED" or ending.signal == NO_OUTPUT_FILE:
        return None
    return -ending.signal if ending.signal else ending.exit_code or None


def _by_exit_code(ending: Ending) -> Failure:
    known = SUPERVISOR_CODES.get(ending.exit_code)
    if known is not None:
        return known
    why = f" ({ending.message})" if ending.message else ""
    if ending.signal == NO_OUTPUT_FILE:
        words = "the cluster could not open its output file"
    elif ending.signal:
        words = f"ended by signal {ending.signal} before the attempt began"
    else:
        words = f"ended with code {ending.exit_code} before the attempt began"
    killed = ending.signal in {signal.SIGKILL, signal.SIGTERM}
    failure = FailureClass.KILLED if killed else FailureClass.UNKNOWN
    return Failure(failure=failure, message=one_line(words + why))


def _cancelled_words(ending: Ending) -> str:
    uid = _uid(ending)
    return f"cancelled with scancel by uid {uid}" if uid else "cancelled with scancel"


def _uid(ending: Ending) -> str:
    found = re.search(r"\buid (\d+)\b", ending.message)
    return found[1] if found else ""


def _default_words(failure: FailureClass, ending: Ending) -> str:
    return f"{DEFAULT_WORDS.get(failure, failure.value)} (the cluster says {ending.state})"
