import json

import pytest
import torch

from stages.checkpoint.files import find_newest_checkpoint, load_model
from stages.config import EvaluateConfig, FinetuneConfig
from stages.data.prompts import PLAIN, TEMPLATES, restore_template
from stages.distributed import DistributedContext as OneProcess
from stages.errors import ConfigError, DamagedInputError, DataError
from stages.evaluation.run import build_evaluated_model
from stages.job_file import JobFile
from stages.stop import StopFlag
from stages.training.finetune import build_schedule
from tests.stages.data.tokenizer_kinds import unigram
from tests.stages.training.test_pretrain import StopAfter
from tests.stages.training.training_case import (
    World,
    conversation,
    final_weights,
    finetune_config,
    image_config,
    make_world,
    result_of,
    run_here,
    same_bits,
    text_config,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def base(world: World) -> JobFile:
    return world.run("base", "pretrain", image_config(4))


@pytest.fixture(scope="module")
def tuned(world: World, base: JobFile) -> JobFile:
    return world.run("tuned", "finetune", finetune_config(epochs=2), [base])


def test_epochs_pass_over_all_conversations(tuned: JobFile) -> None:
    result = result_of(tuned)
    assert result["steps"] == 6  # 2 epochs of 10 conversations in batches of 4 at most
    assert result["sources"]["conversations"]["samples"] == 20
    assert result["images"] == 20
    assert result["tokens"] == result["sources"]["conversations"]["tokens"] + result["padding"]


@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_each_number_of_epochs_has_a_schedule_of_its_own(epochs: int) -> None:
    config = FinetuneConfig.model_validate(finetune_config(epochs=epochs, warmup_ratio=0.05, peak_lr=3e-4))
    schedule = build_schedule(config, 100)
    assert (schedule.total_steps, schedule.warmup_steps) == (100 * epochs, 5 * epochs)
    assert schedule.compute_lr(0) == pytest.approx(3e-4 / (5 * epochs))
    assert schedule.compute_lr(5 * epochs) == pytest.approx(3e-4)
    assert schedule.compute_lr(100 * epochs) == 0.0
    # the last update is a step short of the end, at a rate that is next to nothing and above it
    assert 0 < schedule.compute_lr(100 * epochs - 1) < 3e-4 / 1_000


def test_the_learning_rate_goes_to_its_end_in_every_run(world: World, base: JobFile) -> None:
    for epochs in (1, 2, 3, 4):
        job = world.run(f"epochs-{epochs}", "finetune", finetune_config(epochs=epochs), [base], log_steps=1)
        rates = [json.loads(line)["lr"] for line in job.metrics.read_text().splitlines()]
        config = job.config
        assert isinstance(config, FinetuneConfig)
        assert rates == [build_schedule(config, 3).compute_lr(step) for step in range(3 * epochs)]
        assert rates[0] == max(rates)
        assert rates[-1] == min(rates)


def test_the_checkpoint_says_how_questions_were_put(world: World, base: JobFile, tuned: JobFile) -> None:
    assert restore_template(load_model(tuned.run).checkpoint.state) == PLAIN
    assert restore_template(load_model(base.run).checkpoint.state) == PLAIN
    job = world.run("vicuna", "finetune", finetune_config(epochs=1, prompt="vicuna", max_length=512), [base])
    loaded = load_model(job.run)
    assert restore_template(loaded.checkpoint.state) == TEMPLATES["vicuna"]
    evaluation = {"tasks": "exams", "tokenizer": {"name": "tokenizer"}}
    asked = world.job("asked", "evaluate", evaluation, [job])
    assert isinstance(asked.config, EvaluateConfig)
    assert (
        build_evaluated_model(asked, asked.config, loaded, OneProcess(torch.device("cpu"))).template
        == TEMPLATES["vicuna"]
    )


def test_a_start_of_text_token_goes_before_the_image_and_into_the_checkpoint(world: World, base: JobFile) -> None:
    unigram(world.data / "llama.json")
    config = finetune_config(epochs=1, tokenizer={"name": "llama"}, max_length=64)
    state = load_model(world.run("llama", "finetune", config, [base]).run).checkpoint.state
    assert state["start_of_text"] == [1]
    plain = world.run("plain", "finetune", finetune_config(epochs=1), [base])
    assert load_model(plain.run).checkpoint.state["start_of_text"] == []


def test_projector_and_language_model_are_trained(base: JobFile, tuned: JobFile) -> None:
    before, after = final_weights(base), final_weights(tuned)
    for name in ("projector.0.weight", "tok_embeddings.weight", "layers.1.feed_forward.w3.weight"):
        assert not before[name].equal(after[name])


def test_a_fine_tuned_model_needs_no_other_file(tuned: JobFile) -> None:
    loaded = load_model(tuned.run)
    assert loaded.vlm.image_tokens == 4
    assert loaded.tokenizer is not None
    assert not loaded.checkpoint.read_moments()


@pytest.mark.parametrize("cut", [1, 5])
def test_a_fine_tune_that_was_stopped_and_resumed_has_the_same_bits(
    world: World, base: JobFile, tuned: JobFile, cut: int
) -> None:
    job = world.job(f"stopped-{cut}", "finetune", finetune_config(epochs=2), [base])
    assert not run_here(job, StopAfter(cut))
    saved = find_newest_checkpoint(job.checkpoints)
    assert saved is not None
    assert saved.step == cut
    assert run_here(job, StopFlag())
    assert same_bits(final_weights(job), final_weights(tuned))
    assert result_of(job)["loss"] == result_of(tuned)["loss"]


def test_bad_conversations_are_skipped_and_counted(world: World, base: JobFile) -> None:
    folder = world.data / "untidy"
    folder.mkdir()
    missing = {**conversation(1), "image": "images/none.png"}
    records = [conversation(number) for number in range(8)] + ["nothing", missing]
    for record in records[:8]:
        assert isinstance(record, dict)
        record["image"] = f"../conversations/{record['image']}"  # climbs out: refused
    (folder / "conversations.json").write_text(json.dumps(records))
    config = finetune_config(conversations={"name": "untidy", "kind": "conversations"}, epochs=1)
    with pytest.raises(DataError, match="every sample is bad; the last: "):
        run_here(world.job("untidy", "finetune", config, [base]))
    images = {
        f"{colour}.png": (world.data / "conversations" / "images" / f"{colour}.png") for colour in ("red", "green")
    }
    for name, path in images.items():
        (folder / name).write_bytes(path.read_bytes())
    for record in records[:8]:
        assert isinstance(record, dict)
        record["image"] = "red.png"
    (folder / "conversations.json").write_text(json.dumps(records))
    job = world.run("untidy", "finetune", config, [base])
    assert result_of(job)["bad_samples"] == 2
    assert result_of(job)["images"] == 8  # three batches of three, without the bad one
    with pytest.raises(DataError, match="malformed records; the limit is 0"):
        run_here(world.job("strict", "finetune", config, [base], bad_samples_limit=0))


def test_a_parent_without_eyes_cannot_learn_about_images(world: World) -> None:
    blind = world.run("blind", "pretrain", text_config(2))
    with pytest.raises(DataError, match="the model sees none"):
        run_here(world.job("blind-tuned", "finetune", finetune_config(), [blind]))


def test_a_fine_tune_needs_one_whole_parent_and_room_for_an_answer(world: World, base: JobFile) -> None:
    with pytest.raises(ConfigError, match="takes one parent; 0 are given"):
        run_here(world.job("orphan", "finetune", finetune_config()))
    with pytest.raises(ConfigError, match="no room for an image"):
        run_here(world.job("short", "finetune", finetune_config(max_length=4), [base]))
    damaged = world.run("damaged", "pretrain", image_config(2))
    (damaged.run / result_of(damaged)["checkpoint"] / "record.json").unlink()
    with pytest.raises(DamagedInputError) as caught:
        run_here(world.job("child", "finetune", finetune_config(), [damaged]))
    assert caught.value.damaged_key == "damaged"
