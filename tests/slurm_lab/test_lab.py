"""The cluster itself does what a real one does, survives what tests do to it, and leaves nothing behind."""

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.slurm_lab import Accounting, Lab, LabError, Options
from tests.slurm_lab.ports import listens
from tests.slurm_lab.processes import alive, all_processes, wait_for

SMALL = Options(nodes=1, accounting=Accounting.NONE)
DEAF = "trap '' TERM; sleep 300 & wait; sleep 300"
"""A script that does not end at a SIGTERM."""
AS_USER = """
import encodings.idna, os, pwd, sys
from tests.slurm_lab.__main__ import main
user = pwd.getpwnam(sys.argv.pop(1))
if user.pw_uid != os.geteuid():
    os.setgroups([]), os.setgid(user.pw_gid), os.setuid(user.pw_uid)
sys.exit(main())
"""
"""Drops root's rights only after the imports (encodings too): Python may lie where no other user gets to."""


def sbatch(lab: Lab, *options: str, script: str = "true") -> str:
    """The number of a job that prints nothing."""
    return lab.output("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}")


def test_a_job_gets_its_gpus_and_sacct_counts_them(slurm: Lab, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "echo $CUDA_VISIBLE_DEVICES; nproc"
    job = sbatch(slurm, "--gres=gpu:a100:4", f"--output={log}", "--comment=cell 7", script=script)
    slurm.wait_job(job)
    assert log.read_text().splitlines()[0] == "0,1,2,3"
    row = ["sacct", "-n", "-P", "-X", "-j", job, "-o", "State,AllocTRES,Comment"]
    wait_for("its row in sacct", lambda: slurm.output(*row).startswith("COMPLETED"), seconds=20)
    _, resources, comment = slurm.output(*row).split("|")
    assert {"gres/gpu=4", "gres/gpu:a100=4", "node=1"} <= set(resources.split(","))
    assert comment == "cell 7"


def test_every_element_of_an_array_runs(slurm: Lab, tmp_path: Path) -> None:
    job = sbatch(slurm, "--array=0-19", script=f"touch {tmp_path}/$SLURM_ARRAY_TASK_ID")
    slurm.wait_job(job)
    assert {path.name for path in tmp_path.iterdir()} == {str(index) for index in range(20)}


@pytest.mark.parametrize("option", ["--qos=capped", "--account=tight"])
def test_the_sixth_job_under_a_submit_limit_is_refused(slurm: Lab, option: str) -> None:
    assert slurm.run("sbatch", "--hold", "--array=0-4", option, "--wrap=true").returncode == 0
    refused = slurm.run("sbatch", "--hold", option, "--wrap=true")
    assert refused.returncode == 1
    assert "MaxSubmitJob" in refused.stderr


def test_a_job_of_high_qos_sends_one_of_low_qos_back_to_the_queue(slurm: Lab) -> None:
    low = sbatch(slurm, "--qos=low", "--nodes=4", "--gres=gpu:8", "--exclusive", script="sleep 300")
    slurm.wait_job(low, "RUNNING")
    high = sbatch(slurm, "--qos=high", "--gres=gpu:8")
    slurm.wait_job(high)
    ends = ["sacct", "-n", "-P", "-X", "-D", "-j", low, "-o", "State"]
    wait_for("the row of its first run", lambda: "PREEMPTED" in slurm.output(*ends), seconds=20)


def test_a_job_on_a_node_that_vanishes_runs_again_elsewhere(slurm: Lab) -> None:
    slurm.conf("SlurmdTimeout=3\nMessageTimeout=3")  # both have their part in how long a silent node is believed in
    job = sbatch(slurm, "--exclusive", script="sleep 300")
    slurm.wait_job(job, "RUNNING")
    node = slurm.output("squeue", "-h", "-o", "%N", "-j", job)
    slurm.stop(node, signal.SIGKILL)
    wait_for("its second start", lambda: restarts(slurm, job) == 1, seconds=60, every=0.2)
    slurm.wait_job(job, "RUNNING", seconds=60)
    assert slurm.output("squeue", "-h", "-o", "%N", "-j", job) != node
    ends = ["sacct", "-n", "-P", "-X", "-D", "-j", job, "-o", "State"]
    wait_for("the row of its first run", lambda: "NODE_FAIL" in slurm.output(*ends), seconds=20)


def restarts(lab: Lab, job: str) -> int:
    fields = dict(word.partition("=")[::2] for word in lab.output("scontrol", "-o", "show", "job", job).split())
    return int(fields["Restarts"])


def test_a_controller_that_comes_back_knows_its_jobs(slurm: Lab) -> None:
    held = sbatch(slurm, "--hold", "--job-name=before")
    slurm.stop("ctld")
    assert slurm.run("squeue", "-h").returncode == 1
    slurm.start("ctld")
    assert slurm.output("squeue", "-h", "-o", "%j", "-j", held) == "before"
    slurm.output("scontrol", "release", held)
    slurm.wait_job(held)


def test_a_setting_of_one_test_is_gone_in_the_next(slurm: Lab) -> None:
    slurm.conf("MaxArraySize=10\nPartitionName=short MaxTime=2")
    assert "Invalid job array" in slurm.run("sbatch", "--hold", "--array=0-10", "--wrap=true").stderr
    assert slurm.output("sinfo", "-h", "-p", "short", "-o", "%l") == "2:00"
    slurm.reset()
    assert slurm.run("sbatch", "--hold", "--array=0-10", "--wrap=true").returncode == 0
    assert slurm.output("sinfo", "-h", "-p", "short", "-o", "%l") == "1:00"


def test_reset_puts_right_whatever_a_test_has_broken(slurm: Lab) -> None:
    deaf = sbatch(slurm, "-w", "n1", script=DEAF)
    slurm.wait_job(deaf, "RUNNING")
    sbatch(slurm, "--hold", "--array=0-99")
    slurm.set_node_state("n2", "drain")
    slurm.set_node_state("n3", "down")
    for daemon in ("n4", "ctld", "dbd", "db", "munge"):
        slurm.stop(daemon, signal.SIGKILL)
    slurm.reset()
    assert slurm.output("squeue", "-h") == ""
    assert set(slurm.node_states().values()) == {"idle"}
    whole = sbatch(slurm, "--nodes=4", "--gres=gpu:8")
    assert int(whole) > int(deaf) + 101  # numbers of jobs that the crash has made the controller forget stay unused
    slurm.wait_job(whole)
    told = partial(slurm.output, "sacct", "-n", "-X", "-P", "-o", "JobID", "-j", whole)
    wait_for("sacct to tell of the new job", lambda: told() == whole)


def test_a_reset_of_a_quiet_cluster_is_quick(slurm: Lab) -> None:
    begun = time.process_time()
    slurm.reset()
    assert time.process_time() - begun < 0.2


def test_a_cluster_without_accounting_runs_jobs_and_has_no_sacct(slurm_without_accounting: Lab) -> None:
    lab = slurm_without_accounting
    lab.wait_job(sbatch(lab, "--gres=gpu:2"))
    refused = lab.run("sacct")
    assert refused.returncode == 1
    assert "accounting storage is disabled" in refused.stderr


def test_two_clusters_do_not_see_each_other(slurm: Lab, make_lab: Callable[[str, Options], Lab]) -> None:
    other = make_lab("other", SMALL)
    sbatch(slurm, "--hold", "--job-name=here")
    sbatch(other, "--hold", "--job-name=there")
    assert slurm.output("squeue", "-h", "-o", "%j") == "here"
    assert other.output("squeue", "-h", "-o", "%j") == "there"
    other.down()
    assert set(slurm.node_states().values()) == {"idle"}


def test_down_leaves_no_process_no_socket_and_no_file(make_lab: Callable[[str, Options], Lab]) -> None:
    lab = make_lab("gone", SMALL)
    job = sbatch(lab, script=f"setsid --fork sleep 300; {DEAF}")
    lab.wait_job(job, "RUNNING")
    ports = [lab.ports.ctld, lab.ports.node("n1")]
    wait_for("the job's processes", lambda: len(all_processes(lab.layout)) >= 7, seconds=10)
    pids = all_processes(lab.layout)
    lab.stop("n1", signal.SIGKILL)  # the job lives on, and nobody looks after it
    lab.down()
    assert [pid for pid in pids if alive(pid)] == []
    assert not any(listens(port) for port in ports)
    assert str(lab.layout.root) not in Path("/proc/net/unix").read_text()
    assert not lab.layout.root.exists()


def test_down_spares_what_the_cluster_has_not_started(make_lab: Callable[[str, Options], Lab]) -> None:
    lab = make_lab("spare", SMALL)
    with subprocess.Popen(["sleep", "300"], env={**os.environ, **lab.env}) as bystander:
        lab.layout.pid_file("n1").write_text(str(bystander.pid))  # a stale pid file, whose number has come round again
        lab.down()
        assert alive(bystander.pid)
        bystander.kill()


def test_a_port_that_is_taken_is_said_with_the_daemon_that_wants_it(make_lab: Callable[[str, Options], Lab]) -> None:
    lab = make_lab("port", SMALL)
    lab.stop("ctld")
    with socket.create_server(("127.0.0.1", lab.ports.ctld)), pytest.raises(LabError, match="meant for ctld"):
        lab.start("ctld")


def test_a_plain_user_runs_a_whole_cluster() -> None:
    root = os.geteuid() == 0
    user = "games" if root else getpass.getuser()
    home = Path(tempfile.mkdtemp(prefix="sw-", dir="/tmp"))
    shutil.chown(home, user)
    lab = [sys.executable, "-c", AS_USER, user, "--dir", f"{home}/lab"]
    client = partial(run, env={**os.environ, "SLURM_CONF": f"{home}/lab/etc/slurm.conf"}, cwd=home)
    if root:
        client = partial(client, user=user, group=pwd.getpwnam(user).pw_gid, extra_groups=[])
    try:
        up = run([*lab, "up"])
        assert up.returncode == 0, up.stderr
        sent = client(["sbatch", "--parsable", "--gres=gpu:1", "--wait", "--output=out", "--wrap=id -un"])
        assert (home / "out").read_text() == f"{user}\n"
        records = ["sacct", "-n", "-X", "-P", "-o", "User,Account", "-j", sent.stdout.strip()]
        wait_for("sacct to tell of the job", lambda: client(records).stdout)  # slurmdbd may be late
        assert client(records).stdout == f"{user}|lab\n"
        assert run([*lab, "status"]).returncode == 0
        run([*lab, "down"])
        assert [path.name for path in home.iterdir()] == ["out"]
    finally:
        run([*lab, "down"])
        shutil.rmtree(home)


def run(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600, **options)
