"""How jobs are carried out: told to the stages, but no part of a key."""

from pathlib import Path

from jobs.job import Job
from tests.sweep.small_sweep import SMALL, keys, planned


def jobs_by_phase(text: str, folder: Path) -> dict[str, Job]:
    return {job.phase: job for job in planned(folder, text).jobs}


def test_checkpoint_settings_reach_training_jobs_and_change_no_key(tmp_path: Path) -> None:
    given = SMALL + "checkpoints: {minutes: 3, keep: 5}\n"
    assert keys(planned(tmp_path / "a", given)) == keys(planned(tmp_path / "b"))
    jobs = jobs_by_phase(given, tmp_path / "a")
    assert jobs["trunk"].settings == jobs["finetune"].settings == {"checkpoint_minutes": 3, "keep_checkpoints": 5}
    assert jobs["evaluate"].settings == {}


def test_only_a_trunk_keeps_the_optimizers_moments_at_its_end(tmp_path: Path) -> None:
    jobs = jobs_by_phase(SMALL, tmp_path)
    assert jobs["pretrain"].settings == {"keep_optimizer": False}
    assert "keep_optimizer" not in jobs["trunk"].settings
