"""Broken shapes cost one job each, and others go on; here on one machine, with a stage that stands in (`campaign`)."""

import json
from typing import Any

import pytest

from jobs.reconcile.state import JobState
from jobs.store.paths import Store
from tests.jobs import toy
from tests.sweep.canary.campaign import HEALTHY, WAYS, build_campaign, select_way
from tests.sweep.toy_commands import sweep

pytestmark = pytest.mark.usefixtures("counting_stages")


def read_status(store: Store, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    sweep(store, "status", "--json")
    return dict(json.loads(capsys.readouterr().out))


def list_begun(store: Store, jobs: list[Any]) -> list[str]:
    return [job.key for job in jobs if toy.executions(store, job)]


@pytest.mark.slow
def test_of_six_broken_shapes_one_job_each_is_spent_and_all_others_run(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = build_campaign()
    toy.plan(store, jobs)
    assert sweep(store, "submit", "--canary", "--cpus", "4") == 1
    told = capsys.readouterr().err
    for way in WAYS:
        assert list_begun(store, select_way(jobs, way)) == [f"{way}0"]
        assert f"first: {'evaluate' if way == 'task' else 'pretrain'} {way}0 {way}0" in told
    for way in HEALTHY:
        assert {toy.states(store, jobs)[job.key] for job in select_way(jobs, way)} == {JobState.DONE}
    report = read_status(store, capsys)
    assert report["states"]["failed"] == 5  # and not the thirty that are held; the slow one ended well
    assert report["states"]["ready"] == 30
    assert report["waits_for_release"] == 30
    assert report["eta"]["basis"].endswith("without 30 jobs of broken shapes")
    rows = {row["canary"]: row for row in report["held"]}
    assert set(rows) == {f"{way}0" for way in WAYS}
    assert {row["jobs"] for row in rows.values()} == {5}
    assert rows["nan0"]["message"] == (
        "held: the first job of this shape failed: diverged: diverged at step 0 second line"
    )
    assert "is 5.0 times as slow as planned: 60 s a step, 12 s planned" in rows["slow0"]["message"]
    assert rows["oom0"]["advice"] == "it asked for 4 GiB a node: set `resources: {memory_gib: 6}` and plan again"
    assert rows["data0"]["advice"] == ""
    assert sweep(store, "forecast") == 0
    assert "30 jobs of broken shapes, held until they are released" in capsys.readouterr().out
    assert sweep(store, "submit", "--cpus", "4") == 1  # the rule lasts: nothing more is spent
    assert len(list_begun(store, jobs)) == 6 + 12 + 1


def test_a_shape_is_free_when_its_first_job_is_repaired_and_resumed(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [toy.toy_job("a0", cells=["a0"], fail="code", fail_times=1)]  # the second try is after the repair
    jobs += [toy.toy_job(f"a{number}", cells=[f"a{number}"]) for number in (1, 2)]
    toy.plan(store, jobs)
    assert sweep(store, "submit", "--canary", "--cpus", "1") == 1
    assert list_begun(store, jobs) == ["a0"]
    assert sweep(store, "status") == 1
    shown = capsys.readouterr().out
    assert "held: the first job of this shape failed: code: code at step 0" in shown
    assert "free again by `sweep resume` of it once it is repaired, or `sweep limits toy --release pretrain-" in shown
    assert "--canary on" in shown
    assert sweep(store, "resume", "--cpus", "1") == 0
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}
    assert read_status(store, capsys)["held"] == []


@pytest.mark.parametrize("word", ["shape", "cell", "off"])
def test_a_shape_or_a_cell_is_released_by_name(store: Store, capsys: pytest.CaptureFixture[str], word: str) -> None:
    jobs = [toy.toy_job("a0", cells=["a0"], fail="code")]
    jobs += [toy.toy_job(f"a{number}", cells=[f"a{number}"]) for number in range(1, 4)]
    toy.plan(store, jobs)
    assert sweep(store, "submit", "--canary") == 1
    shape = read_status(store, capsys)["held"][0]["shape"]
    words = {"shape": ["--release", shape[:-2]], "cell": ["--release", "a2"], "off": ["--canary", "off"]}[word]
    assert sweep(store, "limits", *words) == 0
    sweep(store, "submit")
    done = [key for key, state in toy.states(store, jobs).items() if state is JobState.DONE]
    # a cell that was released runs, and shows that the shape is sound
    assert done == ["a1", "a2", "a3"]
    assert sweep(store, "limits", "--release", "none", "--canary", "none") == 0
    assert "no limits" in capsys.readouterr().out
    assert sweep(store, "limits", "--release", "nothing") == 1
    assert "has no cell or job 'nothing'" in capsys.readouterr().err


def test_a_job_that_is_interrupted_before_its_first_checkpoint_goes_on_alone(store: Store) -> None:
    jobs = [toy.toy_job(f"a{number}", cells=[f"a{number}"], fail="kill", fail_times=2) for number in range(3)]
    toy.plan(store, jobs)
    assert sweep(store, "submit", "--canary", "--cpus", "1") == 0
    began = sorted((line["time"], job.key) for job in jobs for line in toy.executions(store, job)
                   if line["event"] == "begin")  # fmt: skip
    assert [key for _, key in began[:3]] == ["a0", "a0", "a0"]
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}


def test_without_the_rule_every_job_of_a_broken_shape_is_spent(store: Store) -> None:
    jobs = select_way(build_campaign(), "nan")
    toy.plan(store, jobs)
    assert sweep(store, "submit") == 1
    assert len(list_begun(store, jobs)) == 6


def test_where_only_a_slow_shape_is_left_the_next_step_is_to_release_it(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = select_way(build_campaign(), "slow")
    toy.plan(store, jobs)
    assert sweep(store, "submit", "--canary") == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("next: `sweep limits toy --release pretrain-")
    assert sweep(store, "status") == 0
    assert capsys.readouterr().err.splitlines()[-1] == last
    assert sweep(store, "explain", "slow3") == 0
    assert "first slow0: held: the first job of this shape is 5.0 times as slow" in capsys.readouterr().out
    shape = last.split("--release ")[1].split()[0]
    assert sweep(store, "limits", "--release", shape) == 0
    assert sweep(store, "submit") == 0
    assert set(toy.states(store, jobs).values()) == {JobState.DONE}
