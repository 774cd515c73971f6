"""The commands of the campaign: words, what a run without fault says, and what must hold after one."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweep.kept_limits import read_limits
from tests.store_faults.study import CELL, NAME, Study

Check = Callable[[Study], list[str]]


def expect_nothing(_study: Study) -> list[str]:
    return []


@dataclass(frozen=True, kw_only=True)
class CommandCase:
    """One command."""

    name: str
    words: Callable[[Study], Sequence[str | Path]]
    weight: float
    code: int = 0
    """Of a run without fault."""
    running: bool = False
    """Whether an attempt runs when it begins."""
    prepare: Callable[[Study], None] = lambda _study: None
    check: Check = expect_nothing
    replans: bool = False
    """Whether its plan has other keys than the original."""
    reads_only: bool = False
    """Whether it leaves the store as it was."""
    said: bool = True
    """Whether it says the same again."""


def find_key(study: Study, phase: str, cell: str = "") -> str:
    return next(job.key for job in study.read_plan().jobs if job.phase == phase and (not cell or cell in job.cells))


def expect_done(phase: str, cell: str = "") -> Check:
    def check(study: Study) -> list[str]:
        key = find_key(study, phase, cell)
        return [] if key in study.list_done() else [f"{phase} {key} is not done"]

    return check


def expect_limit(study: Study) -> list[str]:
    found = read_limits(study.store.locate_sweep(NAME).limits).max_queued
    return [] if found == 3 else [f"max_queued is {found}"]


def expect_cancelled(study: Study) -> list[str]:
    from jobs.reconcile.snapshot import load_snapshot

    snapshot = load_snapshot(study.read_plan().jobs, study.store, NAME)
    states = {status.state.value for status in snapshot.statuses.values()}
    return [] if states <= {"done", "cancelled"} else [f"states are {sorted(states)}"]


def expect_tables(study: Study) -> list[str]:
    import pyarrow.parquet as pq

    folder = study.store.locate_sweep(NAME).results
    rows = pq.read_table(folder / "jobs.parquet").num_rows
    return [] if rows == len(study.read_plan().jobs) else [f"jobs.parquet has {rows} rows"]


def expect_index(study: Study) -> list[str]:
    models = json.loads((study.folder / "index" / "index.json").read_bytes())["models"]
    return [] if len(models) == len(study.read_plan().cells) else [f"index.json has {len(models)} models"]


def damage_manifest(study: Study) -> None:
    path = study.store.locate_sweep(NAME).manifest
    path.write_bytes(path.read_bytes()[:-300])


def let_trunk_run(study: Study) -> None:
    (study.notes / "slow").write_text("")


def get_sweep_file(study: Study) -> Path:
    return study.folder / "sweep.yaml"


CASES = (
    CommandCase(name="plan", words=lambda s: ["plan", get_sweep_file(s)], weight=6),
    CommandCase(
        name="plan --diff", words=lambda s: ["plan", s.folder / "edited.yaml", "--diff"], weight=8, reads_only=True
    ),
    CommandCase(
        name="plan --replace", words=lambda s: ["plan", s.folder / "edited.yaml", "--replace"], weight=7, replans=True,
        said=False,
    ),
    CommandCase(
        name="plan --replace of a damaged one", words=lambda s: ["plan", get_sweep_file(s), "--replace"], weight=6,
        prepare=damage_manifest, said=False,
    ),
    CommandCase(
        name="submit", words=lambda s: ["submit", NAME, "--only", find_key(s, "trunk"), "--cpus", "1"], weight=8,
        prepare=let_trunk_run, check=expect_done("trunk"),
    ),
    CommandCase(
        name="submit --dry-run", words=lambda _: ["submit", NAME, "--dry-run", "--cpus", "2"], weight=10,
        reads_only=True,
    ),
    CommandCase(
        name="status", words=lambda _: ["status", NAME, "--all"], weight=10, reads_only=True, code=1, running=True
    ),
    CommandCase(name="status --json", words=lambda _: ["status", NAME, "--json"], weight=6, reads_only=True, code=1),
    CommandCase(name="tick", words=lambda _: ["tick", NAME], weight=8),
    CommandCase(
        name="results", words=lambda _: ["results", NAME, "--figure-formats", "svg"], weight=1, check=expect_tables,
    ),
    CommandCase(
        name="results --json", words=lambda _: ["results", NAME, "--json", "--no-figures"], weight=2,
        check=expect_tables,
    ),
    CommandCase(name="explain", words=lambda _: ["explain", CELL], weight=10, reads_only=True),
    CommandCase(name="logs", words=lambda _: ["logs", NAME, CELL], weight=10, reads_only=True),
    CommandCase(
        name="cancel", words=lambda _: ["cancel", NAME, "--grace", "20"], weight=8, running=True,
        check=expect_cancelled, said=False,
    ),
    CommandCase(
        name="resume", words=lambda s: ["resume", NAME, "--cells", find_key(s, "finetune", CELL), "--cpus", "1"],
        weight=5, check=expect_done("finetune", CELL), said=False,
    ),
    CommandCase(
        name="export --index", words=lambda s: ["export", NAME, "--index", "--out", s.folder / "index"], weight=3,
        check=expect_index,
    ),
    CommandCase(
        name="limits", words=lambda _: ["limits", NAME, "--max-queued", "3"], weight=8, check=expect_limit
    ),
    CommandCase(name="doctor", words=lambda _: ["doctor", NAME], weight=8),
    CommandCase(name="data check", words=lambda s: ["data", "check", get_sweep_file(s), "--workers", "1"], weight=0.1),
)  # fmt: skip
