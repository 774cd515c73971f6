"""When a job puts itself back into the queue, and what happens where Slurm refuses."""

from pathlib import Path

import pytest

from jobs.attempt import finish
from jobs.attempt.finish import find_full_folder, needs_requeue, requeue_job
from jobs.store.paths import RunPaths
from jobs.store.records import AttemptExit, AttemptStart, FailureClass


def ended(
    run: RunPaths, number: int, failure: FailureClass = FailureClass.WALL_CLOCK, *, code: int = 75, step: int = 0
) -> AttemptExit:
    """An attempt on disk that saved at `step`, where the one before had come to step 0."""
    name = f"slurm-7_0-r{number}-aaaaaa"
    common = {"attempt": name, "key": "only", "checkpoint_step": step}
    attempt = run.locate_attempt(name)
    AttemptStart(
        stage="pretrain",
        backend="slurm",
        host="far",
        pid=1,
        pid_started=1.0,
        boot_id="other",
        started_at=100.0 * number,
        attempt=name,
        key="only",
        checkpoint_step=0,
    ).write(attempt.start)
    end = AttemptExit(ended_at=100.0 * number + 50, returncode=code, failure=failure, **common)  # type: ignore[arg-type]
    end.write(attempt.exit)
    return end


def test_a_saved_job_goes_back_into_the_queue(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    assert needs_requeue(run, ended(run, 0, step=10), restarts=0)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (FailureClass.PREEMPTED, 75),  # Slurm itself puts it back
        (FailureClass.INTERRUPTED, 75),
        (FailureClass.WALL_CLOCK, -9),  # did not come to save
        (FailureClass.CODE, 1),
    ],
)
def test_nothing_else_does(tmp_path: Path, failure: FailureClass, code: int) -> None:
    run = RunPaths(tmp_path)
    assert not needs_requeue(run, ended(run, 0, failure, code=code, step=10), restarts=0)


def test_without_headway_the_budget_ends_unless_the_plan_counts_on_restarts(tmp_path: Path) -> None:
    run = RunPaths(tmp_path)
    answers = [needs_requeue(run, ended(run, number), restarts=0) for number in range(4)]
    assert answers[0]
    assert not answers[3]
    assert needs_requeue(run, ended(run, 4), restarts=5)


def test_a_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not requeue_job("7_0")
    said = capsys.readouterr().err
    assert said.startswith("scontrol requeue 7_0: ")
    assert said.count("\n") == 1


def test_a_folder_that_is_gone_hides_no_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR is often removed with the job. What is full is looked up here, not made."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(finish, "LOCAL_FOLDERS", ("/nowhere", "/dev/shm"))
    monkeypatch.setattr(finish, "_is_full", lambda folder: folder == Path("/dev/shm"))
    assert tmp_path.stat().st_dev != Path("/dev/shm").stat().st_dev
    assert find_full_folder(tmp_path) == "/dev/shm"
