"""What may go: a pure function, on small plans."""

from collections.abc import Collection
from dataclasses import replace

import pytest

from sweep.disk.inventory import FileKind, FoundFiles
from sweep.disk.rules import KeepPolicy, KeptPlan, RunFacts, decide_holdings
from tests.sweep.disk.histories import FINAL, OPTIMIZER, Branch, Experiment

CELLS = [
    Branch(name="c0", segment=1, carried=True, epochs=(1, 2)),
    Branch(name="c1", segment=2, carried=False, epochs=(1,)),
]
MANIFEST = Experiment(name="one", trunk="a", branches=CELLS).build_manifest()
ALL = {job.key for job in MANIFEST.jobs}
TRAINED = {job.key for job in MANIFEST.jobs if job.stage != "evaluate"}
FILES = (
    FoundFiles(kind=FileKind.WEIGHTS, path=FINAL, bytes=100, inodes=4),
    FoundFiles(kind=FileKind.OPTIMIZER, path=OPTIMIZER, bytes=200, inodes=1),
    FoundFiles(kind=FileKind.RECORDS, path="result.json", bytes=1, inodes=1),
    FoundFiles(kind=FileKind.LOGS, path="attempts/1/log.txt", bytes=1, inodes=1),
    FoundFiles(kind=FileKind.OLDER, path="checkpoints/step-1", bytes=50, inodes=4),
)
SCORES = {"a-c0-p-e1": 0.2, "a-c0-p-e2": 0.5, "a-c1-p-e1": 0.4}


def facts(done: Collection[str] = ALL) -> dict[str, RunFacts]:
    return {
        job.key: RunFacts(
            stage=job.stage,
            key=job.key,
            done=job.key in done,
            score=SCORES.get(job.key),
            loss=float(len(job.key)),
            found=FILES if job.key in TRAINED else (),
        )
        for job in MANIFEST.jobs
    }


def going(kind: FileKind, keep: KeepPolicy, runs: dict[str, RunFacts], **options: object) -> set[str]:
    plans = [KeptPlan(manifest=MANIFEST, keep=keep)]
    found = decide_holdings(plans, runs, sweep="one", unplanned=bool(options.get("unplanned")))
    return {each.key for each in found if each.goes and each.files.kind is kind}


NONE = KeepPolicy(trunk="none", pretrain="none", finetune="none")


def test_by_default_all_weights_stay_and_optimizer_states_go() -> None:
    assert going(FileKind.WEIGHTS, KeepPolicy(), facts()) == set()
    assert going(FileKind.OPTIMIZER, KeepPolicy(), facts()) == TRAINED
    assert going(FileKind.OLDER, KeepPolicy(), facts()) == TRAINED
    assert going(FileKind.OPTIMIZER, KeepPolicy(optimizer="all"), facts()) == set()


def test_records_and_logs_never_go() -> None:
    for kind in (FileKind.RECORDS, FileKind.LOGS):
        assert going(kind, NONE, facts()) == set()


def test_what_an_unfinished_job_reads_stays() -> None:
    runs = facts(ALL - {"a-c1-p", "a-c1-p-f1", "a-c1-p-e1"})
    assert going(FileKind.WEIGHTS, NONE, runs) == TRAINED - {"a-t2", "a-c1-p", "a-c1-p-f1"}
    assert "a-t2" in going(FileKind.OPTIMIZER, NONE, runs), "its child starts its optimizer afresh"
    carried = facts(ALL - {"a-c0-p"})
    assert not {"a-t1"} & going(FileKind.OPTIMIZER, NONE, carried)


def test_an_unfinished_jobs_own_files_stay() -> None:
    runs = facts(ALL - {"a-c1-p"})
    for kind in (FileKind.WEIGHTS, FileKind.OPTIMIZER, FileKind.OLDER):
        assert "a-c1-p" not in going(kind, NONE, runs)


@pytest.mark.parametrize(
    ("keep", "stays"),
    [
        ({"trunk": "last"}, {"a-t2"}),
        ({"finetune": "last"}, {"a-c0-p-f2", "a-c1-p-f1"}),
        ({"finetune": "best 1"}, {"a-c0-p-f2"}),
        ({"finetune": "best 2"}, {"a-c0-p-f2", "a-c1-p-f1"}),
        ({"pretrain": "best 1"}, {"a-c0-p"}),
        ({"pretrain": "last"}, {"a-c0-p", "a-c1-p"}),
        ({"trunk": "best 1"}, {"a-t1"}),
        ({"cells": ("c1",)}, {"a-t1", "a-t2", "a-c1-p", "a-c1-p-f1"}),
    ],
)
def test_each_rule_keeps_what_it_says(keep: dict[str, object], stays: set[str]) -> None:
    policy = replace(NONE, **keep)  # type: ignore[arg-type]
    assert TRAINED - going(FileKind.WEIGHTS, policy, facts()) == stays


def test_what_has_no_score_yet_is_not_among_the_worst() -> None:
    runs = facts(ALL - {"a-c1-p-e1"})
    assert "a-c1-p" not in going(FileKind.WEIGHTS, replace(NONE, pretrain="best 1"), runs)


def test_another_plan_of_the_store_is_asked_too() -> None:
    other = Experiment(name="two", trunk="a", branches=CELLS[:1]).build_manifest()
    plans = [KeptPlan(manifest=MANIFEST, keep=NONE), KeptPlan(manifest=other, keep=KeepPolicy(trunk="none"))]
    found = decide_holdings(plans, facts(), sweep="one", unplanned=False)
    weights = {each.key for each in found if each.goes and each.files.kind is FileKind.WEIGHTS}
    assert weights == {"a-t1", "a-t2", "a-c1-p", "a-c1-p-f1"}
    mine = decide_holdings(plans, facts(), sweep="two", unplanned=False)
    assert {each.key for each in mine} <= {job.key for job in other.jobs}, "runs of others alone are not its own"


def test_runs_that_no_plan_names_go_only_when_asked_for_and_at_rest() -> None:
    left = RunFacts(stage="pretrain", key="left", done=True, found=FILES)
    runs = {**facts(), "left": left}
    assert "left" not in going(FileKind.WEIGHTS, NONE, runs)
    assert "left" in going(FileKind.WEIGHTS, NONE, runs, unplanned=True)
    runs["left"] = replace(left, at_work=True)
    assert "left" not in going(FileKind.WEIGHTS, NONE, runs, unplanned=True)


def test_what_a_run_at_work_reads_stays_though_no_plan_names_it() -> None:
    runs = {**facts(), "left": RunFacts(stage="finetune", key="left", at_work=True, reads=(("a-c0-p", False),))}
    assert "a-c0-p" not in going(FileKind.WEIGHTS, NONE, runs)
    assert "a-c0-p" in going(FileKind.OPTIMIZER, NONE, runs)
