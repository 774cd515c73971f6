"""Preparing text survives a kill, a full disk and a changed input: a second start gives an undisturbed run's bytes."""

import fcntl
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.errors import DataError
from stages.prepare import tokenize as text_module
from stages.prepare.inputs import find_inputs
from stages.prepare.recipe import Recipe
from tests.stages.prepare.text_inputs import DOCUMENTS, contents, lines_of, make, write_inputs, write_lines
from tests.stages.prepare.text_inputs import recipe_in as small_recipe

SCRIPT = """
import resource
import sys
from pathlib import Path
from tests.stages.prepare.test_tokenize_resume import recipe_in
from tests.stages.prepare.text_inputs import make
if __name__ == "__main__":
    folder, workers, file_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    make(folder / "out", recipe_in(folder), folder / "texts", workers=workers)
"""
"""What a child process runs."""


def recipe_in(folder: Path, **changes: object) -> Recipe:
    """Of a few pieces and shards."""
    return small_recipe(folder, piece_bytes=2_000, shard_sequences=64, **changes)


class PulledPlugError(BaseException):
    """In the place of a kill, at a chosen moment."""


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    """Files of a run that nothing happened to."""
    write_inputs(tmp_path / "texts")
    make(tmp_path / "undisturbed", recipe_in(tmp_path), tmp_path / "texts")
    return contents(tmp_path / "undisturbed")


def test_a_run_that_ends_before_any_file_is_published_goes_on_to_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, moments = recipe_in(tmp_path), 0
    while cut_before(moments, tmp_path / "cut", recipe, tmp_path / "texts", monkeypatch):
        make(tmp_path / "cut", recipe, tmp_path / "texts")
        assert contents(tmp_path / "cut") == undisturbed
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".cut")] == []
        shutil.rmtree(tmp_path / "cut")
        moments += 1
    assert moments > 15


def cut_before(moment: int, out: Path, recipe: Recipe, texts: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Runs up to the call of that number that publishes or removes something; False if the run ended before."""
    calls = 0

    def cutting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:
                raise PulledPlugError
            return original(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cutting(Path.replace))
        patched.setattr(Path, "rename", cutting(Path.rename))
        patched.setattr(shutil, "rmtree", cutting(shutil.rmtree))
        try:
            make(out, recipe, texts)
        except PulledPlugError:
            return True
    return False


def start(folder: Path, workers: int, *, file_bytes: int = 0) -> "subprocess.Popen[str]":
    """A preparation in a process of its own; `file_bytes`: the largest file that it may write."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(workers), str(file_bytes)]
    # coverage would be killed while it writes its own file
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def test_kills_at_random_moments_leave_the_same_bytes(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    moments, kills = random.Random(0), 0
    while not (tmp_path / "out").exists() and kills < 8:
        process = start(tmp_path, workers=1)
        assert process.stderr is not None
        with process.stderr:
            deadline = time.monotonic() + moments.uniform(0.2, 1.2)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.kill()
            process.wait()
        kills += 1
    make(tmp_path / "out", recipe_in(tmp_path), tmp_path / "texts")
    assert contents(tmp_path / "out") == undisturbed


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    write_lines(tmp_path / "texts" / "a.jsonl", DOCUMENTS * 200)
    process = start(tmp_path, workers=2)
    assert process.stderr is not None
    with process.stderr:
        workers = wait_for_children(process.pid, 2)
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{worker}/cmdline").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [worker for worker in workers if is_running(worker)] == []


def wait_for_children(pid: int, count: int) -> list[int]:
    """At least so many children of a process."""
    deadline = time.monotonic() + 60
    children: list[int] = []
    while len(children) < count:
        assert time.monotonic() < deadline, "no workers"
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        time.sleep(0.01)
    return children


def is_running(pid: int) -> bool:
    """Whether a process is there and not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_a_refused_write_is_an_error_that_says_so_and_the_next_start_goes_on(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    process = start(tmp_path, workers=1, file_bytes=20_000)  # enough for pieces, not for a shard
    _, errors = process.communicate()
    assert process.returncode == 1
    assert "StorageError" in errors
    assert "cannot write: File too large" in errors
    assert list((tmp_path / ".out.unfinished" / "pieces").glob("*.json"))
    make(tmp_path / "out", recipe_in(tmp_path), tmp_path / "texts")
    assert contents(tmp_path / "out") == undisturbed


def test_work_begun_with_other_settings_or_inputs_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.jsonl")
    assert cut_before(4, tmp_path / "out", recipe_in(tmp_path), path, monkeypatch)
    with pytest.raises(DataError, match="begun with other settings: seed was 0 and is 1"):
        make(tmp_path / "out", recipe_in(tmp_path, seed=1), path)
    path.write_bytes(lines_of(DOCUMENTS[::-1]))
    with pytest.raises(
        DataError, match=r"begun with other settings: .*a\.jsonl has changed since; .* to start anew `rm -r "
    ):
        make(tmp_path / "out", recipe_in(tmp_path), path)


def test_a_run_that_was_refused_before_it_made_anything_blocks_no_corrected_one(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl")
    for wrong in ({"field": "body"}, {"field": "id"}):
        with pytest.raises(
            DataError, match="bad lines, the limit is 0; mend the input, name another field with --field"
        ):
            make(tmp_path / "out", recipe_in(tmp_path, **wrong), path)
    assert make(tmp_path / "out", recipe_in(tmp_path), path)
    make(tmp_path / "straight", recipe_in(tmp_path), path)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    # all lines are bad, and all are left out: a piece was made, of no tokens
    with pytest.raises(DataError, match="the whole input is 0 tokens"):
        make(tmp_path / "again", recipe_in(tmp_path, field="body"), path, bad_limit=len(DOCUMENTS))
    assert make(tmp_path / "again", recipe_in(tmp_path), path)


def test_an_input_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl")
    inputs = find_inputs([path])
    path.write_bytes(lines_of(DOCUMENTS[:-1]))
    with pytest.raises(DataError, match=r"a\.jsonl: changed while it was read"):
        text_module.prepare_text(tmp_path / "out", recipe_in(tmp_path), inputs, workers=1, bad_limit=0)


def test_two_at_once_do_not_write_over_each_other(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl")
    with (tmp_path / ".out.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is making it"):
            make(tmp_path / "out", recipe_in(tmp_path), path)
    assert make(tmp_path / "out", recipe_in(tmp_path), path)
