"""No program of ours imports from the folder that it happens to run in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.job import Resources
from jobs.local.runner import StopRequest
from jobs.slurm.batches import SlurmBatch
from jobs.slurm.script import LaunchSettings, render_batch_script
from jobs.store.paths import Store
from stages.engines.installation import query_installation
from stages.job_file import EngineSettings
from sweep.commands.data.process import run_module, run_prepare
from sweep.cost import counts
from tests.jobs import toy

TRAPS = ("argparse.py", "json.py", "dataclasses.py", "hashlib.py", "importlib/__init__.py", "numpy.py", "torch.py")
SPRUNG = "sprung"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files that leave a mark if anybody imports them."""
    folder = tmp_path / "here"
    for name in TRAPS:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"import pathlib\npathlib.Path({str(folder / SPRUNG)!r}).touch()\nraise SystemExit(99)\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", "")
    return folder


def test_the_trap_springs_where_nothing_is_done(trap: Path) -> None:
    subprocess.run([sys.executable, "-c", "import argparse"], check=False)
    assert (trap / SPRUNG).exists()


def test_attempts_on_this_machine(trap: Path, store: Store) -> None:
    """The supervisor, and the stage that it starts: with Python's own path, not the test stage's."""
    jobs = [toy.toy_job("k")]
    program = (sys.executable, *toy.COUNTING_STAGE[2:])
    toy.plan(store, jobs)
    toy.local_run(store, jobs, program=program).run(StopRequest())
    assert toy.results(store, jobs).keys() == {"k"}
    assert not (trap / SPRUNG).exists()


@pytest.mark.parametrize("module", ["stages.export", "stages.demo"])
def test_programs_of_the_command_line(trap: Path, module: str) -> None:
    run_module(module, ["--help"], given="")
    assert not (trap / SPRUNG).exists()


def test_programs_that_make_and_check_data(trap: Path) -> None:
    run_prepare(["text", "--help"], given="")
    assert not (trap / SPRUNG).exists()


def test_the_program_that_counts_data(trap: Path, tmp_path: Path) -> None:
    use = counts.DataUse(kind="text", path=str(tmp_path / "none"))
    [count] = counts.run_count([use])
    assert count.problem
    assert not (trap / SPRUNG).exists()


def test_a_batch_script_and_the_ranks_that_it_starts(trap: Path, tmp_path: Path) -> None:
    """The script is real, and run by bash as slurmd does, in the store's folder."""
    code = tmp_path / "code"
    code.mkdir()
    for package in ("jobs", "stages"):
        (code / package).symlink_to(toy.ROOT / package)
    store = Store(tmp_path / "store")
    batch = SlurmBatch(
        name="sw-0123456789ab-pretrain-toy",
        phase="pretrain",
        tasks={0: "k"},
        resources=Resources(setup=("export PYTHONPATH=$PYTHONPATH:/modules",)),
    )
    launch = LaunchSettings(store=store, sweep="toy", program=("/bin/true",), code=code, revision="r")
    script = render_batch_script(batch, launch)
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "0"}
    done = subprocess.run(
        ["bash", "-s"], input=script, cwd=trap, env=environment, capture_output=True, text=True, check=False
    )
    assert "cannot read job" in done.stderr
    rank = script.replace("jobs.attempt --store", "jobs.attempt.rank --store")
    subprocess.run(["bash", "-s"], input=rank, cwd=trap, env=environment, capture_output=True, text=True, check=False)
    assert not (trap / SPRUNG).exists()


def test_the_look_at_an_engines_interpreter(trap: Path) -> None:
    found = query_installation("olm", EngineSettings(python=sys.executable), ["json"], versions=["pytest"])
    assert found.missing == ()
    assert json.dumps(found.versions)
    assert not (trap / SPRUNG).exists()
