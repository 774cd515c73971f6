"""What pretrain and finetune share around the loop: setting it up, running it, and the result."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stages.checkpoint.files import render_checkpoint_name
from stages.config import Optimizer, Tokenizer
from stages.data.tokenizer import TextTokenizer
from stages.distributed import DistributedContext, resolve_loss_chunk_tokens
from stages.job_file import JobFile
from stages.memory import keep_freed_memory
from stages.result import Result, render_relative_path, write_result
from stages.schedule import Schedule
from stages.stop import StopFlag
from stages.training.loop import Training
from stages.training.metrics import Meter, MetricsLog, TrainingLog, open_trackers
from stages.training.state import TrainState
from stages.vision.feature_extractor import FeatureExtractor


def build_training(
    job: JobFile,
    world: DistributedContext,
    *,
    schedule: Schedule,
    last_step: int,
    optimizer: Optimizer,
    z_loss: float,
    precision: str,
    checkpoint_metadata: Mapping[str, Any],
    keep_optimizer: bool,
    eyes: FeatureExtractor | None,
    meter: Meter,
    saved_step: int | None,
) -> Training:
    """The loop of a job; see `Training` for what the parts are."""
    return Training(
        world=world,
        last_step=last_step,
        rate=schedule.compute_lr,
        z_loss=z_loss,
        chunk_tokens=resolve_loss_chunk_tokens(job.settings.loss_chunk_tokens, world.device),
        gradient_clip=optimizer.gradient_clip,
        precision=precision,
        settings=job.settings,
        checkpoints=job.checkpoints,
        log=build_training_log(job, world),
        meter=meter,
        checkpoint_metadata=checkpoint_metadata,
        keep_optimizer=keep_optimizer,
        feature_extractor=eyes,
        saved_step=saved_step,
    )


def build_training_log(job: JobFile, world: DistributedContext) -> TrainingLog:
    """Where this process's figures go: those of all processes go out by the first."""
    trackers = partial(
        open_trackers,
        job.settings.trackers,
        job.run,
        job.key,
        {"stage": job.stage, **job.config.model_dump(mode="json")},
    )
    return TrainingLog(MetricsLog(job.metrics) if world.is_first_rank else None, trackers)


def run_training(job: JobFile, training: Training, state: TrainState, stop: StopFlag, *, malformed: int = 0) -> bool:
    """Trains from where `state` is; then writes result.json.

    False if it was asked to stop; what it did is saved then. `malformed`: samples found bad before training.
    """
    if training.world.device.type == "cpu":
        keep_freed_memory()
    if not training.run(state, stop):
        return False
    if training.world.is_first_rank:
        path = job.checkpoints / render_checkpoint_name(state.step)
        write_result(job, build_training_result(job, state, path, malformed))
    return True


def build_training_result(job: JobFile, state: TrainState, checkpoint: Path, malformed: int) -> Result:
    """The result of a finished training job: what it did itself, without the steps of a parent that it continued."""
    taken = state.count_taken()
    return Result(
        steps=state.step - state.first_step,
        tokens=state.tokens,
        padding=state.tokens - sum(counts["tokens"] for counts in taken.values()),
        image_tokens=sum(counts["image_tokens"] for counts in taken.values()),
        images=sum(counts["images"] for counts in taken.values()),
        sources=taken,
        seconds=state.seconds,
        tokens_per_second=state.tokens / state.seconds if state.seconds else 0.0,
        loss=state.loss,
        checkpoint=render_relative_path(job, checkpoint),
        bad_samples=malformed + sum(len(progress.bad) for progress in state.batches.progress),
    )


def load_tokenizer(job: JobFile, tokenizer: Tokenizer, vocabulary: int, *, literal: bool = False) -> TextTokenizer:
    """The tokenizer of that name in the job's data. `literal`: see `TextTokenizer`."""
    return TextTokenizer(job.resolve_data_path(tokenizer.name), vocabulary, literal=literal)
