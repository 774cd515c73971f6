"""The finetune stage: conversations about images, loss on the answers; projector and language model are trained."""

from collections.abc import Container, Iterator
from typing import Any

import torch
from torch import nn

from stages.checkpoint.files import build_model, read_result_checkpoint
from stages.config import FinetuneConfig, LanguageModel, Vision, name_by_identity
from stages.data.collate import PaddingCollator
from stages.data.conversations import Conversations
from stages.data.examples import ExampleSampler
from stages.data.image_reader import open_image_reader
from stages.data.prompts import TEMPLATES
from stages.data.tokenizer import TextTokenizer, check_tokenizer
from stages.distributed import (
    DistributedContext,
    open_distributed_context,
    resolve_loss_chunk_tokens,
    resolve_micro_batch_tokens,
)
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.models.loss import LossSettings
from stages.models.vlm import VLM
from stages.schedule import Schedule
from stages.stop import StopFlag
from stages.training.loop import Training
from stages.training.metrics import LossSpikeDetector, Meter
from stages.training.optimizer import AdamW
from stages.training.parallel import ParallelModel
from stages.training.setup import (
    build_batch_loader,
    build_training_log,
    load_tokenizer,
    run_training,
)
from stages.training.start import TrainingStart, find_own_start
from stages.training.state import TrainState
from stages.vision.feature_extractor import FeatureExtractor, load_feature_extractor
from stages.vision.specs import resolve_encoder_spec


def run(job: JobFile, stop: StopFlag) -> bool:
    """Trains for the configured epochs; false if it was asked to stop, and has saved.

    All processes of the job run this; they end together.
    """
    config = job.config
    assert isinstance(config, FinetuneConfig)  # noqa: S101 - read_job gives each stage its own configuration
    if len(job.parents) != 1:
        raise ConfigError(f"finetune takes one parent; {len(job.parents)} are given")
    with open_distributed_context(job.settings, stop) as world:
        torch.manual_seed(config.seed)
        start = find_own_start(job.checkpoints, world) or TrainingStart()
        vlm = load_initial_model(job, start, world)
        tokenizer = load_tokenizer(job, config.tokenizer, vlm.lm.config.vocabulary, literal=True)
        model = ParallelModel(vlm, world, job.settings, config.precision)
        extractor = load_feature_extractor(job, vlm.vision, world.device) if vlm.vision else None
        cached = extractor.cached_digests if extractor else ()
        conversations = open_conversations(job, config, vlm.vision, tokenizer, cached)
        sampler = ExampleSampler(
            conversations,
            batch_size=config.batch_sequences,
            seed=config.seed,
            bad_samples_limit=job.settings.bad_samples_limit,
        )
        micro_batch_tokens = resolve_micro_batch_tokens(job.settings.micro_batch_tokens, world.device)
        batches = build_batch_loader(job, world, sampler, PaddingCollator(micro_batch_tokens, config.loss_mean))
        spikes = LossSpikeDetector(job.settings.loss_spike_sigmas)
        state = TrainState(model, AdamW(iter_trained_weights(vlm), config.optimizer), batches, spikes)
        start.restore(state)
        schedule = build_schedule(config, sampler.order.batches_per_epoch)
        fixed = build_checkpoint_metadata(config, vlm, tokenizer)
        training = build_finetuning(
            job, world, schedule=schedule, checkpoint_metadata=fixed, extractor=extractor, start=start
        )
        return run_training(job, training, state, stop, malformed=len(conversations.malformed))


def load_initial_model(job: JobFile, start: TrainingStart, world: DistributedContext) -> VLM:
    """The model of the job's own newest checkpoint, else the parent's, on the CPU. Its encoder rests.

    DamagedInputError if the parent's checkpoint does not hold.
    """
    if (checkpoint := start.checkpoint) is not None:
        vlm = build_model(checkpoint).vlm
    else:
        parent = job.parents[0]
        checkpoint = read_result_checkpoint(parent.run, parent.key, verify=world.is_first_rank)
        world.wait()  # until the first rank has found it whole
        vlm = build_model(checkpoint, parent.key).vlm
    if vlm.encoder is not None:
        # Prismatic's recipe: fine-tuning leaves the encoder alone, also where pre-training has changed it
        vlm.encoder.requires_grad_(False)
    return vlm


def iter_trained_weights(vlm: VLM) -> Iterator[tuple[str, nn.Parameter]]:
    """Projector and language model, under their names in a checkpoint."""
    return ((name, weight) for name, weight in vlm.iter_named_weights() if weight.requires_grad)


def open_conversations(
    job: JobFile,
    config: FinetuneConfig,
    vision: Vision | None,
    tokenizer: TextTokenizer,
    cached: Container[str] = (),
) -> Conversations:
    """The conversations, with their images only if the parent's model sees any. `cached`: as of `open_image_reader`."""
    image_tokens = resolve_encoder_spec(vision.encoder).image_tokens if vision else 0
    if image_tokens >= config.max_length:
        raise ConfigError(f"max_length {config.max_length} has no room for an image and an answer")
    check_tokenizer(tokenizer, TEMPLATES[config.prompt])
    images = open_image_reader(job, vision, cached) if vision else None
    conversations = Conversations(
        config.conversations.name,
        job.resolve_data_paths(config.conversations.name),
        tokenizer=tokenizer,
        images=images,
        max_length=config.max_length,
        template=TEMPLATES[config.prompt],
        start=tokenizer.start_of_text,
    )
    conversations.check_malformed(job.settings.bad_samples_limit)
    return conversations


def build_finetuning(
    job: JobFile,
    world: DistributedContext,
    *,
    schedule: Schedule,
    checkpoint_metadata: dict[str, Any],
    extractor: FeatureExtractor | None,
    start: TrainingStart,
) -> Training:
    """The loop of a fine-tuning job."""
    config = job.config
    assert isinstance(config, FinetuneConfig)  # noqa: S101 - read_job gives each stage its own configuration
    chunk_tokens = resolve_loss_chunk_tokens(job.settings.loss_chunk_tokens, world.device)
    return Training(
        job=job,
        world=world,
        schedule=schedule,
        last_step=schedule.total_steps,
        loss=LossSettings(chunk_tokens=chunk_tokens),
        gradient_clip=config.optimizer.gradient_clip,
        precision=config.precision,
        checkpoint_metadata=checkpoint_metadata,
        keep_optimizer=False,  # nothing is trained on from a fine-tuned model
        feature_extractor=extractor,
        saved_step=start.saved_step,
        log=build_training_log(job, world),
        meter=Meter(world.device, world.size),  # examples are of any length: no utilisation is given
    )


def build_schedule(config: FinetuneConfig, batches_of_an_epoch: int) -> Schedule:
    """One schedule over all epochs: linear warmup, then a cosine to the final rate at the last epoch's end."""
    steps = config.epochs * batches_of_an_epoch
    return Schedule(
        peak_lr=config.peak_lr,
        final_lr=config.final_lr,
        warmup_steps=min(int(config.warmup_ratio * steps), steps - 1),
        total_steps=steps,
    )


def build_checkpoint_metadata(config: FinetuneConfig, vlm: VLM, tokenizer: TextTokenizer) -> dict[str, Any]:
    """What a reader of the checkpoint needs to know, whatever the step."""
    model: LanguageModel = vlm.lm.config
    data = {
        "vision": vlm.vision.model_dump(mode="json") if vlm.vision else None,
        "tokenizer": config.tokenizer.model_dump(mode="json"),
    }
    return {
        "format": 1,
        "stage": "finetune",
        "model": model.model_dump(mode="json"),
        **name_by_identity(data),
        "prompt": TEMPLATES[config.prompt].dump_state(),
        "start_of_text": list(tokenizer.start_of_text),
    }
