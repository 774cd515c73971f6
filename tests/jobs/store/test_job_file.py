import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import AttemptSetupError
from jobs.store.job_file import read_code_revision, read_planned_job


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
