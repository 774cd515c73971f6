"""The campaign that a stored sweep still is: what its jobs take, which are left, and what its past says of the rest."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Estimate, Job, Resources
from jobs.observation import ClusterState, Observation
from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.snapshot import ClusterReport, SweepSnapshot, load_snapshot
from jobs.store.paths import Store, write_json
from jobs.store.records import AttemptExit, AttemptStart, FailureClass
from sweep.errors import NotPlannedError
from sweep.forecast.campaign import Campaign
from sweep.forecast.conditions import SiteConditions
from sweep.forecast.reading import build_campaign, measure_chances, measure_waits, select_open
from sweep.report.time_left import Capacity, read_progress
from sweep.stored_sweep import open_sweep
from tests.jobs import toy

NOW = 1_800_000_000.0
SLURM = SiteConditions(chained=True, tick_s=600.0)


def job(key: str, *parents: str, phase: str = "pretrain", seconds: float = 100.0, **changes: Any) -> Job:
    """On one core, with ten seconds of start-up."""
    given = toy.toy_job(key, *parents, phase=phase, cells=[] if phase == "trunk" else [changes.pop("cell", "c")])
    hours = (seconds + 10) / 3600
    return replace(given, estimate=Estimate(cpu_hours=hours, startup_hours=10 / 3600), **changes)


def finish(store: Store, done: Job, *, wall: float, steps: float, ended_at: float = NOW) -> None:
    """In one attempt."""
    paths = toy.run_of(store, done).locate_attempt("a1")
    AttemptStart(
        attempt="a1", key=done.key, stage=done.stage, backend="local", host="h", pid=1, pid_started=0.0, boot_id="gone",
        started_at=ended_at - wall,
    ).write(paths.start)  # fmt: skip
    AttemptExit(attempt="a1", key=done.key, ended_at=ended_at, returncode=0, failure=None).write(paths.exit)
    content = {
        "format": 1,
        "key": done.key,
        "stage": done.stage,
        "files": {},
        "seconds": steps,
        "finished_at": ended_at,
    }
    write_json(toy.run_of(store, done).result, content)


def row(key: str, submitted: float, started: float, ended: float, **changes: Any) -> AccountingRecord:
    given: dict[str, Any] = {"id": f"1_{key}", "batch": "b", "state": "COMPLETED", "nodes": "n1", "cpus": 1, **changes}
    return AccountingRecord(
        key=key,
        submitted_at=submitted,
        started_at=started,
        ended_at=ended,
        elapsed_seconds=int(ended - started),
        **given,
    )


def look(store: Store, jobs: Sequence[Job], **cluster: Any) -> SweepSnapshot:
    toy.plan(store, jobs)
    return load_snapshot(jobs, store, toy.SWEEP, ClusterReport(**cluster))


def read(snapshot: SweepSnapshot, conditions: SiteConditions = SLURM) -> tuple[Campaign, str]:
    campaign, basis = build_campaign(snapshot, read_progress(snapshot, {}, NOW), conditions)
    return campaign, "\n".join(basis)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_before_anything_has_run_jobs_take_what_the_plan_says_with_a_common_doubt(store: Store) -> None:
    jobs = [job("a", seconds=100), job("b", "a", seconds=300), job("e", "b", phase="evaluate", seconds=50)]
    campaign, basis = read(look(store, jobs))
    assert [each.steps.median for each in campaign.jobs] == pytest.approx([100, 300, 50])
    assert [each.parents for each in campaign.jobs] == [(), (0,), (1,)]
    assert [campaign.shapes[each.shape].startup.median for each in campaign.jobs] == pytest.approx([10, 10, 10])
    assert campaign.doubt == {"training of pretrain": 0.3, "evaluation of evaluate": 0.3}
    assert "speeds as the plan assumes them" in basis
    assert "trouble: none, as nothing has run yet" in basis


def test_finished_jobs_correct_the_speed_of_their_kind_and_leave_less_doubt(store: Store) -> None:
    jobs = [job(name) for name in "abcd"] + [job("f", "d", phase="finetune")]
    snapshot = look(store, jobs)
    for each, steps in zip(jobs[:3], (190, 200, 210), strict=True):
        finish(store, each, wall=steps + 20, steps=steps)
    snapshot.reload()
    campaign, basis = read(snapshot)
    assert [each.key for each in campaign.jobs] == ["d", "f"]
    shown, assumed = (campaign.shapes[each.shape] for each in campaign.jobs)
    assert campaign.jobs[0].steps.median == pytest.approx(200)
    assert shown.startup.median == pytest.approx(20)
    assert campaign.jobs[1].steps.median == pytest.approx(100)
    assert campaign.doubt[shown.name] < 0.1 < campaign.doubt[assumed.name]
    assert "speeds: 3 finished jobs of this sweep" in basis


def test_a_machine_that_others_load_and_leave_is_in_doubt(store: Store) -> None:
    jobs = [job(f"j{number:02}") for number in range(21)]
    found = []
    for factors in ([1, 1, 1, 1], [1, 2, 1, 2]):
        snapshot = look(store, jobs)
        for number, each in enumerate(jobs[:20]):
            steps = 100.0 * factors[number // 5]
            finish(store, each, wall=steps + 10, steps=steps, ended_at=NOW + number)
        snapshot.reload()
        found.append(read(snapshot)[0].drift)
    assert found[0] == pytest.approx(0.05)
    assert found[1] == pytest.approx(0.33, abs=0.03)


def test_running_jobs_have_their_rest_and_queued_ones_are_sent_already(store: Store) -> None:
    jobs = [job("a"), job("b"), job("c")]
    snapshot = look(store, jobs, observations={"b": Observation(state=ClusterState.QUEUED)})
    progress = replace(read_progress(snapshot, {}, NOW), running={"a": 60.0})
    campaign, _ = build_campaign(snapshot, progress, SLURM)
    by_key = {each.key: each for each in campaign.jobs}
    assert by_key["a"].running_s == 60.0
    assert by_key["a"].steps.median == pytest.approx(50)
    assert (by_key["b"].queued, by_key["c"].queued) == (True, False)


def test_jobs_stand_in_the_order_in_which_a_round_sends_them(store: Store) -> None:
    trunk = [job("t0", phase="trunk"), job("t1", "t0", phase="trunk"), job("t2", "t1", phase="trunk")]
    cells = [job("p2", "t2", cell="c2"), job("p0", "t0", cell="c0"), job("f0", "p0", phase="finetune", cell="c0")]
    campaign, _ = read(look(store, [*trunk, *cells]))
    assert [each.key for each in campaign.jobs] == ["t0", "t1", "p0", "f0", "t2", "p2"]


def test_of_failed_jobs_and_those_behind_them_nothing_is_left(store: Store) -> None:
    jobs = [job("a"), job("b", "a", phase="finetune"), job("c", cell="d")]
    snapshot = look(store, jobs)
    paths = toy.run_of(store, jobs[0]).locate_attempt("a1")
    AttemptStart(
        attempt="a1", key="a", stage="pretrain", backend="local", host="h", pid=1, pid_started=0.0, boot_id="gone",
        started_at=NOW - 9,
    ).write(paths.start)  # fmt: skip
    AttemptExit(attempt="a1", key="a", ended_at=NOW, returncode=1, failure=FailureClass.DIVERGED, message="NaN").write(
        paths.exit
    )
    snapshot.reload()
    campaign, _ = read(snapshot)
    assert [each.key for each in campaign.jobs] == ["c"]


def test_trouble_is_that_of_the_executions_so_far(store: Store) -> None:
    rows = [
        row("a", 0, 0, 3600, state="FAILED", exit_code=1),
        row("a", 3700, 3800, 7400, state="PREEMPTED", failure=FailureClass.PREEMPTED),
        row("a", 7500, 7600, 7600 + 3600, state="REQUEUED"),
        row("b", 0, 0, 0.9 * 24 * 3600, state="REQUEUED"),  # at its time limit, by itself
        row("b", 0, 0, 3600, state="NODE_FAIL", failure=FailureClass.NODE_FAULT),
        row("b", 0, 0, 0, state="CANCELLED", nodes=""),  # it never ran
        row("gone", 0, 0, 3600, state="FAILED"),  # of no job of the plan
    ]
    jobs = [replace(job(name), resources=Resources(time_minutes=24 * 60)) for name in "ab"]
    records = {name: [each for each in rows if each.key == name] for name in ("a", "b", "gone")}
    snapshot = look(store, jobs, accounting_records=records)
    found = measure_chances(snapshot)
    assert found.seen_attempts == 5
    assert found.fail == pytest.approx(2 / 5)
    assert found.preempted_per_hour == pytest.approx(2 / (4 + 21.6))
    given = replace(SLURM, fail=0.5, preempted_per_hour=1.0)
    campaign, basis = read(snapshot, given)
    assert (campaign.shapes[0].fail, campaign.shapes[0].preempted_per_hour) == (0.5, 1.0)
    assert "50.0 % of attempts fail, 24.00 preemptions a day, as given" in basis


def test_a_wait_counts_from_the_last_parents_end_and_where_the_sweep_left_room(store: Store) -> None:
    jobs = [job("a"), *(job(name, "a", phase="finetune") for name in "bcde")]
    records = {
        "a": [row("a", NOW - 500, NOW - 400, NOW)],
        "b": [row("b", NOW - 500, NOW + 60, NOW + 100), row("b", NOW + 200, NOW + 900, NOW + 950)],
        "c": [row("c", NOW - 500, NOW + 60, NOW + 100, id="1_c")],
        "d": [row("d", NOW + 10, NOW + 70, NOW + 100)],
        "e": [row("e", NOW + 80, NOW + 400, NOW + 500)],  # b, c and d held both cores then
    }
    snapshot = look(store, jobs, accounting_records=records)
    finish(store, jobs[0], wall=400, steps=390)
    snapshot.reload(ClusterReport(accounting_records=records))
    waits = measure_waits(snapshot, Capacity(cores=2, gpus=0, basis=""))
    assert waits["finetune"].median == 60
    assert waits["finetune"].sigma == pytest.approx(0)
    assert "pretrain" not in waits  # one wait says nothing of its phase


def test_cells_alone_and_cells_left_out_have_what_they_need_and_no_more(store: Store) -> None:
    trunk = [job("trunk0", phase="trunk"), job("trunk1", "trunk0", phase="trunk")]
    cells = [
        job("pre-a", "trunk0", cell="ca"), job("tune-a", "pre-a", phase="finetune", cell="ca"),
        job("pre-b", "trunk1", cell="cb"), job("tune-b", "pre-b", phase="finetune", cell="cb"),
    ]  # fmt: skip
    toy.plan(store, [*trunk, *cells])
    stored = open_sweep(store.root, toy.SWEEP)
    assert select_open(stored, ()) == {each.key for each in [*trunk, *cells]}
    assert select_open(stored, (), cells=["ca"]) == {"trunk0", "pre-a", "tune-a"}
    assert select_open(stored, ("ca",)) == {"trunk0", "pre-a", "tune-a"}
    assert select_open(stored, ("ca",), cells=["cb"]) == {"trunk0", "trunk1", "pre-b", "tune-b"}
    assert select_open(stored, (), without=["cb"]) == {"trunk0", "pre-a", "tune-a"}
    assert select_open(stored, (), without=["c?"]) == set()
    assert select_open(stored, (), without=["pre-b"]) == {"trunk0", "pre-a", "tune-a"}
    assert select_open(stored, (), without=["trunk1"]) == {"trunk0", "pre-a", "tune-a"}
    with pytest.raises(NotPlannedError, match="no cell like 'x"):
        select_open(stored, (), without=["x*"])


def test_settings_that_are_no_number_are_no_time_between_checkpoints(store: Store) -> None:
    jobs = [job("a", settings={"checkpoint_minutes": 4}), job("b", settings={"checkpoint_minutes": json.dumps([1])})]
    campaign, _ = read(look(store, jobs))
    assert sorted(shape.lost_s for shape in campaign.shapes) == [0.0, 120.0]
