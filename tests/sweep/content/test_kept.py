"""A digest is found once: the second time files are asked for their times, and none is opened."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobs.store.paths import Store
from sweep.content.digest import SAMPLED_SHARDS, read_content
from sweep.content.kept import DataContents
from tests.stages.prepare.test_count import make_pairs, make_tasks


def test_the_second_time_nothing_is_read_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, tasks = make_pairs(tmp_path / "pairs"), make_tasks(tmp_path / "exams")
    read: list[str] = []

    def count_reads(kind: str, path: Path, task: str = "", *, further: Sequence[Path] = ()) -> object:
        read.append(kind)
        return read_content(kind, path, task, further=further)

    monkeypatch.setattr("sweep.content.kept.read_content", count_reads)

    def find() -> tuple[str, str]:
        contents = DataContents(Store(tmp_path / "store"))
        found = contents.find_content("captions", str(folder)), contents.find_content("tasks", str(tasks), "sums.yaml")
        contents.save()
        return found

    first = find()
    assert read == ["captions", "tasks"]
    assert find() == first
    assert read == ["captions", "tasks"]
    (tasks / "sums.jsonl").write_text("{}\n")
    assert find()[0] == first[0]
    assert find()[1] != first[1]
    assert read == ["captions", "tasks", "tasks"]
    (folder / "2.tar").write_bytes((folder / "1.tar").read_bytes())  # the folder's own time moves
    assert find()[0] != first[0]


def test_a_file_of_the_same_size_and_time_is_another_one(tmp_path: Path) -> None:
    """Tars are padded to full blocks, and many programs give every file one time."""
    store, path = Store(tmp_path / "store"), tmp_path / "tokenizer.json"
    path.write_text('{"a": 1}')
    os.utime(path, ns=(0, 0))
    contents = DataContents(store)
    first = contents.find_content("tokenizer", str(path))
    contents.save()
    time.sleep(0.02)  # a file system's clock goes in ticks
    path.write_text('{"a": 2}')
    os.utime(path, ns=(0, 0))
    assert DataContents(store).find_content("tokenizer", str(path)) not in ("", first)


@pytest.mark.parametrize("address", ["{}", "{}/shard-*.tar"])
def test_a_shard_that_is_not_sampled_and_replaced_in_its_place_is_noticed(tmp_path: Path, address: str) -> None:
    folder, store = tmp_path / "words", Store(tmp_path / "store")
    folder.mkdir()
    for number in range(2 * SAMPLED_SHARDS):
        (folder / f"shard-{number:03d}.tar").write_bytes(bytes(512))
    address = address.format(folder)
    contents = DataContents(store)
    first = contents.find_content("text", address)
    contents.save()
    with (folder / "shard-001.tar").open("ab") as file:  # the folder's own time stays
        file.write(bytes(512))
    assert DataContents(store).find_content("text", address) not in ("", first)


def test_a_file_that_comes_to_a_task_later_is_noticed(tmp_path: Path) -> None:
    tasks, store = make_tasks(tmp_path / "exams"), Store(tmp_path / "store")
    (tasks / "sums.yaml").write_text((tasks / "sums.yaml").read_text() + "more: helpers\n")
    contents = DataContents(store)
    first = contents.find_content("tasks", str(tasks), "sums.yaml")
    contents.save()
    (tasks / "helpers").write_text("rows")
    assert DataContents(store).find_content("tasks", str(tasks), "sums.yaml") not in ("", first)


def test_what_is_not_here_has_no_content_and_is_no_problem(tmp_path: Path) -> None:
    contents = DataContents(Store(tmp_path / "store"))
    tasks = make_tasks(tmp_path / "exams")
    assert contents.find_content("text", "s3://bucket/text") == ""
    assert contents.find_content("text", str(tmp_path / "none")) == ""
    assert contents.find_content("tasks", str(tasks), "none.yaml") == ""
    assert contents.problems == {}
    (tmp_path / "empty").mkdir()
    assert contents.find_content("text", str(tmp_path / "empty")) == ""
    assert contents.problems == {str(tmp_path / "empty"): f"{tmp_path}/empty: holds no shards (*.tar)"}


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"content": 7, "files": {"a": [1]}}', '{"content": "x", "files": []}']
)
def test_a_damaged_record_is_found_anew(tmp_path: Path, damage: str) -> None:
    folder = make_pairs(tmp_path / "pairs")
    contents = DataContents(Store(tmp_path / "store"))
    first = contents.find_content("captions", str(folder))
    contents.save()
    [path] = (tmp_path / "store" / "contents").iterdir()
    assert json.loads(path.read_text())["content"] == first
    path.write_text(damage)
    assert DataContents(Store(tmp_path / "store")).find_content("captions", str(folder)) == first


@pytest.mark.parametrize("address", ["{folder}/*.tar", "{folder}/{{1,2}}.tar", "{folder}/1.tar::{folder}/2.tar"])
def test_data_in_several_places_are_known_by_what_lies_there(tmp_path: Path, address: str) -> None:
    folder = make_pairs(tmp_path / "pairs")
    for path in folder.iterdir():
        if path.name != "1.tar":
            path.unlink()
    (folder / "2.tar").write_bytes((folder / "1.tar").read_bytes())
    store = Store(tmp_path / "store")

    def find(place: Path) -> str:
        contents = DataContents(store)
        found = contents.find_content("captions", address.format(folder=place))
        contents.save()
        assert contents.problems == {}
        return found

    first = find(folder)
    assert first
    assert find(folder) == first
    moved = folder.rename(tmp_path / "elsewhere")
    assert find(moved) == first
    raw = bytearray((moved / "2.tar").read_bytes())
    raw[600] ^= 1
    (moved / "2.tar").write_bytes(raw)
    assert find(moved) not in ("", first)


def test_a_manifest_by_its_name_stands_for_the_shards_that_it_names(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "pairs")
    (folder / "chosen.jsonl").write_text('{"shard": "1", "num_sequences": 2}\n')
    store = Store(tmp_path / "store")
    first = DataContents(store).find_content("captions", str(folder / "chosen.jsonl"))
    raw = bytearray((folder / "1.tar").read_bytes())
    raw[600] ^= 1
    (folder / "1.tar").write_bytes(raw)
    assert DataContents(store).find_content("captions", str(folder / "chosen.jsonl")) not in ("", first)
