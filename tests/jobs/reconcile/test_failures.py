import itertools
import signal

import pytest

from jobs.attempt.__main__ import EXIT_NOT_SET_UP, EXIT_STORAGE, EXIT_TAKEN
from jobs.reconcile.failures import (
    EXIT_SAVED,
    LESS_TELLING,
    NOTHING_DONE,
    SUPERVISOR_CODES,
    Evidence,
    Failure,
    classify,
    one_line,
    refined,
    returncode,
    traceback_digest,
    withdrawn,
    word,
)
from jobs.store.records import AttemptExit
from jobs.store.records import FailureClass as F
from tests.jobs.reconcile.executions import ending

TRACEBACK = """step 3
Traceback (most recent call last):
  File "/code/stages/pretrain.py", line 41, in train
    loss.backward()
  File "/code/stages/model.py", line {line}, in forward
    raise {error}
{error}
"""


def trace(error: str, line: int = 7) -> str:
    return TRACEBACK.format(error=error, line=line)


CASES = [
    # what is known, class, part of the message
    (
        Evidence(returncode=1, error={"class": "diverged", "message": "loss is NaN at step 7"}),
        F.DIVERGED,
        "NaN at step 7",
    ),
    (Evidence(returncode=-9, error={"class": "data", "message": "bad shard"}), F.DATA, "bad shard"),
    (Evidence(returncode=1, error={"class": "storage", "message": ""}), F.STORAGE, "storage"),
    (Evidence(returncode=1, error={"class": "nonsense"}, log_tail="boom"), F.UNKNOWN, "code 1; last line: boom"),
    (Evidence(returncode=75, stop_requested=True), F.INTERRUPTED, "goes on from its checkpoint"),
    (Evidence(returncode=75), F.PREEMPTED, "goes on from its checkpoint"),
    (Evidence(returncode=-signal.SIGTERM, stop_requested=True), F.INTERRUPTED, "goes on"),
    (Evidence(returncode=-signal.SIGTERM), F.KILLED, "SIGTERM"),
    (Evidence(returncode=-signal.SIGKILL), F.KILLED, "SIGKILL"),
    (Evidence(returncode=-signal.SIGKILL, stop_requested=True), F.INTERRUPTED, "killed after"),
    (
        Evidence(returncode=-signal.SIGKILL, log_tail="slurmstepd: error: Detected 1 oom_kill event"),
        F.OUT_OF_MEMORY,
        "oom_kill",
    ),
    (Evidence(returncode=-signal.SIGSEGV), F.CODE, "SIGSEGV"),
    (Evidence(returncode=-signal.SIGBUS), F.NODE_FAULT, "SIGBUS"),
    (Evidence(returncode=-signal.SIGXFSZ), F.STORAGE, "may not grow"),
    (Evidence(returncode=-60), F.KILLED, "signal 60"),
    (Evidence(returncode=None), F.KILLED, "without an exit record"),
    (
        Evidence(returncode=None, log_tail=trace("OSError: [Errno 28] No space left on device")),
        F.STORAGE,
        "No space left",
    ),
    (Evidence(returncode=1, log_tail=trace("OSError: [Errno 122] Disk quota exceeded")), F.STORAGE, "quota"),
    (Evidence(returncode=1, log_tail=trace("torch.OutOfMemoryError: CUDA out of memory.")), F.OUT_OF_MEMORY, "CUDA"),
    (Evidence(returncode=1, log_tail=trace("MemoryError")), F.OUT_OF_MEMORY, "MemoryError"),
    (Evidence(returncode=1, log_tail="RuntimeError: NCCL communicator timed out"), F.NODE_FAULT, "NCCL"),
    (Evidence(returncode=1, log_tail="CUDA error: uncorrectable ECC error encountered"), F.NODE_FAULT, "ECC"),
    (Evidence(returncode=1, log_tail=trace("TypeError: no")), F.CODE, "TypeError: no"),
    (Evidence(returncode=1, log_tail=trace("ConnectionError: reset")), F.UNKNOWN, "ConnectionError: reset"),
    (Evidence(returncode=3), F.UNKNOWN, "code 3"),
    (Evidence(returncode=0), F.CODE, "no result.json"),
    (Evidence(returncode=0, result_problem="model has 3 bytes, not 4"), F.CODE, "3 bytes, not 4"),
]


@pytest.mark.parametrize(("evidence", "failure", "words"), CASES)
def test_a_failure_is_classified_from_its_evidence(evidence: Evidence, failure: F, words: str) -> None:
    found = classify(evidence)
    assert found.failure is failure
    assert words in found.message
    assert "\n" not in found.message


def test_a_damaged_parent_is_named() -> None:
    found = classify(Evidence(returncode=1, error={"class": "damaged_input", "message": "torn", "damaged_key": "abc"}))
    assert (found.failure, found.damaged_key) == (F.DAMAGED_INPUT, "abc")


def test_the_same_place_and_exception_have_one_digest() -> None:
    first = traceback_digest(trace("ValueError: 1.25 is wrong", line=7))
    assert first == traceback_digest(trace("ValueError: 1.5 is wrong", line=9))
    assert first != traceback_digest(trace("TypeError: 1.25 is wrong"))
    assert first != ""
    assert traceback_digest("no traceback at all") == ""


def test_the_last_of_two_tracebacks_counts() -> None:
    chained = trace("KeyError: 'a'") + "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert traceback_digest(chained + trace("OSError: b")) == traceback_digest(trace("OSError: b"))


def test_a_message_is_one_line_of_printable_marks_and_bounded() -> None:
    assert one_line("a\n\tb\x1b[31m") == "a b [31m"
    assert len(one_line("x" * 1_000)) == 300


def test_the_cluster_is_heard_after_the_stage_and_before_the_log() -> None:
    said = Failure(failure=F.NODE_FAULT, message="n3 failed")
    tail = trace("TypeError: no")
    assert classify(Evidence(returncode=1, log_tail=tail, cluster=said)) == said
    named = classify(Evidence(returncode=1, error={"class": "diverged", "message": "NaN"}, cluster=said))
    assert (named.failure, named.message) == (F.DIVERGED, "NaN")


def test_the_supervisors_exit_codes_are_those_of_the_attempt() -> None:
    assert EXIT_TAKEN in NOTHING_DONE
    assert set(SUPERVISOR_CODES) == {EXIT_STORAGE, EXIT_SAVED, EXIT_NOT_SET_UP}


def test_success_and_named_causes_stand_whatever_the_cluster_says() -> None:
    words = [None, *F]
    for own, said, state in itertools.product([None, *F], words, ["FAILED", "REQUEUED", "CANCELLED", "NODE_FAIL"]):
        record = AttemptExit(attempt="a", key="k", ended_at=1.0, returncode=1, failure=own, message="own")
        found = refined(record, ending(state, failure=said))
        if own not in {*LESS_TELLING, F.WALL_CLOCK}:
            assert found == record
        assert (found.failure is None) == (own is None)


def test_the_words_of_the_cluster_become_evidence() -> None:
    assert word(ending("COMPLETED")) is None
    assert word(ending("FAILED", exit_code=3)) is None
    assert withdrawn(ending("CANCELLED"))
    assert not withdrawn(ending("FAILED"))
    rows = [ending("FAILED", exit_code=3), ending("FAILED", signal=9), ending("FAILED"), ending("TIMEOUT")]
    assert [returncode(row) for row in rows] == [3, -9, None, None]


def test_a_message_of_the_cluster_is_one_line() -> None:
    said = word(ending("NODE_FAIL", failure=F.NODE_FAULT, message="a\nb\x1b[31m"))
    assert said is not None
    assert said.message == "a b [31m"
