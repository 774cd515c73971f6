"""What pretrain and finetune share around the loop: restoring, running, and the result."""

from pathlib import Path

from stages.checkpoint import Checkpoint
from stages.config import Tokenizer, Vision
from stages.data.images import FeatureCache
from stages.data.text_tokenizer import TextTokenizer
from stages.device import compute_device
from stages.job_file import JobFile
from stages.result import Result, relative_to_run, write_result
from stages.stop import StopFlag
from stages.training import Training, TrainState
from stages.vision import load_encoder


def run_training(
    job: JobFile, training: Training, state: TrainState, own: Checkpoint | None, stop: StopFlag, *, malformed: int = 0
) -> bool:
    """Trains from the job's `own` checkpoint if there is one, else from `state` as it is; then writes result.json.

    False if it was asked to stop; what it did is saved then. `malformed`: samples found bad before training.
    """
    if own is not None:
        state.restore(own)
    # a run that was killed after its last checkpoint has no more to do than to say so
    finished = own.path if own is not None and own.step >= training.last_step else training.run(state, stop)
    if finished is None:
        return False
    write_result(job, training_result(job, state, finished, malformed))
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


def load_tokenizer(job: JobFile, tokenizer: Tokenizer, vocabulary: int) -> TextTokenizer:
    """The tokenizer of that name in the job's data."""
    return TextTokenizer(job.data_path(tokenizer.name), vocabulary)


def feature_cache(job: JobFile, vision: Vision) -> FeatureCache:
    """The frozen encoder, behind a memory of what it has encoded."""
    return FeatureCache(load_encoder(vision, compute_device()), job.settings.feature_cache_gib)
