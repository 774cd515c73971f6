import itertools
import signal

import pytest

from jobs.attempt.__main__ import EXIT_NOT_SET_UP, EXIT_STORAGE, EXIT_TAKEN
from jobs.reconcile.failures import (
    EXIT_SAVED,
    NOTHING_DONE,
    REPLACEABLE_CLASSES,
    SUPERVISOR_CODES,
    Failure,
    FailureEvidence,
    classify_failure,
    classify_slurm_failure,
    find_supervisor_returncode,
    format_one_line,
    hash_traceback,
    is_withdrawn,
    merge_failures,
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
        FailureEvidence(returncode=1, error={"class": "diverged", "message": "loss is NaN at step 7"}),
        F.DIVERGED,
        "NaN at step 7",
    ),
    (FailureEvidence(returncode=-9, error={"class": "data", "message": "bad shard"}), F.DATA, "bad shard"),
    (FailureEvidence(returncode=1, error={"class": "storage", "message": ""}), F.STORAGE, "storage"),
    (FailureEvidence(returncode=1, error={"class": "nonsense"}, log_tail="boom"), F.UNKNOWN, "code 1; last line: boom"),
    (FailureEvidence(returncode=75, stop_requested=True), F.INTERRUPTED, "goes on from its checkpoint"),
    (FailureEvidence(returncode=75), F.PREEMPTED, "goes on from its checkpoint"),
    (FailureEvidence(returncode=-signal.SIGTERM, stop_requested=True), F.INTERRUPTED, "goes on"),
    (FailureEvidence(returncode=-signal.SIGTERM), F.KILLED, "SIGTERM"),
    (FailureEvidence(returncode=-signal.SIGKILL), F.KILLED, "SIGKILL"),
    (FailureEvidence(returncode=-signal.SIGKILL, stop_requested=True), F.INTERRUPTED, "killed after"),
    (
        FailureEvidence(returncode=-signal.SIGKILL, log_tail="slurmstepd: error: Detected 1 oom_kill event"),
        F.OUT_OF_MEMORY,
        "oom_kill",
    ),
    (FailureEvidence(returncode=-signal.SIGSEGV), F.CODE, "SIGSEGV"),
    (FailureEvidence(returncode=-signal.SIGBUS), F.NODE_FAULT, "SIGBUS"),
    (FailureEvidence(returncode=-signal.SIGXFSZ), F.STORAGE, "may not grow"),
    (FailureEvidence(returncode=-60), F.KILLED, "signal 60"),
    (FailureEvidence(returncode=None), F.KILLED, "without an exit record"),
    (
        FailureEvidence(returncode=None, log_tail=trace("OSError: [Errno 28] No space left on device")),
        F.STORAGE,
        "No space left",
    ),
    (FailureEvidence(returncode=1, log_tail=trace("OSError: [Errno 122] Disk quota exceeded")), F.STORAGE, "quota"),
    (
        FailureEvidence(returncode=1, log_tail=trace("torch.OutOfMemoryError: CUDA out of memory.")),
        F.OUT_OF_MEMORY,
        "CUDA",
    ),
    (FailureEvidence(returncode=1, log_tail=trace("MemoryError")), F.OUT_OF_MEMORY, "MemoryError"),
    (FailureEvidence(returncode=1, log_tail="RuntimeError: NCCL communicator timed out"), F.NODE_FAULT, "NCCL"),
    (FailureEvidence(returncode=1, log_tail="CUDA error: uncorrectable ECC error encountered"), F.NODE_FAULT, "ECC"),
    (FailureEvidence(returncode=1, log_tail=trace("TypeError: no")), F.CODE, "TypeError: no"),
    (FailureEvidence(returncode=1, log_tail=trace("ConnectionError: reset")), F.UNKNOWN, "ConnectionError: reset"),
    (FailureEvidence(returncode=3), F.UNKNOWN, "code 3"),
    (FailureEvidence(returncode=0), F.CODE, "no result.json"),
    (FailureEvidence(returncode=0, result_problem="model has 3 bytes, not 4"), F.CODE, "3 bytes, not 4"),
]


@pytest.mark.parametrize(("evidence", "failure", "words"), CASES)
def test_a_failure_is_classified_from_its_evidence(evidence: FailureEvidence, failure: F, words: str) -> None:
    found = classify_failure(evidence)
    assert found.failure is failure
    assert words in found.message
    assert "\n" not in found.message


def test_a_damaged_parent_is_named() -> None:
    found = classify_failure(
        FailureEvidence(returncode=1, error={"class": "damaged_input", "message": "torn", "damaged_key": "abc"})
    )
    assert (found.failure, found.damaged_key) == (F.DAMAGED_INPUT, "abc")


def test_the_same_place_and_exception_have_one_digest() -> None:
    first = hash_traceback(trace("ValueError: 1.25 is wrong", line=7))
    assert first == hash_traceback(trace("ValueError: 1.5 is wrong", line=9))
    assert first != hash_traceback(trace("TypeError: 1.25 is wrong"))
    assert first != ""
    assert hash_traceback("no traceback at all") == ""


def test_the_last_of_two_tracebacks_counts() -> None:
    chained = trace("KeyError: 'a'") + "\nDuring handling of the above exception, another exception occurred:\n\n"
    assert hash_traceback(chained + trace("OSError: b")) == hash_traceback(trace("OSError: b"))


def test_a_message_is_one_line_of_printable_marks_and_bounded() -> None:
    assert format_one_line("a\n\tb\x1b[31m") == "a b [31m"
    assert len(format_one_line("x" * 1_000)) == 300


def test_the_cluster_is_heard_after_the_stage_and_before_the_log() -> None:
    said = Failure(failure=F.NODE_FAULT, message="n3 failed")
    tail = trace("TypeError: no")
    assert classify_failure(FailureEvidence(returncode=1, log_tail=tail, cluster=said)) == said
    named = classify_failure(FailureEvidence(returncode=1, error={"class": "diverged", "message": "NaN"}, cluster=said))
    assert (named.failure, named.message) == (F.DIVERGED, "NaN")


def test_the_supervisors_exit_codes_are_those_of_the_attempt() -> None:
    assert EXIT_TAKEN in NOTHING_DONE
    assert set(SUPERVISOR_CODES) == {EXIT_STORAGE, EXIT_SAVED, EXIT_NOT_SET_UP}


def test_success_and_named_causes_stand_whatever_the_cluster_says() -> None:
    words = [None, *F]
    for own, said, state in itertools.product([None, *F], words, ["FAILED", "REQUEUED", "CANCELLED", "NODE_FAIL"]):
        record = AttemptExit(attempt="a", key="k", ended_at=1.0, returncode=1, failure=own, message="own")
        found = merge_failures(record, ending(state, failure=said))
        if own not in {*REPLACEABLE_CLASSES, F.WALL_CLOCK}:
            assert found == record
        assert (found.failure is None) == (own is None)


def test_the_words_of_the_cluster_become_evidence() -> None:
    assert classify_slurm_failure(ending("COMPLETED")) is None
    assert classify_slurm_failure(ending("FAILED", exit_code=3)) is None
    assert is_withdrawn(ending("CANCELLED"))
    assert not is_withdrawn(ending("FAILED"))
    rows = [ending("FAILED", exit_code=3), ending("FAILED", signal=9), ending("FAILED"), ending("TIMEOUT")]
    assert [find_supervisor_returncode(row) for row in rows] == [3, -9, None, None]


def test_a_message_of_the_cluster_is_one_line() -> None:
    said = classify_slurm_failure(ending("NODE_FAIL", failure=F.NODE_FAULT, message="a\nb\x1b[31m"))
    assert said is not None
    assert said.message == "a b [31m"
