"""Random histories of a store: plans, edits, submissions and `sweep gc`, killed at any step and beside others.

    python -m tests.sweep.disk.histories --histories 60 --seed 1

The local runner runs a stand-in stage that really reads its parents' files (reading_stage.py). After each history all
jobs of all plans are done, with the values of an undisturbed run. No job ran again but one whose files were removed for
good, and those were neither promised nor needed when they were: by an account of its own here. Bytes and inodes that
went are those that the command said, by a walk over the store.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.job import Job
from jobs.local.runner import LocalRunner, StopRequest
from jobs.local.slots import Slots
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.set_aside import read_trash
from jobs.store.paths import Store
from jobs.store.results import check_result, read_set_aside_mark
from sweep.disk.collect import CollectReport, remove, restore, set_aside
from sweep.plan.manifest import Cell, FinetuneChain, Manifest, write_manifest
from sweep.stored_sweep import open_sweep

STAGE = (sys.executable, "-S", str(Path(__file__).with_name("reading_stage.py")))
KILLED = 9
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree"}
"""Audit events of what changes a file system; `open` counts where it may write."""
FINAL = "checkpoints/step-00000003"
OPTIMIZER = f"{FINAL}/optimizer.safetensors"

# Plans: a trunk of segments, cells that leave it, one or two fine-tunes of each with their evaluations.


@dataclass(kw_only=True)
class Branch:
    """A cell: after which segment it leaves the trunk (0: at its start), and what it carries on."""

    name: str
    segment: int
    carried: bool
    epochs: tuple[int, ...]


@dataclass(kw_only=True)
class Experiment:
    """What a sweep file would say."""

    name: str
    trunk: str
    branches: list[Branch] = field(default_factory=list)
    keep: dict[str, Any] = field(default_factory=dict)

    def build_manifest(self) -> Manifest:
        jobs: dict[str, Job] = {}
        cells = []
        last = max((branch.segment for branch in self.branches), default=0)
        for number in range(1, last + 1):
            parents = [segment_key(self.trunk, number - 1)] if number > 1 else []
            add_job(jobs, segment_key(self.trunk, number), "trunk", parents, ())
        for branch in self.branches:
            parents = [segment_key(self.trunk, branch.segment)] if branch.segment else []
            carried = {} if branch.carried else {"optimizer_state": "fresh"}
            pretrain = f"{self.trunk}-{branch.name}-p"
            add_job(jobs, pretrain, "pretrain", parents, (branch.name,), keep_optimizer=False, **carried)
            chains = []
            for epochs in branch.epochs:
                finetune, evaluate = f"{pretrain}-f{epochs}", f"{pretrain}-e{epochs}"
                add_job(jobs, finetune, "finetune", [pretrain], (branch.name,))
                add_job(jobs, evaluate, "evaluate", [finetune], (branch.name,))
                chains.append(FinetuneChain(epochs=epochs, finetune=finetune, evaluate=evaluate))
            cells.append(Cell(name=branch.name, axes={}, pretrain=pretrain, chains=tuple(chains)))
        return Manifest(sweep=self.name, backend="local", data={}, cells=tuple(cells), jobs=tuple(jobs.values()))

    def store(self, store: Store) -> None:
        """As `sweep plan` would."""
        paths = store.locate_sweep(self.name)
        lines = "".join(f"  {name}: {value}\n" for name, value in self.keep.items())
        paths.root.mkdir(parents=True, exist_ok=True)
        paths.source.write_text(f"name: {self.name}\n" + (f"keep:\n{lines}" if lines else ""))
        write_manifest(paths.manifest, self.build_manifest())


def segment_key(trunk: str, number: int) -> str:
    return f"{trunk}-t{number}"


def add_job(
    jobs: dict[str, Job],
    key: str,
    phase: str,
    parents: list[str],
    cells: tuple[str, ...],
    *,
    keep_optimizer: bool = True,
    **config: Any,
) -> None:
    stage = "pretrain" if phase == "trunk" else phase
    settings: dict[str, Any] = {} if keep_optimizer else {"keep_optimizer": False}
    jobs[key] = Job(
        key=key, stage=stage, version=1, phase=phase, parents=tuple(parents),
        config={"padding": len(key) * 7, "leaves_older": len(key) % 3 == 1, **config}, cells=cells, settings=settings,
    )  # fmt: skip


RULES = ("all", "none", "none", "last", "best 1", "best 2")


def draw_keep(draw: random.Random) -> dict[str, Any]:
    keep = {phase: draw.choice(RULES) for phase in ("trunk", "pretrain", "finetune") if draw.random() < 0.7}
    if draw.random() < 0.4:
        keep["optimizer"] = draw.choice(("all", "none"))
    if draw.random() < 0.2:
        keep["cells"] = f"[{draw.choice(('c*', 'c1*', 'c0*'))}]"
    return keep


def draw_branch(draw: random.Random, name: str) -> Branch:
    """Its name says what it is: equal keys, equal work, in all plans of the store."""
    segment, carried = draw.randint(0, 3), draw.random() < 0.6
    name = f"{name}s{segment}{'c' if carried else 'f'}"
    return Branch(name=name, segment=segment, carried=carried, epochs=draw.choice(((1,), (2,), (1, 2))))


# What the store has to show, by an account of its own.


def find_promised(experiments: list[Experiment], store: Store) -> tuple[set[str], set[str]]:
    """Keys whose weights, and whose optimizer states, may not go: needed or promised."""
    weights: set[str] = set()
    optimizer: set[str] = set()
    for each in experiments:
        manifest = each.build_manifest()
        jobs = {job.key: job for job in manifest.jobs}
        done = {key for key in jobs if is_done(store, jobs[key])}
        for job in manifest.jobs:
            if job.key not in done:
                weights.update(job.parents)
                if job.stage == "pretrain" and job.config.get("optimizer_state") != "fresh":
                    optimizer.update(job.parents)
        kept = set()
        for phase in ("trunk", "pretrain", "finetune"):
            kept |= keep_by_rule(manifest, phase, str(each.keep.get(phase, "all")), store, done)
        pattern = str(each.keep.get("cells", "")).strip("[]").removesuffix("*")
        if pattern:
            for cell in manifest.cells:
                if cell.name.startswith(pattern):
                    line = [cell.pretrain, *(key for chain in cell.chains for key in (chain.finetune, chain.evaluate))]
                    for key in line:
                        line += [parent for parent in jobs[key].parents if parent not in line]
                    weights.update(line)
                    optimizer.update(line)
        weights |= kept
        if each.keep.get("optimizer") == "all":
            optimizer |= kept
    return weights, optimizer


def keep_by_rule(manifest: Manifest, phase: str, rule: str, store: Store, done: set[str]) -> set[str]:
    jobs = [job for job in manifest.jobs if job.phase == phase]
    if rule == "last" and phase == "trunk":
        return {job.key for job in jobs if not any(job.key in other.parents for other in jobs)}
    if rule == "last" and phase == "finetune":
        return {max(cell.chains, key=lambda chain: chain.epochs).finetune for cell in manifest.cells}
    if rule.startswith("best"):
        return keep_best(manifest, jobs, int(rule[5:]), store, done)
    return set() if rule == "none" else {job.key for job in jobs}


def keep_best(manifest: Manifest, jobs: list[Job], number: int, store: Store, done: set[str]) -> set[str]:
    figures: dict[str, list[float]] = {}
    unknown: set[str] = set()
    for job in jobs:
        chains = [
            chain for cell in manifest.cells for chain in cell.chains if job.key in (cell.pretrain, chain.finetune)
        ]
        if not chains and job.key in done:
            figures[job.key] = [-float(read_result(store, job)["loss"])]
        elif chains and all(chain.evaluate in done for chain in chains):
            runs = [store.locate_run("evaluate", chain.evaluate) for chain in chains]
            figures[job.key] = [
                float((check_result(run, run.root.name).content or {})["scores"]["cloze"]["score"]) for run in runs
            ]
        else:
            unknown.add(job.key)
    ranked = sorted(figures, key=lambda key: (-max(figures[key]), key))
    return {*ranked[:number], *unknown}


def read_result(store: Store, job: Job) -> dict[str, Any]:
    content = check_result(store.locate_run(job.stage, job.key), job.key).content
    assert content is not None
    return content


def is_done(store: Store, job: Job) -> bool:
    return check_result(store.locate_run(job.stage, job.key), job.key).valid


def count_store(store: Store) -> tuple[int, int]:
    """Bytes and inodes of all that a checkpoint may consist of, in runs and in the trash. What a killed removal left
    is gone already: nobody can bring it back."""
    size = inodes = 0
    for place in (store.runs, store.trash):
        for path in place.rglob("*"):
            is_going = any(part.startswith(".removing-") for part in path.parts)
            if not is_going and "checkpoints" in path.parts and path.name != "checkpoints":
                size += path.stat().st_size if path.is_file() else 0
                inodes += 1
    return size, inodes


def list_removed(store: Store) -> set[tuple[str, str]]:
    """(key, path) of what marks name and nobody has any more."""
    found = set()
    for run in store.runs.glob("*/*"):
        paths = store.locate_run(run.parent.name, run.name)
        mark = read_set_aside_mark(paths)
        for name, path in mark.paths.items() if mark else ():
            kept = store.trash / path.trash_id / "runs" / run.parent.name / run.name / name
            if not kept.exists() and not (run / name).exists():
                found.add((run.name, name))
    return found


def count_executions(store: Store, key: str, stage: str) -> int:
    path = store.locate_run(stage, key).root / "executions.txt"
    return len(path.read_text().splitlines()) if path.exists() else 0


# Kills: a process of its own that ends itself, without a word, at its n-th change of the file system.


def run_killed(number: int, action: Callable[[], object]) -> bool:
    """Whether it was killed; false if it had fewer changes to make and ended well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads of the test runner, which the child never asks
        child = os.fork()
    if child == 0:
        code = 1
        try:
            die_at_change(number)
            action()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in {0, KILLED}, f"ended with {ended}"
    return ended == KILLED


def die_at_change(number: int) -> None:
    left = number

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES or (event == "open" and len(arguments) > 2 and may_write(arguments)):
            left -= 1
            if left == 0:
                os._exit(KILLED)

    sys.addaudithook(watch)


def may_write(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


@dataclass
class Tally:
    """Over histories."""

    histories: int = 0
    set_aside: int = 0
    removed: int = 0
    restored: int = 0
    killed: int = 0
    beside: int = 0
    retrained: int = 0
    bytes: int = 0

    def __str__(self) -> str:
        return (
            f"{self.histories} histories: {self.set_aside} times set aside, {self.removed} removed "
            f"({self.bytes:,} bytes), {self.restored} restored, {self.killed} killed, {self.beside} beside a "
            f"submission, {self.retrained} jobs made again, all of them after their files were removed"
        )


class History:
    """One store and what happens to it."""

    def __init__(self, root: Path, seed: str, tally: Tally) -> None:
        self.store, self.draw, self.tally = Store(root), random.Random(seed), tally
        root.mkdir(parents=True, exist_ok=True)
        shared = self.draw.random() < 0.3
        self.experiments = [Experiment(name="one", trunk="a")]
        if shared:
            self.experiments.append(Experiment(name="two", trunk="a"))
        self.edits = 0
        self.gone: set[tuple[str, str]] = set()
        """What was removed for good, as it was seen last."""
        self.removals: Counter[str] = Counter()
        """How often something of a job was removed for good."""
        for each in self.experiments:
            for number in range(self.draw.randint(1, 2)):
                each.branches.append(draw_branch(self.draw, f"c{number}"))
            each.keep = draw_keep(self.draw)
            each.store(self.store)

    def run(self) -> None:
        self.submit(self.draw.choice((0.4, 1.0)))
        for _ in range(self.draw.randint(2, 5)):
            self.draw.choice((self.collect, self.collect, self.edit, self.bring_back))()
            if self.draw.random() < 0.3:
                self.edit()
            if self.draw.random() < 0.5:
                self.clear_trash()
            if self.draw.random() < 0.4:
                self.submit(self.draw.choice((0.5, 1.0)))
        self.finish()

    # What people do.

    def edit(self) -> None:
        each = self.draw.choice(self.experiments)
        kind = self.draw.choice(("add", "drop", "keep", "more epochs"))
        if kind == "add" or not each.branches:
            self.edits += 1
            each.branches.append(draw_branch(self.draw, f"c{self.edits + 4}"))
        elif kind == "drop" and len(each.branches) > 1:
            each.branches.pop(self.draw.randrange(len(each.branches)))
        elif kind == "keep":
            each.keep = draw_keep(self.draw)
        else:
            self.draw.choice(each.branches).epochs = (1, 2)
        each.store(self.store)

    def submit(self, share: float) -> None:
        """Runs a share of each plan's jobs, with what they need."""
        for each in self.experiments:
            jobs = each.build_manifest().jobs
            wanted = {job.key for job in jobs if self.draw.random() < share}
            for job in reversed(jobs):
                if job.key in wanted:
                    wanted.update(job.parents)
            run_jobs(self.store, each, wanted)
        self.check_removed()

    def collect(self) -> None:
        """Sets aside, at times beside a submission or an edit, at times killed."""
        stored = open_sweep(self.store.root, self.draw.choice(self.experiments).name)
        unplanned = self.draw.random() < 0.4
        self.tally.set_aside += 1
        what = self.draw.random()
        if what < 0.35:
            self.tally.killed += run_killed(self.draw.randint(1, 60), lambda: set_aside(stored, unplanned=unplanned))
        elif what < 0.6:
            self.tally.beside += 1
            if self.draw.random() < 0.5:
                self.edit()
            pause = self.draw.random() * 0.6
            with running_beside(self.store, self.draw.choice(self.experiments)):
                time.sleep(pause)
                set_aside(open_sweep(self.store.root, stored.manifest.sweep), unplanned=unplanned)
        else:
            before = count_store(self.store)
            expected = set(plan_to_move(stored, unplanned=unplanned))
            report = set_aside(stored, unplanned=unplanned)
            found = {(item.key, name) for item in report.moved for name in item.paths}
            assert found == expected, "not what the dry run said"
            assert count_store(self.store)[0] == before[0]
            in_trash = sum_in_trash(self.store, report.id) if report.id else (0, 0)
            assert in_trash == (report.bytes, report.inodes), "not the bytes and inodes that it said"
        self.check_removed()

    def clear_trash(self) -> None:
        for record in read_trash(self.store):
            promised = find_promised(self.experiments, self.store)
            stored = open_sweep(self.store.root, record.sweep)
            if self.draw.random() < 0.4:
                self.tally.killed += run_killed(self.draw.randint(1, 40), lambda: remove(stored, record.id))  # noqa: B023
            else:
                before = count_store(self.store)
                report = remove(stored, record.id)
                after = count_store(self.store)
                self.check_freed(report, before, after)
                self.tally.removed += 1
                self.tally.bytes += report.bytes
            self.check_removed(promised)

    def check_freed(self, report: CollectReport, before: tuple[int, int], after: tuple[int, int]) -> None:
        assert before[0] - after[0] == report.bytes, "it said other bytes than it freed"

    def bring_back(self) -> None:
        for record in read_trash(self.store)[:1]:
            stored = open_sweep(self.store.root, record.sweep)
            if self.draw.random() < 0.4:
                self.tally.killed += run_killed(self.draw.randint(1, 20), lambda: restore(stored, record.id))  # noqa: B023
            else:
                restore(stored, record.id)
                self.tally.restored += 1
        self.check_removed()

    # What holds at any time.

    def check_removed(self, promised: tuple[set[str], set[str]] | None = None) -> None:
        """Nothing is lost but what was removed when it was neither needed nor promised."""
        gone = list_removed(self.store)
        new = gone - self.gone
        if promised is None:
            assert new == set(), "lost without having been removed"
        else:
            for key, name in new:
                assert name != FINAL or key not in promised[0], f"{key}: its weights were needed or promised"
                assert name != OPTIMIZER or key not in promised[1], f"{key}: its optimizer state was needed or promised"
        self.gone = gone
        self.removals.update({key for key, _ in new})

    def finish(self) -> None:
        """Every plan completes, with the values of an undisturbed run, and nothing made again that was there."""
        for each in self.experiments:
            run_jobs(self.store, each, None)
        reference = Store(self.store.root.with_name(f"{self.store.root.name}-reference"))
        for each in self.experiments:
            each.store(reference)
            run_jobs(reference, each, None)
            for job in each.build_manifest().jobs:
                assert is_done(self.store, job), f"{job.key} is not done"
                assert read_result(self.store, job)["value"] == read_result(reference, job)["value"], job.key
                times = count_executions(self.store, job.key, job.stage)
                again = times - 1
                assert again <= self.removals[job.key], f"{job.key} was made again, and nothing of it was removed"
                self.tally.retrained += again
        self.tally.histories += 1


def plan_to_move(stored: Any, *, unplanned: bool) -> list[tuple[str, str]]:
    """What the dry run says."""
    from sweep.disk.collect import group_items
    from sweep.disk.survey import load_survey

    holdings = load_survey(stored).decide(unplanned=unplanned)
    return [(item.key, name) for item in group_items(holdings) for name in item.paths]


def sum_in_trash(store: Store, trash_id: str) -> tuple[int, int]:
    """Bytes and inodes of files that were moved, without the folders that lead to them."""
    size = inodes = 0
    for path in (store.locate_trash(trash_id) / "runs").rglob("*"):
        below = path.relative_to(store.locate_trash(trash_id) / "runs").parts[2:]
        if below and below != ("checkpoints",):
            is_way = (
                path.is_dir()
                and (path.parent.name == "checkpoints")
                and [*path.iterdir()] == [path / "optimizer.safetensors"]
            )
            size += path.stat().st_size if path.is_file() else 0
            inodes += 0 if is_way else 1
    return size, inodes


def run_jobs(store: Store, experiment: Experiment, wanted: set[str] | None) -> None:
    """The local runner, to the end."""
    snapshot = SweepSnapshot(experiment.build_manifest().jobs, store, experiment.name)
    runner = LocalRunner(snapshot, slots=Slots(3), wanted=wanted, program=STAGE)
    end = runner.run(StopRequest())
    assert not end.problem, end.problem
    if wanted is not None:
        states = {key: snapshot.statuses[key].state for key in wanted}
        assert set(states.values()) <= {JobState.DONE}, states


@contextmanager
def running_beside(store: Store, experiment: Experiment) -> Iterator[None]:
    """The runner in a thread."""
    problems: list[BaseException] = []

    def run() -> None:
        try:
            run_jobs(store, experiment, None)
        except BaseException as error:  # noqa: BLE001 - told below
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if problems:
        raise problems[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=20)
    parser.add_argument("--seed", default="1")
    given = parser.parse_args()
    tally = Tally()
    for number in range(given.histories):
        root = Path(tempfile.mkdtemp(prefix="gc-history-"))
        try:
            History(root / "store", f"{given.seed}-{number}", tally).run()
        except BaseException:
            print(f"history {given.seed}-{number} failed; its store: {root}", flush=True)
            raise
        shutil.rmtree(root)
        print(f"{number + 1}: {tally}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
