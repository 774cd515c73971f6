"""Manifests of shards: counted as webdataset counts, whole or absent, damaged shards named."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.data.shard_sets import open_shards
from stages.data.shards import TarShards, index_tar
from stages.errors import DataError
from stages.prepare import manifests
from stages.prepare.manifests import ListedShard, count_shard, write_shard_manifest
from tests.stages.data.test_remote import serving
from tests.stages.data.test_webdataset import ODD, read_as_webdataset, write_members
from tests.stages.training.training_case import write_text


def lines_of(path: Path) -> dict[str, int]:
    return {each["shard"]: each["num_sequences"] for each in map(json.loads, path.read_text().splitlines())}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of four sequences, and their manifest kept apart."""
    write_text(tmp_path / "set", shards=3, sequences=4)
    (tmp_path / "set" / "manifest.jsonl").rename(tmp_path / "expected.jsonl")
    return tmp_path / "set"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_manifest_of_a_folder_is_that_of_its_writer(shards: Path, workers: int) -> None:
    made = write_shard_manifest(str(shards), None, workers=workers)
    assert made.path.read_bytes() == (shards.parent / "expected.jsonl").read_bytes()
    assert (made.shards, made.samples, made.kind, made.is_new) == (3, 12, "text", True)
    assert not write_shard_manifest(f"{shards}/*.tar", None, workers=1).is_new
    assert [path.name for path in shards.iterdir() if path.name[0] == "."] == []


def test_samples_are_counted_as_webdataset_counts_them(tmp_path: Path) -> None:
    for number, names in enumerate(ODD.values()):
        write_members(tmp_path / f"{number}.tar", names)
    made = write_shard_manifest(str(tmp_path), None, workers=1)
    expected = {str(number): len(read_as_webdataset(tmp_path / f"{number}.tar")) for number in range(len(ODD))}
    assert lines_of(made.path) == expected


def test_damaged_shards_are_each_named_and_no_manifest_is_written(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (shards / "shard-1.tar").read_bytes()
    (shards / "shard-1.tar").write_bytes(whole[:1_500])
    (shards / "shard-2.tar").write_bytes(bytes(10_240))
    with pytest.raises(DataError, match="2 of 3 shards are damaged; no manifest is written"):
        write_shard_manifest(str(shards), None, workers=1)
    said = capsys.readouterr().err
    assert "shard-1.tar: not a whole tar" in said
    assert "shard-2.tar: no samples" in said
    assert not (shards / "manifest.jsonl").exists()
    (shards / "shard-1.tar").write_bytes(whole)
    (shards / "shard-2.tar").unlink()
    assert lines_of(write_shard_manifest(str(shards), None, workers=1).path) == {"shard-0": 4, "shard-1": 4}


def test_what_was_counted_before_an_interruption_is_not_read_again(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []

    def counting(path: Path) -> object:
        counted.append(path.name)
        if len(counted) == 3:
            raise KeyboardInterrupt
        return original(path)

    original = index_tar
    monkeypatch.setattr(manifests, "index_tar", counting)
    with pytest.raises(KeyboardInterrupt):
        write_shard_manifest(str(shards), None, workers=1)
    assert not (shards / "manifest.jsonl").exists()
    os.utime(shards / "shard-0.tar", ns=(1, 1))  # this one has changed since
    write_shard_manifest(str(shards), None, workers=1)
    assert counted[3:] == ["shard-0.tar", "shard-2.tar"]


def test_another_manifest_is_not_replaced_unasked(shards: Path) -> None:
    other = '{"shard": "shard-0", "num_sequences": 9}\n'
    (shards / "manifest.jsonl").write_text(other)
    with pytest.raises(DataError, match=r"says something else \(shard-0\.tar: 9, and is 4\).*--replace"):
        write_shard_manifest(str(shards), None, workers=1)
    assert (shards / "manifest.jsonl").read_text() == other
    assert write_shard_manifest(str(shards), None, workers=1, overwrite=True).samples == 12


def test_a_part_of_a_folder_needs_a_place_for_its_manifest(shards: Path) -> None:
    some = f"{shards}/shard-{{0,2}}.tar"
    with pytest.raises(DataError, match=r"1 tars are not among the shards \(shard-1\.tar\).*--out"):
        write_shard_manifest(some, None, workers=1)
    made = write_shard_manifest(some, shards.parent / "some.jsonl", workers=1)
    assert lines_of(made.path) == {f"{shards}/shard-0.tar": 4, f"{shards}/shard-2.tar": 4}
    assert TarShards(open_shards(str(made.path), Path)).size == 8


def test_shards_elsewhere_are_fetched_counted_and_named_whole(shards: Path, tmp_path: Path) -> None:
    with serving(shards) as address:
        pattern = f"{address}/shard-{{0..2}}.tar"
        with pytest.raises(DataError, match="the shards lie elsewhere: say with --out"):
            write_shard_manifest(pattern, None, workers=1)
        made = write_shard_manifest(pattern, tmp_path / "far.jsonl", workers=1)
        assert lines_of(made.path) == {f"{address}/shard-{number}.tar": 4 for number in range(3)}
        folder = open_shards(str(made.path), lambda: tmp_path / "cache")
        assert TarShards(folder).find_sample(11).where.startswith("shard-2")
        assert count_shard((0, ListedShard(f"{address}/none.tar"))).problem.endswith("File not found")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x.tar.gz", "compressed; shards are plain tars"),
        ("none", "no shards"),
    ],
)
def test_what_is_no_folder_of_shards_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=reason):
        write_shard_manifest(str(tmp_path), None, workers=1)


def test_a_stopped_count_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    """SIGINT and SIGTERM while processes count."""
    write_text(tmp_path, shards=200, sequences=2, length=8)
    (tmp_path / "manifest.jsonl").unlink()
    command = [sys.executable, "-m", "stages.prepare", "manifest", "--workers=2", str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / ".manifest.jsonl.counted").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    process.communicate()
    assert process.returncode in {143, 0}
    assert (tmp_path / "manifest.jsonl").exists() == (process.returncode == 0)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}/manifest.jsonl\n"
    assert len(lines_of(tmp_path / "manifest.jsonl")) == 200
