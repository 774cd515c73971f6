"""What pretrain and finetune share around the loop: setting it up, running it, and the result."""

import os
from pathlib import Path

from stages.checkpoint.files import render_checkpoint_name
from stages.config import Tokenizer
from stages.data.batches import BatchLoader, Sampler
from stages.data.collate import Collator
from stages.data.tokenizer import TextTokenizer
from stages.data.workers import resolve_worker_count
from stages.distributed import DistributedContext
from stages.job_file import JobFile
from stages.memory import keep_freed_memory
from stages.precision import report_slow_precision
from stages.result import Result, render_relative_path, write_result
from stages.stop import StopFlag
from stages.trackers import Tracker, describe_tracked_run, open_trackers
from stages.training.loop import Training
from stages.training.metrics import MetricsLog, TrainingLog
from stages.training.state import TrainState


def build_batch_loader(job: JobFile, world: DistributedContext, sampler: Sampler, collator: Collator) -> BatchLoader:
    """The job's batches, with as many worker processes as its settings say."""
    on_gpu = world.device.type == "cuda"
    return BatchLoader(
        sampler,
        collator,
        peers=world.peers,
        workers=resolve_worker_count(job.settings.data_workers, os.environ, on_gpu=on_gpu),
        prefetch_batches=job.settings.prefetch_batches,
        pin=on_gpu,
    )


def build_training_log(job: JobFile, world: DistributedContext) -> TrainingLog:
    """Where this process's figures go: those of all processes go out by the first."""

    def open_all(step: int) -> list[Tracker]:
        return open_trackers(job.settings.trackers, describe_tracked_run(job, step))

    return TrainingLog(MetricsLog(job.metrics) if world.is_first_rank else None, open_all)


def run_training(job: JobFile, training: Training, state: TrainState, stop: StopFlag, *, malformed: int = 0) -> bool:
    """Trains from where `state` is; then writes result.json.

    False if it was asked to stop; what it did is saved then. `malformed`: samples found bad before training.
    """
    if training.world.is_first_rank:
        report_slow_precision(training.precision, training.world.device)
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
        bad_samples=malformed + sum(len(progress.bad) for progress in state.batches.state.sources),
    )


def load_tokenizer(job: JobFile, tokenizer: Tokenizer, vocabulary: int, *, literal: bool = False) -> TextTokenizer:
    """The tokenizer of that name in the job's data. `literal`: see `TextTokenizer`."""
    return TextTokenizer(job.resolve_data_path(tokenizer.name), vocabulary, literal=literal)
