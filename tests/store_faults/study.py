"""A small study with a finished, a failed, a running and several open jobs, its copies, and what must hold of each."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from jobs.store.flock import is_held
from jobs.store.paths import Store
from jobs.store.results import check_result
from sweep.plan.manifest import Manifest, read_manifest
from tests.oracle.world import SWEEP, make_exams, make_pictures, make_talks, make_tokenizer, make_words

NAME = "kept"
STAGE = Path(__file__).with_name("stage.py")
CELL = "mtiny-b0-i50-c0-x1"
BLOCKS = """\
blocks:
  - axes: {branch: [0, 50], image_share: [0.5]}

epochs: [1]
"""
PLAIN = {
    "NO_COLOR": "1",
    "COLUMNS": "200",
    "TERM": "dumb",
    "TZ": "UTC",
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Study:
    """One copy: `store`, `sweep.yaml`, `edited.yaml` (without the second cell) and `notes` of its stages."""

    folder: Path

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @property
    def notes(self) -> Path:
        return self.folder / "notes"

    @property
    def variables(self) -> dict[str, str]:
        """The environment of its commands."""
        return {
            **PLAIN,
            "SWEEP_STAGE_PROGRAM": f"{sys.executable} -I -S {STAGE} {self.notes}",
            "PATH": "/nowhere",
        }  # no Slurm

    def read_plan(self) -> Manifest:
        return read_manifest(self.store.locate_sweep(NAME).manifest)

    def list_done(self) -> set[str]:
        """Keys of the jobs that have a valid result."""
        return {
            key.name
            for stage in sorted(self.store.runs.iterdir())
            for key in sorted(stage.iterdir())
            if check_result(self.store.locate_run(stage.name, key.name), key.name).valid
        }

    def list_completed(self) -> list[str]:
        """A key for each time that a stage ran to its end."""
        return (self.notes / "completed").read_text().split()


def build_study(folder: Path) -> Study:
    """The original, with real data beside it, planned and run as far as it shall go."""
    data = folder / "data"
    data.mkdir(parents=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(data / "tokenizer.json"))
    make_words(data / "words", tokenizer)
    make_pictures(data / "pictures")
    make_talks(data / "talks")
    make_exams(data / "exams")
    study = Study(folder / "original")
    study.notes.mkdir(parents=True)
    for name in ("fail", "slow", "completed"):
        (study.notes / name).write_text("")
    head = SWEEP[: SWEEP.index("engines:")] + SWEEP[SWEEP.index("models:") : SWEEP.index("blocks:")]
    text = head.replace("$STORE/data", str(data)) + BLOCKS
    (study.folder / "sweep.yaml").write_text(text)
    (study.folder / "edited.yaml").write_text(text.replace("branch: [0, 50]", "branch: [50]"))
    run_sweep(study, "plan", str(study.folder / "sweep.yaml"))
    plan = study.read_plan()
    first = next(cell for cell in plan.cells if cell.axes["branch"] == 0)
    (study.notes / "fail").write_text(first.chains[0].finetune)
    run_sweep(study, "submit", NAME, "--only", first.name, "--cpus", "2", code=1)
    (study.notes / "fail").write_text("")
    trunk = next(job.key for job in plan.jobs if job.phase == "trunk")
    (study.notes / "slow").write_text(trunk)
    return study


def run_sweep(study: Study, *words: str, code: int = 0) -> str:
    """One command in a process of its own, which must end as it should."""
    command = [sys.executable, "-m", "sweep", *words, "--store", str(study.store.root)]
    environment = {**os.environ, **study.variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def copy_study(study: Study, folder: Path) -> Study:
    """A copy under another path; plans hold no path of the store."""
    shutil.copytree(study.folder, folder, symlinks=True)
    return Study(folder)


def wait_until_running(study: Study, stage: str, key: str, seconds: float = 30.0) -> None:
    """Until an attempt of the job holds its lock and its stage works."""
    run = study.store.locate_run(stage, key)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        logs = list(run.attempts.glob("*/log.txt"))
        if is_held(run.lock) and any(path.stat().st_size for path in logs):
            return
        time.sleep(0.01)
    raise TimeoutError(f"{run.root}: no attempt began")


def find_store_problems(study: Study, original: Study, keys: set[str]) -> list[str]:
    """What is wrong with a copy after a fault and the command without one: work that is lost or doubled."""
    problems = []
    if missing := original.list_done() - study.list_done():
        problems.append(f"lost: {sorted(missing)}")
    completed = study.list_completed()
    if doubled := sorted({key for key in completed if completed.count(key) > 1}):
        problems.append(f"ran twice: {doubled}")
    found = {job.key for job in study.read_plan().jobs}
    if found != keys:
        problems.append(f"the plan has other keys: {sorted(found ^ keys)}")
    unfinished = [str(path) for path in study.store.sweeps.rglob("*.json") if not is_json(path)]
    return problems + [f"half written: {path}" for path in unfinished]


def find_changes(study: Study, original: Study, running: str) -> list[str]:
    """Files that a command which only reads has changed, added or removed, but for those of the job that runs."""
    before, after = read_files(original.store.root, running), read_files(study.store.root, running)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    return [f"changed by a command that only reads: {changed}"] if changed else []


def read_files(root: Path, but_of: str) -> dict[str, bytes]:
    """Content of all files by their paths, without those of one run."""
    files = [path for path in root.rglob("*") if path.is_file() and but_of not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


UNEXPLAINED = "error closing file"
"""All that pyarrow says where a file's closing fails."""
WORDS = {
    errno.ENOSPC: ("the disk is full", "No space left on device"),
    errno.EDQUOT: ("the quota is used up", "Disk quota exceeded"),
    errno.EIO: ("the disk or network file system failed", "Input/output error"),
    errno.ESTALE: ("the network file system lost the file", "Stale file handle"),
    errno.EACCES: ("permission denied", "Permission denied"),
}
"""How a command may name what failed."""
