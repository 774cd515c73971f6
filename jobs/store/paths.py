"""The store: one directory that holds every sweep and run. This file alone knows its file names.

STORE/sweeps/NAME/        manifest.jsonl, sweep.yaml, ledger/, results/
STORE/runs/STAGE/KEY/     job.json, checkpoints/, metrics.jsonl, questions/, result.json, lock, claims/, attempts/ID/
STORE/code/               what jobs on a cluster import: DIGEST.zip
STORE/site/               what clusters said of their configuration and limits; kept for a day
STORE/counts/             what `sweep plan` has counted of local data, one file for each count
STORE/contents/           digests of local data, one file for each; kept by the files' sizes and times of change
STORE/known-data/         which content the keys of this store mean by the name of a data set
STORE/features/           features of frozen vision encoders, where a sweep keeps them; the stages' own
STORE/trash/ID/           what `sweep gc` set aside, until it is restored or removed: record.json, runs/STAGE/KEY/
"""

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,119}")


class UnsafeNameError(ValueError):
    """A name that must not enter a path, a job name or a command line."""


def check_safe_name(name: str) -> str:
    """`name` itself if it is one plain path component. Raises UnsafeNameError if it means more to a shell or a path."""
    if not SAFE_NAME.fullmatch(name):
        raise UnsafeNameError(
            f"{name!r} is not a safe name: use letters, digits and . _ + = - (no leading mark, up to 120)"
        )
    return name


# Writing so that it lasts. A file's content and its name are two things: fsync of a file promises nothing of the folder
# that names it (fsync(2)), so a folder is flushed too, and the folder above one that was made for it.

UNFLUSHABLE = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES})
"""What says that a folder cannot be flushed here: by its file system, or by a user who may not list it."""
SWEEP_DEPTH = 3
"""Folders above a ledger's in the store: the sweep's, the sweeps', the root."""


# Why: docs/decisions.md, D164
def flush_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where its file system can promise that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNFLUSHABLE:
            raise


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that are missing; their names are on the disk when it returns."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in reversed(missing):
        flush_folder(each.parent)


def append_durably(path: Path, text: str) -> None:
    """Appends to a file. The text, and of a new file its name and those of the folders above it in the store, are on
    the disk when it returns."""
    is_new = not path.exists()
    make_folder(path.parent)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        # Another process may have made a folder a moment ago, and not flushed its name yet.
        for each in (path.parent, *path.parent.parents[:SWEEP_DEPTH]):
            flush_folder(each)


@contextmanager
def open_replacement(path: Path, *, lasting: bool = True) -> Iterator[Path]:
    """Gives a path beside `path` to write to. At the end of the block, the file is flushed and replaces `path`.

    If the block raises, `path` is as before and the unfinished file is gone. `lasting`: its new name is on the disk too
    when it returns. What can be made again at any time need not be.
    """
    make_folder(path.parent)
    # containers and machines that share the folder may have processes of the same number
    unfinished = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if lasting:
        flush_folder(path.parent)


def write_json(path: Path, content: object, *, lasting: bool = True) -> None:
    """Writes `content` as JSON; `path` is whole or as before. `lasting`: see `open_replacement`."""
    with open_replacement(path, lasting=lasting) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


@dataclass(frozen=True, slots=True)
class AttemptPaths:
    """One execution of a job: `runs/STAGE/KEY/attempts/ID/`."""

    root: Path

    @property
    def start(self) -> Path:
        return self.root / "start.json"

    @property
    def exit(self) -> Path:
        return self.root / "exit.json"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def error(self) -> Path:
        """The stage writes it when it fails for a reason that it can name."""
        return self.root / "error.json"

    @property
    def progress(self) -> Path:
        """A training stage says here how far it is, and how long it may take without a change."""
        return self.root / "progress.json"

    @property
    def hang(self) -> Path:
        """The supervisor writes it before it ends a stage that has hung."""
        return self.root / "hang.json"


@dataclass(frozen=True, slots=True)
class RunPaths:
    """One job's folder: `runs/STAGE/KEY/`."""

    root: Path

    @property
    def job(self) -> Path:
        return self.root / "job.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def questions(self) -> Path:
        """Of an evaluation: what each question scored, a file a task."""
        return self.root / "questions"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def damaged_result(self) -> Path:
        """The former result.json of a run whose checkpoint was found damaged, so that the job runs again."""
        return self.root / "result.damaged.json"

    @property
    def set_aside(self) -> Path:
        """Which of its files `sweep gc` moved to the trash, or may move there now (`jobs.set_aside`)."""
        return self.root / "set-aside.json"

    @property
    def lock(self) -> Path:
        """Only the live attempt's processes hold it."""
        return self.root / "lock"

    @property
    def claims(self) -> Path:
        """On a cluster, the newest claim says who may write here (jobs/claims/claims.py)."""
        return self.root / "claims"

    @property
    def attempts(self) -> Path:
        return self.root / "attempts"

    def locate_sibling(self, stage: str, key: str) -> "RunPaths":
        """Another job's folder in the same store."""
        return RunPaths(self.root.parent.parent / check_safe_name(stage) / check_safe_name(key))

    def locate_attempt(self, attempt_id: str) -> AttemptPaths:
        return AttemptPaths(self.attempts / check_safe_name(attempt_id))


@dataclass(frozen=True, slots=True)
class SweepPaths:
    """One sweep's folder: `sweeps/NAME/`."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.jsonl"

    @property
    def previous(self) -> Path:
        """The manifest that the present one replaced, for `sweep explain`; absent after the first plan."""
        return self.root / "manifest.previous.jsonl"

    @property
    def source(self) -> Path:
        """The sweep file as it was planned."""
        return self.root / "sweep.yaml"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def limits(self) -> Path:
        """What was chosen for the sweep and lasts (`sweep limits`); absent if nothing was."""
        return self.root / "limits.json"

    @property
    def notices(self) -> Path:
        """Events that people are told, and who was told: one file for each machine and user."""
        return self.root / "notices"

    @property
    def notice_tellers(self) -> Path:
        """Claims of those who tell: one at a time."""
        return self.notices / "tellers"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def tensorboard(self) -> Path:
        """Links to the jobs' event files, by cell and phase: CELL/PHASE."""
        return self.root / "tensorboard"

    @property
    def slurm_logs(self) -> Path:
        """Output of batch scripts and slurmstepd, one file for each array task."""
        return self.root / "slurm"

    def locate_slurm_log(self, job_id: str) -> Path:
        """Of one task, such as 123_4."""
        return self.slurm_logs / f"{check_safe_name(job_id)}.log"

    @property
    def refusals(self) -> Path:
        """Slurm's last answer for each job that it would not take, for `sweep status` and `explain`."""
        return self.root / "refusals.json"

    @property
    def checked_results(self) -> Path:
        """Which results were read and found valid, for reports; may be removed."""
        return self.root / "checked-results.txt"

    @property
    def slurm_answers(self) -> Path:
        """The last answers of squeue and sacct, for `sweep status`."""
        return self.root / "slurm-answers.json"


@dataclass(frozen=True, slots=True)
class Store:
    """The root of all folders. Creates none until something is written."""

    root: Path

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def sweeps(self) -> Path:
        return self.root / "sweeps"

    @property
    def code(self) -> Path:
        """Code archives of submissions, one for each content."""
        return self.root / "code"

    def locate_code_archive(self, digest: str) -> Path:
        return self.code / f"{check_safe_name(digest)}.zip"

    @property
    def features(self) -> Path:
        """Features of frozen vision encoders, which all jobs share. The stages write and read them."""
        return self.root / "features"

    @property
    def site(self) -> Path:
        """What clusters said of their configuration and limits, for a day; each file may be removed."""
        return self.root / "site"

    @property
    def counts(self) -> Path:
        """Counts of local data for estimates; each may be removed, and is counted anew."""
        return self.root / "counts"

    @property
    def inspections(self) -> Path:
        """Which local inputs were looked at and found sound; each may be removed, and is looked at anew."""
        return self.root / "inspections"

    @property
    def contents(self) -> Path:
        """Digests of local data; each may be removed, and is found anew."""
        return self.root / "contents"

    @property
    def known_data(self) -> Path:
        """Which content the keys of this store mean by a data set's name; to be kept as long as the runs are."""
        return self.root / "known-data"

    @property
    def trash(self) -> Path:
        """What `sweep gc` set aside, a folder for each time."""
        return self.root / "trash"

    @property
    def submitters(self) -> Path:
        """Claims of submitters. One for the whole store, because sweeps may share jobs."""
        return self.root / "submitters"

    @property
    def runner_lock(self) -> Path:
        """The local runner that may start jobs of this store on this machine holds it."""
        return self.root / "local-runner.lock"

    def locate_trash(self, trash_id: str) -> Path:
        return self.trash / check_safe_name(trash_id)

    def locate_sweep(self, name: str) -> SweepPaths:
        return SweepPaths(self.sweeps / check_safe_name(name))

    def locate_run(self, stage: str, key: str) -> RunPaths:
        return RunPaths(self.runs / check_safe_name(stage) / check_safe_name(key))
