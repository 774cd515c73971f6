import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import AttemptSetupError
from jobs.store.job_file import (
    build_job_content,
    build_job_origin,
    list_plugin_packages,
    read_code_revision,
    read_planned_job,
)
from jobs.store.paths import Store
from tests.jobs import toy


def test_the_revision_is_read_from_a_checkout(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    assert read_code_revision(tmp_path) == ""
    (git / "packed-refs").write_text("# pack\n1234 refs/heads/main\n")
    assert read_code_revision(tmp_path) == "1234"
    (git / "refs" / "heads" / "main").write_text("5678\n")
    assert read_code_revision(tmp_path) == "5678"
    (git / "HEAD").write_text("9abc\n")
    assert read_code_revision(tmp_path) == "9abc"
    assert read_code_revision(tmp_path / "nowhere") == "0.1.0"


def test_a_manifest_replaced_while_its_parents_are_looked_up_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        {"record": "sweep", "data": {}},
        {"record": "job", "key": "p", "stage": "pretrain", "parents": []},
        {"record": "job", "key": "k", "stage": "finetune", "parents": ["p"]},
    ]
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    whole, opened = os.open, [0]

    def fail_at_third(path: Any, *args: Any, **options: Any) -> Any:
        opened[0] += Path(path) == manifest
        if opened[0] == 3 and Path(path) == manifest:  # after the header's and the job's
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return whole(path, *args, **options)

    monkeypatch.setattr(os, "open", fail_at_third)
    assert read_planned_job(manifest, "k").parents == {"p": "pretrain"}
    assert opened[0] == 6


def test_an_empty_manifest_holds_no_job(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.jsonl"
    manifest.touch()
    with pytest.raises(AttemptSetupError, match="cannot read job k"):
        read_planned_job(manifest, "k")


def test_a_job_says_which_sweep_and_cells_asked_for_it(tmp_path: Path) -> None:
    store = Store(tmp_path)
    toy.plan(store, toy.small_graph(stop_step=4))
    manifest = store.locate_sweep(toy.SWEEP).manifest
    origins = {key: build_job_origin(read_planned_job(manifest, key)) for key in ("trunk1", "trunk2", "a-pre", "b-ft2")}
    assert {key: (each["label"], each["cells"]) for key, each in origins.items()} == {
        "trunk1": ("a trunk-to-4", ["a", "b"]),  # of a trunk: the cells of all jobs behind it
        "trunk2": ("b trunk-to-4", ["b"]),
        "a-pre": ("a pretrain-to-4", ["a"]),
        "b-ft2": ("b finetune-e1", ["b"]),
    }
    for key, stage in (("trunk1", "pretrain"), ("b-ft2", "finetune")):
        assert origins[key]["sweep"] == toy.SWEEP
        board = (store.locate_run(stage, key).root / str(origins[key]["board"])).resolve()
        cell, phase = str(origins[key]["label"]).split()
        assert board == (store.locate_sweep(toy.SWEEP).tensorboard / cell / phase).resolve()
    assert build_job_content(read_planned_job(manifest, "a-pre"), "1")["origin"] == origins["a-pre"]


def test_packages_that_a_configuration_names_are_found_wherever_it_names_them() -> None:
    config = {
        "engine": {"kind": "x", "plugin": "one:3"},
        "vision_tasks": [{"name": "t", "plugin": "two:1"}, {"name": "u"}],
    }
    assert list_plugin_packages(config) == ["one", "two"]
    assert list_plugin_packages({"plugin": 3, "other": ["plugin"]}) == []
