"""Why an attempt ended without a result: classified from what it left behind."""

import hashlib
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.store.records import FailureClass

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
class Evidence:
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
    """The cause that the cluster names (jobs/cluster_word.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The verdict on an ended attempt."""

    failure: FailureClass
    message: str
    """One line for `sweep status`."""
    traceback_digest: str = ""
    damaged_key: str = ""


def classify(evidence: Evidence) -> Failure:
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


def traceback_digest(text: str) -> str:
    """The same for two failures at the same place with the same exception; line numbers and values do not enter."""
    start = LAST_TRACEBACK.search(text)
    if start is None:
        return ""
    body = text[start.end() :]
    frames = [f"{match['file']}:{match['function']}" for match in FRAME.finditer(body)]
    return hashlib.sha256("\n".join([*frames, _exception_type(body)]).encode()).hexdigest()[:16]


def _named_by_the_stage(evidence: Evidence) -> Failure | None:
    try:
        failure = FailureClass(str(evidence.error.get("class")))
    except ValueError:
        return None
    traceback = str(evidence.error.get("traceback", ""))
    return Failure(
        failure=failure,
        message=one_line(str(evidence.error.get("message") or failure)),
        traceback_digest=traceback_digest(traceback),
        damaged_key=str(evidence.error.get("damaged_key", "")),
    )


def _stopped(evidence: Evidence) -> Failure:
    # without a request of ours somebody else sent the signal: a scheduler that takes the machine back
    failure = FailureClass.INTERRUPTED if evidence.stop_requested else FailureClass.PREEMPTED
    return Failure(failure=failure, message="stopped on request; goes on from its checkpoint")


def _killed(evidence: Evidence, number: int) -> Failure:
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


def _from_log(evidence: Evidence, otherwise: FailureClass, message: str) -> Failure:
    """What the log says, by its known signs or the exception of its last traceback."""
    digest = traceback_digest(evidence.log_tail)
    last = _last_line(evidence.log_tail)
    for failure, sign in LOG_SIGNS:
        line = next((line for line in reversed(evidence.log_tail.splitlines()) if sign.search(line)), None)
        if line is not None:
            return Failure(failure=failure, message=one_line(line), traceback_digest=digest)
    if digest and otherwise is FailureClass.UNKNOWN:
        of_the_code = last.partition(":")[0] in PROGRAM_ERRORS
        failure = FailureClass.CODE if of_the_code else FailureClass.UNKNOWN
        return Failure(failure=failure, message=one_line(last), traceback_digest=digest)
    return Failure(failure=otherwise, message=one_line(f"{message}; last line: {last}" if last else message))


def _exception_type(traceback_body: str) -> str:
    lines = [line for line in traceback_body.splitlines() if line and not line[0].isspace()]
    return lines[0].partition(":")[0] if lines else ""


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def one_line(text: str, limit: int = 300) -> str:
    """`text` on one line without control characters, cut to `limit` characters."""
    flat = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"
