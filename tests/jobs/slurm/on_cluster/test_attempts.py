"""Attempts on a real cluster: time limits, preemption, lost nodes, several nodes, purged parents."""

import hashlib
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from jobs.attempt.rank import resolve_master_address
from jobs.claims.claims import ClaimOwner, create_claim, find_newest_claim
from jobs.job import Job, Resources
from jobs.processes import list_attempt_pids
from jobs.reconcile.attempts import AttemptRecord, read_attempts
from jobs.slurm.batches import SlurmBatch, build_batch_name
from jobs.slurm.code_snapshot import save_code_snapshot
from jobs.slurm.script import LaunchSettings, build_log_pattern, build_sbatch_arguments, render_batch_script
from jobs.store.paths import RunPaths, Store
from jobs.store.records import FailureClass
from jobs.store.results import check_result
from tests.jobs import toy
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes import FOLDER
from tests.slurm_lab.processes import wait_for

RENDEZVOUS_STAGE = (sys.executable, "-S", str(FOLDER / "rendezvous_stage.py"))


@dataclass
class Sent:
    """One job on its way through the cluster."""

    slurm: Lab
    store: Store
    job: Job
    id: str = field(default="")

    @property
    def run(self) -> RunPaths:
        return toy.run_of(self.store, self.job)

    @property
    def outcomes(self) -> list[AttemptRecord]:
        return read_attempts(self.run, live=False)

    @property
    def failures(self) -> list[FailureClass | None]:
        return [outcome.failure for outcome in self.outcomes]

    @property
    def saved_steps(self) -> int:
        return len(list(self.run.checkpoints.glob("step-*")))

    @property
    def log(self) -> str:
        """Of the batch, not of the attempts."""
        array, _, task = self.id.partition("_")
        pattern = build_log_pattern(self.store, toy.SWEEP)
        return Path(pattern.replace("%A", array).replace("%a", task)).read_text()

    @property
    def state(self) -> str:
        """squeue's word; empty once the job has left the queue, and "unknown" where squeue does not answer."""
        told = self.slurm.run("squeue", "-h", "-r", "-o", "%T", "-j", self.id)
        gone = told.returncode == 0 or "Invalid job id" in told.stderr
        return told.stdout.strip() if gone else "unknown"

    def is_done(self) -> bool:
        return check_result(self.run, self.job.key).valid and not self.state

    def history(self) -> list[str]:
        """States of all executions by sacct."""
        return self.slurm.output("sacct", "-n", "-P", "-D", "-X", "-j", self.id, "-o", "State").split()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def send(slurm: Lab, store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sent]:
    """Plans one job and submits it as the project does, with more options of sbatch behind."""
    monkeypatch.setenv("SWEEP_TAKEOVER_SECONDS", "4.5")

    def sender(*options: str, program: tuple[str, ...] = toy.COUNTING_STAGE, **config: Any) -> Sent:
        resources = config.pop("resources", Resources(time_minutes=1, memory_gib=0.5))
        parent = toy.toy_job("parent", phase="trunk")
        job = toy.toy_job("only", *config.pop("parents", ()), resources=resources, **config)
        toy.plan(store, [parent, job], backend="slurm")
        code = save_code_snapshot(store)
        launch = LaunchSettings(store=store, sweep=toy.SWEEP, program=program, code=code.path, revision=code.revision)
        batch = SlurmBatch(
            name=build_batch_name(toy.SWEEP, "pretrain"), phase="pretrain", tasks={0: "only"}, resources=resources
        )
        store.locate_sweep(toy.SWEEP).slurm_logs.mkdir(parents=True)
        arguments = [*build_sbatch_arguments(batch, launch, {}), *options]
        done = slurm.run("sbatch", *arguments, stdin=render_batch_script(batch, launch))
        assert done.returncode == 0, done.stderr
        return Sent(slurm, store, job, f"{done.stdout.strip()}_0")

    return sender


def undisturbed_value(steps: int) -> str:
    """What a run of the only job arrives at, by the stage's own rule."""
    value = digest("")
    for step in range(1, steps + 1):
        value = digest(f"only:{value}:{step}")
    return value


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def assert_exact(sent: Sent, steps: int) -> None:
    """One completed execution, with no step lost, repeated from nothing, or taken by two at once."""
    toy.assert_nothing_lost_or_doubled(sent.store, [sent.job], {"only": undisturbed_value(steps)})
    taken = [line["step"] for line in toy.executions(sent.store, sent.job) if line["event"] == "step"]
    assert sorted(set(taken)) == list(range(1, steps + 1))


def test_a_job_that_meets_its_time_limit_saves_and_goes_on_until_it_is_done(send: Callable[..., Sent]) -> None:
    steps = 340  # 34 s: Slurm looks for jobs near their limit every 30 s
    sent = send("--signal=B:USR2@55", steps=steps, step_seconds=0.1)
    wait_for("the job", sent.is_done, seconds=200)
    assert_exact(sent, steps)
    assert len(toy.executions(sent.store, sent.job)) < steps + 20  # it went on where it was, each time
    *stopped, last = sent.outcomes
    assert stopped
    for outcome in stopped:
        assert outcome.end is not None
        assert (outcome.failure, outcome.end.returncode) == (FailureClass.WALL_CLOCK, 75)
        assert outcome.end.stop_signal == "SIGUSR2"
    assert last.failure is None
    assert [outcome.start.restart for outcome in sent.outcomes] == list(range(len(stopped) + 1))
    assert {outcome.start.job_id for outcome in sent.outcomes} == {sent.id}
    wait_for("sacct to tell of the end", lambda: sent.history()[-1] != "RUNNING")
    assert sent.history() == ["REQUEUED"] * len(stopped) + ["COMPLETED"]
    assert sent.log.count("DUE TO JOB REQUEUE") == len(stopped)  # the log is kept over each


def test_a_preempted_job_that_gets_no_user_signal_goes_on_from_its_checkpoint(
    send: Callable[..., Sent], slurm: Lab
) -> None:
    steps = 50
    sent = send("--qos=low", resources=Resources(time_minutes=5, memory_gib=0.5), steps=steps, gate_at=20)
    wait_for("some steps", lambda: sent.saved_steps > 5, seconds=30)
    slurm.output("sbatch", "--qos=high", "--nodes=4", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_for("the preemption", lambda: sent.state not in {"RUNNING", "unknown"})
    toy.open_gate(sent.store, sent.job)
    wait_for("the job", sent.is_done, seconds=90)
    assert_exact(sent, steps)
    first, second = sent.outcomes
    assert first.failure is FailureClass.PREEMPTED
    assert first.end is not None
    assert first.end.stop_signal == "SIGTERM"
    assert second.start.checkpoint_step == first.end.checkpoint_step > 5
    wait_for("sacct to tell of the end", lambda: sent.history() == ["PREEMPTED", "COMPLETED"], seconds=15)


def test_of_two_live_copies_after_a_node_was_lost_only_the_newer_writes(send: Callable[..., Sent], slurm: Lab) -> None:
    steps = 1_200
    sent = send(steps=steps, step_seconds=0.05, resources=Resources(time_minutes=10, memory_gib=0.5))
    wait_for("some steps", lambda: sent.saved_steps > 5, seconds=30)
    (first,) = sent.outcomes
    slurm.stop(first.start.node, signal.SIGKILL)
    before = sent.saved_steps
    wait_for("the other copy", lambda: len(sent.outcomes) == 2, seconds=120)
    second = sent.outcomes[1]
    assert sent.saved_steps > before  # the first went on working while Slurm took its node for dead
    assert second.start.node != first.start.node
    wait_for("the job", sent.is_done, seconds=120)
    assert_exact(sent, steps)
    first, second = sent.outcomes
    assert first.end is not None
    assert (first.failure, first.end.message) == (FailureClass.KILLED, "fenced: a newer incarnation took over")
    assert second.failure is None
    writers = [line["pid"] for line in toy.executions(sent.store, sent.job)]
    assert len(set(writers)) == 2
    assert writers == sorted(writers, key=writers.index)  # not one write of the first after the second's first
    last = find_newest_claim(sent.run.claims)
    assert last is not None
    assert (last.number, last.released, last.owner.restart) == (2, True, 1)


def test_ranks_on_two_nodes_find_each_other(send: Callable[..., Sent]) -> None:
    resources = Resources(nodes=2, gpus_per_node=2, gpu_type="a100", cpus=4, time_minutes=5, memory_gib=0.5)
    sent = send("--exclude=n1,n3", program=RENDEZVOUS_STAGE, resources=resources)
    wait_for("the job", sent.is_done, seconds=60)
    (only,) = sent.outcomes
    lines = sorted(line.split() for line in only.paths.log.read_text().splitlines() if line.startswith("here"))
    first = resolve_master_address("n2", "127.0.0.1")  # the nodes' names are the cluster's alone
    assert lines == [
        ["here", "0", "4", "0", "2", first, "n2", "0,1"],
        ["here", "1", "4", "1", "2", first, "n2", "0,1"],
        ["here", "2", "4", "0", "2", first, "n4", "0,1"],
        ["here", "3", "4", "1", "2", first, "n4", "0,1"],
    ]


@pytest.mark.parametrize("how", ["time limit", "preemption"])
def test_a_stop_reaches_all_ranks_and_none_is_killed_while_it_saves(
    send: Callable[..., Sent], slurm: Lab, how: str
) -> None:
    # fewer cores than ranks: srun would refuse that by itself
    resources = Resources(nodes=2, gpus_per_node=2, gpu_type="a100", cpus=1, time_minutes=5, memory_gib=0.5)
    sent = send(program=RENDEZVOUS_STAGE, resources=resources, seconds=100)
    wait_for("all ranks", lambda: sent.run.attempts.exists() and log_of(sent).count("here") == 4, seconds=30)
    if how == "time limit":
        slurm.output("scancel", "--signal=USR2", "--batch", sent.id)
    else:
        slurm.output("scontrol", "requeue", sent.id)
    wait_for("the end", lambda: sent.outcomes[0].recorded, seconds=30)
    end = sent.outcomes[0].end
    assert end is not None
    expected = FailureClass.WALL_CLOCK if how == "time limit" else FailureClass.PREEMPTED
    assert sorted(line for line in log_of(sent).splitlines() if "saved" in line) == [f"saved {n}" for n in range(4)]
    assert (end.failure, end.returncode) == (expected, 75)


def test_ranks_of_all_nodes_are_killed_when_their_job_is_fenced(send: Callable[..., Sent], slurm: Lab) -> None:
    resources = Resources(nodes=2, gpus_per_node=2, gpu_type="a100", cpus=4, time_minutes=5, memory_gib=0.5)
    sent = send(program=RENDEZVOUS_STAGE, resources=resources, seconds=100)
    wait_for("all ranks", lambda: sent.run.attempts.exists() and log_of(sent).count("here") == 4, seconds=30)
    (only,) = sent.outcomes
    assert len(list_attempt_pids(only.paths.root)) >= 5  # srun and the ranks; the nodes are one machine here
    newer = create_claim(sent.run.claims, ClaimOwner(boot_id="other"), after=find_newest_claim(sent.run.claims))
    assert newer is not None
    wait_for("the end", lambda: not sent.state, seconds=30)
    end = sent.outcomes[0].end
    assert end is not None
    assert (end.failure, end.message) == (FailureClass.KILLED, "fenced: a newer incarnation took over")
    assert list_attempt_pids(only.paths.root) == []
    wait_for("sacct", lambda: "FAILED" in sent.history(), seconds=30)
    assert slurm.output("sacct", "-n", "-P", "-X", "-j", sent.id, "-o", "ExitCode") == "76:0"


def log_of(sent: Sent) -> str:
    outcomes = sent.outcomes
    return outcomes[0].paths.log.read_text() if outcomes and outcomes[0].paths.log.exists() else ""


def test_a_child_that_slurm_starts_behind_a_parent_it_has_forgotten_leaves_nothing_behind(
    send: Callable[..., Sent], slurm: Lab
) -> None:
    forgotten = (
        "--dependency=afterok:999999"  # counts as met on 22.05; 24.11 refuses it, and yet a parent may be missing
    )
    taken = slurm.run("sbatch", "--test-only", forgotten, "--wrap=true").returncode == 0
    sent = send(*([forgotten] if taken else []), parents=("parent",))
    wait_for("the end", lambda: not sent.state, seconds=30)
    wait_for("sacct", lambda: "FAILED" in sent.history(), seconds=30)
    assert slurm.output("sacct", "-n", "-P", "-X", "-j", sent.id, "-o", "ExitCode") == "77:0"
    assert not sent.store.runs.exists()
    assert "its parent parent has no result" in sent.log
