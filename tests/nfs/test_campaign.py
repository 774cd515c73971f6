"""The campaign on a shared folder (`make nfs`) in short, that its checks see what they are there for, and the tests of
claims and attempts on such a folder.
"""

import subprocess
import sys
from typing import Any

import pytest

from tests.jobs import toy
from tests.nfs import SharedFolder
from tests.nfs.campaign import STEPS, find_job_problems, run_campaign
from tests.nfs.guards import Guard
from tests.nfs.stage import compute_expected

CLAIM_TESTS = (
    "tests/jobs/claims",
    "tests/jobs/attempt/test_main_in_a_batch.py",
    "tests/jobs/local/test_runner_lock.py",
)


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_a_fault_of_each_kind_on_two_machines_loses_nothing_and_doubles_nothing() -> None:
    outcome = run_campaign(faults=15, seed=1)
    assert outcome.violations == [], outcome.format()
    assert outcome.faults.total() == 15
    assert len(outcome.faults) >= 10, "too few kinds found something to strike"
    assert outcome.handed_over > 0
    assert outcome.reads > 100


@pytest.mark.slow
@pytest.mark.timeout(2_500)
@pytest.mark.parametrize(
    ("guard", "said"), [(Guard.CLAIM, "had begun before"), (Guard.SUBMIT_LOCK, "was handed over 2")]
)
def test_the_campaign_sees_it_where_a_guard_is_taken_out(guard: Guard, said: str) -> None:
    outcome = run_campaign(faults=4, seed=1, without=guard)
    assert any(said in each for each in outcome.violations), outcome.format()


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_the_tests_of_claims_locks_and_attempts_pass_on_the_mount() -> None:
    with SharedFolder.make() as shared:
        words = [sys.executable, "-m", "pytest", "-q", *CLAIM_TESTS, "--basetemp", str(shared.path / "tests")]
        process = shared.boot("node-a").start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        told, _ = process.communicate()
    assert process.returncode == 0, told[-6_000:]


def notes(*words: str) -> list[dict[str, Any]]:
    """`b2:saved` is an event of the execution b with claim 2, a second after the event before it."""
    found = []
    for second, word in enumerate(words):
        who, event, *checked = word.split(":")
        times = {"at": float(second), "checked": float(checked[0]) if checked else float(second)}
        found.append({"who": who, "claim": int(who[1:]), "event": event, **times})
    return found


JOB = toy.toy_job("k")
GOOD = {"value": compute_expected("k", STEPS)}


@pytest.mark.parametrize(
    "events",
    [
        ["a1:begin", "a1:saved", "b2:begin", "b2:saved", "a1:fenced", "b2:completed"],
        ["a1:begin", "a1:saved", "b2:begin", "a1:saved:1", "b2:completed"],  # stopped between its look and its renaming
        ["b2:begin", "a1:begin", "b2:saved", "b2:completed"],  # the fenced one comes up late
    ],
)
def test_an_execution_that_goes_on_where_another_ended_is_no_problem(events: list[str]) -> None:
    assert list(find_job_problems(JOB, notes(*events), GOOD)) == []


@pytest.mark.parametrize(
    ("events", "result", "said"),
    [
        (["a1:begin", "b2:begin", "a1:saved"], GOOD, "a1 looked at 2.00 and published, b2 had begun before"),
        (["a1:begin", "b1:begin", "b1:saved"], GOOD, "b1 looked at 2.00 and published, a1 had begun before"),
        (["a1:begin", "a1:completed", "b2:begin", "b2:completed"], GOOD, "completed 2 times"),
        (["a1:begin", "a1:saved"], None, "lost: it has no result"),
        (["a1:begin", "a1:completed"], {"value": "other"}, "its value is other"),
    ],
)
def test_what_the_witness_saw_twice_or_not_at_all_is_a_problem(
    events: list[str], result: dict[str, Any] | None, said: str
) -> None:
    assert said in list(find_job_problems(JOB, notes(*events), result))
