"""The stored plan: same file, same bytes; read back as it was; damage is told with its line."""

import json
from pathlib import Path

import pytest

from sweep.errors import ManifestError
from sweep.plan.manifest import is_same_manifest, read_manifest, write_manifest
from tests.sweep.small_sweep import planned, shipped


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, planned(tmp_path))
    return path


@pytest.mark.parametrize("name", ["paper", "captions", "seeds"])
def test_a_manifest_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    manifest = shipped(name)
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_manifest(tmp_path / name, shipped("paper"))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert is_same_manifest(tmp_path / "a", shipped("paper"))
    assert not is_same_manifest(tmp_path / "a", shipped("captions"))
    assert not is_same_manifest(tmp_path / "none", shipped("paper"))


def test_every_line_is_a_json_object_as_documented(stored: Path) -> None:
    records = [json.loads(line) for line in stored.read_text().splitlines()]
    assert [record["record"] for record in records] == ["header"] + ["cell"] * 6 + ["job"] * 32
    assert records[0] == {
        "record": "header", "format": 1, "sweep": "small", "cells": 6, "jobs": 32, "backend": "local",
        "data": {name: f"{stored.parent}/data/{name}" for name in ("words", "pictures", "talks")}
        | {"bpe": f"{stored.parent}/data/tokenizer.json", "exams": f"{stored.parent}/data/exams"},
    }  # fmt: skip
    assert list(records[1]) == ["record", "name", "block", "axes", "pretrain", "chains"]
    assert list(records[7]) == [
        "record", "key", "stage", "version", "phase", "parents", "cells", "config", "settings", "resources", "estimate",
    ]  # fmt: skip


def test_the_order_of_the_fields_does_not_matter_to_a_reader(stored: Path) -> None:
    before = read_manifest(stored)
    records = [json.loads(line) for line in stored.read_text().splitlines()]
    stored.write_text("".join(json.dumps(record, sort_keys=True) + "\n" for record in records))
    assert read_manifest(stored) == before


def damaged(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (1, '{"record":"header","format":0}', "1: is damaged: format 0 is not read here; this version reads 1"),
        (1, '{"record":"header","format":1}', "1: is damaged: the header lacks backend, cells, data, jobs, sweep"),
        (3, '{"record":"cell","name":"x"}', "3: is damaged: 'axes' is missing"),
        (3, '{"record":"cell","na', "3: is damaged: Invalid control character"),
        (9, '{"record":"job","key":"0","parents":["1"],"config":{}}', "9: is damaged: job 0 stands before its parent"),
        (9, '{"record":"song"}', "9: is damaged: an unexpected record 'song'"),
        (9, "[]", "9: is damaged: not a JSON object"),
    ],
)
def test_damage_is_told_with_its_line(stored: Path, line: int, text: str, message: str) -> None:
    damaged(stored, line, text)
    with pytest.raises(ManifestError) as raised:
        read_manifest(stored)
    assert str(raised.value).startswith(f"{stored}:{message}")
    assert "plan the sweep again" in str(raised.value)


def test_a_file_cut_at_the_end_of_a_line_is_noticed(stored: Path) -> None:
    lines = stored.read_text().splitlines(keepends=True)
    stored.write_text("".join(lines[:-3]))
    with pytest.raises(ManifestError, match="it holds 29 of 32 jobs"):
        read_manifest(stored)


def test_no_plan_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="there is no plan of that name here; make one with `sweep plan FILE`"):
        read_manifest(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", "../x"),
        ("key", "-x"),
        ("key", "k" * 121),
        ("key", "\u0661"),
        ("stage", ".."),
        ("stage", ""),
        ("phase", "song"),
        ("version", 1.5),
        ("version", -(2**70)),
        ("version", 10**19),
        ("parents", "x"),
        ("cells", [1]),
    ],
)
def test_no_job_is_read_under_a_name_that_no_store_could_hold(stored: Path, name: str, value: object) -> None:
    """Of lines as they are written, which are not read as JSON, and of others, which are."""
    lines = stored.read_text().splitlines()
    number = next(number for number, line in enumerate(lines, 1) if line.startswith('{"record":"job"'))
    job = {**json.loads(lines[number - 1]), name: value}
    for text in (json.dumps(job, separators=(",", ":"), ensure_ascii=False), json.dumps(job)):
        damaged(stored, number, text)
        with pytest.raises(ManifestError, match=f"manifest.jsonl:{number}: is damaged"):
            read_manifest(stored)
