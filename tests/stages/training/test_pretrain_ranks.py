"""Pre-training on several processes, real ones over gloo: the numbers of one process, and none left hanging."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.checkpoint.files import find_newest_checkpoint, read_result_checkpoint
from stages.job_file import JobFile
from tests.stages.ranks import Ranks, RankServer, taken_by
from tests.stages.training.training_case import (
    CONTEXT,
    SMOOTH_ADAMW,
    World,
    assert_equal_moments,
    assert_equal_weights,
    final_weights,
    image_config,
    make_world,
    result_of,
    schedule,
    text_config,
)

STEPS = 6
LONG = 60
"""Steps of a run that is long enough to be interrupted."""
CONFIG = image_config(STEPS, optimizer=SMOOTH_ADAMW)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server() -> Iterator[RankServer]:
    server = RankServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def alone(world: World) -> JobFile:
    return world.run("alone", "pretrain", CONFIG)


def assert_like(job: JobFile, one: JobFile) -> None:
    """Weights and moments are equal to within rounding, and what was taken of the data exactly."""
    mine, theirs = read_result_checkpoint(job.run), read_result_checkpoint(one.run)
    assert_equal_weights(mine.read_weights(), theirs.read_weights())
    assert_equal_moments(mine.read_moments(), theirs.read_moments())
    assert mine.state["data"] == theirs.state["data"]
    assert result_of(job)["loss"] == pytest.approx(result_of(one)["loss"], rel=1e-5)


@pytest.mark.parametrize(("parallel", "ranks"), [("ddp", 2), ("ddp", 4), ("fsdp", 2), ("fsdp", 4)])
def test_several_processes_do_what_one_does(
    world: World, server: RankServer, alone: JobFile, parallel: str, ranks: int
) -> None:
    # with two ranks, each sums its part up from two passes; with four, a rank may have no image where others have
    job = world.job(
        f"{parallel}-{ranks}", "pretrain", CONFIG,
        parallel=parallel, micro_batch_tokens=CONTEXT, activation_checkpointing=ranks == 4,
    )  # fmt: skip
    assert server.run(job, ranks) == [0] * ranks
    assert_like(job, alone)
    for name in ("steps", "tokens", "padding", "images", "image_tokens", "sources"):
        assert result_of(job)[name] == result_of(alone)[name]
    mine, theirs = metrics_of(job), metrics_of(alone)
    assert [line["step"] for line in mine] == [line["step"] for line in theirs]
    assert [line["losses"].keys() for line in mine] == [line["losses"].keys() for line in theirs]
    for one, other in zip(mine, theirs, strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


def metrics_of(job: JobFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.metrics.read_text().splitlines()]


def test_a_step_without_images_leaves_the_projector_alone(world: World, server: RankServer) -> None:
    sources = [{"name": "text", "kind": "text", "share": 1}, {"name": "captions", "kind": "captions", "share": 0}]
    config = image_config(2, optimizer=SMOOTH_ADAMW) | {"sources": sources}
    one = world.run("no-images", "pretrain", config)
    job = world.job("no-images-2", "pretrain", config, parallel="fsdp")
    assert server.run(job, 2) == [0, 0]
    assert torch.equal(final_weights(job)["projector.0.weight"], final_weights(one)["projector.0.weight"])
    assert_like(job, one)


def test_checkpoints_go_from_any_number_of_processes_to_any_other(
    world: World, server: RankServer, alone: JobFile
) -> None:
    parents: list[JobFile] = []
    for number, (parallel, ranks, stop) in enumerate([("fsdp", 2, 1), ("ddp", 1, 3), ("ddp", 4, 4), ("fsdp", 2, None)]):
        config = CONFIG if stop is None else {**CONFIG, "stop_step": stop}
        job = world.job(f"part-{number}", "pretrain", config, parents, parallel=parallel)
        assert server.run(job, ranks) == [0] * ranks
        parents = [job]
    assert_like(parents[0], alone)


def wait_for_a_step(ranks: Ranks, step: int) -> None:
    """Until a checkpoint of that step or a later one is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [int(path.name[5:]) for path in ranks.job.checkpoints.glob("step-*")]
        if found and max(found) >= step:
            return
        time.sleep(0.01)
    pytest.fail(f"no checkpoint of step {step} came: {ranks.output()}")


def unique_text(world: World) -> dict[str, Any]:
    """A configuration on text whose sequences all differ; a shortened schedule of LONG steps."""
    return text_config(LONG, sources=[{"name": "unique", "kind": "text"}], schedule=schedule(LONG))


@pytest.fixture(scope="module")
def numbered(world: World) -> World:
    """Text of 2,000 sequences, each of which names its number in its first two tokens."""
    write_numbered(world.data / "unique", 2_000)
    return world


def write_numbered(folder: Path, count: int) -> None:
    from tests.stages.training.training_case import write_tar

    rows = [[number // 250, number % 250, *[(number + i) % 250 for i in range(CONTEXT - 1)]] for number in range(count)]
    write_tar(
        folder / "shard-0.tar", {f"{number:06d}.json": json.dumps(row).encode() for number, row in enumerate(rows)}
    )


def ids(rows: list[list[int]]) -> list[int]:
    return [250 * row[0] + row[1] for row in rows]


def test_a_stop_of_one_rank_saves_on_all_and_one_process_goes_on_without_losing_a_sample(
    numbered: World, server: RankServer
) -> None:
    job = numbered.job("stopped", "pretrain", unique_text(numbered), checkpoint_steps=5)
    ranks = server.start(job, 2)
    wait_for_a_step(ranks, 5)
    os.kill(ranks.pids[1], signal.SIGTERM)
    assert ranks.wait() == [75, 75], ranks.output()
    assert not job.result.exists()
    assert not job.error.exists()
    saved = find_newest_checkpoint(job.checkpoints)
    assert saved is not None
    assert 5 <= saved.step < LONG
    together = taken_by(job, [0, 1])
    assert max(together) == saved.step
    for path in job.run.glob("taken-*"):
        path.unlink()
    assert server.run(job, 1) == [0]
    after = taken_by(job, [0])
    assert min(after) == saved.step + 1
    whole = numbered.job("stopped-not", "pretrain", unique_text(numbered))
    assert server.run(whole, 1) == [0]
    wanted = taken_by(whole, [0])
    assert {step: ids(rows) for step, rows in {**together, **after}.items()} == {
        step: ids(rows) for step, rows in wanted.items()
    }
    seen = [number for rows in {**together, **after}.values() for number in ids(rows)]
    assert len(set(seen)) == len(seen) == 4 * LONG
    # many steps of rounding apart: the curves meet, the bits do not
    assert result_of(job)["loss"] == pytest.approx(result_of(whole)["loss"], rel=1e-2)
    assert read_result_checkpoint(job.run).state["data"] == read_result_checkpoint(whole.run).state["data"]


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_rank_is_killed_the_others_end_and_the_job_resumes(
    numbered: World, server: RankServer, killed: int
) -> None:
    job = numbered.job(f"killed-{killed}", "pretrain", unique_text(numbered), checkpoint_steps=5, parallel="fsdp")
    ranks = server.start(job, 2)
    wait_for_a_step(ranks, 5)
    os.kill(ranks.pids[killed], signal.SIGKILL)
    died = time.monotonic()
    codes = ranks.wait()
    assert time.monotonic() - died < 20
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] == 1
    assert not job.error.exists()  # that a peer is gone is no failure of the code
    assert server.run(job, 2) == [0, 0], ranks.output()
    taken = taken_by(job, [0, 1])
    seen = [number for rows in taken.values() for number in ids(rows)]
    assert len(set(seen)) == len(seen) == 4 * LONG


def test_a_failure_is_recorded_once_and_ends_all(world: World, server: RankServer) -> None:
    config = text_config(8, schedule=schedule(8, peak_lr=1e25), optimizer={"gradient_clip": 1e30})
    job = world.job("diverged", "pretrain", config)
    ranks = server.start(job, 2)
    assert ranks.wait() == [1, 1]
    assert json.loads(job.error.read_text())["class"] == "diverged"
    assert [path.name for path in job.error.parent.iterdir()] == ["error.json"]
    assert not job.result.exists()


def test_what_one_rank_cannot_read_is_told_by_that_rank(world: World, server: RankServer) -> None:
    whole = (world.data / "text" / "shard-1.tar").read_bytes()
    folder = world.data / "torn"
    folder.mkdir()
    (folder / "manifest.jsonl").write_bytes((world.data / "text" / "manifest.jsonl").read_bytes())
    (folder / "shard-0.tar").write_bytes((world.data / "text" / "shard-0.tar").read_bytes())
    (folder / "shard-1.tar").write_bytes(whole[: len(whole) // 2])
    job = world.job("torn", "pretrain", text_config(40, sources=[{"name": "torn", "kind": "text"}]))
    assert server.run(job, 2) == [1, 1]
    record = json.loads(job.error.read_text())
    assert record["class"] == "data"
    assert "shard-1.tar" in record["message"]


def test_a_batch_that_cannot_be_shared_is_refused(world: World, server: RankServer) -> None:
    job = world.job("odd", "pretrain", text_config(2, batch_sequences=3))
    assert server.run(job, 2) == [1, 1]
    assert "batch_sequences 3 cannot be shared by 2 processes" in json.loads(job.error.read_text())["message"]


@pytest.mark.slow
def test_torchrun_starts_a_job(world: World, alone: JobFile) -> None:
    job = world.job("torchrun", "pretrain", CONFIG, data_workers=1, parallel="fsdp")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "stages", str(job.run / "job.json"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert_like(job, alone)
