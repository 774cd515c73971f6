"""Files of a store, changed; every command that reads them, and the readers of jobs and stages.

Whatever a file holds: no command ends in a traceback, no job becomes done that was not, and the sweep can be planned
again.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from jobs.claims.claims import find_newest_claim
from jobs.errors import JobsError
from jobs.store.job_file import read_planned_job
from jobs.store.ledger import read_events
from jobs.store.paths import Store
from jobs.store.records import AttemptExit, AttemptStart, find_newest_checkpoint
from jobs.store.results import list_finished_keys
from stages.checkpoint.files import find_newest_checkpoint as find_stage_checkpoint
from stages.checkpoint.files import read_result_checkpoint
from stages.errors import StageError
from stages.job_file import read_job
from sweep.errors import SweepError
from sweep.stored_sweep import open_sweep
from tests.fuzz.byte_changes import change_bytes
from tests.fuzz.campaign import Outcome, Verdict, ViolationError
from tests.fuzz.in_process import run_sweep
from tests.fuzz.json_changes import change_json
from tests.oracle.stored import PATIENCE, silent_slurm, unpack

SWEEPS = ("kept", "kept-slurm")
UNREAD = ("request.json", "seconds.json", "answer.json", "scores.json", "times.json")
"""What only a stage reads that continues; and answers of single shards, `answers-*`."""
LINKED = (".safetensors", ".log", ".txt")
"""Files that are never changed in place: a copy of the store shares them."""


class StoredFiles:
    """See `tests.fuzz.campaign.Program`."""

    name = "stored"

    def __init__(self, folder: Path) -> None:
        os.environ["PATH"] = f"{silent_slurm(folder / 'slurm')}:{os.environ['PATH']}"
        os.environ["SWEEP_SLURM_PATIENCE"] = PATIENCE
        os.environ["NO_COLOR"] = "1"
        self._store = unpack(folder)
        for sweep in SWEEPS:  # each leaves files of its own
            for words in (
                ("plan", self._store / "sweeps" / sweep / "sweep.yaml"),
                ("limits", sweep, "--max-queued", "5"),
                ("results", sweep, "--no-figures"),
                ("status", sweep),
            ):
                run_sweep(folder, [*words, "--store", self._store])
        self._files = sorted(
            path.relative_to(self._store)
            for path in self._store.rglob("*")
            if path.suffix in {".json", ".jsonl", ".yaml", ".txt"}
            and path.name not in {"log.txt", *UNREAD}
            and not path.name.startswith("answers-")
            and "results" not in path.parts
        )
        self._kinds = sorted({render_kind(path) for path in self._files})
        self._cells = {sweep: [cell.name for cell in open_sweep(self._store, sweep).manifest.cells] for sweep in SWEEPS}
        self._done = {sweep: find_done(folder, self._store, sweep) for sweep in SWEEPS}

    def run_case(self, dice: random.Random, folder: Path) -> Verdict:
        store = folder / "store"
        shutil.copytree(self._store, store, copy_function=copy_or_link)
        changed = self._change_files(dice, store)
        sweep = next((name for name in reversed(SWEEPS) if name in changed[0].parts), dice.choice(SWEEPS))
        kinds = ", ".join(sorted({render_kind(path) for path in changed}))
        for path in changed:
            read_alone(store / path)
        words = self._pick_command(dice, store, sweep)
        said = run_sweep(folder, [*words, "--store", store])
        if more := find_done(folder, store, sweep) - self._done[sweep]:
            raise ViolationError(f"{kinds}: done after the change and not before: {sorted(more)}")
        if dice.random() < 0.25:
            self._plan_again(folder, store, sweep, changed)
        return Verdict(
            Outcome.REFUSED if said.code == 1 and not said.out else Outcome.TOLD if said.err else Outcome.PASSED, kinds
        )

    def _change_files(self, dice: random.Random, store: Path) -> list[Path]:
        """Changes a file of a kind by chance, sometimes all files of it, or a second one."""
        changed = []
        for _ in range(dice.choice((1, 1, 1, 2))):
            kind = dice.choice(self._kinds)
            chosen = [path for path in self._files if render_kind(path) == kind]
            for relative in chosen if dice.random() < 0.1 else [dice.choice(chosen)]:
                path = store / relative
                content = path.read_bytes()
                change: Callable[[random.Random, bytes], bytes] = change_json if "json" in path.suffix else change_bytes
                path.unlink()
                path.write_bytes(change(dice, content))
                changed.append(relative)
        return changed

    def _pick_command(self, dice: random.Random, store: Path, sweep: str) -> Sequence[str | Path]:
        cell = dice.choice(self._cells[sweep])
        source = store / "sweeps" / sweep / "sweep.yaml"
        return dice.choice(
            [
                ["status", sweep, *dice.choice(([], ["--all"], ["--json"]))],
                ["results", sweep, "--no-figures", *dice.choice(([], ["--json"], ["--csv"]))],
                ["explain", cell, "--sweep", sweep, *dice.choice(([], ["--json"]))],
                ["logs", sweep, *dice.choice(([], [cell], [cell, "--path"]))],
                ["plan", source, *dice.choice(([], ["--diff"], ["--replace"], ["--json"]))],
                ["submit", sweep, "--dry-run", "--cpus", "2", *dice.choice(([], ["--json"], ["--only", cell]))],
                ["resume", sweep, "--dry-run", "--cpus", "2"],
                ["resume", sweep, "--no-submit"],
                ["cancel", sweep, cell],
                ["limits", sweep, *dice.choice(([], ["--json"], ["--max-queued", "none"]))],
                ["tick", sweep],
                ["export", sweep, "--index", "--out", store / "out"],
            ]
        )

    def _plan_again(self, folder: Path, store: Path, sweep: str, changed: Sequence[Path]) -> None:
        """ViolationError unless a sound sweep file can be planned whatever the store holds."""
        source = folder / "sound.yaml"
        shutil.copy(self._store / "sweeps" / sweep / "sweep.yaml", source)
        said = run_sweep(folder, ["plan", source, "--store", store, "--replace"])
        if said.code:
            raise ViolationError(f"{', '.join(map(str, changed))}: cannot be planned again: {said.err[-500:]}")


def copy_or_link(source: str, target: str) -> str:
    if source.endswith(LINKED):
        os.link(source, target)
        return target
    return str(shutil.copy2(source, target))


def render_kind(path: Path) -> str:
    """Which of the store's files it is, such as `exit.json` or `ledger`."""
    for part in ("ledger", "claims", "counts", "site", "questions", "submitters"):
        if part in path.parts:
            return part
    return path.name


def find_done(folder: Path, store: Path, sweep: str) -> frozenset[str]:
    """Keys of the jobs that `sweep status` counts as done; of a store that it refuses, none."""
    said = run_sweep(folder, ["status", sweep, "--json", "--store", store])
    if not said.out:
        return frozenset()
    count = json.loads(said.out)["states"]["done"]
    try:
        jobs = open_sweep(store, sweep).manifest.jobs
    except SweepError as error:
        raise ViolationError(f"status reads a manifest that is refused elsewhere: {error}") from error
    keys = list_finished_keys(Store(store), jobs)
    if len(keys) != count:
        raise ViolationError(f"status says {count} done, and {len(keys)} results are valid")
    return keys


def read_alone(path: Path) -> None:
    """What a job, a supervisor or a stage reads of the file, without a command around it."""
    run = next((parent for parent in path.parents if parent.parent.parent.name == "runs"), path.parent)
    match path.name:
        case "start.json":
            AttemptStart.read(path)
        case "exit.json":
            AttemptExit.read(path)
        case "manifest.jsonl":
            for key in ("e27469d1423bc492", "258544d5e6a5e7f8"):
                try:
                    read_planned_job(path, key)
                except JobsError:
                    continue
        case "job.json":
            with suppress(StageError):
                read_job(path)
        case "record.json" | "state.json" | "result.json":
            find_newest_checkpoint(Store(run.parent.parent.parent).locate_run(run.parent.name, run.name))
            find_stage_checkpoint(run / "checkpoints")
            with suppress(StageError):
                read_result_checkpoint(run)
    if path.parent.name == "claims":
        find_newest_claim(path.parent)
    if path.parent.name == "ledger":
        read_events(path.parent)
