import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.slurm.commands import ProgramOutput
from jobs.slurm.doctor.node_test import NodeTest, check_report
from jobs.slurm.sbatch_errors import RefusalKind, SubmitRefusal, SubmittedJob, UnknownSubmit
from jobs.store.checks import Check, Severity
from tests.jobs.fake_clock import FakeClock
from tests.jobs.slurm.doctor.test_checks import named
from tests.jobs.slurm.doctor.test_node_probe import probed


class Node:
    """A client whose job does at once what `act` does, in its folder, and is then out of the queue."""

    def __init__(
        self, answer: SubmittedJob | SubmitRefusal | UnknownSubmit, act: Callable[[Path], None] = lambda _folder: None
    ) -> None:
        self.answer = answer
        self.act = act
        self.states = ["", ""]
        self.cancelled: list[str] = []
        self.script = ""
        self.arguments: list[str] = []

    def submit(self, arguments: Sequence[str], script: str) -> SubmittedJob | SubmitRefusal | UnknownSubmit:
        self.arguments, self.script = list(arguments), script
        self.act(Path(next(word for word in arguments if word.startswith("--chdir=")).removeprefix("--chdir=")))
        return self.answer

    def run(self, program: str, *arguments: str) -> ProgramOutput:
        if program == "scancel":
            self.cancelled += arguments
            return ProgramOutput()
        return ProgramOutput(text=self.states.pop(0) if len(self.states) > 1 else self.states[0])


def outcome(node: Node, store: Path, **given: Any) -> list[Check]:
    checks = NodeTest(node, store, **{"clock": FakeClock(time.time()), **given}).run()  # type: ignore[arg-type]
    assert list(store.iterdir()) == []
    assert len(node.cancelled) == 1
    assert node.cancelled[0].startswith("--name=sweep-doctor-")
    return checks


def test_a_node_that_sees_the_same_is_told(tmp_path: Path) -> None:
    node = Node(SubmittedJob("7"), probed)
    asked = Resources(
        nodes=4,
        gpus_per_node=8,
        gpu_type="a100",
        options={"qos": "low", "gpus": "8"},
        setup=("true",),
        launcher=("env",),
    )
    told = outcome(node, tmp_path, resources=asked)
    assert named(told, "node").severity is Severity.OK
    assert named(told, "node's Python").severity is Severity.OK
    assert named(told, "node's clock").severity is Severity.OK
    assert "--qos=low" in node.arguments
    assert "--time=1" in node.arguments
    assert not any("gpu" in word for word in node.arguments)
    lines = node.script.splitlines()
    assert lines[:2] == ["#!/bin/bash", "true"]
    assert lines[2].startswith(f"exec env {sys.executable} ")


def test_a_node_without_scontrol_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert named(outcome(Node(SubmittedJob("7"), probed), tmp_path), "node's scontrol").severity is Severity.NOTE


def test_a_job_that_leaves_no_report_is_told_with_its_last_words(tmp_path: Path) -> None:
    told = outcome(
        Node(SubmittedJob("7"), lambda folder: put(folder / "log.txt", "a\nexec: python: not found\n\n")), tmp_path
    )
    assert "it said 'exec: python: not found'" in told[0].text
    assert told[0].severity is Severity.PROBLEM
    assert "the node may not see the store" in outcome(Node(SubmittedJob("7")), tmp_path)[0].text


def put(path: Path, text: str) -> None:
    path.write_text(text)


def test_a_job_that_does_not_start_in_time_is_a_note(tmp_path: Path) -> None:
    node = Node(SubmittedJob("7"))
    node.states = ["CLUSTER: far\n7 PENDING, Resources\n"]
    clock = FakeClock()
    told = outcome(node, tmp_path, wait_seconds=120.0, clock=clock)
    assert sum(clock.slept) == pytest.approx(121)
    assert told[0].severity is Severity.NOTE
    assert "(PENDING, Resources)" in told[0].text


def test_a_job_that_ended_on_a_chosen_cluster_is_not_waited_for(tmp_path: Path) -> None:
    """There squeue names the cluster above a queue that is empty."""
    node = Node(SubmittedJob("7"))
    node.states = ["CLUSTER: far\n"]
    assert "ended without a report" in outcome(node, tmp_path)[0].text


def test_a_refusal_and_a_silence_are_told_apart(tmp_path: Path) -> None:
    refusal = SubmitRefusal(RefusalKind.INVALID, "Invalid qos specification")
    assert outcome(Node(refusal), tmp_path)[0].severity is Severity.PROBLEM
    assert outcome(Node(UnknownSubmit("sbatch gave no answer")), tmp_path)[0].severity is Severity.NOTE


class Silent(Node):
    """A client whose squeue does not answer."""

    def run(self, program: str, *arguments: str) -> ProgramOutput:
        answer = super().run(program, *arguments)
        return answer if program == "scancel" else ProgramOutput(problem="no answer")


def test_a_queue_that_cannot_be_asked_counts_as_waiting(tmp_path: Path) -> None:
    assert "unknown: no answer" in outcome(Silent(SubmittedJob("7")), tmp_path)[0].text


def test_other_versions_another_folder_and_another_clock_are_problems() -> None:
    report = {
        "node": "n1", "mark": "t", "python": "3.9.1", "versions": {"torch": ""}, "scontrol": "", "skew": time.time(),
    }  # fmt: skip
    told = check_report(report, "t", here=0.0)
    assert "Python 3.9.1" in named(told, "node's Python").text
    assert named(told, "node's clock").severity is Severity.PROBLEM
    assert named(check_report({**report, "skew": 5.0}, "t", here=0.0), "node's clock").severity is Severity.NOTE
    assert "another folder" in check_report(report, "u", here=0.0)[0].text


def test_a_store_that_cannot_be_written_is_told_before_a_job_is_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = NodeTest(Node(SubmittedJob("7")), tmp_path / "file").run()  # type: ignore[arg-type]
    assert "not tried" in told[0].text
