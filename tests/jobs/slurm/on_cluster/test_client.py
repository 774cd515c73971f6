"""The client, its readers and the judgement on a real cluster."""

import getpass
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.observation import ClusterState
from jobs.slurm.batches import KnownBatch, build_batch_name
from jobs.slurm.client import SlurmClient
from jobs.slurm.observe import ReconcileResult, reconcile_answers
from jobs.slurm.parsing import AccountRow
from jobs.slurm.sbatch_errors import RefusalKind, SubmitRefusal, SubmittedJob, UnknownSubmit
from jobs.slurm.timeouts import SlurmTimeouts
from tests.slurm_lab import Lab
from tests.slurm_lab.processes import wait_for

ME = getpass.getuser()
SLEEP = "#!/bin/bash\nexec sleep 60\n"


def send(name: str, *arguments: str, script: str = SLEEP) -> str:
    """The id of an array that was taken."""
    answer = SlurmClient().submit([f"--job-name={name}", "--output=/dev/null", *arguments], script)
    assert isinstance(answer, SubmittedJob), answer
    return answer.id


def known(name: str, job: str, tasks: int, since: float) -> KnownBatch:
    keys = {index: f"k{index}" for index in range(tasks)}
    return KnownBatch(name=name, phase="trunk", tasks=keys, user=ME, intended_at=since, id=job, sent_at=since)


def look(batch: KnownBatch, patience: SlurmTimeouts | None = None) -> ReconcileResult:
    queue, accounting = SlurmClient().query_queue_and_accounting([ME], [batch.id], batch.intended_at)
    return reconcile_answers([batch], queue, accounting, now=time.time(), timeouts=patience or SlurmTimeouts())


def rows_of(job: str, since: float) -> Sequence[AccountRow]:
    answer = SlurmClient().query_accounting([job], since)
    assert answer.ok, answer.problem
    return answer.rows


def test_the_life_of_an_array_is_told_from_queue_to_end(slurm: Lab) -> None:
    since, name = time.time(), build_batch_name("life", "trunk")
    script = (
        "#!/bin/bash\n[ $SLURM_ARRAY_TASK_ID = 1 ] && exit 3\n[ $SLURM_ARRAY_TASK_ID = 2 ] && exec sleep 60\nexit 0\n"
    )
    job = send(name, "--array=0-3", "--gres=gpu:a100:2", "--time=5", script=script)
    batch = known(name, job, 4, since)
    wait_for("the ends of three tasks", lambda: len(look(batch).accounting_records) == 3, seconds=30)
    seen = look(batch)
    states = {key: each.state for key, each in seen.observations.items()}
    assert states == {
        "k0": ClusterState.ENDED,
        "k1": ClusterState.ENDED,
        "k2": ClusterState.RUNNING,
        "k3": ClusterState.ENDED,
    }
    assert seen.observations["k1"].returncode == 3
    ending = seen.accounting_records["k1"][0]
    assert (ending.id, ending.batch, ending.gpus) == (f"{job}_1", name, 2)
    assert ending.nodes.startswith("n")
    assert since - 2 <= ending.submitted_at <= ending.started_at <= ending.ended_at <= time.time() + 2
    assert ending.elapsed_seconds == ending.ended_at - ending.started_at


def test_pending_tasks_are_told_one_by_one_with_their_reason(slurm: Lab) -> None:
    since, name = time.time(), build_batch_name("reasons", "trunk")
    job = send(name, "--array=0-3%1")
    child = send(build_batch_name("reasons", "finetune"), "--array=0-3", f"--dependency=aftercorr:{job}")
    slurm.wait_job(f"{job}_0", "RUNNING")
    batch = known(name, job, 4, since)
    words = "limit on tasks of its array that run at once"
    wait_for("the reason", lambda: look(batch).observations["k3"].message == words, seconds=20)
    queue = SlurmClient().query_queue([ME])
    assert {row.id for row in queue.rows} == {f"{array}_{index}" for array in (job, child) for index in range(4)}
    waiting = next(row for row in queue.rows if row.id == f"{child}_0")
    assert waiting.dependency.startswith(f"aftercorr:{job}_")


def test_a_child_of_a_failed_job_is_stuck(slurm: Lab) -> None:
    """desispec#2682: nobody tells of it, and it would wait for ever."""
    since, name = time.time(), build_batch_name("stuck", "trunk")
    parent = send(build_batch_name("stuck", "trunk"), "--array=0", script="#!/bin/bash\nexit 1\n")
    child = known(name, send(name, "--array=0", f"--dependency=afterok:{parent}_0"), 1, since)
    wait_for("its state", lambda: look(child).observations["k0"].state is ClusterState.STUCK, seconds=30)
    assert look(child).observations["k0"].describe_wait() == f"never: the job before it did not end well ({parent}_0)"


def test_a_cancelled_array_is_told_task_by_task(slurm: Lab) -> None:
    since, name = time.time(), build_batch_name("cancelled", "trunk")
    job = send(name, "--array=0-3", "--hold")
    batch = known(name, job, 4, since)
    time.sleep(6)  # sacct tells the tasks only of an array that it had heard of before
    assert SlurmClient().cancel([job]) == ""
    hasty = SlurmTimeouts(recheck_s=0)
    wait_for("their rows", lambda: len(look(batch, hasty).accounting_records) == 4, seconds=30)
    for endings in look(batch, hasty).accounting_records.values():
        assert (endings[0].state, endings[0].started_at, endings[0].gpu_seconds) == ("CANCELLED", 0.0, 0)
        assert endings[0].message.startswith("cancelled by uid")


def test_a_task_that_left_no_row_has_ended_when_two_looks_agree(slurm: Lab) -> None:
    """Tasks that are cancelled one by one before they start have no row of their own in sacct."""
    since, name = time.time(), build_batch_name("norow", "trunk")
    job = send(name, "--array=0-1", "--hold")
    batch = known(name, job, 2, since)
    assert SlurmClient().withdraw([f"{job}_1"]).problem == ""
    queue, accounting = SlurmClient().query_queue_and_accounting([ME], [job], since)
    first = reconcile_answers([batch], queue, accounting, now=time.time(), timeouts=SlurmTimeouts())
    assert first.observations["k1"].state is ClusterState.UNKNOWN
    later = time.time() + 60
    second = reconcile_answers(
        [batch], queue, accounting, now=later, timeouts=SlurmTimeouts(), missing_since=first.missing_since
    )
    assert second.observations["k1"].state is ClusterState.ENDED
    assert second.observations["k0"].state is ClusterState.QUEUED


def test_one_pending_task_is_cancelled_and_not_its_whole_array(slurm: Lab) -> None:
    """scancel's own `--state=PENDING` would end them all."""
    job = send(build_batch_name("holes", "trunk"), "--array=0-4", "--hold")
    for gone, left in (([1], [0, 2, 3, 4]), ([3], [0, 2, 4]), ([0, 2, 3], [4])):
        assert SlurmClient().withdraw([f"{job}_{index}" for index in gone]).problem == ""
        assert {row.id for row in SlurmClient().query_queue([ME]).rows} == {f"{job}_{index}" for index in left}
    assert SlurmClient().withdraw([f"{job}_4"]).problem == ""
    assert SlurmClient().withdraw([f"{job}_4"]).problem == ""
    assert SlurmClient().query_queue([ME]).rows == ()


def test_only_pending_tasks_are_withdrawn(slurm: Lab) -> None:
    job = send(build_batch_name("withdrawn", "trunk"), "--array=0-2%1")
    slurm.wait_job(f"{job}_0", "RUNNING")
    assert SlurmClient().withdraw([f"{job}_{index}" for index in range(3)]).problem == ""
    wait_for("the queue", lambda: [row.id for row in SlurmClient().query_queue([ME]).rows] == [f"{job}_0"], seconds=20)


def test_a_signal_reaches_the_batch_process(slurm: Lab, tmp_path: Path) -> None:
    script = (
        f"#!/bin/bash\ntrap 'touch {tmp_path}/told; exit 0' USR2\ntouch {tmp_path}/ready\nwhile :; do sleep 0.1; done\n"
    )
    job = send(build_batch_name("signal", "trunk"), "--array=0", script=script)
    wait_for("its start", (tmp_path / "ready").exists, seconds=30)
    assert SlurmClient().cancel([f"{job}_0"], signal="USR2", batch=True) == ""
    wait_for("the signal", (tmp_path / "told").exists, seconds=20)


def test_executions_of_a_requeued_job_have_rows_of_their_own(slurm: Lab) -> None:
    since, name = time.time(), build_batch_name("requeued", "trunk")
    job = send(name, "--array=0", "--gres=gpu:a100:1")
    slurm.wait_job(f"{job}_0", "RUNNING")
    time.sleep(1.5)  # an execution of some length
    assert SlurmClient().requeue(f"{job}_0") == ""
    batch = known(name, job, 1, since)
    wait_for("the first row", lambda: "k0" in look(batch).accounting_records, seconds=30)
    seen = look(batch)
    assert seen.observations["k0"].state in {ClusterState.QUEUED, ClusterState.RUNNING}
    assert [ending.state for ending in seen.accounting_records["k0"]] == ["REQUEUED"]
    assert seen.accounting_records["k0"][0].gpu_seconds >= 1


def test_a_batch_is_found_by_name_in_the_queue_and_in_the_accounting(slurm: Lab) -> None:
    since, name = time.time(), build_batch_name("found", "trunk")
    job = send(name, "--array=0", script="#!/bin/bash\n")
    doubted = known(name, "", 1, since)
    queue = SlurmClient().query_queue([ME])
    assert reconcile_answers(
        [doubted], queue, SlurmClient().query_accounting([], since), now=time.time(), timeouts=SlurmTimeouts()
    ).adopted == {name: job}
    slurm.wait_job(f"{job}_0")
    wait_for("its row", lambda: len(SlurmClient().query_accounting_by_name([name], since).rows) == 1, seconds=30)
    answer = SlurmClient().query_accounting_by_name([name, "sw-no-such"], since)
    seen = reconcile_answers(
        [doubted], SlurmClient().query_queue([ME]), answer, now=time.time(), timeouts=SlurmTimeouts()
    )
    assert seen.adopted == {name: job}


def test_names_that_are_not_ours_may_hold_anything(slurm: Lab) -> None:
    name = build_batch_name("strange", "trunk")
    slurm.output("sbatch", "--hold", "--job-name=new\nline\x1fand | more", "--wrap=true")
    job = send(name, "--array=0-1", "--hold")
    rows = SlurmClient().query_queue([ME]).rows
    assert sorted(row.id for row in rows if row.name == name) == [f"{job}_0", f"{job}_1"]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--partition=nope"], RefusalKind.INVALID),
        (["--qos=nope"], RefusalKind.INVALID),
        (["--account=nope"], RefusalKind.INVALID),
        (["--gres=gpu:9"], RefusalKind.INVALID),
        (["--mem=9999999"], RefusalKind.INVALID),
        (["--time=soon"], RefusalKind.INVALID),
        (["--array=0-99999"], RefusalKind.INVALID),
        (["--dependency=afterok:x"], RefusalKind.DELAYED),  # the text of 24.11 for a parent that it has forgotten
        (["--reservation=nope"], RefusalKind.INVALID),
        (["--constraint=nope"], RefusalKind.INVALID),
        (["--licenses=nope"], RefusalKind.INVALID),
        (["--no-such-option"], RefusalKind.INVALID),
        (["--qos=capped", "--array=0-5"], RefusalKind.LIMIT),
        (["--account=tight", "--array=0-5"], RefusalKind.LIMIT),
    ],
)
def test_what_slurm_refuses_is_surely_refused(slurm: Lab, arguments: list[str], kind: RefusalKind) -> None:
    answer = SlurmClient().submit(["--output=/dev/null", *arguments], SLEEP)
    assert isinstance(answer, SubmitRefusal), answer
    assert answer.kind is kind, answer.reason
    assert SlurmClient().query_queue([ME]).rows == ()


def test_a_script_that_is_none_is_refused(slurm: Lab) -> None:
    answer = SlurmClient().submit([], "sleep 60\n")
    assert isinstance(answer, SubmitRefusal)
    assert answer.kind is RefusalKind.INVALID


def test_a_full_controller_is_doubt_within_the_time_limit(slurm: Lab) -> None:
    """sbatch itself would go on trying for two minutes."""
    slurm.conf("MaxJobCount=1")
    started = time.monotonic()
    answer = SlurmClient(SlurmTimeouts(submit_s=2)).submit(["--array=0-5", "--hold", "--output=/dev/null"], SLEEP)
    assert time.monotonic() - started < 10
    assert isinstance(answer, UnknownSubmit)
    assert "sleeping and retrying" in answer.reason  # 26.05 says why in other words


def test_without_a_controller_nothing_is_believed(slurm: Lab) -> None:
    since, name = time.time(), build_batch_name("away", "trunk")
    job = send(name, "--array=0", "--hold")
    slurm.stop("ctld")
    client = SlurmClient(SlurmTimeouts(call_s=3, submit_s=3))
    started = time.monotonic()
    queue, _ = client.query_queue_and_accounting([ME], [job], since)
    assert time.monotonic() - started < 6
    assert not queue.ok
    assert isinstance(client.submit(["--array=0"], SLEEP), UnknownSubmit)
    seen = reconcile_answers(
        [known(name, job, 1, since)],
        queue,
        client.query_accounting([], since),
        now=time.time(),
        timeouts=SlurmTimeouts(),
    )
    assert seen.observations["k0"].state is ClusterState.UNKNOWN
    slurm.start("ctld")
    wait_for("the queue", lambda: [row.id for row in SlurmClient().query_queue([ME]).rows] == [f"{job}_0"], seconds=20)


def test_without_a_database_the_queue_is_still_told(slurm: Lab) -> None:
    since, name = time.time(), build_batch_name("nodb", "trunk")
    job = send(name, "--array=0", "--hold")
    slurm.stop("dbd")
    queue, accounting = SlurmClient().query_queue_and_accounting([ME], [job], since)
    assert queue.ok
    assert not accounting.ok
    assert not accounting.absent
    seen = reconcile_answers([known(name, job, 1, since)], queue, accounting, now=time.time(), timeouts=SlurmTimeouts())
    assert seen.observations["k0"].message == "held by the user"


def test_a_cluster_without_accounting_says_so(slurm_without_accounting: Lab) -> None:
    since, name = time.time(), build_batch_name("bare", "trunk")
    job = send(name, "--array=0", "--hold")
    queue, accounting = SlurmClient().query_queue_and_accounting([ME], [job], since)
    assert [row.name for row in queue.rows] == [name]
    assert accounting.absent


def test_a_user_who_cannot_be_looked_up_spoils_the_answer(slurm: Lab) -> None:
    """squeue leaves out that user's jobs and ends with code 0: an outage of the directory would end every job."""
    assert "Invalid user" in SlurmClient().query_queue([ME, "no-such-user"]).problem


def test_scripts_and_jobs_are_looked_up(slurm: Lab) -> None:
    client = SlurmClient()
    job = send(build_batch_name("script", "trunk"), "--array=0", "--hold", script=SLEEP)
    assert (client.query_batch_script(f"{job}_0") or "").startswith(SLEEP)
    assert client.query_batch_script("99999999") is None
    assert "Invalid job id" in client.requeue("99999999")


def test_rows_of_all_ids_come_in_one_call(slurm: Lab) -> None:
    since = time.time()
    jobs = [send(build_batch_name("many", "trunk"), "--array=0-1", script="#!/bin/bash\n") for _ in range(3)]
    wait_for(
        "the rows", lambda: {row.id for job in jobs for row in rows_of(job, since)} >= {f"{jobs[0]}_1"}, seconds=30
    )
    many = [*jobs, *(str(number) for number in range(5_000_000, 5_020_000))]
    answer = SlurmClient().query_accounting(many, since)
    assert answer.ok
    assert {row.id.partition("_")[0] for row in answer.rows} <= set(jobs)
