"""After a crash of the controller a queued job may wait for an id that now is somebody else's."""

from pathlib import Path

import pytest

from jobs.reconcile.state import JobState
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.slurm_toy import ToySweep, drain, resume


def test_a_job_whose_dependency_is_not_its_parent_any_more_is_sent_anew(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash leaves it: the child's dependency names a job that will not end. Seen: two jobs behind each other."""
    jobs = [toy.toy_job("a"), toy.toy_job("b", "a", phase="finetune"), toy.toy_job("c", "b", phase="evaluate")]
    drain(slurm)
    toys = ToySweep(slurm, tmp_path, jobs, monkeypatch)
    toys.sent()
    foreign = slurm.output("sbatch", "--parsable", "--hold", "--wrap=true").strip()
    slurm.output("scontrol", "update", f"jobid={toys.ids()['b'][0]}", f"dependency=afterok:{foreign}")
    resume(slurm)
    toys.wait_state("a", JobState.DONE)
    toys.finish()
    toys.assert_as_undisturbed()
    assert len(toys.ids()["b"]) == 2
