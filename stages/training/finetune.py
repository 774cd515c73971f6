"""The finetune stage: conversations about images, loss on the answers; projector and language model are trained."""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from stages.checkpoint.files import build_model, result_checkpoint
from stages.config import FinetuneConfig, LanguageModel
from stages.data.batches import ExampleBatches
from stages.data.conversations import Conversations
from stages.data.images import open_pictures
from stages.data.prompts import TEMPLATES
from stages.data.tokenizer import TextTokenizer, check_tokenizer
from stages.data.workers import worker_count
from stages.distributed import World, micro_batch_tokens, open_world
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.models.vlm import VLM
from stages.schedule import Schedule
from stages.stop import StopFlag
from stages.training.loop import Training
from stages.training.metrics import LossSpikes, Meter
from stages.training.optimizer import AdamW
from stages.training.parallel import ParallelModel
from stages.training.setup import build_training, load_tokenizer, run_training
from stages.training.start import Start, own_start
from stages.training.state import TrainState
from stages.vision.feature_extractor import Eyes, load_eyes


def run(job: JobFile, stop: StopFlag) -> bool:
    """Trains for the configured epochs; false if it was asked to stop, and has saved.

    All processes of the job run this; they end together.
    """
    config = job.config
    assert isinstance(config, FinetuneConfig)  # noqa: S101 - read_job gives each stage its own configuration
    if len(job.parents) != 1:
        raise ConfigError(f"finetune takes one parent; {len(job.parents)} are given")
    with open_world(job.settings) as world:
        torch.manual_seed(config.seed)
        start = own_start(job.checkpoints, world) or Start()
        vlm = begun_model(job, start, world)
        tokenizer = load_tokenizer(job, config.tokenizer, vlm.lm.config.vocabulary, literal=True)
        model = ParallelModel(vlm, world, job.settings, config.precision)
        eyes = load_eyes(job, vlm.vision, world.device) if vlm.vision else None
        conversations = open_conversations(job, config, vlm, eyes, tokenizer)
        batches = build_batches(job, config, conversations, world)
        spikes = LossSpikes(job.settings.loss_spike_sigmas)
        state = TrainState(model, AdamW(trained_weights(vlm), config.optimizer), batches, spikes)
        start.restore(state)
        schedule = epochs_schedule(config, batches.order.batches_of_an_epoch)
        fixed = fixed_state(config, vlm, tokenizer)
        training = finetuning(job, world, schedule=schedule, fixed_state=fixed, eyes=eyes, start=start)
        return run_training(job, training, state, stop, malformed=len(conversations.malformed))


def begun_model(job: JobFile, start: Start, world: World) -> VLM:
    """The model of the job's own newest checkpoint, else the parent's, on the CPU. Its encoder rests.

    DamagedInputError if the parent's checkpoint does not hold.
    """
    if (checkpoint := start.checkpoint) is not None:
        vlm = build_model(checkpoint).vlm
    else:
        parent = job.parents[0]
        checkpoint = result_checkpoint(parent.run, parent.key, verify=world.first)
        world.wait()  # until the first rank has found it whole
        vlm = build_model(checkpoint, parent.key).vlm
    if vlm.encoder is not None:
        # Prismatic's recipe: fine-tuning leaves the encoder alone, also where pre-training has changed it
        vlm.encoder.requires_grad_(False)
    return vlm


def trained_weights(vlm: VLM) -> Iterator[tuple[str, nn.Parameter]]:
    """Projector and language model, under their names in a checkpoint."""
    return ((name, weight) for name, weight in vlm.named_weights() if weight.requires_grad)


def build_batches(job: JobFile, config: FinetuneConfig, conversations: Conversations, world: World) -> ExampleBatches:
    """The conversations as batches of examples."""
    on_gpu = world.device.type == "cuda"
    return ExampleBatches(
        conversations,
        batch_size=config.batch_sequences,
        seed=config.seed,
        micro_batch_tokens=micro_batch_tokens(job.settings.micro_batch_tokens, world.device),
        bad_samples_limit=job.settings.bad_samples_limit,
        peers=world.peers,
        workers=worker_count(job.settings.data_workers, os.environ, on_gpu=on_gpu),
        prefetch_batches=job.settings.prefetch_batches,
        pin=on_gpu,
    )


def open_conversations(
    job: JobFile, config: FinetuneConfig, vlm: VLM, eyes: Eyes | None, tokenizer: TextTokenizer
) -> Conversations:
    """The conversations, with their images only if the parent's model sees any."""
    if vlm.image_tokens >= config.max_length:
        raise ConfigError(f"max_length {config.max_length} has no room for an image and an answer")
    check_tokenizer(tokenizer, TEMPLATES[config.prompt])
    conversations = Conversations(
        config.conversations.name,
        job.data_path(config.conversations.name),
        tokenizer=tokenizer,
        images=open_pictures(job, vlm.vision, eyes.known if eyes else ()) if vlm.vision else None,
        max_length=config.max_length,
        template=TEMPLATES[config.prompt],
        start=tokenizer.start_of_text,
    )
    conversations.check_malformed(job.settings.bad_samples_limit)
    return conversations


def finetuning(
    job: JobFile, world: World, *, schedule: Schedule, fixed_state: dict[str, Any], eyes: Eyes | None, start: Start
) -> Training:
    """The loop of a fine-tuning job."""
    config = job.config
    assert isinstance(config, FinetuneConfig)  # noqa: S101 - read_job gives each stage its own configuration
    return build_training(
        job,
        world,
        schedule=schedule,
        last_step=schedule.total_steps,
        optimizer=config.optimizer,
        z_loss=0.0,
        precision=config.precision,
        fixed_state=fixed_state,
        keep_optimizer=False,  # nothing is trained on from a fine-tuned model
        eyes=eyes,
        saved_step=start.saved_step,
        meter=Meter(world.device, world.size),  # examples are of any length: no utilisation is given
    )


def epochs_schedule(config: FinetuneConfig, batches_of_an_epoch: int) -> Schedule:
    """One schedule over all epochs: linear warmup, then a cosine to the final rate at the last epoch's end."""
    steps = config.epochs * batches_of_an_epoch
    return Schedule(
        peak_lr=config.peak_lr,
        final_lr=config.final_lr,
        warmup_steps=min(int(config.warmup_ratio * steps), steps - 1),
        total_steps=steps,
    )


def fixed_state(config: FinetuneConfig, vlm: VLM, tokenizer: TextTokenizer) -> dict[str, Any]:
    """What a reader of the checkpoint needs to know, whatever the step."""
    model: LanguageModel = vlm.lm.config
    return {
        "format": 1,
        "stage": "finetune",
        "model": model.model_dump(mode="json"),
        "vision": vlm.vision.model_dump(mode="json") if vlm.vision else None,
        "tokenizer": config.tokenizer.model_dump(mode="json"),
        "prompt": TEMPLATES[config.prompt].state(),
        "start_of_text": list(tokenizer.start_of_text),
    }
