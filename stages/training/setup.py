"""What pretrain and finetune share around the loop: setting it up, running it, and the result."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stages.checkpoint.files import checkpoint_name
from stages.config import Optimizer, Tokenizer
from stages.data.tokenizer import TextTokenizer
from stages.distributed import World, loss_chunk_tokens
from stages.job_file import JobFile
from stages.memory import keep_freed_memory
from stages.result import Result, relative_to_run, write_result
from stages.schedule import Schedule
from stages.stop import StopFlag
from stages.training.loop import Training
from stages.training.metrics import Log, Meter, MetricsLog, open_trackers
from stages.training.state import TrainState
from stages.vision.feature_extractor import Eyes


def build_training(
    job: JobFile,
    world: World,
    *,
    schedule: Schedule,
    last_step: int,
    optimizer: Optimizer,
    z_loss: float,
    precision: str,
    fixed_state: Mapping[str, Any],
    keep_optimizer: bool,
    eyes: Eyes | None,
    meter: Meter,
    saved_step: int | None,
) -> Training:
    """The loop of a job; see `Training` for what the parts are."""
    return Training(
        world=world,
        last_step=last_step,
        rate=schedule.lr,
        z_loss=z_loss,
        chunk_tokens=loss_chunk_tokens(job.settings.loss_chunk_tokens, world.device),
        gradient_clip=optimizer.gradient_clip,
        precision=precision,
        settings=job.settings,
        checkpoints=job.checkpoints,
        log=job_log(job, world),
        meter=meter,
        fixed_state=fixed_state,
        keep_optimizer=keep_optimizer,
        eyes=eyes,
        saved_step=saved_step,
    )


def job_log(job: JobFile, world: World) -> Log:
    """Where this process's figures go: those of all processes go out by the first."""
    trackers = partial(
        open_trackers,
        job.settings.trackers,
        job.run,
        job.key,
        {"stage": job.stage, **job.config.model_dump(mode="json")},
    )
    return Log(MetricsLog(job.metrics) if world.first else None, trackers)


def run_training(job: JobFile, training: Training, state: TrainState, stop: StopFlag, *, malformed: int = 0) -> bool:
    """Trains from where `state` is; then writes result.json.

    False if it was asked to stop; what it did is saved then. `malformed`: samples found bad before training.
    """
    if training.world.device.type == "cpu":
        keep_freed_memory()
    if not training.run(state, stop):
        return False
    if training.world.first:
        path = job.checkpoints / checkpoint_name(state.step)
        write_result(job, training_result(job, state, path, malformed))
    return True


def training_result(job: JobFile, state: TrainState, checkpoint: Path, malformed: int) -> Result:
    """The result of a finished training job: what it did itself, without the steps of a parent that it continued."""
    taken = state.taken()
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
        checkpoint=relative_to_run(job, checkpoint),
        bad_samples=malformed + sum(len(progress.bad) for progress in state.batches.progress),
    )


def load_tokenizer(job: JobFile, tokenizer: Tokenizer, vocabulary: int, *, literal: bool = False) -> TextTokenizer:
    """The tokenizer of that name in the job's data. `literal`: see `TextTokenizer`."""
    return TextTokenizer(job.data_path(tokenizer.name), vocabulary, literal=literal)
