"""`python -m stages JOB_JSON` as a process: exit codes, signals, sudden death, a full disk."""

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.checkpoint.files import find_newest_checkpoint
from stages.job_file import JobFile
from tests.stages.training.training_case import (
    World,
    final_weights,
    finetune_config,
    image_config,
    make_world,
    result_of,
    same_bits,
    start,
    text_config,
)

LONG = 60
"""Steps of a run that is long enough to be interrupted."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def undisturbed(world: World) -> JobFile:
    job = world.job("undisturbed", "pretrain", image_config(LONG))
    assert finish(job) == 0
    return job


def finish(job: JobFile) -> int:
    process = start(job)
    process.communicate(timeout=600)
    return process.returncode


def wait_for_a_checkpoint(job: JobFile, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(job.checkpoints.glob("step-*")):
            return
        time.sleep(0.005)
    pytest.fail("no checkpoint came")


@pytest.mark.parametrize(("last_words", "code"), [("flag.ignore()", 75), ("", -signal.SIGTERM)])
def test_a_stop_that_comes_while_python_shuts_down_hides_no_exit_code(last_words: str, code: int) -> None:
    # modules are emptied after Python has put its signal handlers away
    program = f"""
import os, signal, sys
from stages.stop import STOPPED, StopFlag
class Late:
    def __del__(self, kill=os.kill, me=os.getpid()): kill(me, {int(signal.SIGTERM)})
late, flag = Late(), StopFlag()
flag.install()
{last_words}
sys.exit(STOPPED)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=600).returncode == code


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(world: World, undisturbed: JobFile) -> None:
    job = world.job("killed", "pretrain", image_config(LONG), checkpoint_steps=2, data_workers=1)
    chance = random.Random(4)
    kills = 0
    for _ in range(4):
        process = start(job)
        if find_newest_checkpoint(job.checkpoints) is None:
            wait_for_a_checkpoint(job, process)
        else:
            time.sleep(1.2)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 2
    assert finish(job) == 0
    assert same_bits(final_weights(job), final_weights(undisturbed))
    for name in ("steps", "tokens", "loss", "sources", "images"):
        assert result_of(job)[name] == result_of(undisturbed)[name]
    assert [path.name for path in job.checkpoints.iterdir()] == [f"step-{LONG:08d}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_saves_and_exits_75(world: World, undisturbed: JobFile, number: signal.Signals) -> None:
    job = world.job(f"signal-{number}", "pretrain", image_config(LONG), checkpoint_steps=1)
    process = start(job)
    wait_for_a_checkpoint(job, process)
    process.send_signal(number)
    process.communicate(timeout=600)
    assert process.returncode == 75
    assert not job.result.exists()
    assert not job.error.exists()
    saved = find_newest_checkpoint(job.checkpoints)
    assert saved is not None
    assert 1 <= saved.step < LONG
    if number is signal.SIGTERM:
        assert finish(job) == 0
        assert same_bits(final_weights(job), final_weights(undisturbed))


def test_a_named_failure_is_one_line_and_a_record(world: World, undisturbed: JobFile) -> None:
    parent = world.job("parent", "pretrain", image_config(3))
    assert finish(parent) == 0
    (parent.run / result_of(parent)["checkpoint"] / "model.safetensors").write_bytes(b"")
    job = world.job("child", "finetune", finetune_config(), [parent])
    process = start(job)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert errors.startswith("stages: ")
    assert "Traceback" not in errors
    record = json.loads(job.error.read_text())
    assert (record["class"], record["damaged_key"]) == ("damaged_input", "parent")
    assert "\n" not in record["message"]


def test_a_broken_job_file_is_one_line(tmp_path: Path) -> None:
    for content in ("{", "[]", '{"key": "a", "stage": "pretrain", "config": {}, "paths": {}}'):
        (tmp_path / "job.json").write_text(content)
        done = subprocess.run(
            [sys.executable, "-m", "stages", str(tmp_path / "job.json")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith("stages: ")
        assert done.stderr.count("\n") == 1


def test_wrong_usage_is_exit_code_2() -> None:
    for arguments in ([], ["a", "b"], ["--no-such-option"]):
        done = subprocess.run([sys.executable, "-m", "stages", *arguments], capture_output=True, check=False)
        assert done.returncode == 2


def test_progress_bars_of_libraries_do_not_fill_the_log(tmp_path: Path) -> None:
    code = "import sys; from stages.__main__ import main; main(sys.argv[1:]); from tqdm import tqdm; [*tqdm(range(3))]"
    words = [sys.executable, "-c", code, str(tmp_path / "job.json")]
    process = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
    assert len(process.stderr.splitlines()) == 1, process.stderr


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files of this process's children may not grow beyond 150 kB: a checkpoint's do, a record does not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_checkpoint_that_does_not_fit_is_a_storage_failure(world: World) -> None:
    job = world.job("full", "pretrain", text_config(4))
    assert finish(job) == 1
    record = json.loads(job.error.read_text())
    assert record["class"] == "storage"
    assert "cannot write" in record["message"]
    assert not job.result.exists()
    assert not list(job.checkpoints.iterdir())


def test_a_training_process_imports_no_more_than_it_needs(world: World) -> None:
    job = world.job("imports", "pretrain", image_config(2))
    code = (
        "import sys; from stages.__main__ import main; "
        f"assert main([{str(job.run / 'job.json')!r}]) == 0; "
        "heavy = {'torch._dynamo', 'webdataset', 'transformers', 'pandas', 'sweep', 'jobs', 'lm_eval', 'sympy'}; "
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
