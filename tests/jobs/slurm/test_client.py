"""The client beside stand-ins for Slurm's programs: what it asks, and what it makes of answers, silence and errors."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from jobs.slurm.client import SlurmClient, WithdrawalReport, pack_words, render_array_ids
from jobs.slurm.parsing import HiddenUsers, parse_config, parse_records
from jobs.slurm.sbatch_errors import SubmittedJob, UnknownSubmit
from jobs.slurm.timeouts import SlurmTimeouts

QUICK = SlurmTimeouts(call_s=1.0, submit_s=1.0)
RUNNING = (
    "7_0\x1fRUNNING\x1fNone\x1f(null)\x1fann\x1fnormal\x1fvision\x1fgpu\x1f100\x1f200\x1fn1\x1f1\x1f300\x1ftrain\n"
)


NAME = "sw-aaaaaaaaaaaa-trunk-demo"


class Programs:
    """A folder of stand-ins, ahead of everything else on PATH, and what they were called with."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {"PATH": f"{root}:{os.environ['PATH']}", "HOME": str(root)}

    def add(self, name: str, script: str) -> None:
        """A program that notes its arguments, a line each, and goes on with `script`."""
        path = self.root / name
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >> {self.root}/{name}.calls\n{script}\n')
        path.chmod(0o755)

    def prints(self, name: str, text: str) -> None:
        (self.root / f"{name}.text").write_text(text)
        self.add(name, f"cat {self.root}/{name}.text")

    def arguments(self, name: str) -> list[str]:
        return (self.root / f"{name}.calls").read_text().splitlines()

    def client(self, patience: SlurmTimeouts = QUICK, **variables: str) -> SlurmClient:
        return SlurmClient(patience, self.environment | variables)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_a_program_that_hangs_is_ended_with_its_children(programs: Programs) -> None:
    programs.add("squeue", f"echo half; sleep 60 & echo $! > {programs.root}/child; wait")
    started = time.monotonic()
    answer = programs.client().query_queue(["ann"])
    assert time.monotonic() - started < 4
    assert answer.problem == "squeue gave no answer within 1 s"
    assert answer.rows == ()
    child = int((programs.root / "child").read_text())
    assert not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text()


def test_a_script_is_given_whole_and_unchanged(programs: Programs) -> None:
    programs.add("sbatch", f"cat > {programs.root}/script; echo 7")
    script = "#!/bin/bash\n" + "echo 'ä $(x) `y`' # filler\n" * 20_000
    assert programs.client().submit([], script) == SubmittedJob("7")
    assert (programs.root / "script").read_text() == script


# --- squeue and sacct


def test_one_squeue_asks_for_everybody(programs: Programs) -> None:
    programs.prints("squeue", RUNNING)
    answer = programs.client().query_queue({"bob", "ann"})
    assert answer.ok
    assert [row.id for row in answer.rows] == ["7_0"]
    assert {"--array", "--all", "--noheader", "--user=ann,bob"} <= set(programs.arguments("squeue"))


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (
            "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2; exit 1",
            "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        ),
        (
            "echo 'squeue: fatal: Unable to process configuration file' >&2; exit 1",
            "Unable to process configuration file",
        ),
        ("exit 3", "squeue ended with code 3 and said nothing"),
        ("echo 'squeue: error: Invalid user: ann' >&2", "squeue: error: Invalid user: ann"),
        ("printf 7_0", "squeue's answer breaks off"),
    ],
)
def test_an_answer_that_is_not_the_whole_truth_is_a_problem(programs: Programs, script: str, problem: str) -> None:
    programs.add("squeue", script)
    answer = programs.client().query_queue(["ann"])
    assert answer.problem == problem
    assert answer.rows == ()


ROW = "7_0\x1fCOMPLETED\x1f100\x1f200\x1f300\x1f100\x1fgres/gpu=4\x1f8\x1fn1\x1f0:0\x1f"
KNOWS_REASON = 'if [ "$1" = --helpformat ]; then echo "JobID  State JobName  Reason"; exit; fi'


def test_sacct_is_asked_for_the_fields_that_it_knows(programs: Programs) -> None:
    (programs.root / "rows").write_text(f"{ROW}None\x1f{NAME}\n")
    programs.add("sacct", f"{KNOWS_REASON}; cat {programs.root}/rows")
    client = programs.client()
    answer = client.query_accounting(["7", "8"])
    assert answer.ok
    assert answer.rows[0].name == NAME
    assert client.query_accounting(["9"]).ok
    arguments = programs.arguments("sacct")
    assert {"--duplicates", "--allocations", "--jobs=7,8"} <= set(arguments)
    assert not [word for word in arguments if word.startswith("--starttime")]  # no clock of ours cuts anything off
    assert arguments.count("--helpformat") == 1
    assert "FailedNode" not in "".join(arguments)


def test_without_a_list_of_fields_only_those_of_every_version_are_asked_for(programs: Programs) -> None:
    (programs.root / "rows").write_text(f"{ROW}{NAME}\n")
    programs.add("sacct", f'if [ "$1" = --helpformat ]; then exit 1; fi; cat {programs.root}/rows')
    assert programs.client().query_accounting(["7"]).rows[0].state == "COMPLETED"


def test_accounting_that_is_switched_off_is_absent_and_one_that_fails_is_not(programs: Programs) -> None:
    programs.add("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert programs.client().query_accounting(["7"]).absent
    programs.add("sacct", "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1")
    answer = programs.client().query_accounting(["7"])
    assert answer.problem == "Problem talking to the database: Connection refused"
    assert not answer.absent


def test_nothing_to_ask_is_not_asked(programs: Programs) -> None:
    programs.add("sacct", "exit 1")
    assert programs.client().query_accounting([]).ok
    assert not (programs.root / "sacct.calls").exists()


def test_a_batch_is_looked_up_by_its_name(programs: Programs) -> None:
    programs.add("sacct", "true")
    assert programs.client().query_accounting_by_name([NAME], 0.0).ok
    assert {f"--name={NAME}", "--allusers"} <= set(programs.arguments("sacct"))


def test_ten_thousand_ids_are_one_call(programs: Programs) -> None:
    programs.add("sacct", "true")
    ids = [str(number) for number in range(1_000_000, 1_020_000)]
    assert programs.client().query_accounting(ids).ok
    lists = [word.removeprefix("--jobs=") for word in programs.arguments("sacct") if word.startswith("--jobs=")]
    assert len(lists) == 2
    assert ",".join(lists).split(",") == ids
    assert programs.arguments("sacct").count("--noheader") == 1


def test_two_programs_that_hang_cost_one_time_limit(programs: Programs) -> None:
    """snakemake-executor-plugin-slurm#207: an outage must not hang the run."""
    for name in ("squeue", "sacct"):
        programs.add(name, "exec sleep 60")
    programs.add("sacct", f"{KNOWS_REASON}; exec sleep 60")
    started = time.monotonic()
    queue, accounting = programs.client().query_queue_and_accounting(["ann"], ["7"])
    assert time.monotonic() - started < 1.9
    assert queue.problem == "squeue gave no answer within 1 s"
    assert accounting.problem == "sacct gave no answer within 1 s"


def test_both_answers_of_a_healthy_cluster(programs: Programs) -> None:
    programs.prints("squeue", RUNNING)
    (programs.root / "rows").write_text(f"{ROW}None\x1f{NAME}\n")
    programs.add("sacct", f"{KNOWS_REASON}; cat {programs.root}/rows")
    queue, accounting = programs.client().query_queue_and_accounting(["ann"], ["7"])
    assert (len(queue.rows), len(accounting.rows)) == (1, 1)


def test_the_controller_is_asked_what_it_remembers(programs: Programs) -> None:
    programs.prints("squeue", RUNNING)
    known = programs.client().query_queue(["ann"]).rows[0]
    assert programs.client().query_recent_jobs({known.id, "99_1"}).rows == (known,)
    array = known.id.partition("_")[0]
    assert programs.client().query_recent_jobs({f"{array}_77"}).rows == (known,)  # of a task that it has forgotten
    assert programs.client().query_recent_jobs({"99_1"}).rows == ()
    assert {f"--jobs={known.id.partition('_')[0]},99", "--states=all"} <= set(programs.arguments("squeue"))


def test_a_job_that_the_controller_has_forgotten_is_no_problem_and_a_dead_controller_is(programs: Programs) -> None:
    programs.add("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert programs.client().query_recent_jobs({"99_1"}).ok
    programs.add("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact" in programs.client().query_recent_jobs({"99_1"}).problem


def test_an_sbatch_that_hangs_is_doubt_and_is_ended(programs: Programs) -> None:
    programs.add("sbatch", f"echo $$ > {programs.root}/pid; exec sleep 60")
    answer = programs.client().submit(["--array=0"], "#!/bin/bash\n")
    assert isinstance(answer, UnknownSubmit)
    pid = int((programs.root / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()
    assert programs.arguments("sbatch") == ["--parsable", "--array=0"]


def test_an_sbatch_whose_sweep_was_killed_ends_all_the_same(programs: Programs) -> None:
    programs.add("sbatch", f"echo $$ > {programs.root}/new; mv {programs.root}/new {programs.root}/pid; exec sleep 60")
    code = (
        "from jobs.slurm.client import SlurmClient; from jobs.slurm.timeouts import SlurmTimeouts;"
        f"SlurmClient(SlurmTimeouts(submit_s=2), {programs.environment!r}).submit([], '#!/bin/bash')"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as submitting:
        wait_until((programs.root / "pid").exists)
        submitting.send_signal(signal.SIGKILL)
    pid = int((programs.root / "pid").read_text())
    assert is_alive(pid)  # an orphan
    wait_until(lambda: not is_alive(pid))


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_leaves_no_program_behind(programs: Programs) -> None:
    pid, main = programs.root / "pid", threading.main_thread().ident
    assert main is not None
    programs.add("squeue", f"echo $$ > {pid}; exec sleep 60")

    def interrupt() -> None:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.02)
        signal.pthread_kill(main, signal.SIGINT)  # as the terminal does

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin deaf to it
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            programs.client(SlurmTimeouts(call_s=30)).query_queue(["ann"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert not is_alive(int(pid.read_text()))


# --- scancel, scontrol, sacctmgr


def test_tasks_of_one_array_are_cancelled_together(programs: Programs) -> None:
    programs.add("scancel", "true")
    assert programs.client().cancel(["8", "7_2", "7_0", "9_1"]) == ""
    assert programs.arguments("scancel") == ["8", "7_[0,2]", "9_[1]"]


def test_only_waiting_tasks_are_withdrawn_and_without_scancels_own_filter(programs: Programs) -> None:
    """`scancel --state=PENDING 7_1` ends every pending task of array 7."""
    before = "7_0 RUNNING\\n7_1 PENDING\\n7_2 PENDING\\n7_3 SPECIAL_EXIT\\n7_4 PENDING\\n"
    cancelled = programs.root / "cancelled"
    programs.add("squeue", f"[ -e {cancelled} ] && printf '7_0 RUNNING\\n7_4 PENDING\\n' || printf '{before}'")
    programs.add("scancel", f"touch {cancelled}; echo 'scancel: error: Access/permission denied' >&2; exit 1")
    report = programs.client().withdraw(["7_0", "7_2", "7_3", "7_4", "9_1"])
    assert programs.arguments("scancel") == ["7_[2,3,4]"]
    assert {"--array", "--jobs=7"} <= set(programs.arguments("squeue"))
    assert (set(report.gone), set(report.kept)) == ({"7_2", "7_3"}, {"7_0", "7_4"})
    assert report.problem == "Access/permission denied"


def test_nothing_is_withdrawn_while_the_queue_cannot_be_seen(programs: Programs) -> None:
    programs.add("scancel", "true")
    programs.add("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    report = programs.client().withdraw(["7_0"])
    assert (report.gone, report.kept) == (frozenset(), frozenset())
    assert "Unable to contact" in report.problem
    programs.add("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert programs.client().withdraw(["7_0"]) == WithdrawalReport()
    assert not (programs.root / "scancel.calls").exists()


def test_what_a_silent_scancel_leaves_in_the_queue_is_told(programs: Programs) -> None:
    programs.prints("squeue", "7_0 PENDING\n")
    programs.add("scancel", "true")
    report = programs.client().withdraw(["7_0"])
    assert (set(report.gone), set(report.kept)) == (set(), {"7_0"})
    assert report.problem == "scancel reports no error, and 1 job is still in the queue"


def test_a_signal_for_the_batch_process_alone(programs: Programs) -> None:
    programs.add("scancel", "echo 'scancel: error: Kill job error on job id 7: Access denied' >&2; exit 1")
    problem = programs.client().cancel(["7_0"], signal="TERM", batch=True)
    assert problem == "Kill job error on job id 7: Access denied"
    assert programs.arguments("scancel") == ["--signal=TERM", "--batch", "7_[0]"]


def test_a_job_that_is_gone_already_is_cancelled(programs: Programs) -> None:
    gone = "scancel: error: Kill job error on job id 7_1: Invalid job id specified"
    programs.add("scancel", f"echo '{gone}' >&2; exit 1")
    assert programs.client().cancel(["7_1"]) == ""
    other = "scancel: error: Kill job error on job id 7_2: Access/permission denied"
    programs.add("scancel", f"echo '{other}' >&2; echo '{gone}' >&2; exit 1")
    assert programs.client().cancel(["7_1", "7_2"]) == "Kill job error on job id 7_2: Access/permission denied"
    programs.add("scancel", "sleep 60")
    assert programs.client().cancel(["7_1"]) == "scancel gave no answer within 1 s"


def test_nothing_to_cancel_calls_nothing(programs: Programs) -> None:
    programs.add("scancel", "true")
    assert programs.client().cancel([]) == ""
    assert not (programs.root / "scancel.calls").exists()


def test_lists_are_split_where_an_argument_would_be_too_long() -> None:
    assert list(pack_words(["c", "a", "b", "a"], longest=3)) == ["a,b", "c"]
    assert list(pack_words([])) == []
    assert list(render_array_ids([])) == []
    many = list(render_array_ids([f"7_{index}" for index in range(30_000)]))
    assert len(many) == 2
    assert max(map(len, many)) < 131_072


def test_jobs_are_changed_and_requeued(programs: Programs) -> None:
    programs.add("scontrol", "true")
    client = programs.client()
    assert client.requeue("7_0") == ""
    assert programs.arguments("scontrol") == ["requeue", "7_0"]


def test_a_script_that_the_controller_forgot_is_none(programs: Programs) -> None:
    programs.add("scontrol", "echo '#!/bin/bash'")
    assert programs.client().query_batch_script("7_0") == "#!/bin/bash\n"
    assert programs.arguments("scontrol") == ["write", "batch_script", "7", "-"]
    programs.add("scontrol", "echo 'job script retrieval failed: Invalid job id specified' >&2; exit 1")
    assert programs.client().query_batch_script("7") is None


def test_a_cluster_without_accounting_is_told_from_one_whose_accounting_fails(programs: Programs) -> None:
    programs.add("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")
    assert programs.client().query_accounting(["7"]).absent
    programs.add("sacct", "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1")
    answer = programs.client().query_accounting(["7"])
    assert (answer.ok, answer.absent) == (False, False)


def test_records_are_read_one_a_line() -> None:
    assert parse_records("PartitionName=main MaxTime=UNLIMITED TRES=cpu=256,gres/gpu=32\nPartitionName=short\n") == (
        {"PartitionName": "main", "MaxTime": "UNLIMITED", "TRES": "cpu=256,gres/gpu=32"},
        {"PartitionName": "short"},
    )


def test_values_keep_their_spaces_and_equal_signs() -> None:
    assert parse_records("NodeName=n1 Reason=disk is full [root@x] State=DOWN\n\n") == (
        {"NodeName": "n1", "Reason": "disk is full [root@x]", "State": "DOWN"},
    )
    text = "SchedulerParameters = bf_interval=5,defer\nBootTime = x\nBootTime = y\nSlurmctld(primary) at vm is UP\n"
    assert parse_config(text) == ({"SchedulerParameters": "bf_interval=5,defer", "BootTime": "x"},)


def test_the_environment_of_the_moment_is_used_unless_one_is_given(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.add("squeue", f"env > {programs.root}/seen")
    monkeypatch.setenv("PATH", programs.environment["PATH"])
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    assert SlurmClient().query_queue(["ann"]).ok
    seen: Mapping[str, str] = dict(line.split("=", 1) for line in (programs.root / "seen").read_text().splitlines())
    assert seen["SLURM_CONF"] == "/somewhere/slurm.conf"


# --- what is hidden, and whose clock it is


SHOWN, HIDES = "PrivateData = none\n", "PrivateData = jobs,usage\n"
WITH_ACCOUNTING = "AccountingStorageType = accounting_storage/slurmdbd\nSlurmUser = slurm(64030)\n"


@pytest.mark.parametrize(
    ("controller", "database", "level", "hides"),
    [
        (SHOWN, SHOWN, "None", (False, False)),
        (HIDES, SHOWN, "None", (True, False)),
        (SHOWN, HIDES, "None", (False, True)),
        (HIDES, HIDES, "None", (True, True)),
        (HIDES, HIDES, "Operator", (False, False)),
        (HIDES, HIDES, "Administrator", (False, False)),
        ("PrivateData = users\n", SHOWN, "None", (False, False)),
        ("PrivateData = ALL\n", SHOWN, "None", (True, False)),
    ],
)
def test_each_daemon_says_for_itself_what_it_hides_and_operators_see_everybody(
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    *,
    controller: str,
    database: str,
    level: str,
    hides: tuple[bool, bool],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    programs.prints("scontrol", WITH_ACCOUNTING + controller)
    programs.add("sacctmgr", f'case "$*" in *config*) printf "{database}";; *) echo "{level}";; esac')
    hidden = programs.client().query_hidden_users("bob", {"ann"})
    assert (bool(hidden.queue), bool(hidden.records)) == hides
    assert hidden.queue | hidden.records <= {"ann"}


def test_what_cannot_be_asked_counts_as_hidden(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    programs.add("scontrol", "exit 1")
    programs.add("sacctmgr", "exit 1")
    hidden = programs.client().query_hidden_users("bob", {"ann"})
    assert hidden.queue == hidden.records == {"ann"}


@pytest.mark.parametrize(("uid", "own"), [(0, "root"), (64030, "slurm")], ids=["root", "SlurmUser"])
def test_who_runs_slurm_sees_everybody(uid: int, own: str, programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    programs.prints("scontrol", WITH_ACCOUNTING + HIDES)
    programs.prints("sacctmgr", HIDES)
    assert programs.client().query_hidden_users(own, {"ann"}) == HiddenUsers()


def test_the_controllers_clock_is_read_from_sdiag(programs: Programs) -> None:
    programs.prints("sdiag", "****\nsdiag output at Sun Nov 29 19:41:00 2026 (1795981260)\nData since (0)\n")
    assert programs.client().query_controller_time() == 1795981260.0
    programs.add("sdiag", "exit 1")
    assert programs.client().query_controller_time() == 0.0


def test_the_clock_of_a_chosen_cluster_is_that_of_its_own_controller(programs: Programs) -> None:
    """sdiag has `--cluster` where the other programs have `--clusters`."""
    other, own = ("sdiag output at Sun Nov 29 19:41:00 2026 (1795981260)", "sdiag output at  (1000000000)")
    programs.add("sdiag", f'case "$*" in --cluster=far) echo "{own}";; *) echo "{other}";; esac')
    far = SlurmClient(QUICK, programs.environment, cluster="far")
    assert far.query_controller_time() == 1000000000.0
    assert programs.client().query_controller_time() == 1795981260.0
