"""The finetune stage: conversations about images, loss on the answers; projector and language model are trained."""

from typing import Any

import torch

from stages.checkpoint import build_model, load_model
from stages.config import FinetuneConfig, LanguageModel
from stages.data.batches import ExampleBatches
from stages.data.conversations import Conversations
from stages.data.images import open_pictures
from stages.device import compute_device, micro_batch_tokens
from stages.errors import ConfigError
from stages.eyes import Eyes, load_eyes
from stages.job_file import JobFile
from stages.meter import Meter
from stages.optimizer import AdamW
from stages.parallel import ParallelModel
from stages.schedule import Schedule
from stages.spikes import LossSpikes
from stages.start import Start, own_start
from stages.stop import StopFlag
from stages.train_state import TrainState
from stages.training_job import build_training, load_tokenizer, run_training
from stages.vlm import VLM
from stages.world import World


def run(job: JobFile, stop: StopFlag) -> bool:
    """Trains for the configured epochs; false if it was asked to stop, and has saved."""
    config = job.config
    assert isinstance(config, FinetuneConfig)  # noqa: S101 - read_job gives each stage its own configuration
    if len(job.parents) != 1:
        raise ConfigError(f"finetune takes one parent; {len(job.parents)} are given")
    torch.manual_seed(config.seed)
    world = World(compute_device(job.settings.device))
    start = own_start(job.checkpoints, world) or Start()
    parent = job.parents[0]
    vlm = (build_model(start.checkpoint) if start.checkpoint else load_model(parent.run, parent.key)).vlm
    model = ParallelModel(vlm, world, job.settings, config.precision)
    eyes = load_eyes(job, vlm.vision, world.device) if vlm.vision else None
    conversations = open_conversations(job, config, vlm, eyes)
    batches = build_batches(job, config, conversations, world)
    spikes = LossSpikes(job.settings.loss_spike_sigmas)
    state = TrainState(model, AdamW(vlm.named_weights(), config.optimizer), batches, spikes)
    start.restore(state)
    schedule = epochs_schedule(config, conversations.size)
    training = build_training(
        job,
        world,
        schedule=schedule,
        last_step=schedule.total_steps,
        optimizer=config.optimizer,
        z_loss=0.0,
        precision=config.precision,
        fixed_state=fixed_state(config, vlm),
        keep_optimizer=False,  # nothing is trained on from a fine-tuned model
        eyes=eyes,
        saved_step=start.saved_step,
        meter=Meter(world.device),  # examples are of any length: no utilisation is given
    )
    return run_training(job, training, state, stop, malformed=len(conversations.malformed))


def build_batches(job: JobFile, config: FinetuneConfig, conversations: Conversations, world: World) -> ExampleBatches:
    """The conversations as batches of examples."""
    return ExampleBatches(
        conversations,
        batch_size=config.batch_sequences,
        seed=config.seed,
        micro_batch_tokens=micro_batch_tokens(job.settings.micro_batch_tokens, world.device),
        bad_samples_limit=job.settings.bad_samples_limit,
    )


def open_conversations(job: JobFile, config: FinetuneConfig, vlm: VLM, eyes: Eyes | None) -> Conversations:
    """The conversations, with their images only if the parent's model sees any."""
    if vlm.image_tokens >= config.max_length:
        raise ConfigError(f"max_length {config.max_length} has no room for an image and an answer")
    conversations = Conversations(
        config.conversations.name,
        job.data_path(config.conversations.name),
        tokenizer=load_tokenizer(job, config.tokenizer, vlm.lm.config.vocabulary),
        images=open_pictures(job, vlm.vision, eyes.known if eyes else ()) if vlm.vision else None,
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
