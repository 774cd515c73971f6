"""Limits of a real cluster: the queue is refilled as it drains, arrays are split, what can never run is not sent."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sweep.submit.slurm
from jobs.job import Job, Resources
from jobs.reconcile.state import JobState
from jobs.slurm.site.site import Site
from jobs.slurm.site.site_facts import SiteFacts, query_kept_site
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes.sbatch_wrapper import wrap_sbatch
from tests.slurm_lab.slurm_toy import NOOP_STAGE, ToySweep, drain, resume


def chains(number: int, **resources: Any) -> list[Job]:
    """So many cells of pre-training, fine-tune and evaluation, with nothing in common."""
    asked = Resources(memory_gib=0.25, **resources)
    jobs = []
    for cell in (f"c{index}" for index in range(number)):
        jobs.append(toy.toy_job(f"{cell}-pre", cells=[cell], resources=asked))
        jobs.append(toy.toy_job(f"{cell}-ft", f"{cell}-pre", phase="finetune", cells=[cell], resources=asked))
        jobs.append(toy.toy_job(f"{cell}-ev", f"{cell}-ft", phase="evaluate", cells=[cell], resources=asked))
    return jobs


@pytest.fixture
def five_submitted(slurm: Lab) -> Iterator[str]:
    """A QOS with room for five jobs of a user, which may all run."""
    change_qos(slurm, "capped", "MaxJobsPerUser=-1")
    yield "capped"
    change_qos(slurm, "capped", "MaxJobsPerUser=2")


def change_qos(lab: Lab, name: str, setting: str) -> None:
    lab.output("sacctmgr", "-i", "modify", "qos", name, "set", setting)


@pytest.mark.slow
def test_sixty_jobs_drain_through_a_limit_of_five_by_ticks_alone(
    slurm: Lab, five_submitted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = chains(20, options={"qos": five_submitted})
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch, stage=NOOP_STAGE)
    queued = []

    def complete(report: Any) -> bool:
        queued.append(len(toys.queue()))
        assert not report["refused"]
        return bool(report["complete"])

    reports = toys.ticks_until(complete, seconds=120)
    assert len(list(toys.store.root.glob("runs/*/*/attempts/*"))) == 60  # each job began once
    assert max(queued) <= 5
    full = ["no room for more under the limit of QOS capped on your jobs"]
    assert all(report["limits"] == full for report in reports if report["sent"] > 5)
    assert not any(batch.not_submitted_at for batch in toys.notes().batches.values())
    first, last = toys.ids()["c0-ev"], toys.ids()["c19-pre"]
    assert int(first[0].partition("_")[0]) < int(last[0].partition("_")[0])  # depth first: whole chains finish early


def test_what_goes_first_is_sent_first_where_the_queue_takes_few(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(slurm, tmp_path, chains(4), monkeypatch, stage=NOOP_STAGE)
    drain(slurm)
    assert toys.sent("submit", "--max-queued", "4", "--first", "c3", "--first", "c1-pre") == (4, 3)
    assert {key for key, ids in toys.ids().items() if ids} == {"c3-pre", "c3-ft", "c3-ev", "c1-pre"}
    assert toys.sweep("status", "--json").json["limits"]["first"] == ["c3", "c1-pre"]
    assert toys.sweep("limits", "--first", "none", "--max-queued", "6").code == 0
    assert toys.tick()["sent"] == 2
    now = {key for key, ids in toys.ids().items() if ids}
    assert now == {"c3-pre", "c3-ft", "c3-ev", "c1-pre", "c0-pre", "c0-ft"}  # by depth alone again
    resume(slurm)


def test_arrays_are_split_at_the_greatest_index_and_stay_aligned(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm.conf("MaxArraySize=10")
    toys = ToySweep(slurm, tmp_path, chains(12), monkeypatch, stage=NOOP_STAGE)
    assert toys.sent() == (36, 6)
    sizes = sorted(len(batch.tasks) for batch in toys.notes().batches.values())
    assert sizes == [2, 2, 2, 10, 10, 10]
    toys.finish()


def test_a_time_limit_above_the_partition_s_is_refused_and_not_pending_for_ever(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = chains(2, time_minutes=5, options={"partition": "short"})
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    told = toys.sweep("submit")
    assert told.code == 1
    assert "partition short allows a job 1 min, and it asks for 5" in told.err
    assert toys.queue() == {}
    examined = toys.sweep("doctor")
    assert examined.code == 1
    assert "partition short allows a job 1 min" in examined.out


@pytest.fixture
def limit_set_too_late(slurm: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An administrator lowers a QOS limit to 3 right after a submission has read it."""

    def lower(facts: SiteFacts, user: str) -> Site:
        site = query_kept_site(facts, user)
        change_qos(slurm, "gpucap", "MaxSubmitJobsPerUser=3")
        return site

    monkeypatch.setattr(sweep.submit.slurm, "query_kept_site", lower)
    yield
    change_qos(slurm, "gpucap", "MaxSubmitJobsPerUser=-1")


@pytest.mark.usefixtures("limit_set_too_late")
def test_a_limit_that_nobody_knew_costs_a_line_and_nothing_else(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain(slurm)
    sbatch = wrap_sbatch(tmp_path, monkeypatch)
    jobs = [job for job in chains(8, options={"qos": "gpucap"}) if job.phase == "pretrain"]
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch, stage=NOOP_STAGE)
    told = toys.sweep("submit")
    assert told.code == 0
    complaints = [line for line in told.err.splitlines() if line.startswith("sweep: ")]
    assert len(complaints) == 1
    assert "Slurm takes no more for now" in complaints[0]
    assert "MaxSubmitJob" in complaints[0]
    assert len(toys.queue()) == 2
    assert sbatch.calls == 3  # eight, four, two
    assert set(toys.states().values()) == {JobState.QUEUED, JobState.READY}
    assert toys.sent() == (1, 1)
    assert toys.sent() == (0, 0)
    resume(slurm)
    toys.finish()
