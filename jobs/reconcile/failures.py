"""Failures: what follows from each class, and how the class of an ended execution is decided. Pure.

The policy table stands first, for people to read. Below it is the classifier, the one place where evidence becomes a
class. The evidence comes from two sides: what the attempt wrote, and what Slurm accounted. Only the name of a user, for
messages, is looked up.
"""

import hashlib
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cache
from typing import Any

from jobs.exit_codes import ExitCode
from jobs.reconcile.accounting import CANCELLED_IN_QUEUE, LOST, AccountingRecord
from jobs.store.records import AttemptExit, FailureClass
from jobs.store.sharing import name_user


class NodeEvidence(Enum):
    """What a failure says about the node on which it happened."""

    NOTHING = auto()
    WORKS = auto()
    """If the attempt left a newer checkpoint, the node is good."""
    SUSPECT = auto()
    """One job may be to blame itself; two different jobs on one node point to the node."""
    SUSPECT_BEFORE_START = auto()
    """SUSPECT if the attempt never began: the node may not see the store."""
    FAULT = auto()
    """The node is to blame. One such failure is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What follows from a failure of one class."""

    meaning: str
    """A clause for messages and docs/glossary.md."""
    follows: str
    """What happens next, and what a person has to do."""
    attempts: int | None
    """How many attempts may end this way, the first included, before the job counts as failed. Each class has its own
    count. 0: the job stops at once. None: such ends are not counted."""
    renewed_by_progress: bool = False
    """A newer checkpoint starts the count at 0: a job that advances is not stuck."""
    planned_restarts: bool = False
    """The restarts that the plan counts on are allowed on top of `attempts`."""
    same_traceback_stops: bool = True
    """The same traceback on two different nodes is deterministic: there is no further attempt."""
    node: NodeEvidence = NodeEvidence.NOTHING
    more_memory: bool = False
    """The next attempts get `retry_memory_gib`."""
    by_memory: bool = False
    """Memory may be the cause, so that what the attempt used is worth asking for."""
    refined_by_slurm: bool = False
    """The attempt's own record names no cause, so that what Slurm accounted may replace it."""
    requeues_itself: bool = False
    """Under Slurm, an attempt that has saved puts its job back into the queue."""
    requeued_by_slurm: bool = False
    """Slurm itself has put the job back into the queue."""
    reruns_parent: bool = False
    """The parent's result is set aside, and the parent runs again."""
    stops_submission: bool = False
    """The local runner starts nothing more: other jobs would fail in the same way."""
    by_person: bool = False
    """A person ended it with the cluster's own means: the job counts as cancelled, not as failed."""
    listed: bool = True
    """`sweep status` lists the job among those that had trouble."""

    @property
    def stops_at_once(self) -> bool:
        return self.attempts == 0

    @property
    def sent_again(self) -> bool:
        """Whether a later round has to send the job again, as a rule: nothing puts it back into the queue."""
        return bool(self.attempts) and not self.requeues_itself and not self.requeued_by_slurm


POLICIES: Mapping[FailureClass, RetryPolicy] = {
    FailureClass.OUT_OF_MEMORY: RetryPolicy(
        meaning="out of memory",
        follows="One more attempt, with `retry_memory_gib` if it is given. Then raise the job's memory.",
        attempts=2,
        more_memory=True,
        by_memory=True,
    ),
    FailureClass.WALL_CLOCK: RetryPolicy(
        meaning="ran into its time limit",
        follows="Goes on from its checkpoint. Without progress it stops after three attempts.",
        attempts=3,
        renewed_by_progress=True,
        planned_restarts=True,
        node=NodeEvidence.WORKS,
        requeues_itself=True,
    ),
    FailureClass.PREEMPTED: RetryPolicy(
        meaning="the cluster took the nodes back",
        follows="Goes on from its checkpoint when Slurm starts it again.",
        attempts=20,
        renewed_by_progress=True,
        node=NodeEvidence.WORKS,
        refined_by_slurm=True,
        requeued_by_slurm=True,
    ),
    FailureClass.NODE_FAULT: RetryPolicy(
        meaning="its node failed",
        follows="Goes on from its checkpoint on other nodes. The node is excluded for a day.",
        attempts=4,
        renewed_by_progress=True,
        same_traceback_stops=False,  # a broken link or device shows the same traceback on every node that it hits
        node=NodeEvidence.FAULT,
    ),
    FailureClass.PORT_TAKEN: RetryPolicy(
        meaning="another program on the node had its network port",
        follows="Goes on from its checkpoint with another port. Its node is not to blame.",
        attempts=4,
        renewed_by_progress=True,
        same_traceback_stops=False,
    ),
    FailureClass.HUNG: RetryPolicy(
        meaning="made no step for far longer than its own steps take",
        follows="Is ended, and goes on from its checkpoint, elsewhere if it can. Stacks are in the attempt's folder.",
        attempts=3,
        renewed_by_progress=True,
        same_traceback_stops=False,  # where it waits says little of why
        node=NodeEvidence.SUSPECT,
    ),
    FailureClass.KILLED: RetryPolicy(
        meaning="killed from outside, or gone without an exit record",
        follows="Goes on from its checkpoint. A node on which two jobs end this way is excluded for a day.",
        attempts=4,
        renewed_by_progress=True,
        node=NodeEvidence.SUSPECT,
        refined_by_slurm=True,
        by_memory=True,
    ),
    FailureClass.DIVERGED: RetryPolicy(
        meaning="the loss became NaN or infinite",
        follows="Stops at once. Change the settings.",
        attempts=0,
    ),
    FailureClass.DATA: RetryPolicy(
        meaning="too many bad samples, or a damaged shard",
        follows="Stops at once. Find them with `sweep data check`, repair them, then `sweep resume`.",
        attempts=0,
    ),
    FailureClass.DAMAGED_INPUT: RetryPolicy(
        meaning="a parent's checkpoint does not match its own record",
        follows="The parent runs again, then this job.",
        attempts=2,
        reruns_parent=True,
    ),
    FailureClass.STORAGE: RetryPolicy(
        meaning="the file system refused (disk full, quota, read-only, not permitted)",
        follows="Goes on at the next submission. Make room, or renew your access, first. It stops after ten such "
        "ends without progress.",
        # Why: docs/decisions.md, D165
        attempts=10,
        renewed_by_progress=True,
        same_traceback_stops=False,  # the store is to blame, not the job
        node=NodeEvidence.SUSPECT_BEFORE_START,
        stops_submission=True,
    ),
    FailureClass.CODE: RetryPolicy(
        meaning="an error of the program",
        follows="Stops at once. Repair the code, then `sweep resume`.",
        attempts=0,
    ),
    FailureClass.CANCELLED: RetryPolicy(
        meaning="cancelled by a person",
        follows="Stops at once. `sweep resume` brings it back.",
        attempts=0,
        by_person=True,
    ),
    FailureClass.INTERRUPTED: RetryPolicy(
        meaning="we asked it to stop, and it saved",
        follows="Goes on from its checkpoint at the next submission.",
        attempts=None,
        node=NodeEvidence.WORKS,
        refined_by_slurm=True,
        listed=False,
    ),
    FailureClass.UNKNOWN: RetryPolicy(
        meaning="failed for no known reason",
        follows="Two more attempts. A node on which two jobs end this way is excluded for a day.",
        attempts=3,
        node=NodeEvidence.SUSPECT,
        refined_by_slurm=True,
    ),
}


# The evidence, and the class that it points to.


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEvidence:
    """What an attempt left behind that wrote no result, and no exit record so far."""

    returncode: int | None = None
    """Of the stage's process, negative for a signal. None: nobody saw it end."""
    stop: signal.Signals | None = None
    """The first stop signal that its supervisor received and passed on."""
    under_slurm: bool = False
    asked_gpus: bool = True
    """False: it asked for none, so that a program which finds none says nothing of the node."""
    full_folder: str = ""
    """A folder of the node's own disk that was full right after the end; empty: none, or nobody looked."""
    hang: str = ""
    """Why its supervisor ended it as hung, in one line; empty: it did not."""
    error: Mapping[str, Any] = field(default_factory=dict)
    """Content of error.json; empty if there is none."""
    log_tail: str = ""
    memory_gib: float = 0.0
    """Of a node that it had asked the cluster for; 0: none, or nobody knows."""
    result_problem: str = ""
    """Why result.json is not valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an execution ended without a result. The fields are those of `AttemptExit`."""

    failure: FailureClass
    message: str
    """One line."""
    traceback_digest: str = ""
    damaged_key: str = ""
    failed_node: str = ""
    node_unsure: bool = False

    def build_fields(self) -> dict[str, Any]:
        """By name, for an `AttemptExit`."""
        return {name: getattr(self, name) for name in self.__slots__}


# Of an attempt whose claim was lost. Its evidence is not read: the run may already be its successor's.
FENCED = Failure(failure=FailureClass.KILLED, message="fenced: a newer incarnation took over")

SLURM_STATES: Mapping[str, FailureClass] = {
    "TIMEOUT": FailureClass.WALL_CLOCK,
    "DEADLINE": FailureClass.WALL_CLOCK,
    "PREEMPTED": FailureClass.PREEMPTED,
    "NODE_FAIL": FailureClass.NODE_FAULT,
    "BOOT_FAIL": FailureClass.NODE_FAULT,
    "LAUNCH_FAILED": FailureClass.NODE_FAULT,
    "RECONFIG_FAIL": FailureClass.NODE_FAULT,
    "OUT_OF_MEMORY": FailureClass.OUT_OF_MEMORY,
}
"""Slurm's states that name a cause. CANCELLED and LOST depend on more (`classify_slurm_state`)."""

# USR2 is the signal that our batch scripts ask for ahead of the time limit.
SLURM_STOPS: Mapping[signal.Signals, Failure] = {
    signal.SIGUSR2: Failure(
        failure=FailureClass.WALL_CLOCK, message="the time limit is near: saved; goes on from its checkpoint"
    ),
    signal.SIGTERM: Failure(
        failure=FailureClass.PREEMPTED, message="asked to end by Slurm; goes on from its checkpoint"
    ),
}

# Where an execution left no attempt, the exit code of its supervisor is all that there is.
SUPERVISOR_FAILURES: Mapping[int, Failure] = {
    ExitCode.STORAGE: Failure(failure=FailureClass.STORAGE, message="the store refused before the attempt began"),
    ExitCode.SAVED: Failure(failure=FailureClass.INTERRUPTED, message="stopped on request before the attempt began"),
    ExitCode.NOT_SET_UP: Failure(
        failure=FailureClass.UNKNOWN, message=f"the attempt could not be set up (exit code {ExitCode.NOT_SET_UP})"
    ),
}
NOTHING_DONE: Mapping[int, str] = {
    ExitCode.TAKEN: "nothing done: another attempt was at work",
    ExitCode.NO_PARENT: "nothing done: a parent was not done yet, or its checkpoint was set aside",
    ExitCode.NOT_WANTED: "nothing done: it was cancelled, taken out of the queue, or had failed for good",
}
"""Exit codes of executions that count for nothing."""
NO_OUTPUT_FILE = 53
"""The `signal` that Slurm reports if it cannot open the job's output file (ExitCode 0:53)."""


@dataclass(frozen=True, slots=True)
class FailureSign:
    """A text in an error or in the last lines of a log, and the class that it points to."""

    failure: FailureClass
    pattern: re.Pattern[str]
    of_gpus: bool = False
    """It says nothing of a node whose GPUs nobody asked for."""
    unsure: bool = False
    """Something else than the node may be to blame."""


def _build_sign(failure: FailureClass, *texts: str, of_gpus: bool = False, unsure: bool = False) -> FailureSign:
    return FailureSign(failure, re.compile("|".join(texts), re.IGNORECASE), of_gpus, unsure)


# Why: docs/decisions.md, D124
# The surest first. The texts are those of CUDA's runtime and driver (cudaGetErrorString), of NVML, of the kernel
# (strerror, NVRM), of torch and NCCL; illegal addresses and failed asserts on a GPU are not among them: these are ours.
FAILURE_SIGNS: tuple[FailureSign, ...] = (
    _build_sign(
        FailureClass.NODE_FAULT, r"no space left on device.*['\"](/tmp|/var/tmp|/dev/shm|/run|/local|/torch_)\b"
    ),
    _build_sign(
        FailureClass.NODE_FAULT, r"['\"<](/tmp|/var/tmp|/dev/shm|/run|/local|/torch_)\S*['\">].*no space left on device"
    ),
    _build_sign(
        FailureClass.STORAGE,
        "no space left on device",
        "disk quota exceeded",
        "read-only file system",
        r"\[errno 27\]|file too large \(os error 27\)|cannot write: file too large|writing .*: file too large",
    ),
    _build_sign(
        FailureClass.OUT_OF_MEMORY,
        "cuda out of memory",
        "cuda (driver )?error: out of memory",
        "outofmemoryerror",
        "^memoryerror",
        "can't allocate memory",
        "cannot allocate memory",
        "exceeded job memory limit",
        "oom[-_ ]kill",
    ),
    _build_sign(FailureClass.PORT_TAKEN, "address already in use", "eaddrinuse"),
    _build_sign(
        FailureClass.NODE_FAULT,
        "uncorrectable ecc",
        "ecc error",
        "nvlink error",
        "cuda driver error(?!: (an illegal|device-side|invalid|misaligned|unspecified launch))",
        r"\bxid \(pci|\bxid (error|code)\b.*\d|\b(nvrm|nvidia|gpu)\b.*\bxid\b.*\d",
        "fallen off the bus",
        r"\bgpu is lost\b",
        "unable to determine the device handle",
        "^srun: error: node failure on ",
    ),
    _build_sign(
        FailureClass.NODE_FAULT,
        "no cuda-capable device",
        "no cuda gpus are available",
        r"cuda-capable device\(s\) is/are busy or unavailable",
        "cuda unknown error",
        "cuda error: unknown error",
        "cuda error: initialization error",
        "invalid device ordinal",
        "cuda error: system not yet initialized",
        "unsupported display driver / cuda driver combination",
        "forward compatibility was attempted on non supported",
        "driver version is insufficient for cuda runtime",
        "found no nvidia driver",
        "nvidia driver on your system is too old",
        "driver/library version mismatch",
        "failed to initialize nvml",
        "couldn't communicate with the nvidia driver",
        "no devices were found",
        of_gpus=True,
    ),
    _build_sign(
        FailureClass.NODE_FAULT,
        r"nccl.*(timed? ?out|remote process exited|unhandled system error|connection (closed|reset|refused))",
        "input/output error",
        "stale (nfs )?file handle",
        "transport endpoint (is not connected|shutdown)",
        unsure=True,
    ),
)

NODE_LOST = re.compile(r"^srun: error: Node failure on ")

CRASH_SIGNALS = {signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGSYS}
# A file that was shortened under a mapping ends in SIGBUS too, and a program for another processor in SIGILL.
NODE_SIGNALS: Mapping[int, str] = {
    signal.SIGBUS: "memory or disk fault, or a mapped file that was shortened",
    signal.SIGILL: "the processor lacks an instruction of the program",
}
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP}

# Exceptions that come back however often the attempt is repeated.
PROGRAM_ERRORS = {
    *("ImportError", "ModuleNotFoundError", "SyntaxError", "NameError", "AttributeError", "TypeError", "ValueError"),
    *("KeyError", "IndexError", "AssertionError", "NotImplementedError", "UnboundLocalError", "ZeroDivisionError"),
}

LAST_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?!.*Traceback \(most recent)", re.DOTALL)
CRASH_FRAME = re.compile(r'^\s*File "([^"]*)", line \d+ in (\S+)', re.MULTILINE)
FRAME = re.compile(r'^\s*File "(?P<file>[^"]*)", line \d+, in (?P<function>\S+)', re.MULTILINE)


def classify_failure(
    wrote: AttemptExit | AttemptEvidence | None, accounted: AccountingRecord | None = None
) -> Failure | None:
    """Why an execution ended without a result; None if it did not fail, or if nothing was tried.

    `wrote`: the attempt's exit record; without one, what else it left; None if no attempt began. `accounted`: Slurm's
    row of the execution, if there is one.
    """
    if isinstance(wrote, AttemptExit):
        return _refine_exit(wrote, accounted)
    if wrote is not None:
        return _classify_attempt(wrote, accounted)
    return None if accounted is None or _did_nothing(accounted) else _classify_unstarted(accounted)


def classify_slurm_state(
    state: str,
    *,
    cancelled_by_uid: int | None = None,
    withdrawn: bool = False,
    accounted: bool = True,
    by_person: bool = False,
) -> FailureClass | None:
    """What Slurm's state of an ended execution means; None if it names no cause (COMPLETED, FAILED, REQUEUED).

    `withdrawn`: we took the job out of the queue ourselves. `accounted`: Slurm keeps accounting. `by_person`: a person
    cancelled it, though nothing says who.
    """
    if state == "CANCELLED":
        # No uid: Slurm did it, because a dependency can never be met (kill_invalid_depend, --kill-on-invalid-dep).
        return FailureClass.CANCELLED if not withdrawn and (by_person or cancelled_by_uid is not None) else None
    if state == CANCELLED_IN_QUEUE:
        return FailureClass.CANCELLED
    if state == LOST:
        # Without accounting no end leaves a row. One that we did not bring about counts as killed, so that a job which
        # dies before it leaves a trace in the store is not sent for ever.
        return None if withdrawn or accounted else FailureClass.KILLED
    return SLURM_STATES.get(state)


def can_conceal_cancellation(end: AttemptExit, *, recorded: bool) -> bool:
    """Whether an attempt that ended so may have been cancelled by a person, for all that it knows itself.

    scancel sends SIGTERM first, as a preemption does. `recorded`: the attempt wrote its exit record itself.
    """
    if end.failure is None or not POLICIES[end.failure].refined_by_slurm:
        return False
    return not recorded or end.stop_signal == signal.SIGTERM.name


def explain_idle_record(accounted: AccountingRecord) -> str:
    """Why an execution left no attempt and counts for nothing (`classify_failure` gives None), in one line."""
    if _is_withdrawn(accounted):
        return "taken out of the queue"
    if accounted.state == LOST:
        return "never started, or forgotten by the cluster"
    return NOTHING_DONE.get(accounted.exit_code, "nothing to do: the job was done")


def hash_traceback(text: str) -> str:
    """The same for two failures at the same place with the same exception; line numbers and values do not enter."""
    start = LAST_TRACEBACK.search(text)
    if start is None:
        return ""
    body = text[start.end() :]
    frames = [f"{match['file']}:{match['function']}" for match in FRAME.finditer(body)]
    return hashlib.sha256("\n".join([*frames, _exception_type(body)]).encode()).hexdigest()[:16]


def hash_crash(log_tail: str) -> str:
    """Differs with the place of a crash, where Python has written its stack (faulthandler); empty without one."""
    start = log_tail.rfind("Fatal Python error:")
    frames = CRASH_FRAME.findall(log_tail[start:]) if start >= 0 else []
    return hashlib.sha256(repr(frames).encode()).hexdigest()[:16] if frames else ""


def format_one_line(text: str, limit: int = 300) -> str:
    """`text` on one line without control characters, cut to `limit` characters."""
    flat = " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def _refine_exit(end: AttemptExit, accounted: AccountingRecord | None) -> Failure | None:
    """The exit record's failure, or Slurm's where that says more. Success stands, and so does a cause that is named."""
    if end.failure is None:
        return None
    slurm = _classify_accounted(accounted) if accounted is not None and accounted.state != LOST else None
    if slurm is not None and slurm.failure is not end.failure and _outweighs(slurm.failure, end.failure):
        return slurm
    return Failure(
        failure=end.failure,
        message=end.message,
        traceback_digest=end.traceback_digest,
        damaged_key=end.damaged_key,
        failed_node=end.failed_node,
        node_unsure=end.node_unsure,
    )


def _outweighs(slurm: FailureClass, own: FailureClass) -> bool:
    if slurm is FailureClass.INTERRUPTED:
        return own is FailureClass.KILLED  # we took it out ourselves, which explains a kill and nothing else
    if slurm is FailureClass.CANCELLED and own is FailureClass.WALL_CLOCK:
        return True  # a person cancelled it while it saved ahead of its limit
    return POLICIES[own].refined_by_slurm


def _classify_attempt(wrote: AttemptEvidence, accounted: AccountingRecord | None) -> Failure:
    """By the stage's own word, else by Slurm's, else by how the process ended and what its log says."""
    if wrote.returncode is None and accounted is not None:
        wrote = replace(wrote, returncode=_find_supervisor_returncode(accounted))
    failure = (
        (Failure(failure=FailureClass.HUNG, message=format_one_line(wrote.hang)) if wrote.hang else None)
        or _classify_error_file(wrote)
        or (_classify_accounted(accounted) if accounted is not None else None)
        or _classify_exit(wrote)
    )
    if wrote.stop is None or not wrote.under_slurm or failure.failure is not FailureClass.INTERRUPTED:
        return failure
    by_slurm = SLURM_STOPS.get(wrote.stop, failure)
    if wrote.returncode == ExitCode.SAVED:
        return replace(failure, failure=by_slurm.failure, message=by_slurm.message)
    return replace(failure, failure=by_slurm.failure, message=f"{failure.message} ({wrote.stop.name})")


def _classify_error_file(wrote: AttemptEvidence) -> Failure | None:
    """The stage's own word. What it took for an error of the program may say of itself that the node is to blame."""
    error = wrote.error
    try:
        failure = FailureClass(str(error.get("class")))
    except ValueError:
        return None
    said = Failure(
        failure=failure,
        message=format_one_line(str(error.get("message") or failure)),
        traceback_digest=hash_traceback(str(error.get("traceback", ""))),
        damaged_key=str(error.get("damaged_key", "")),
        failed_node=str(error.get("node", "")),
        node_unsure=error.get("node_unsure") is True,
    )
    if failure is FailureClass.STORAGE and wrote.full_folder:
        return _blame_full_folder(wrote, said)
    if failure not in {FailureClass.CODE, FailureClass.UNKNOWN}:
        return said
    by_text = _classify_text(str(error.get("message", "")), wrote)
    if by_text is not None and by_text.failure is FailureClass.STORAGE:
        by_text = None  # a stage names a store that refuses; in its words to a person these mean something else
    if by_text is None and error.get("cause_in_log") is True:
        by_text = _classify_text(wrote.log_tail, wrote)
    if by_text is None:
        return said
    return replace(by_text, traceback_digest=said.traceback_digest, failed_node=said.failed_node)


def _blame_full_folder(wrote: AttemptEvidence, said: Failure) -> Failure:
    """The store has room, and the node's own disk has none."""
    message = f"{said.message} ({wrote.full_folder} of the node is full)"
    return replace(said, failure=FailureClass.NODE_FAULT, message=format_one_line(message))


def _classify_text(text: str, wrote: AttemptEvidence) -> Failure | None:
    """By a known sign in an error's message or in a log; None without one."""
    for sign in FAILURE_SIGNS:
        if (wrote.asked_gpus or not sign.of_gpus) and (line := _find_sign(text, sign.pattern)):
            found = Failure(failure=sign.failure, message=format_one_line(line), node_unsure=sign.unsure)
            if sign.failure is FailureClass.STORAGE and wrote.full_folder:
                return _blame_full_folder(wrote, found)
            return found
    return None


def _classify_exit(wrote: AttemptEvidence) -> Failure:
    if wrote.returncode is None:
        return _classify_log(
            wrote, FailureClass.KILLED, "ended without an exit record (killed, or the machine went down)"
        )
    if wrote.returncode == ExitCode.SAVED or (wrote.stop is not None and -wrote.returncode in STOP_SIGNALS):
        # Without a signal from us, somebody else sent one: a scheduler that takes the machine back.
        failure = FailureClass.PREEMPTED if wrote.stop is None else FailureClass.INTERRUPTED
        return Failure(failure=failure, message="stopped on request; goes on from its checkpoint")
    if wrote.returncode < 0:
        return _classify_signal(wrote, -wrote.returncode)
    if wrote.returncode == ExitCode.DONE:
        # srun ends with 0 when it loses its node, and the supervisor may outlive the stage there
        if lost := _find_sign(wrote.log_tail, NODE_LOST):
            return Failure(failure=FailureClass.NODE_FAULT, message=format_one_line(lost))
        problem = wrote.result_problem or "it wrote no result.json"
        return Failure(failure=FailureClass.CODE, message=f"ended with code 0 but without a valid result: {problem}")
    return _classify_log(wrote, FailureClass.UNKNOWN, f"ended with code {wrote.returncode}")


def _classify_signal(wrote: AttemptEvidence, number: int) -> Failure:
    name = signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"
    if number == signal.SIGKILL and wrote.stop is not None:
        return Failure(failure=FailureClass.INTERRUPTED, message="killed after it had been asked to stop")
    place = hash_crash(wrote.log_tail)
    if number in CRASH_SIGNALS:
        digest = hashlib.sha256(f"{name}{place}".encode()).hexdigest()[:16]
        # NCCL and CUDA end a process by SIGABRT, and say why before
        crash = Failure(failure=FailureClass.CODE, message=f"crashed with {name}")
        return replace(_classify_text(wrote.log_tail, wrote) or crash, traceback_digest=digest)
    if number == signal.SIGXFSZ:
        return Failure(failure=FailureClass.STORAGE, message="a file may not grow any more (ulimit -f)")
    if number in NODE_SIGNALS:
        return Failure(
            failure=FailureClass.NODE_FAULT,
            message=f"crashed with {name} ({NODE_SIGNALS[number]})",
            traceback_digest=place,
            node_unsure=True,
        )
    # a site need not tell that memory ran out (OUT_OF_MEMORY), and then a kill is all that is seen of it
    asked = number == signal.SIGKILL and wrote.memory_gib > 0
    memory = f" (it had asked for {wrote.memory_gib:.3g} GiB of memory)" if asked else ""
    return _classify_log(wrote, FailureClass.KILLED, f"killed by {name}{memory}")


def _classify_log(wrote: AttemptEvidence, otherwise: FailureClass, message: str) -> Failure:
    """By a known sign in the log, else by the exception of its last traceback, else `otherwise`."""
    digest = hash_traceback(wrote.log_tail)
    last = _last_line(wrote.log_tail)
    if (found := _classify_text(wrote.log_tail, wrote)) is not None:
        return replace(found, traceback_digest=digest)
    if digest and otherwise is FailureClass.UNKNOWN:
        failure = FailureClass.CODE if last.partition(":")[0] in PROGRAM_ERRORS else FailureClass.UNKNOWN
        return Failure(failure=failure, message=format_one_line(last), traceback_digest=digest)
    return Failure(failure=otherwise, message=format_one_line(f"{message}; last line: {last}" if last else message))


def _find_sign(log_tail: str, sign: re.Pattern[str]) -> str:
    """The last line with the sign; empty if there is none."""
    return next((line for line in reversed(log_tail.splitlines()) if sign.search(line)), "")


def _exception_type(traceback_body: str) -> str:
    lines = [line for line in traceback_body.splitlines() if line and not line[0].isspace()]
    return lines[0].partition(":")[0] if lines else ""


OF_SLURM = ("srun: ", "slurmstepd: ")
"""Beginnings of lines in which Slurm says that a process has ended, behind what the process itself said."""


def _last_line(text: str) -> str:
    """The last line of the program itself; Slurm's last line where there is no other."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith(OF_SLURM)), lines[-1] if lines else "")


def _classify_accounted(accounted: AccountingRecord) -> Failure | None:
    """What Slurm names as the cause; None if it names none."""
    if _is_withdrawn(accounted):
        return Failure(failure=FailureClass.INTERRUPTED, message="taken out of the cluster's queue")
    if accounted.failure is FailureClass.CANCELLED:
        uid = accounted.cancelled_by_uid
        by_whom = "" if uid is None else f" by {describe_user(uid)}"
        return Failure(failure=FailureClass.CANCELLED, message=f"cancelled with scancel{by_whom}")
    failure = accounted.failure
    if failure is None and accounted.state == "REQUEUED":
        failure = FailureClass.PREEMPTED  # an administrator or a rule of the site requeued it: not the job's fault
    if failure is None:
        return None
    message = accounted.message or f"{POLICIES[failure].meaning} (the cluster says {accounted.state})"
    return Failure(failure=failure, message=format_one_line(message))


@cache
def describe_user(uid: int) -> str:
    """The user's name, `uid 4711` where the system has none. Asked once: a directory service may answer slowly."""
    name = name_user(uid)
    return f"uid {uid}" if name == str(uid) else name


def _is_withdrawn(accounted: AccountingRecord) -> bool:
    """Whether it was cancelled by us, or by Slurm for a dependency that can never be met: no person asked for it."""
    if accounted.state != "CANCELLED":
        return False
    if accounted.remembered:  # the controller does not say by whom; its own cancellations are none of these records
        return False
    return accounted.failure is None or (not accounted.ran and accounted.cancelled_by_uid is None)


def _did_nothing(accounted: AccountingRecord) -> bool:
    """Whether an execution that left no attempt counts for nothing."""
    return (
        _is_withdrawn(accounted)
        or accounted.state == "COMPLETED"
        or accounted.exit_code in NOTHING_DONE
        or (accounted.state == LOST and accounted.failure is None)  # nobody knows that anything was tried
    )


def _classify_unstarted(accounted: AccountingRecord) -> Failure:
    """An execution that left no attempt: by Slurm's word, else by the exit code of its supervisor."""
    failure = _classify_accounted(accounted) or SUPERVISOR_FAILURES.get(accounted.exit_code)
    if failure is not None:
        return failure
    if accounted.signal == NO_OUTPUT_FILE:
        how = "the cluster could not open its output file"
    elif accounted.signal:
        how = f"ended by signal {accounted.signal} before the attempt began"
    else:
        how = f"ended with code {accounted.exit_code} before the attempt began"
    why = f" ({accounted.message})" if accounted.message else ""
    killed = accounted.signal in {signal.SIGKILL, signal.SIGTERM}
    return Failure(failure=FailureClass.KILLED if killed else FailureClass.UNKNOWN, message=format_one_line(how + why))


def _find_supervisor_returncode(accounted: AccountingRecord) -> int | None:
    """How the attempt's supervisor ended, by Slurm's account; None if that says nothing of its stage."""
    if accounted.state != "FAILED" or accounted.signal == NO_OUTPUT_FILE:
        return None
    return -accounted.signal if accounted.signal else accounted.exit_code or None
