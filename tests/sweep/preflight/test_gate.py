"""What a user accepts is let pass, nothing else; and what is not to run is not looked at."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.local.runner_lock import hold_runner_lock
from jobs.store.ledger import EventKind, read_events
from jobs.store.paths import Store
from sweep.plan.manifest import read_manifest
from sweep.preflight.check import check_inputs
from sweep.preflight.gate import check_gate
from sweep.stored_sweep import StoredSweep
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.slurm_toy import ToySweep, drain
from tests.sweep.preflight.studies import Study, write_data


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    write_data(folder / "data")
    return folder


@pytest.fixture
def study(shared: Path, tmp_path: Path) -> Study:
    return Study(shared / "data", tmp_path / "store", tmp_path, "study")


def stored(study: Study) -> StoredSweep:
    store = Store(study.store)
    return StoredSweep(store, read_manifest(store.locate_sweep(study.name).manifest))


def test_accepted_problems_stay_accepted_and_new_ones_are_refused(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.move("pictures", study.folder / "far")
    exams = study.copy("exams")
    assert study.plan() == 0
    assert study.submit("--dry-run", "--ignore-data") == 0
    assert "sweep: accepted: line 5 of the sweep file: data.pictures: " in capsys.readouterr().err
    assert study.submit("--dry-run") == 1  # a dry run keeps nothing
    with hold_runner_lock(Store(study.store), sweep="other", writer="w"):
        assert study.submit("--ignore-data") == 1  # past the gate: another runner is at work
    assert "has a runner already" in capsys.readouterr().err
    assert study.submit("--dry-run") == 0
    shutil.rmtree(exams / "images")
    capsys.readouterr()
    assert study.submit() == 1
    told = capsys.readouterr().err
    assert "nothing was sent: 1 problem" in told
    assert "images are not in" in told
    assert study.run("limits", study.name) == 0
    assert "--ignore-data (1 problem)" in capsys.readouterr().out
    assert study.run("limits", study.name, "--ignore-data", "none") == 0
    capsys.readouterr()
    assert study.submit() == 1
    assert "nothing was sent: 2 problems" in capsys.readouterr().err


def test_resume_gives_no_budget_that_a_runner_at_work_would_start(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.move("exams", study.folder / "none")
    assert study.plan() == 0
    sweep = stored(study)
    key = next(job.key for job in sweep.manifest.jobs if job.phase == "evaluate")
    assert study.run("cancel", study.name, key) == 0
    capsys.readouterr()
    with hold_runner_lock(sweep.store, sweep=study.name, writer="w"):
        assert study.run("resume", study.name) == 1
    assert "nothing was sent: 1 problem" in capsys.readouterr().err
    assert EventKind.RESUMED not in {event.event for event in read_events(sweep.paths.ledger)}


def test_what_finished_jobs_have_read_may_be_gone(study: Study) -> None:
    study.move("words", study.folder / "gone")
    assert study.plan() == 0
    sweep = stored(study)
    jobs = sweep.manifest.jobs
    tuned = {job.key for job in jobs if job.phase in {"finetune", "evaluate"}}
    assert check_inputs(sweep.store, jobs, tuned, sweep.manifest.data).problems == ()
    found = check_inputs(sweep.store, jobs, {job.key for job in jobs}, sweep.manifest.data).problems
    assert [problem.setting for problem in found] == ["data.words"]


def test_data_that_changed_since_the_plan_are_sent_by_no_command(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    talks = study.copy("talks") / "conversations.json"
    assert study.plan() == 0
    sweep = stored(study)
    key = next(job.key for job in sweep.manifest.jobs if job.phase == "evaluate")
    assert study.run("cancel", study.name, key) == 0
    talks.write_text(talks.read_text().replace("colour", "shade"))
    keys = {job.key for job in sweep.manifest.jobs}
    report = check_gate(sweep, keys, ())  # what `sweep tick` goes by
    assert report.summary.startswith("nothing was sent: data talks: content ")
    assert report.problems == ()
    for words in ([], ["--ignore-data"]):  # another plan alone makes them right
        capsys.readouterr()
        with hold_runner_lock(sweep.store, sweep=study.name, writer="w"):
            assert study.run("resume", study.name, *words) == 1
        assert "not what 'study' was planned with" in capsys.readouterr().err
    assert EventKind.RESUMED not in {event.event for event in read_events(sweep.paths.ledger)}


def test_changed_data_that_no_wanted_job_reads_stop_nothing(study: Study) -> None:
    words = study.copy("words") / "shard-0.tar"
    assert study.plan() == 0
    sweep = stored(study)
    words.write_bytes((study.data / "words" / "shard-1.tar").read_bytes())
    tuned = {job.key for job in sweep.manifest.jobs if job.phase in {"finetune", "evaluate"}}
    assert check_gate(sweep, tuned, ()).summary == ""
    assert "data words: content" in check_gate(sweep, {job.key for job in sweep.manifest.jobs}, ()).summary


def test_what_was_sound_is_looked_at_again_once_a_file_below_it_changes(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    exams = study.copy("exams")
    assert study.plan() == 0
    assert "refuses" not in capsys.readouterr().err
    (exams / "images" / "red.png").unlink()
    assert study.plan() == 0
    assert "1 of 6 images are not in" in capsys.readouterr().err


def test_where_nothing_can_be_looked_at_a_remark_says_so(
    study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert study.plan() == 0
    assert "inputs are not looked at: the program that looks at inputs ended: exit code 1" in capsys.readouterr().err
    assert study.submit("--dry-run") == 0
    assert not (study.store / "inspections").exists()


def test_a_plan_tells_in_json_what_it_tells_in_words(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    study.edit(("[sums]", "[sumz]"))
    assert study.plan("--json") == 0
    [found] = json.loads(capsys.readouterr().out)["inputs"]
    assert (found["setting"], found["line"]) == ("evaluate.text_tasks", 17)
    assert found["what"].endswith("/exams/sumz.yaml: there is no such file, and so no task sumz")
    assert found["cure"] == "is it sums? tasks there are sums"


def test_slurm_is_sent_nothing_by_submit_or_tick(slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sound toys and an evaluation whose tasks are not there: no job of the three is sent."""
    drain(slurm)
    missing = replace(
        toy.toy_job("c", "b", phase="evaluate", cells=["x"]), config={"tasks": "words", "tokenizer": {"name": "words"},
                                                                    "text_tasks": [{"name": "sums"}]},
    )  # fmt: skip
    jobs = [toy.toy_job("a", phase="trunk"), toy.toy_job("b", "a", cells=["x"]), missing]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    for command in ("submit", "tick"):
        told = toys.sweep(command)
        assert told.code == 1
        assert "data.words: /data/words: not there" in told.err
        assert "nothing was sent: 1 problem of what the jobs read" in told.err
        assert not any(toys.ids().values())
    accepted = toys.sweep("submit", "--ignore-data")
    assert accepted.code == 0
    assert toys.sweep("tick").code == 0
    assert all(toys.ids()[key] for key in "abc")
