"""Why an attempt ended without a result: classified from what it left behind."""

import hashlib
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jobs.reconcile.accounting import LOST, AccountingRecord
from jobs.store.records import AttemptExit, FailureClass

EXIT_SAVED = 75
"""The stage was asked to stop, saved and stopped (EX_TEMPFAIL)."""

LOG_SIGNS: tuple[tuple[FailureClass, re.Pattern[str]], ...] = tuple(
    (failure, re.compile(pattern, re.IGNORECASE))
    for failure, pattern in (
        (
            FailureClass.STORAGE,
            r"no space left on device|disk quota exceeded|read-only file system|file too large",
        ),
        (
            FailureClass.OUT_OF_MEMORY,
            r"cuda out of memory|outofmemoryerror|^memoryerror|can't allocate memory|cannot allocate memory"
            r"|exceeded job memory limit|oom[-_ ]kill",
        ),
        (
            FailureClass.NODE_FAULT,
            r"uncorrectable ecc|ecc error|nvlink error|no cuda-capable device|cuda driver error|\bxid\b.*\d"
            r"|nccl.*(timed? ?out|remote process exited|unhandled system error)|input/output error",
        ),
    )
)
"""Words in the last lines of a log, the surest first."""

PROGRAM_FAULTS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGSYS}
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP}

PROGRAM_ERRORS = {
    *("ImportError", "ModuleNotFoundError", "SyntaxError", "NameError", "AttributeError", "TypeError", "ValueError"),
    *("KeyError", "IndexError", "AssertionError", "NotImplementedError", "UnboundLocalError", "ZeroDivisionError"),
}
"""Exceptions that come back however often the attempt is repeated."""

LAST_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?!.*Traceback \(most recent)", re.DOTALL)
FRAME = re.compile(r'^\s*File "(?P<file>[^"]*)", line \d+, in (?P<function>\S+)', re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureEvidence:
    """What is known of an ended attempt that left no valid result."""

    returncode: int | None
    """Of the stage's process; negative: killed by that signal; None: nobody saw it end."""
    stop_requested: bool = False
    """The supervisor passed a stop signal on."""
    error: Mapping[str, Any] = field(default_factory=dict)
    """error.json; empty if absent."""
    log_tail: str = ""
    result_problem: str = ""
    """Why result.json is not valid."""
    cluster: "Failure | None" = None
    """The cause that the cluster names (jobs/reconcile/failures.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The verdict on an ended attempt."""

    failure: FailureClass
    message: str
    """One line for `sweep status`."""
    traceback_digest: str = ""
    damaged_key: str = ""


def classify_failure(evidence: FailureEvidence) -> Failure:
    """The class, message and digest of a failure: the stage's own word, the cluster's, how it ended, its log."""
    named = _named_by_the_stage(evidence) or evidence.cluster
    if named is not None:
        return named
    if evidence.returncode is None:
        return _from_log(
            evidence, FailureClass.KILLED, "ended without an exit record (killed, or the machine went down)"
        )
    if evidence.returncode == EXIT_SAVED or (evidence.stop_requested and -evidence.returncode in STOP_SIGNALS):
        return _stopped(evidence)
    if evidence.returncode < 0:
        return _killed(evidence, -evidence.returncode)
    if evidence.returncode == 0:
        problem = evidence.result_problem or "it wrote no result.json"
        return Failure(failure=FailureClass.CODE, message=f"ended with code 0 but without a valid result: {problem}")
    return _from_log(evidence, FailureClass.UNKNOWN, f"ended with code {evidence.returncode}")


def hash_traceback(text: str) -> str:
    """The same for two failures at the same place with the same exception; line numbers and values do not enter."""
    start = LAST_TRACEBACK.search(text)
    if start is None:
        return ""
    body = text[start.end() :]
    frames = [f"{match['file']}:{match['function']}" for match in FRAME.finditer(body)]
    return hashlib.sha256("\n".join([*frames, _exception_type(body)]).encode()).hexdigest()[:16]


def _named_by_the_stage(evidence: FailureEvidence) -> Failure | None:
    try:
        failure = FailureClass(str(evidence.error.get("class")))
    except ValueError:
        return None
    traceback = str(evidence.error.get("traceback", ""))
    return Failure(
        failure=failure,
        message=format_one_line(str(evidence.error.get("message") or failure)),
        traceback_digest=hash_traceback(traceback),
        damaged_key=str(evidence.error.get("damaged_key", "")),
    )


def _stopped(evidence: FailureEvidence) -> Failure:
    # without a request of ours somebody else sent the signal: a scheduler that takes the machine back
    failure = FailureClass.INTERRUPTED if evidence.stop_requested else FailureClass.PREEMPTED
    return Failure(failure=failure, message="stopped on request; goes on from its checkpoint")


def _killed(evidence: FailureEvidence, number: int) -> Failure:
    name = signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"
    if number == signal.SIGKILL and evidence.stop_requested:
        return Failure(failure=FailureClass.INTERRUPTED, message="killed after it had been asked to stop")
    if number in PROGRAM_FAULTS:
        digest = hashlib.sha256(name.encode()).hexdigest()[:16]
        return Failure(failure=FailureClass.CODE, message=f"crashed with {name}", traceback_digest=digest)
    if number == signal.SIGXFSZ:
        return Failure(failure=FailureClass.STORAGE, message="a file may not grow any more (ulimit -f)")
    if number == signal.SIGBUS:
        return Failure(failure=FailureClass.NODE_FAULT, message="crashed with SIGBUS (memory or disk fault)")
    return _from_log(evidence, FailureClass.KILLED, f"killed by {name}")


def _from_log(evidence: FailureEvidence, otherwise: FailureClass, message: str) -> Failure:
    """What the log says, by its known signs or the exception of its last traceback."""
    digest = hash_traceback(evidence.log_tail)
    last = _last_line(evidence.log_tail)
    for failure, sign in LOG_SIGNS:
        line = next((line for line in reversed(evidence.log_tail.splitlines()) if sign.search(line)), None)
        if line is not None:
            return Failure(failure=failure, message=format_one_line(line), traceback_digest=digest)
    if digest and otherwise is FailureClass.UNKNOWN:
        of_the_code = last.partition(":")[0] in PROGRAM_ERRORS
        failure = FailureClass.CODE if of_the_code else FailureClass.UNKNOWN
        return Failure(failure=failure, message=format_one_line(last), traceback_digest=digest)
    return Failure(failure=otherwise, message=format_one_line(f"{message}; last line: {last}" if last else message))


def _exception_type(traceback_body: str) -> str:
    lines = [line for line in traceback_body.splitlines() if line and not line[0].isspace()]
    return lines[0].partition(":")[0] if lines else ""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def format_one_line(text: str, limit: int = 300) -> str:
    """`text` on one line without control characters, cut to `limit` characters."""
    flat = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


# What the cluster's word on an execution means for its job, alone and beside the attempt's own record. Pure.

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

REPLACEABLE_CLASSES = {FailureClass.KILLED, FailureClass.PREEMPTED, FailureClass.INTERRUPTED, FailureClass.UNKNOWN}
"""Classes of an attempt's own record that the cluster's word may put more exactly. All others name a cause."""

DEFAULT_MESSAGES = {
    FailureClass.OUT_OF_MEMORY: "out of memory",
    FailureClass.WALL_CLOCK: "ran into its time limit",
    FailureClass.NODE_FAULT: "its node failed",
    FailureClass.PREEMPTED: "the cluster took the nodes back",
}


def classify_slurm_failure(ending: AccountingRecord) -> Failure | None:
    """The class that the cluster names, with a message; None where its word tells no cause (COMPLETED, FAILED).

    INTERRUPTED is what we took out ourselves; CANCELLED is a person's `scancel`.
    """
    if is_withdrawn(ending):
        return Failure(failure=FailureClass.INTERRUPTED, message="taken out of the cluster's queue")
    failure = ending.failure
    if failure is None and ending.state == "REQUEUED":
        failure = FailureClass.PREEMPTED  # by an administrator or a site's rule: no fault of the job
    if failure is None:
        return None
    if failure is FailureClass.CANCELLED:
        return Failure(failure=failure, message=_describe_cancellation(ending))
    return Failure(failure=failure, message=format_one_line(ending.message or _default_message(failure, ending)))


def is_withdrawn(ending: AccountingRecord) -> bool:
    """Whether it was cancelled without being a person's wish: by us, or for a dependency that can never be met."""
    if ending.state != "CANCELLED":
        return False
    return ending.failure is None or not (ending.ran or _uid(ending))


def classify_without_attempt(ending: AccountingRecord) -> Failure | None:
    """On an execution that left no attempt folder; None where nothing went wrong or nothing was tried."""
    if ending.state == "COMPLETED" or ending.exit_code in NOTHING_DONE or is_withdrawn(ending):
        return None
    said = classify_slurm_failure(ending)
    if said is None and ending.state == LOST:
        return None  # nobody knows that anything was tried
    return said or _by_exit_code(ending)


def explain_idle_record(ending: AccountingRecord) -> str:
    """What to say of an execution that left no attempt and counts for nothing (`classify_without_attempt` is None)."""
    if is_withdrawn(ending):
        return "taken out of the queue"
    if ending.state == LOST:
        return "never started, or forgotten by the cluster"
    words = {76: "nothing done: another attempt was at work", 77: "nothing done: a parent was not done yet"}
    return words.get(ending.exit_code, "nothing to do: the job was done")


def merge_failures(end: AttemptExit, ending: AccountingRecord) -> AttemptExit:
    """The attempt's own record, with the cluster's class where that says more.

    What the stage or its log has named (diverged, data, code, out of memory...) stands, and so does success. A person's
    wish that the job ends outweighs its time limit.
    """
    said = classify_slurm_failure(ending) if ending.state != LOST else None
    if said is None or said.failure is end.failure or not _outweighs(said.failure, end.failure):
        return end
    return replace(end, failure=said.failure, message=said.message, traceback_digest="")


def _outweighs(said: FailureClass, own: FailureClass | None) -> bool:
    if said is FailureClass.INTERRUPTED:
        return own is FailureClass.KILLED
    if said is FailureClass.CANCELLED and own is FailureClass.WALL_CLOCK:
        return True  # while it saved ahead of its limit
    return own in REPLACEABLE_CLASSES


def find_supervisor_returncode(ending: AccountingRecord) -> int | None:
    """How the supervisor of an attempt ended, by the cluster's account; None where that tells nothing."""
    if ending.state != "FAILED" or ending.signal == NO_OUTPUT_FILE:
        return None
    return -ending.signal if ending.signal else ending.exit_code or None


def _by_exit_code(ending: AccountingRecord) -> Failure:
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
    return Failure(failure=failure, message=format_one_line(words + why))


def _describe_cancellation(ending: AccountingRecord) -> str:
    uid = _uid(ending)
    return f"cancelled with scancel by uid {uid}" if uid else "cancelled with scancel"


def _uid(ending: AccountingRecord) -> str:
    found = re.search(r"\buid (\d+)\b", ending.message)
    return found[1] if found else ""


def _default_message(failure: FailureClass, ending: AccountingRecord) -> str:
    return f"{DEFAULT_MESSAGES.get(failure, failure.value)} (the cluster says {ending.state})"
