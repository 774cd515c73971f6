"""What is said of a cluster, for better and for worse."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.slurm.client import NoAnswer, Refusal, RefusalKind, Sent
from jobs.slurm.commands import Output
from jobs.slurm.doctor import checks, node_probe, node_test
from jobs.slurm.doctor.checks import client_checks, plan_checks, site_checks
from jobs.slurm.doctor.node_test import NodeTest, report_checks
from jobs.slurm.site import Site, read_site
from jobs.store.checks import Check, Verdict
from tests.jobs.slurm.site_texts import V22, V24, Told
from tests.jobs.toy import toy_job

OLD = read_site(Told(V22), "ann")
NEW = read_site(Told(V24), "ann")


def named(checks: Sequence[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_a_good_cluster_has_no_problems() -> None:
    told = list(site_checks(OLD))
    assert [check.name for check in told] == [
        "controller", "partitions", "arrays", "queue", "partition limits", "memory of jobs", "accounting", "requeue",
        "preemption",
    ]  # fmt: skip
    assert all(check.verdict is not Verdict.PROBLEM for check in told)
    assert "main (default): 4 nodes, 8 a100, no time limit; short: 4 nodes, 8 a100, 1 min" in told[1].text
    assert "5 under qos:capped" in named(told, "queue").text
    assert "is lost" in named(told, "preemption").advice


def test_what_another_cluster_does_otherwise_is_told() -> None:
    told = list(site_checks(NEW))
    assert named(told, "requeue").text == "is off unless asked for (JobRequeue=0)"
    assert "20 s after its end" in named(told, "memory of jobs").text
    assert named(told, "preemption").verdict is Verdict.OK
    assert "cpu (default): 9 nodes, 10830 min, down" in named(told, "partitions").text
    assert not any(check.name == "partition limits" for check in told)


def test_a_controller_that_is_silent_is_one_problem() -> None:
    told = list(site_checks(Site(problem="Unable to contact slurm controller")))
    assert [check.verdict for check in told] == [Verdict.PROBLEM]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"accounting_type": "accounting_storage/none"}, "there is none"),
        ({"accounting_answers": False}, "does not answer"),
        ({"accounted": ("cpu", "mem")}, "lacks gres/gpu"),
    ],
    ids=["none", "down", "without GPUs"],
)
def test_hours_come_from_elsewhere_where_accounting_lacks(change: dict[str, Any], part: str) -> None:
    check = named(list(site_checks(replace(OLD, **change))), "accounting")
    assert check.verdict is Verdict.NOTE
    assert part in check.text
    assert "what attempts noted themselves" in check.advice


def test_a_cluster_without_partitions_limits_or_preemption() -> None:
    site = replace(OLD, partitions=None, enforced=frozenset(), qos=None, associations=None, preempt_type="preempt/none")
    told = list(site_checks(replace(site, remarks=("partitions: no answer",))))
    assert named(told, "not known").text == "partitions: no answer"
    assert named(told, "partitions").verdict is Verdict.NOTE
    assert "no limit on your jobs" in named(told, "queue").text
    assert named(told, "preemption").text == "there is none"


def test_a_plan_is_held_against_the_cluster() -> None:
    good = toy_job("a", resources=Resources(setup=("module load x",)))
    wide = Resources(nodes=9)
    jobs = [good, *(toy_job(f"w{number}", resources=wide) for number in range(3))]
    told = list(plan_checks(OLD, jobs, largest_save_bytes=2**34))
    assert named(told, "plan").text.startswith("3 of 4 jobs could never run: partition main has 4 nodes")
    assert named(told, "setup").verdict is Verdict.OK
    assert "16.0 GiB, needs 5,461 MiB/s" in named(told, "time to save").text
    assert named(list(plan_checks(OLD, [good])), "plan").text == "all 1 jobs can run in main"


def test_a_plan_that_is_larger_than_a_limit_is_refilled() -> None:
    shared = Resources(options={"qos": "capped"})
    told = list(
        plan_checks(OLD, [toy_job(f"j{number}", resources=shared) for number in range(60)], largest_save_bytes=1)
    )
    assert named(told, "refill").text == "60 jobs, of which 5 may be in the queue at once (qos:capped)"
    assert named(told, "time to save").verdict is Verdict.OK


@pytest.mark.parametrize("lines", [("echo 'open",), ("if true",), ("cat <<EOF",)], ids=["quote", "if", "here"])
def test_set_up_lines_that_would_swallow_the_rest_are_a_problem(lines: tuple[str, ...]) -> None:
    told = list(plan_checks(OLD, [toy_job("a", resources=Resources(setup=lines))]))
    assert named(told, "setup").verdict is Verdict.PROBLEM


def test_without_bash_the_set_up_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    told = list(plan_checks(OLD, [toy_job("a", resources=Resources(setup=("x",)))]))
    assert "not looked at" in named(told, "setup").text


class Versions:
    """A client that only knows its version."""

    def __init__(self, text: str, problem: str = "") -> None:
        self.output = Output(text=text, problem=problem)

    def run(self, program: str, *arguments: str) -> Output:
        assert (program, *arguments) == ("sbatch", "--version")
        return self.output


@pytest.mark.parametrize(
    ("text", "problem", "verdict"),
    [
        ("slurm-wlm 22.05.8", "", "ok"), ("slurm 24.11.0-0rc1", "", "ok"), ("slurm 21.08.5", "", "problem"),
        ("", "no configuration", "problem"), ("something", "", "problem"),
    ],
)  # fmt: skip
def test_clients_older_than_22_05_are_a_problem(
    text: str, problem: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "jobs.slurm.doctor.checks.shutil.which", lambda name: None if name == "sacct" else f"/usr/bin/{name}"
    )
    told = list(client_checks(Versions(text, problem), {"SBATCH_QOS": "x", "SLURM_CONF": "/etc/x"}))
    assert told[0].verdict.value == verdict
    assert "SBATCH_QOS" in told[-1].text
    assert "SLURM_CONF" not in told[-1].text


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.slurm.doctor.checks.shutil.which", lambda _name: None)
    assert "sbatch, squeue" in next(client_checks(Versions(""), {})).text
    assert not checks.has_slurm()


class Node:
    """A client whose job does at once what `act` does, in its folder, and is then out of the queue."""

    def __init__(self, answer: Sent | Refusal | NoAnswer, act: Callable[[Path], None] = lambda _folder: None) -> None:
        self.answer = answer
        self.act = act
        self.states = ["", ""]
        self.cancelled: list[str] = []
        self.script = ""
        self.arguments: list[str] = []

    def submit(self, arguments: Sequence[str], script: str) -> Sent | Refusal | NoAnswer:
        self.arguments, self.script = list(arguments), script
        self.act(Path(next(word for word in arguments if word.startswith("--chdir=")).removeprefix("--chdir=")))
        return self.answer

    def run(self, program: str, *arguments: str) -> Output:
        if program == "scancel":
            self.cancelled += arguments
            return Output()
        return Output(text=self.states.pop(0) if len(self.states) > 1 else self.states[0])


def probed(folder: Path) -> None:
    node_probe.main([str(folder), "sweep-vlm", "no-such-distribution"])


def outcome(node: Node, store: Path, **given: Any) -> list[Check]:
    checks = NodeTest(node, store, **given).run()  # type: ignore[arg-type]
    assert list(store.iterdir()) == []
    assert len(node.cancelled) == 1
    assert node.cancelled[0].startswith("--name=sweep-doctor-")
    return checks


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_test, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(node_test, "VISIBLE_SECONDS", 0.05)


def test_a_node_that_sees_the_same_is_told(tmp_path: Path) -> None:
    node = Node(Sent("7"), probed)
    asked = Resources(
        nodes=4,
        gpus_per_node=8,
        gpu_type="a100",
        options={"qos": "low", "gpus": "8"},
        setup=("true",),
        launcher=("env",),
    )
    told = outcome(node, tmp_path, resources=asked)
    assert named(told, "node").verdict is Verdict.OK
    assert named(told, "node's Python").verdict is Verdict.OK
    assert named(told, "node's clock").verdict is Verdict.OK
    assert "--qos=low" in node.arguments
    assert "--time=1" in node.arguments
    assert not any("gpu" in word for word in node.arguments)
    lines = node.script.splitlines()
    assert lines[:2] == ["#!/bin/bash", "true"]
    assert lines[2].startswith(f"exec env {sys.executable} ")


def test_a_node_without_scontrol_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert named(outcome(Node(Sent("7"), probed), tmp_path), "node's scontrol").verdict is Verdict.NOTE


def test_a_job_that_leaves_no_report_is_told_with_its_last_words(tmp_path: Path) -> None:
    told = outcome(Node(Sent("7"), lambda folder: put(folder / "log.txt", "a\nexec: python: not found\n\n")), tmp_path)
    assert "it said 'exec: python: not found'" in told[0].text
    assert told[0].verdict is Verdict.PROBLEM
    assert "the node may not see the store" in outcome(Node(Sent("7")), tmp_path)[0].text


def put(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_job_that_does_not_start_in_time_is_a_note(tmp_path: Path) -> None:
    node = Node(Sent("7"))
    node.states = ["PENDING, Resources"]
    told = outcome(node, tmp_path, wait_seconds=0.05)
    assert told[0].verdict is Verdict.NOTE
    assert "(PENDING, Resources)" in told[0].text


def test_a_refusal_and_a_silence_are_told_apart(tmp_path: Path) -> None:
    refusal = Refusal(RefusalKind.INVALID, "Invalid qos specification")
    assert outcome(Node(refusal), tmp_path)[0].verdict is Verdict.PROBLEM
    assert outcome(Node(NoAnswer("sbatch gave no answer")), tmp_path)[0].verdict is Verdict.NOTE


class Silent(Node):
    """A client whose squeue does not answer."""

    def run(self, program: str, *arguments: str) -> Output:
        answer = super().run(program, *arguments)
        return answer if program == "scancel" else Output(problem="no answer")


def test_a_queue_that_cannot_be_asked_counts_as_waiting(tmp_path: Path) -> None:
    assert "unknown: no answer" in outcome(Silent(Sent("7")), tmp_path, wait_seconds=0.05)[0].text


def test_other_versions_another_folder_and_another_clock_are_problems() -> None:
    report = {
        "node": "n1", "mark": "t", "python": "3.9.1", "versions": {"torch": ""}, "scontrol": "", "skew": time.time(),
    }  # fmt: skip
    told = report_checks(report, "t", here=0.0)
    assert "Python 3.9.1" in named(told, "node's Python").text
    assert named(told, "node's clock").verdict is Verdict.PROBLEM
    assert named(report_checks({**report, "skew": 5.0}, "t", here=0.0), "node's clock").verdict is Verdict.NOTE
    assert "another folder" in report_checks(report, "u", here=0.0)[0].text


def test_a_store_that_cannot_be_written_is_told_before_a_job_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = NodeTest(Node(Sent("7")), tmp_path / "file").run()  # type: ignore[arg-type]
    assert "not tried" in told[0].text


def test_the_probe_writes_a_whole_report(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("t")
    probed(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mark"] == "t"
    assert report["versions"]["sweep-vlm"]
    assert report["versions"]["no-such-distribution"] == ""
