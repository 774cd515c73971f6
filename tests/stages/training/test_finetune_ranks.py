"""Fine-tuning on several processes, and through kills: the numbers of one process that was left alone."""

import json
import signal
from collections.abc import Iterator

import pytest

from stages.checkpoint.files import find_newest_checkpoint, read_result_checkpoint
from stages.job_file import JobFile, read_job
from tests.stages.ranks import RankServer
from tests.stages.training.kills import wait_for_progress
from tests.stages.training.training_case import (
    SMOOTH_ADAMW,
    World,
    assert_equal_weights,
    conversation,
    final_weights,
    finetune_config,
    image_config,
    make_world,
    result_of,
    run_here,
    same_bits,
    start,
)

MIXED = {"name": "mixed", "kind": "conversations"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """With conversations of many lengths, a third of them without an image, and one whose image is not there."""
    world = make_world(tmp_path_factory.mktemp("world"))
    records = []
    for number in range(17):
        record = conversation(number)
        record["conversations"] += record["conversations"][2:] * (number % 4)
        record["image"] = f"../conversations/{record['image']}"
        if number % 3 == 0:
            del record["image"]
            record["conversations"][0]["value"] = "What colour is it?"
        records.append(record)
    folder = world.data / "mixed"
    folder.mkdir()
    for record in records:
        if "image" in record:
            record["image"] = record["image"].rpartition("/")[2]
    for picture in (world.data / "conversations" / "images").iterdir():
        (folder / picture.name).write_bytes(picture.read_bytes())
    records[4]["image"] = "none.png"
    (folder / "mixed.json").write_text(json.dumps(records))
    return world


@pytest.fixture(scope="module")
def base(world: World) -> JobFile:
    return world.run("base", "pretrain", image_config(2))


CONFIG = finetune_config(
    conversations=MIXED, batch_sequences=5, max_length=128, optimizer={**SMOOTH_ADAMW, "weight_decay": 0.1}
)


@pytest.fixture(scope="module")
def alone(world: World, base: JobFile) -> JobFile:
    return world.run("alone", "finetune", CONFIG, [base])


@pytest.fixture(scope="module")
def server() -> Iterator[RankServer]:
    server = RankServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def alone_by_sequences(world: World, base: JobFile) -> JobFile:
    return world.run("alone-by-sequences", "finetune", {**CONFIG, "loss_mean": "sequences"}, [base])


@pytest.mark.parametrize("one", ["alone", "alone_by_sequences"])
@pytest.mark.parametrize(("parallel", "ranks"), [("ddp", 2), ("fsdp", 3)])
def test_several_processes_fine_tune_as_one_does(
    world: World, server: RankServer, request: pytest.FixtureRequest, *, parallel: str, ranks: int, one: str
) -> None:
    # passes of one example each: of three ranks, one has fewer than another where a batch has four examples
    settings = {"parallel": parallel, "micro_batch_tokens": 1}
    alone: JobFile = request.getfixturevalue(one)
    [base] = alone.parents
    config = alone.config.model_dump(mode="json")
    job = world.job(f"{parallel}-{ranks}-{one}", "finetune", config, [read_job(base.run / "job.json")], **settings)
    ranks_started = server.start(job, ranks)
    assert ranks_started.wait() == [0] * ranks, ranks_started.output()
    mine, theirs = read_result_checkpoint(job.run), read_result_checkpoint(alone.run)
    assert_equal_weights(mine.read_weights(), theirs.read_weights())
    assert mine.state["data"][0]["cursors"] == theirs.state["data"][0]["cursors"]
    for name in ("steps", "images", "image_tokens", "sources", "bad_samples"):
        assert result_of(job)[name] == result_of(alone)[name]
    assert result_of(job)["loss"] == pytest.approx(result_of(alone)["loss"], rel=1e-5)
    assert result_of(job)["padding"] == 0  # nothing is padded where each example goes alone


def test_each_conversation_comes_once_an_epoch_whatever_is_bad(alone: JobFile) -> None:
    result = result_of(alone)
    assert result["steps"] == 2 * (3 + 2)  # 11 with an image, one of them not there, and 6 without, by fives
    assert result["bad_samples"] == 1
    assert result["sources"]["mixed"]["samples"] == 2 * 16
    assert result["images"] == 2 * 10


def test_a_batch_of_bad_examples_alone_is_a_step_that_changes_nothing(
    world: World, server: RankServer, base: JobFile
) -> None:
    """In batches of one, the bad conversation is a whole batch; the limit of bad samples allows it."""
    config = {**CONFIG, "batch_sequences": 1, "epochs": 1}
    one = world.run("one", "finetune", config, [base], log_steps=1)
    result = result_of(one)
    assert (result["steps"], result["bad_samples"], result["sources"]["mixed"]["samples"]) == (17, 1, 16)
    assert len(one.metrics.read_text().splitlines()) == 16  # no line on a step without a loss
    two = world.job("one-of-two", "finetune", config, [base], parallel="ddp", log_steps=1)
    ranks_started = server.start(two, 2)
    assert ranks_started.wait() == [0, 0], ranks_started.output()
    assert_equal_weights(read_result_checkpoint(two.run).read_weights(), read_result_checkpoint(one.run).read_weights())


def test_a_fine_tune_that_is_killed_ends_with_the_bits_of_one_that_is_not(world: World, base: JobFile) -> None:
    config = finetune_config(conversations=MIXED, batch_sequences=5, max_length=128, epochs=20)
    whole = world.run("whole", "finetune", config, [base])
    job = world.job("killed", "finetune", config, [base], checkpoint_steps=2)
    process = start(job)
    wait_for_progress(job, 0, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    saved = find_newest_checkpoint(job.checkpoints)
    assert saved is not None
    assert saved.step < 5 * 20
    assert run_here(job)
    assert same_bits(final_weights(job), final_weights(whole))
    for name in ("steps", "tokens", "loss", "sources", "images", "bad_samples"):
        assert result_of(job)[name] == result_of(whole)[name]
