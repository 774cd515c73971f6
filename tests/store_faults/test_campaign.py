"""The campaign in short: that nothing is lost, doubled or untold, and that its checks see what they are there for."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store_faults.campaign import CommandEnd, Fault, find_end_problems
from tests.store_faults.commands import CASES
from tests.store_faults.injector import PRELOAD, Struck, build_library
from tests.store_faults.study import Study, find_changes

FAULTS = 150
CHANGES = {"write", "fsync", "rename", "unlink", "unlinkat", "mkdir", "ftruncate64", "link"}
"""Calls that change something: a few of a hundred, so that which of them are struck is left to chance."""


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_faults_on_reads_and_writes_of_every_command_lose_double_and_hide_nothing() -> None:
    words = ["--faults", str(FAULTS), "--seed", "2", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.store_faults", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"{FAULTS} faults" in done.stdout
    struck = re.search(r"by call: (.*)", done.stdout)
    assert struck is not None
    names = {each.split()[0] for each in struck[1].split(", ")}
    assert {"open", "read", "stat64"} <= names
    assert names & CHANGES


def test_the_library_makes_the_named_call_fail_and_no_other(tmp_path: Path) -> None:
    program = f"""
import errno, os
from pathlib import Path
from tests.store_faults.injector import Injector
folder, injector = Path({str(tmp_path)!r}), Injector()
injector.watch(folder / "in")
(folder / "in").mkdir()
injector.arm(0, 0, lasting=False)
(folder / "out").write_text("not counted")
(folder / "in" / "file").write_text("counted")
calls = injector.disarm().calls
assert calls >= 3, calls
for number in range(1, calls + 1):
    injector.arm(number, errno.EDQUOT, lasting=False)
    try:
        (folder / "in" / "file").write_text("counted")
    except OSError as error:
        assert error.errno == errno.EDQUOT
    assert injector.disarm().name
"""
    (tmp_path / "library").mkdir()
    environment = {PRELOAD: str(build_library(tmp_path / "library"))}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=Path(__file__).parents[2])


def test_a_table_tells_why_it_could_not_be_written_whichever_call_failed(tmp_path: Path) -> None:
    program = f"""
import errno
from pathlib import Path
import pyarrow as pa
from sweep.results.write import write_parquet
from tests.store_faults.injector import Injector
path, injector = Path({str(tmp_path)!r}) / "in" / "table.parquet", Injector()
table = pa.table({{"number": list(range(1000))}})
injector.watch(path.parent)
path.parent.mkdir()
injector.arm(0, 0, lasting=False)
write_parquet(path, table.schema, table.to_batches())
calls = injector.disarm().calls
for number in range(1, calls + 1):
    injector.arm(number, errno.ESTALE, lasting=False)
    told = ""
    try:
        write_parquet(path, table.schema, table.to_batches())
    except OSError as error:
        told = f"{{error.errno}} {{error.filename}} {{error}}"
    struck = injector.disarm()
    if told:
        assert told.startswith(f"{{errno.ESTALE}} {{path.parent}}") and "Stale" in told, (struck, told)
print(calls)
"""
    (tmp_path / "library").mkdir()
    environment = {PRELOAD: str(build_library(tmp_path / "library"))}
    words = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        words, check=False, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert int(done.stdout) > 3


def end(code: int, out: str = "", err: str = "") -> CommandEnd:
    return CommandEnd(code, out, err, Struck(1, "read", ""))


def test_an_end_without_a_reason_is_a_violation() -> None:
    fault = Fault(next(case for case in CASES if case.name == "explain"), 1, 5, lasting=False)
    clean = end(0, "3 jobs at /a/b")
    assert find_end_problems(fault, end(0, "4 jobs at /c/d"), clean) == []
    assert find_end_problems(fault, end(1, err="sweep explain: x: Input/output error"), clean) == []
    assert find_end_problems(fault, end(1, err="sweep explain: something"), clean) != []
    assert find_end_problems(fault, end(0, "other jobs"), clean) != []
    assert find_end_problems(fault, end(1, err="Traceback (most recent call last)\nOSError: Input/output error"), clean)
    assert find_end_problems(fault, end(-14), clean) == ["hangs"]


def test_a_changed_file_is_a_violation_of_a_command_that_only_reads(tmp_path: Path) -> None:
    one, other = Study(tmp_path / "one"), Study(tmp_path / "other")
    for study in (one, other):
        (study.store.root / "runs" / "busy").mkdir(parents=True)
        (study.store.root / "file").write_text("same")
    assert find_changes(one, other, "busy") == []
    (one.store.root / "runs" / "busy" / "log.txt").write_text("of the job that runs")
    assert find_changes(one, other, "busy") == []
    (one.store.root / "file").write_text("another")
    assert find_changes(one, other, "busy") != []
