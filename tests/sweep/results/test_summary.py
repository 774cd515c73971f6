from pathlib import Path

from jobs.store.paths import Store
from jobs.store.records import FailureClass
from sweep.results.summary import JOB_COLUMNS, KINDS, format_hours_table
from sweep.results.write import write_tables
from sweep.stored_sweep import open_sweep
from tests.sweep.results.accounted import known_to_slurm, row_of
from tests.sweep.synthetic_store import SECONDS, START, Grid, finish, plan, write_attempt

SMALL = Grid(branches=(0, 50), shares=(0.5,), epochs=(1, 2))


def test_planned_used_and_wasted_hours_stand_by_model_and_stage(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), Grid(models=("9m", "2m"), branches=(0, 50), shares=(0.5,), epochs=(1,)))
    finish(written, written.phase("trunk"))
    trunk = written.phase("trunk")[0]
    late = row_of(trunk, "COMPLETED", START, int(SECONDS["trunk"]) + 100)
    known_to_slurm(written, trunk, "a1")
    lost = row_of(trunk, "NODE_FAIL", START - 9_000, 3_600, failure=FailureClass.NODE_FAULT)
    found = write_tables(open_sweep(written.store.root, "toy"), {trunk: [lost, late]})
    lines = format_hours_table(found.jobs.select(list(JOB_COLUMNS)).to_pylist()).splitlines()
    assert lines[-1] == "The cluster's accounting has 100 s more than the attempts of 1 job recorded; they are counted."
    assert [line.split() for line in lines[:-2] if not line.startswith("-")] == [
        ["A100-hours", "phase", "done", "planned", "of", "done", "used", "wasted"],
        ["9m", "trunk", "1/1", "1.00", "1.00", "2.64", "11.6"],
        ["9m", "pretrain", "0/2", "2.00", "-", "-", "-"],
        ["9m", "finetune", "0/2", "2.00", "-", "-", "-"],
        ["9m", "evaluate", "0/2", "2.00", "-", "-", "-"],
        ["2m", "trunk", "1/1", "1.00", "1.00", "2.32", "-"],
        ["2m", "pretrain", "0/2", "2.00", "-", "-", "-"],
        ["2m", "finetune", "0/2", "2.00", "-", "-", "-"],
        ["2m", "evaluate", "0/2", "2.00", "-", "-", "-"],
        ["all", "2/14", "14.0", "2.00", "4.96", "11.6"],
    ]


def test_hours_without_a_factor_are_shown_as_unknown(tmp_path: Path) -> None:
    written = plan(Store(tmp_path), SMALL)
    trunk = written.phase("trunk")[0]
    write_attempt(
        written, trunk, "a1", START, 60, gpu_type="tpu", failure=FailureClass.KILLED, checkpoint_at=START + 30
    )
    found = write_tables(open_sweep(written.store.root, "toy"))
    assert format_hours_table(found.jobs.select(list(JOB_COLUMNS)).to_pylist()).splitlines()[-1].split()[-2:] == [
        "?",
        "?",
    ]


def test_nothing_that_ran_is_no_table(tmp_path: Path) -> None:
    found = write_tables(open_sweep(tmp_path, plan(Store(tmp_path), SMALL).sweep))
    assert format_hours_table(found.jobs.select(list(JOB_COLUMNS)).to_pylist()) == ""


def test_hours_that_are_not_slurms_bear_a_mark_and_the_reason() -> None:
    hours = dict.fromkeys((f"{kind}_{unit}_hours" for kind in KINDS for unit in ("a100", "cpu")), 1.0)
    own = {**hours, "model": "m", "phase": "trunk", "state": "done", "overstated_seconds": 0, "in_plan": True}
    rows = [
        {**own, "hours_remark": None},
        {**own, "phase": "pretrain", "hours_remark": "there is no accounting on this cluster"},
        {**own, "model": None, "state": "left", "in_plan": False, "hours_remark": None},
    ]
    lines = [line.split() for line in format_hours_table(rows).splitlines()]
    assert [line for line in lines if line and line[0] in {"m", "left", "all"}] == [
        ["m", "trunk", "1/1", "1.00", "1.00", "1.00", "1.00"],
        ["m", "pretrain", "1/1", "1.00", "1.00", "~1.00", "~1.00"],
        ["left", "the", "plan", "0/1", "1.00", "-", "1.00", "1.00"],
        ["all", "2/3", "3.00", "2.00", "~3.00", "~3.00"],
    ]
    assert " ".join(lines[-1]) == (
        "~ Hours of 1 job are not Slurm's: there is no accounting on this cluster. "
        "What the attempts recorded is counted."
    )
