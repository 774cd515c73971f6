import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.checkpoint.files import find_newest_checkpoint, load_model, read_checkpoint, read_result_checkpoint
from stages.config import PretrainConfig
from stages.distributed import DistributedContext as Processes
from stages.errors import ConfigError, DamagedInputError, DataError, DivergedError
from stages.flops import count_step_flops
from stages.job_file import JobFile
from stages.stop import StopFlag
from stages.training.loop import Training
from stages.training.pretrain import build_batches
from tests.stages.training.training_case import (
    CONTEXT,
    MODEL,
    SMOOTH_ADAMW,
    World,
    assert_equal_weights,
    final_weights,
    image_config,
    make_world,
    result_of,
    run_here,
    same_bits,
    schedule,
    text_config,
    write_captions,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trunk(world: World) -> JobFile:
    return world.run("trunk", "pretrain", text_config(12))


@pytest.fixture(scope="module")
def branch(world: World, trunk: JobFile) -> JobFile:
    return world.run("branch", "pretrain", image_config(10), [trunk])


def metrics_of(job: JobFile) -> list[dict[str, Any]]:
    return [json.loads(line) for line in job.metrics.read_text().splitlines()]


class StopAfter(StopFlag):
    """Asks to stop after so many looks at the flag."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0

    @requested.setter
    def requested(self, value: bool) -> None: ...


def test_a_run_learns_and_its_result_counts_exactly(trunk: JobFile) -> None:
    result = result_of(trunk)
    assert (result["steps"], result["tokens"], result["padding"]) == (12, 12 * 4 * CONTEXT, 0)
    counts = {"sequences": 48, "samples": 48, "tokens": 48 * CONTEXT, "image_tokens": 0, "images": 0}
    assert result["sources"] == {"text": counts}
    lines = metrics_of(trunk)
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert lines[-1]["tokens"] == result["tokens"]
    assert lines[-1]["loss"] == result["loss"] < lines[0]["loss"]
    checkpoint = trunk.run / result["checkpoint"]
    assert result["files"] == {
        path.relative_to(trunk.run).as_posix(): path.stat().st_size for path in checkpoint.iterdir()
    }
    assert [path.name for path in trunk.checkpoints.iterdir()] == ["step-00000012"]


def test_a_branch_starts_from_its_parent_and_sees_images_by_share(branch: JobFile) -> None:
    result = result_of(branch)
    pairs, text = result["sources"]["captions"], result["sources"]["text"]
    assert result["tokens"] == 10 * 4 * CONTEXT == pairs["tokens"] + text["tokens"] + result["padding"]
    assert abs(pairs["tokens"] - text["tokens"]) < 2 * CONTEXT
    assert result["images"] == pairs["images"] == pairs["samples"] > 20
    assert result["image_tokens"] == 4 * result["images"]
    assert metrics_of(branch)[-1]["losses"].keys() == {"text", "captions"}
    assert metrics_of(branch)[-1]["losses"]["captions"] < metrics_of(branch)[0]["losses"]["captions"]


def test_a_finished_run_holds_a_whole_model(branch: JobFile) -> None:
    loaded = load_model(branch.run)
    assert loaded.vlm.image_tokens == 4
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.name == "tokenizer"
    assert same_bits(loaded.vlm.collect_weights(), final_weights(branch))


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_a_run_that_was_stopped_and_resumed_has_the_same_bits(
    world: World, trunk: JobFile, branch: JobFile, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    job = world.job(f"stopped-{cut}", "pretrain", image_config(10), [trunk], checkpoint_steps=4)
    assert not run_here(job, StopAfter(cut))
    assert not job.result.exists()
    saved = find_newest_checkpoint(job.checkpoints)
    assert saved is not None
    assert saved.step == cut
    capsys.readouterr()
    assert run_here(job)
    begin, *steps = [line[11:] for line in capsys.readouterr().err.splitlines() if "Z  " in line[:12]]
    assert begin.startswith(f"goes on from step {cut} of 10, on ")
    logged = [line for line in metrics_of(job) if line["step"] > cut]
    assert [line.split("  ")[:3] for line in steps] == [
        [f"step {line['step']} of 10", f"loss {line['loss']:.4f}", f"lr {line['lr']:.3g}"] for line in logged
    ]
    assert same_bits(final_weights(job), final_weights(branch))
    assert numbers_of(job) == numbers_of(branch)


def test_bf16_with_a_real_encoder_resumes_with_the_same_bits(world: World) -> None:
    config = {**image_config(5, precision="bf16"), "vision": {"encoder": "efficientnet-lite0-32"}}
    whole = world.run("real-encoder", "pretrain", config)
    stopped = world.job("real-encoder-stopped", "pretrain", config)
    assert not run_here(stopped, StopAfter(3))
    assert run_here(stopped)
    assert same_bits(final_weights(stopped), final_weights(whole))


def numbers_of(job: JobFile) -> list[Any]:
    """What a table is made of: the result and the metrics, without times."""
    result, clock = result_of(job), {"time", "tokens_per_second", "data_wait", "peak_memory_gib"}
    shown = [result[name] for name in ("steps", "tokens", "padding", "images", "loss", "sources")]
    return [*shown, [{k: v for k, v in line.items() if k not in clock} for line in metrics_of(job)]]


def test_a_torn_newest_checkpoint_costs_steps_and_no_bits(world: World, trunk: JobFile, branch: JobFile) -> None:
    job = world.job("torn", "pretrain", image_config(10), [trunk], checkpoint_steps=3)
    assert not run_here(job, StopAfter(8))
    newest = job.checkpoints / "step-00000008" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    found = find_newest_checkpoint(job.checkpoints)
    assert found is not None
    assert found.step == 6
    assert run_here(job)
    assert same_bits(final_weights(job), final_weights(branch))
    assert numbers_of(job) == numbers_of(branch)


def test_a_trunk_in_segments_has_the_bits_of_the_trunk_in_one(world: World, trunk: JobFile) -> None:
    parents: list[JobFile] = []
    for stop in (2, 4, 6, 7, None):
        config = text_config(12) if stop is None else text_config(12, stop_step=stop)
        parents = [world.run(f"segment-{stop}", "pretrain", config, parents)]
    assert same_bits(final_weights(parents[0]), final_weights(trunk))
    one, segmented = read_result_checkpoint(trunk.run), read_result_checkpoint(parents[0].run)
    assert same_bits(one.read_moments(), segmented.read_moments())
    assert one.state["data"] == segmented.state["data"]
    result = result_of(parents[0])
    assert (result["steps"], result["tokens"]) == (5, 5 * 4 * CONTEXT)
    assert result["sources"]["text"]["samples"] == 20
    assert [line["step"] for line in metrics_of(parents[0])] == [8, 10, 12]


def test_a_deleted_result_is_written_again_without_training(world: World) -> None:
    job = world.run("deleted", "pretrain", text_config(4))
    before, weights = numbers_of(job), final_weights(job)
    job.result.unlink()
    assert run_here(job)
    assert numbers_of(job) == before
    assert same_bits(final_weights(job), weights)


def test_moments_are_carried_or_fresh_as_the_configuration_says(world: World, trunk: JobFile) -> None:
    ends = {}
    for choice in ("carried", "fresh"):
        config = text_config(3, seed=9, optimizer_state=choice)
        job = world.run(f"moments-{choice}", "pretrain", config, [trunk])
        moments = read_result_checkpoint(job.run).read_moments()
        ends[choice] = moments["step.output.weight"].item()
    assert ends == {"carried": 15, "fresh": 3}


def test_only_the_final_checkpoint_may_go_without_the_optimizer(world: World) -> None:
    job = world.run("bare", "pretrain", text_config(4), keep_optimizer=False)
    assert not read_result_checkpoint(job.run).read_moments()
    with pytest.raises(ConfigError, match="no optimizer state to carry on"):
        run_here(world.job("bare-child", "pretrain", text_config(3, seed=9), [job]))


def test_weights_do_not_depend_on_the_parts_that_a_batch_is_summed_from(world: World, branch: JobFile) -> None:
    """To within rounding: the loss of a batch is one mean over all its targets, however many passes it takes."""
    config = image_config(1, optimizer=SMOOTH_ADAMW)
    job = world.run("parts", "pretrain", config, micro_batch_tokens=CONTEXT)
    whole = world.run("whole", "pretrain", config, micro_batch_tokens=4 * CONTEXT)
    assert_equal_weights(final_weights(job), final_weights(whole))


def test_bf16_trains_float32_weights(world: World) -> None:
    job = world.run("bf16", "pretrain", image_config(6, precision="bf16"))
    assert all(weight.dtype == torch.float32 for weight in final_weights(job).values())
    assert metrics_of(job)[-1]["loss"] < metrics_of(job)[0]["loss"]


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_no_checkpoint_of_it(world: World) -> None:
    config = text_config(8, schedule=schedule(8, peak_lr=1e25), optimizer={"gradient_clip": 1e30})
    job = world.job("diverged", "pretrain", config, checkpoint_steps=1)
    with pytest.raises(DivergedError, match="step"):
        run_here(job)
    assert not job.result.exists()
    saved = find_newest_checkpoint(job.checkpoints)
    assert saved is None or all(weight.isfinite().all() for weight in saved.read_weights().values())


def test_a_damaged_parent_is_named(world: World) -> None:
    parent = world.run("parent", "pretrain", text_config(2))
    model = parent.run / result_of(parent)["checkpoint"] / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-1])
    child = world.job("child", "pretrain", image_config(2), [parent])
    with pytest.raises(DamagedInputError, match="does not match its own record") as caught:
        run_here(child)
    assert caught.value.damaged_key == "parent"
    parent.result.unlink()
    with pytest.raises(DamagedInputError, match=r"no readable result\.json"):
        run_here(child)


def test_a_parent_of_another_shape_is_refused(world: World, trunk: JobFile) -> None:
    wider = text_config(2, model={**MODEL, "d_model": 64})
    with pytest.raises(ConfigError, match="parent trunk has another model"):
        run_here(world.job("wider", "pretrain", wider, [trunk]))


def test_missing_data_and_too_small_a_context_are_clear_errors(world: World, tmp_path: Path) -> None:
    missing = text_config(2, sources=[{"name": "elsewhere", "kind": "text"}])
    with pytest.raises(DataError, match="'elsewhere' is not in the job's data"):
        run_here(world.job("missing", "pretrain", missing))
    with pytest.raises(ConfigError, match="no room for an image"):
        run_here(world.job("narrow", "pretrain", image_config(2, context=4)))
    other = World(tmp_path)
    write_captions(other.data / "text", 3)
    with pytest.raises(DataError, match="every sample is bad"):
        run_here(other.job("captions-as-text", "pretrain", text_config(2)))


def test_a_source_without_a_share_is_not_opened_and_the_projector_waits(world: World) -> None:
    sources = [{"name": "text", "kind": "text", "share": 1}, {"name": "absent", "kind": "captions", "share": 0}]
    job = world.run("no-images", "pretrain", {**image_config(2), "sources": sources})
    assert result_of(job)["images"] == 0
    assert "projector.0.weight" in final_weights(job)


def test_conversations_may_take_a_share_of_pretraining(world: World) -> None:
    sources = [
        {"name": "text", "kind": "text", "share": 0.5},
        {"name": "conversations", "kind": "conversations", "share": 0.5},
    ]
    result = result_of(world.run("instructed", "pretrain", {**image_config(6), "sources": sources}))
    assert abs(result["sources"]["conversations"]["tokens"] - result["sources"]["text"]["tokens"]) < 3 * CONTEXT


def test_the_learning_rate_follows_the_schedule_in_every_segment(world: World, trunk: JobFile) -> None:
    config = PretrainConfig.model_validate(text_config(12))
    for line in metrics_of(trunk):
        assert line["lr"] == config.schedule.compute_lr(line["step"] - 1)


def test_batches_are_the_same_whatever_the_passes(world: World) -> None:
    config = PretrainConfig.model_validate(image_config(4))
    tokens = []
    for parts in (CONTEXT, 4 * CONTEXT):
        job = world.job("batches", "pretrain", image_config(4), micro_batch_tokens=parts)
        batch = build_batches(job, config, Processes(torch.device("cpu")), None).take_batch()
        tokens.append(torch.cat([part.tokens for part in batch.micro_batches]))
    assert torch.equal(*tokens)


def test_checkpoints_come_by_minutes_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = Training.save

    def noted(self: Training, state: Any) -> None:
        saved.append(state.step)
        save(self, state)

    monkeypatch.setattr(Training, "save", noted)
    world.run("minutes", "pretrain", text_config(4), checkpoint_minutes=1e-9)
    assert saved == [1, 2, 3, 4]


def test_checkpoints_of_branch_steps_are_written_and_stay(world: World) -> None:
    job = world.run("branch-points", "pretrain", text_config(8), branch_steps=[2, 5], checkpoint_steps=3)
    assert sorted(path.name for path in job.checkpoints.iterdir()) == [f"step-{step:08d}" for step in (2, 5, 8)]
    found = read_checkpoint(job.checkpoints / "step-00000005")
    assert found is not None
    assert found.has_moments


def test_no_step_is_saved_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = Training.save

    def noted(self: Training, state: Any) -> None:
        saved.append(state.step)
        save(self, state)

    monkeypatch.setattr(Training, "save", noted)
    job = world.job("saved-once", "pretrain", text_config(6), checkpoint_steps=2)
    assert not run_here(job, StopAfter(4))
    assert run_here(job)
    assert run_here(job)
    assert saved == [2, 4, 6]


def test_spikes_are_noted_and_too_many_in_a_row_stop_the_run(world: World) -> None:
    # the rate is so small that losses only scatter; half of them lie above their mean
    config = text_config(60, schedule=schedule(60, peak_lr=1e-9, final_lr=1e-9))
    noted = world.run("spikes", "pretrain", config, loss_spike_sigmas=1e-9)
    assert sum(line["spikes"] for line in metrics_of(noted)) > 3
    assert sum(line["spikes"] for line in metrics_of(noted)[:16]) == 0
    job = world.job("spikes-stop", "pretrain", config, loss_spike_sigmas=1e-9, loss_spikes_limit=1, checkpoint_steps=16)
    with pytest.raises(DivergedError, match="spike in a row"):
        run_here(job)
    saved = find_newest_checkpoint(job.checkpoints)
    assert saved is not None
    assert 32 <= saved.step < 60


def test_a_log_line_has_what_the_run_took(world: World) -> None:
    job = world.run("figures", "pretrain", image_config(4), peak_tflops=1e-3)
    for line in metrics_of(job):
        assert 0 <= line["data_wait"] < 1
        assert 0.05 < line["peak_memory_gib"] < 64
        # a forward and backward of these sizes, by the planner's count
        config = PretrainConfig.model_validate(image_config(4))
        flops = count_step_flops(config.model, CONTEXT, line["tokens_per_second"])
        assert line["mfu"] == pytest.approx(flops / 1e9, rel=1.0)
        assert line["mfu"] > flops / 1e9  # the projector's come on top
    assert "mfu" not in metrics_of(world.run("no-peak", "pretrain", text_config(2)))[0]


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no GPU"):
        run_here(world.job("gpu", "pretrain", text_config(2), device="cuda"))
