"""The fault campaign (`make chaos`) in short, and that its checks see what they are there for."""

import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Resources
from jobs.store.paths import Store
from tests.jobs.toy import results, submit
from tests.slurm_lab import Lab, Options
from tests.slurm_lab.chaos.campaign import FAULTS, Deck, Plan, campaign
from tests.slurm_lab.chaos.checks import writer_problems
from tests.slurm_lab.chaos.graph import expected_values, season_graph
from tests.slurm_lab.chaos.report import table
from tests.slurm_lab.chaos.submitters import CLOCK_OFF
from tests.slurm_lab.chaos.world import ALL_NODES, OPTIONS, without_the_first
from tests.slurm_lab.config import Ports, slurm_conf
from tests.slurm_lab.layout import Layout


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_twenty_faults_of_different_kinds_lose_nothing_and_double_nothing(
    make_lab: Callable[[str, Options], Lab],
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="sweep-chaos-"))  # pytest's own folder is closed to other users
    lab = make_lab("chaos", OPTIONS)
    try:
        outcome = campaign(lab, folder, Plan(faults=20, seed=1, season_faults=20, cells=4), print)
    finally:
        lab.down()
    assert outcome.violations == [], table(outcome)
    shutil.rmtree(folder)
    assert outcome.faults >= 20
    assert len(outcome.injected) >= 15, "too few kinds found something to strike"


def test_the_values_that_a_season_must_arrive_at_are_those_of_an_undisturbed_run(tmp_path: Path) -> None:
    graph = [job for job in season_graph(random.Random(3), cells=1) if not job.key.startswith("long")]
    jobs = [replace(job, resources=Resources()) for job in graph]
    store = Store(tmp_path / "store")
    submit(store, jobs)
    assert results(store, jobs) == expected_values(jobs)


def test_no_kind_of_fault_comes_again_before_all_others_had_their_turn() -> None:
    deck = Deck(random.Random(5))
    assert sorted(deck.draw() for _ in FAULTS) == sorted(FAULTS)


def test_the_first_node_leaves_and_the_others_keep_their_ports() -> None:
    line = slurm_conf(Options(), Layout(Path("/tmp/x")), Ports(20_000), user="me")
    left = ALL_NODES.sub(without_the_first, line)
    assert "NodeName=n[2-4] " in left
    assert "Port=[20003-20005] " in left


def test_a_kind_that_cannot_strike_here_is_never_drawn() -> None:
    deck = Deck(random.Random(5), without=[CLOCK_OFF])
    assert CLOCK_OFF not in {deck.draw() for _ in range(3 * len(FAULTS))}


def notes(*words: str) -> list[dict[str, Any]]:
    """`7:step` is an event `step` of process 7."""
    pairs = [word.split(":") for word in words]
    return [{"pid": int(pid), "time": 0.0, "event": event} for pid, event in pairs]


def test_an_execution_that_goes_on_where_another_ended_is_no_second_writer() -> None:
    assert writer_problems(notes("1:begin", "1:step", "2:begin", "2:step", "2:completed")) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("1:begin", "1:step", "2:begin", "2:step", "1:step"), "process 1 worked"),
        (("1:begin", "2:overlap", "2:begin"), "witness lock"),
        (("1:step", "1:completed", "2:begin", "2:completed"), "completed twice"),
    ],
)
def test_two_writers_of_one_job_are_seen(words: tuple[str, ...], problem: str) -> None:
    assert any(problem in found for found in writer_problems(notes(*words)))
