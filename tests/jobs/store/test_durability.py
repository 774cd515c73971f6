"""What a power loss would leave: by POSIX a file's content after its fsync, and its name after that of its folder."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.claims.submit_lock import hold_submit_lock
from jobs.job import Resources
from jobs.slurm.batch_ledger import BatchLedger
from jobs.slurm.batches import SlurmBatch
from jobs.slurm.client import SlurmClient
from jobs.slurm.sbatch_errors import SubmittedJob
from jobs.slurm.script import LaunchSettings
from jobs.slurm.sender import BatchSender
from jobs.slurm.timeouts import SlurmTimeouts
from jobs.store.ledger import Event, EventKind, Ledger
from jobs.store.paths import Store, open_replacement, write_json
from stages import files as stage_files


@dataclass
class Disk:
    """What a power loss would leave: the bytes of each file and the names in each folder at their last fsync."""

    files: dict[int, int] = field(default_factory=dict)
    """Bytes by inode."""
    folders: dict[int, set[str]] = field(default_factory=dict)

    def note(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            self.folders[found.st_ino] = set(os.listdir(descriptor))
        else:
            self.files[found.st_ino] = found.st_size

    def list_lost(self, root: Path, path: Path) -> list[str]:
        """What of a file, and of the names on the way to it from above `root`, is not on the disk."""
        found = path.stat()
        lost = [] if self.files.get(found.st_ino) == found.st_size else [f"content of {path}"]
        way = [path, *path.parents]
        named = {each: self.folders.get(each.parent.stat().st_ino, set()) for each in way[: way.index(root) + 1]}
        return lost + [f"name of {each}" for each, names in named.items() if each.name not in names]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made, fsync = Disk(), os.fsync

    def note_and_flush(descriptor: int) -> None:
        fsync(descriptor)
        made.note(descriptor)

    monkeypatch.setattr(os, "fsync", note_and_flush)
    return made


@dataclass
class PowerLoss(SlurmClient):
    """At the moment of sbatch it looks at what a power loss would take."""

    disk: Disk
    store: Store
    lost: list[str] = field(default_factory=list)
    looked: int = 0

    def __post_init__(self) -> None:
        super().__init__(SlurmTimeouts(submit_interval_s=0.0))

    def submit(self, arguments: Sequence[str], script: str) -> SubmittedJob:
        assert arguments
        assert script
        ledgers = list(self.store.root.rglob("ledger/*.jsonl"))
        claims = [path for path in self.store.submitters.iterdir() if path.suffix == ".json"]
        for path in (*ledgers, *claims):
            self.lost += self.disk.list_lost(self.store.root, path)
            self.looked += 1
        return SubmittedJob(str(self.looked))


def test_the_intent_survives_a_power_loss_at_the_moment_of_sbatch(tmp_path: Path, disk: Disk) -> None:
    store = Store(tmp_path / "shared" / "store")  # not even its folder is there
    with hold_submit_lock(store.submitters, wait_seconds=0) as held:
        client = PowerLoss(disk, store)
        launch = LaunchSettings(store=store, sweep="toy", program=["x"], code=store.code / "c.zip", revision="r")
        ledger = BatchLedger(Ledger(store.locate_sweep("toy").ledger))
        sender = BatchSender(
            client=client, ledger=ledger, launch=launch, user="me", holds_submit_lock=held,
            parents_known_until=float("inf"), parents_known_for=float("inf"),
        )  # fmt: skip
        batches = [
            SlurmBatch(name=f"sw-{number:012x}-pretrain-toy", phase="pretrain", tasks={0: "k"}, resources=Resources())
            for number in range(2)
        ]
        sender.send(batches)
    assert client.looked == 4
    assert client.lost == []


def test_a_wish_survives_a_power_loss(tmp_path: Path, disk: Disk) -> None:
    store = Store(tmp_path / "store")
    ledger = Ledger(store.locate_sweep("toy").ledger)
    for _ in range(2):
        ledger.append_wishes([Event(event=EventKind.CANCELLED, key="k")])
        assert disk.list_lost(store.root, ledger.folder / f"{ledger.writer}.jsonl") == []


def test_what_is_replaced_survives_a_power_loss(tmp_path: Path, disk: Disk) -> None:
    """Records and manifests; and results, tables and checkpoints' records of the stages."""
    store = Store(tmp_path / "store")
    run = store.locate_run("pretrain", "k")
    write_json(run.locate_attempt("a").start, {"attempt": "a"})
    with open_replacement(store.locate_sweep("toy").manifest) as unfinished:
        unfinished.write_text("{}\n")
    stage_files.write_json(run.result, {"format": 1})
    stage_files.create_json(run.locate_attempt("a").error, {"class": "code"})
    written = [path for path in store.root.rglob("*") if path.is_file()]
    assert len(written) == 4
    assert [lost for path in written for lost in disk.list_lost(store.root, path)] == []


def test_what_can_be_made_again_costs_no_flush_of_its_folder(tmp_path: Path, disk: Disk) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    write_json(folder / "answers.json", {"format": 1}, lasting=False)
    assert disk.list_lost(folder, folder / "answers.json") == [
        f"name of {folder / 'answers.json'}",
        f"name of {folder}",
    ]


def test_a_file_system_that_cannot_flush_folders_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_json(tmp_path / "new" / "x.json", {})
    stage_files.write_json(tmp_path / "newer" / "x.json", {})
    assert (tmp_path / "new" / "x.json").exists()
