"""The finetune stage: conversations about images, loss on the answers; projector and language model are trained."""

from typing import Any

import torch

from stages.checkpoint import build_model, load_model, newest_checkpoint
from stages.config import FinetuneConfig, LanguageModel
from stages.data.batches import ExampleBatches
from stages.data.conversations import Conversations
from stages.device import compute_device, micro_batch_tokens
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.metrics import MetricsLog
from stages.optimizer import AdamW
from stages.schedule import Schedule
from stages.stop import StopFlag
from stages.training import Training, TrainState
from stages.training_job import feature_cache, load_tokenizer, run_training
from stages.vlm import VLM


def run(job: JobFile, stop: StopFlag) -> bool:
    """Trains for the configured epochs; false if it was asked to stop, and has saved."""
    config = job.config
    assert isinstance(config, FinetuneConfig)  # noqa: S101 - read_job gives each stage its own configuration
    if len(job.parents) != 1:
        raise ConfigError(f"finetune takes one parent; {len(job.parents)} are given")
    torch.manual_seed(config.seed)
    own = newest_checkpoint(job.checkpoints)
    parent = job.parents[0]
    vlm = (build_model(own) if own else load_model(parent.run, parent.key)).vlm.to(compute_device())
    conversations = open_conversations(job, config, vlm)
    state = TrainState(vlm, AdamW(vlm.named_weights(), config.optimizer), build_batches(job, config, conversations))
    training = build_training(job, config, vlm, epochs_schedule(config, conversations.size))
    return run_training(job, training, state, own, stop, malformed=len(conversations.malformed))


def build_batches(job: JobFile, config: FinetuneConfig, conversations: Conversations) -> ExampleBatches:
    """The conversations as batches of examples."""
    return ExampleBatches(
        conversations,
        batch_size=config.batch_sequences,
        seed=config.seed,
        micro_batch_tokens=micro_batch_tokens(job.settings.micro_batch_tokens, compute_device()),
        bad_samples_limit=job.settings.bad_samples_limit,
    )


def build_training(job: JobFile, config: FinetuneConfig, vlm: VLM, schedule: Schedule) -> Training:
    """The loop, over all epochs."""
    return Training(
        last_step=schedule.total_steps,
        rate=schedule.lr,
        z_loss=0.0,
        gradient_clip=config.optimizer.gradient_clip,
        precision=config.precision,
        settings=job.settings,
        checkpoints=job.checkpoints,
        metrics=MetricsLog(job.metrics),
        fixed_state=fixed_state(config, vlm),
        keep_optimizer=False,  # nothing is trained on from a fine-tuned model
    )


def open_conversations(job: JobFile, config: FinetuneConfig, vlm: VLM) -> Conversations:
    """The conversations, with the encoder only if the parent's model sees images."""
    if vlm.image_tokens >= config.max_length:
        raise ConfigError(f"max_length {config.max_length} has no room for an image and an answer")
    conversations = Conversations(
        config.conversations.name,
        job.data_path(config.conversations.name),
        tokenizer=load_tokenizer(job, config.tokenizer, vlm.lm.config.vocabulary),
        images=feature_cache(job, vlm.vision) if vlm.vision else None,
        max_length=config.max_length,
    )
    conversations.check_malformed(job.settings.bad_samples_limit)
    return conversations


def epochs_schedule(config: FinetuneConfig, examples: int) -> Schedule:
    """One schedule over all epochs; examples that fill no last batch are left out."""
    steps = max(1, config.epochs * examples // config.batch_sequences)
    return Schedule(
        peak_lr=config.peak_lr,
        final_lr=config.final_lr,
        warmup_steps=min(int(config.warmup_ratio * steps), steps - 1),
        total_steps=steps,
    )


def fixed_state(config: FinetuneConfig, vlm: VLM) -> dict[str, Any]:
    """What a reader of the checkpoint needs to know, whatever the step."""
    model: LanguageModel = vlm.lm.config
    return {
        "format": 1,
        "stage": "finetune",
        "model": model.model_dump(mode="json"),
        "vision": vlm.vision.model_dump(mode="json") if vlm.vision else None,
        "tokenizer": config.tokenizer.model_dump(mode="json"),
    }
