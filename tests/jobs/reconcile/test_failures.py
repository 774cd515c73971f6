import itertools
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.reconcile.accounting import LOST
from jobs.reconcile.failures import (
    POLICIES,
    AttemptEvidence,
    RetryPolicy,
    classify_failure,
    classify_slurm_state,
    explain_idle_record,
    format_one_line,
    hash_traceback,
)
from jobs.store.records import AttemptExit
from jobs.store.records import FailureClass as F
from tests.jobs.reconcile.executions import ending

ROOT = Path(__file__).parents[3]

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
        AttemptEvidence(returncode=1, error={"class": "diverged", "message": "loss is NaN at step 7"}),
        F.DIVERGED,
        "NaN at step 7",
    ),
    (AttemptEvidence(returncode=-9, error={"class": "data", "message": "bad shard"}), F.DATA, "bad shard"),
    (AttemptEvidence(returncode=1, error={"class": "storage", "message": ""}), F.STORAGE, "storage"),
    (AttemptEvidence(returncode=1, error={"class": "nonsense"}, log_tail="boom"), F.UNKNOWN, "code 1; last line: boom"),
    (AttemptEvidence(returncode=75, stop=signal.SIGTERM), F.INTERRUPTED, "goes on from its checkpoint"),
    (AttemptEvidence(returncode=75), F.PREEMPTED, "goes on from its checkpoint"),
    (AttemptEvidence(returncode=-signal.SIGTERM, stop=signal.SIGTERM), F.INTERRUPTED, "goes on"),
    (AttemptEvidence(returncode=-signal.SIGTERM), F.KILLED, "SIGTERM"),
    (AttemptEvidence(returncode=-signal.SIGKILL), F.KILLED, "SIGKILL"),
    (AttemptEvidence(returncode=-signal.SIGKILL, stop=signal.SIGTERM), F.INTERRUPTED, "killed after"),
    (
        AttemptEvidence(returncode=-signal.SIGKILL, log_tail="slurmstepd: error: Detected 1 oom_kill event"),
        F.OUT_OF_MEMORY,
        "oom_kill",
    ),
    (AttemptEvidence(returncode=-signal.SIGSEGV), F.CODE, "SIGSEGV"),
    (AttemptEvidence(returncode=-signal.SIGBUS), F.NODE_FAULT, "SIGBUS"),
    (AttemptEvidence(returncode=-signal.SIGXFSZ), F.STORAGE, "may not grow"),
    (AttemptEvidence(returncode=-60), F.KILLED, "signal 60"),
    (
        AttemptEvidence(returncode=-signal.SIGKILL, memory_gib=0.1),
        F.KILLED,
        "killed by SIGKILL (it had asked for 0.1 GiB of memory)",
    ),
    (AttemptEvidence(returncode=None), F.KILLED, "without an exit record"),
    (
        AttemptEvidence(returncode=None, log_tail=trace("OSError: [Errno 28] No space left on device")),
        F.STORAGE,
        "No space left",
    ),
    (AttemptEvidence(returncode=1, log_tail=trace("OSError: [Errno 122] Disk quota exceeded")), F.STORAGE, "quota"),
    (
        AttemptEvidence(returncode=1, log_tail=trace("torch.OutOfMemoryError: CUDA out of memory.")),
        F.OUT_OF_MEMORY,
        "CUDA",
    ),
    (AttemptEvidence(returncode=1, log_tail=trace("OSError: [Errno 27] File too large")), F.STORAGE, "File too large"),
    (
        AttemptEvidence(returncode=1, log_tail=trace("ValueError: file too large for the tokenizer")),
        F.CODE,
        "too large",
    ),
    (AttemptEvidence(returncode=1, log_tail=trace("MemoryError")), F.OUT_OF_MEMORY, "MemoryError"),
    (AttemptEvidence(returncode=1, log_tail="RuntimeError: CUDA error: out of memory"), F.OUT_OF_MEMORY, "CUDA"),
    (AttemptEvidence(returncode=1, log_tail="CUDA driver error: out of memory"), F.OUT_OF_MEMORY, "driver"),
    (AttemptEvidence(returncode=1, log_tail="RuntimeError: NCCL communicator timed out"), F.NODE_FAULT, "NCCL"),
    (AttemptEvidence(returncode=1, log_tail="CUDA error: uncorrectable ECC error encountered"), F.NODE_FAULT, "ECC"),
    (AttemptEvidence(returncode=1, log_tail=trace("TypeError: no")), F.CODE, "TypeError: no"),
    (
        AttemptEvidence(
            returncode=1,
            log_tail=trace("TypeError: no")
            + "\nsrun: error: n1: task 0: Exited with exit code 1\nslurmstepd: error: *** STEP 7.0 CANCELLED ***\n",
        ),
        F.CODE,
        "TypeError: no",
    ),
    (AttemptEvidence(returncode=1, log_tail="srun: error: n1: task 0: Exited\n"), F.UNKNOWN, "last line: srun: error"),
    (AttemptEvidence(returncode=1, log_tail=trace("ConnectionError: reset")), F.UNKNOWN, "ConnectionError: reset"),
    (AttemptEvidence(returncode=3), F.UNKNOWN, "code 3"),
    (AttemptEvidence(returncode=0), F.CODE, "no result.json"),
    (AttemptEvidence(returncode=0, log_tail="at step 4\nsrun: error: Node failure on n1\n"), F.NODE_FAULT, "n1"),
    (AttemptEvidence(returncode=1, log_tail="srun: error: Node failure on n1\n"), F.NODE_FAULT, "on n1"),
    (AttemptEvidence(returncode=0, result_problem="model has 3 bytes, not 4"), F.CODE, "3 bytes, not 4"),
]


@pytest.mark.parametrize(("evidence", "failure", "words"), CASES)
def test_a_failure_is_classified_from_its_evidence(evidence: AttemptEvidence, failure: F, words: str) -> None:
    found = classify_failure(evidence)
    assert found is not None
    assert found.failure is failure
    assert words in found.message
    assert "\n" not in found.message


NODE_TEXTS = [
    "RuntimeError: No CUDA GPUs are available",
    "CUDA error: no CUDA-capable device is detected",
    "torch.AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
    "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up environment",
    "CUDA error: invalid device ordinal",
    "CUDA error: system not yet initialized",
    "RuntimeError: Found no NVIDIA driver on your system.",
    "CUDA driver version is insufficient for CUDA runtime version",
    "Failed to initialize NVML: Driver/library version mismatch",
    "NVRM: GPU at PCI:0000:07:00: GPU has fallen off the bus.",
    "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234",
    "GPU 3 has met Xid 48",
    "XID error 63 on GPU 0",
    "RuntimeError: CUDA driver error: unknown error",
    "Unable to determine the device handle for GPU 0000:07:00.0: GPU is lost.",
    "OSError: [Errno 28] No space left on device: '/tmp/torchinductor_me/x.so'",
    "RuntimeError: unable to write to file </torch_12_3_0>: No space left on device (28)",
]
UNSURE_TEXTS = [
    "OSError: [Errno 116] Stale file handle: '/data/a.tar'",
    "OSError: [Errno 5] Input/output error",
    "OSError: [Errno 107] Transport endpoint is not connected",
    "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error",
]


@pytest.mark.parametrize("text", NODE_TEXTS + UNSURE_TEXTS)
def test_a_fault_of_the_node_is_told_from_the_programs_own_wherever_it_stands(text: str) -> None:
    """In the log of a program that wrote no record, in an error that its stage took for its own, in an engine's log."""
    of_the_stage = {"class": "code", "message": text, "node": "n2"}
    of_an_engine = {"class": "code", "message": "prismatic ended with exit code 1", "cause_in_log": True}
    for evidence in (
        AttemptEvidence(returncode=1, log_tail=trace(text)),
        AttemptEvidence(returncode=1, error=of_the_stage),
        AttemptEvidence(returncode=1, error=of_an_engine, log_tail=f"{text}\nat the end"),
        AttemptEvidence(returncode=-signal.SIGABRT, log_tail=text),
    ):
        found = classify_failure(evidence)
        assert found is not None
        assert (found.failure, found.node_unsure) == (F.NODE_FAULT, text in UNSURE_TEXTS)
    named = classify_failure(AttemptEvidence(returncode=1, error=of_the_stage))
    assert named is not None
    assert named.failed_node == "n2"


def test_a_program_without_gpus_that_finds_none_is_at_fault_itself() -> None:
    words = AttemptEvidence(returncode=1, log_tail=trace("RuntimeError: No CUDA GPUs are available"), asked_gpus=False)
    found = classify_failure(words)
    assert found is not None
    assert found.failure is F.UNKNOWN


def test_an_error_of_the_program_on_a_gpu_stays_one() -> None:
    for text in (
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: device-side assert triggered",
        "CUDA driver error: an illegal memory access was encountered",
        "CUDA driver error: invalid argument",
        "KeyError: no row with xid 5 in table 2",
    ):
        found = classify_failure(AttemptEvidence(returncode=1, error={"class": "code", "message": text}))
        assert found is not None
        assert found.failure is F.CODE
    unnamed = {"class": "code", "message": "the engine ended with exit code 1"}
    handled = classify_failure(AttemptEvidence(returncode=1, error=unnamed, log_tail="retried: Input/output error"))
    assert handled is not None
    assert handled.failure is F.CODE


def test_a_bus_error_may_come_of_a_file_that_was_shortened() -> None:
    stack = (
        "Fatal Python error: Bus error\n\nCurrent thread 0x1 (most recent call first):\n"
        '  File "a.py", line {} in read\n'
    )
    ends = [
        classify_failure(AttemptEvidence(returncode=-signal.SIGBUS, log_tail=tail))
        for tail in ("", stack.format(7), stack.format(9), stack.format(9).replace("read", "write"))
    ]
    assert all(end is not None and end.failure is F.NODE_FAULT and end.node_unsure for end in ends)
    places = [end.traceback_digest for end in ends if end is not None]
    assert places[0] == ""
    assert places[1] == places[2] != places[3]


def test_a_taken_port_and_a_hang_are_classes_of_their_own() -> None:
    taken = classify_failure(AttemptEvidence(returncode=1, log_tail="errno: 98 - Address already in use"))
    hung = classify_failure(AttemptEvidence(returncode=-9, hang="no step after step 7", log_tail="CUDA out of memory"))
    assert taken is not None
    assert hung is not None
    assert (taken.failure, hung.failure, hung.message) == (F.PORT_TAKEN, F.HUNG, "no step after step 7")


def test_a_full_disk_of_the_node_is_not_the_stores() -> None:
    error = {"class": "storage", "message": "OSError: [Errno 28] No space left on device"}
    full = classify_failure(AttemptEvidence(returncode=1, error=error, full_folder="/tmp"))
    assert full is not None
    assert full.failure is F.NODE_FAULT
    assert "/tmp of the node is full" in full.message
    stored = classify_failure(AttemptEvidence(returncode=1, error=error))
    assert stored is not None
    assert stored.failure is F.STORAGE


def test_a_record_of_a_later_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "exit.json"
    later = {"attempt": "a", "key": "k", "ended_at": 1.0, "returncode": 1, "failure": "of 2030", "mood": "bad"}
    path.write_text(json.dumps(later))
    end = AttemptExit.read(path)
    assert end is not None
    assert end.failure is F.UNKNOWN


def test_a_damaged_parent_is_named() -> None:
    found = classify_failure(
        AttemptEvidence(returncode=1, error={"class": "damaged_input", "message": "torn", "damaged_key": "abc"})
    )
    assert found is not None
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


@pytest.mark.parametrize(
    ("evidence", "failure", "words"),
    [
        (AttemptEvidence(returncode=75, stop=signal.SIGUSR2), F.WALL_CLOCK, "the time limit is near: saved"),
        (AttemptEvidence(returncode=75, stop=signal.SIGTERM), F.PREEMPTED, "asked to end by Slurm"),
        (AttemptEvidence(returncode=-9, stop=signal.SIGUSR2), F.WALL_CLOCK, "asked to stop (SIGUSR2)"),
        (AttemptEvidence(returncode=75, stop=signal.SIGINT), F.INTERRUPTED, "stopped on request"),
        (AttemptEvidence(returncode=1, stop=signal.SIGUSR2, log_tail="MemoryError"), F.OUT_OF_MEMORY, "MemoryError"),
    ],
)
def test_under_slurm_the_signal_tells_why_it_was_stopped(evidence: AttemptEvidence, failure: F, words: str) -> None:
    found = classify_failure(replace(evidence, under_slurm=True))
    assert found is not None
    assert found.failure is failure
    assert words in found.message


def test_slurm_is_believed_after_the_stage_and_before_the_log() -> None:
    row = ending("NODE_FAIL", failure=F.NODE_FAULT, message="n3 failed")
    said = classify_failure(AttemptEvidence(returncode=1, log_tail=trace("TypeError: no")), row)
    assert said is not None
    assert (said.failure, said.message, said.traceback_digest) == (F.NODE_FAULT, "n3 failed", "")
    named = classify_failure(AttemptEvidence(returncode=1, error={"class": "diverged", "message": "NaN"}), row)
    assert named is not None
    assert (named.failure, named.message) == (F.DIVERGED, "NaN")


def test_success_and_named_causes_stand_whatever_slurm_says() -> None:
    words = [None, *F]
    for own, said, state in itertools.product([None, *F], words, ["FAILED", "REQUEUED", "CANCELLED", "NODE_FAIL"]):
        record = AttemptExit(
            attempt="a", key="k", ended_at=1.0, returncode=1, failure=own, message="own", traceback_digest="d"
        )
        found = classify_failure(record, ending(state, failure=said))
        assert (found is None) == (own is None)
        if found is not None and own not in {F.KILLED, F.PREEMPTED, F.INTERRUPTED, F.UNKNOWN, F.WALL_CLOCK}:
            assert (found.failure, found.message, found.traceback_digest) == (own, "own", "d")


def test_without_an_attempt_slurms_account_is_all_that_there_is() -> None:
    assert classify_failure(None) is None
    assert classify_failure(None, ending("COMPLETED")) is None
    assert explain_idle_record(ending("CANCELLED")) == "taken out of the queue"


def test_how_the_supervisor_ended_stands_for_the_stage_where_nobody_saw_its_end() -> None:
    rows = [ending("FAILED", exit_code=3), ending("FAILED", signal=9), ending("FAILED"), ending("TIMEOUT")]
    found = [classify_failure(AttemptEvidence(), row) for row in rows]
    unseen = "ended without an exit record (killed, or the machine went down)"
    expected = ["ended with code 3", "killed by SIGKILL", unseen, unseen]
    assert [each.message if each else "" for each in found] == expected


@pytest.mark.parametrize(
    ("state", "uid", "withdrawn", "accounted", "failure"),
    [
        ("COMPLETED", None, False, True, None),
        ("FAILED", None, False, True, None),
        ("REQUEUED", None, False, True, None),
        ("DEADLINE", None, False, True, F.WALL_CLOCK),
        ("BOOT_FAIL", None, False, True, F.NODE_FAULT),
        ("CANCELLED", 0, False, True, F.CANCELLED),  # root's uid is a uid too
        ("CANCELLED", 1000, True, True, None),
        ("CANCELLED", None, False, True, None),
        (LOST, None, False, True, None),
        (LOST, None, False, False, F.KILLED),
        (LOST, None, True, False, None),
    ],
)
def test_what_a_state_of_slurm_means(
    state: str, uid: int | None, withdrawn: bool, accounted: bool, failure: F | None
) -> None:
    found = classify_slurm_state(state, cancelled_by_uid=uid, withdrawn=withdrawn, accounted=accounted)
    assert found is failure


def test_a_message_of_slurm_becomes_one_line() -> None:
    said = classify_failure(None, ending("NODE_FAIL", failure=F.NODE_FAULT, message="a\nb\x1b[31m"))
    assert said is not None
    assert said.message == "a b [31m"


def test_every_class_has_a_policy_and_stands_in_the_docs() -> None:
    assert set(POLICIES) == set(F)
    text = (ROOT / "docs" / "glossary.md").read_text()
    for failure, policy in POLICIES.items():
        assert f"| `{failure}` | {policy.meaning} | {policy.follows} | {describe_budget(policy)} |\n" in text


def describe_budget(policy: RetryPolicy) -> str:
    """The column `attempts` of docs/glossary.md."""
    if policy.attempts is None:
        return "not counted"
    words = str(policy.attempts or "stops at once")
    words += " and those that the plan counts on" if policy.planned_restarts else ""
    return f"{words}; progress resets the count" if policy.renewed_by_progress else words
