"""The pretrain stage: text, or text with captioned images, from scratch or from a parent's checkpoint."""

from typing import Any

import torch

from stages.checkpoint import newest_checkpoint, result_checkpoint
from stages.config import PretrainConfig
from stages.config import Source as SourceConfig
from stages.data.batches import MixtureBatches
from stages.data.captions import Captions
from stages.data.conversations import Conversations
from stages.data.images import FeatureCache
from stages.data.mixture import Mixture
from stages.data.sample import Source
from stages.data.text import TokenShards
from stages.data.text_tokenizer import TextTokenizer
from stages.device import compute_device, micro_batch_tokens
from stages.encoders import encoder_spec
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.metrics import MetricsLog
from stages.optimizer import AdamW
from stages.stop import StopFlag
from stages.training import Training, TrainState
from stages.training_job import feature_cache, load_tokenizer, run_training
from stages.vlm import VLM


def run(job: JobFile, stop: StopFlag) -> bool:
    """Trains to the configuration's last step; false if it was asked to stop, and has saved."""
    config = job.config
    assert isinstance(config, PretrainConfig)  # noqa: S101 - read_job gives each stage its own configuration
    device = compute_device()
    torch.manual_seed(config.seed)
    vlm = VLM(config.model, config.vision).to(device)
    optimizer = AdamW(vlm.named_weights(), config.optimizer)
    state = TrainState(vlm, optimizer, build_batches(job, config, device))
    own = newest_checkpoint(job.checkpoints)
    if own is None and job.parents:
        start_from_parent(job, config, state)
    training = Training(
        last_step=config.last_step,
        rate=config.schedule.lr,
        z_loss=config.z_loss,
        gradient_clip=config.optimizer.gradient_clip,
        precision=config.precision,
        settings=job.settings,
        checkpoints=job.checkpoints,
        metrics=MetricsLog(job.metrics),
        fixed_state=fixed_state(config),
        keep_optimizer=job.settings.keep_optimizer,
    )
    return run_training(job, training, state, own, stop)


def fixed_state(config: PretrainConfig) -> dict[str, Any]:
    """What a reader of the checkpoint needs to know, whatever the step."""
    return {
        "format": 1,
        "stage": "pretrain",
        "model": config.model.model_dump(mode="json"),
        "vision": config.vision.model_dump(mode="json") if config.vision else None,
        "tokenizer": config.tokenizer.model_dump(mode="json") if config.tokenizer else None,
        "trajectory": trajectory(config),
    }


def trajectory(config: PretrainConfig) -> dict[str, Any]:
    """All that decides a run's numbers but where it stops: equal for all segments of a trunk."""
    return config.model_copy(update={"stop_step": None}).model_dump(mode="json")


def start_from_parent(job: JobFile, config: PretrainConfig, state: TrainState) -> None:
    """Takes up the parent's final checkpoint: as its next segment, or as the start of another run.

    A parent of the same trajectory is continued: its step, data order, moments and random numbers go on. From any
    other parent come the weights and, with `optimizer_state: carried`, the moments; schedule and data begin anew.
    """
    if len(job.parents) != 1:
        raise ConfigError(f"pretrain takes one parent; {len(job.parents)} are given")
    parent = job.parents[0]
    checkpoint = result_checkpoint(parent.run, parent.key)
    if checkpoint.state["model"] != config.model.model_dump(mode="json"):
        raise ConfigError(f"parent {parent.key} has another model: {checkpoint.state['model']}")
    continued = checkpoint.state.get("trajectory") == trajectory(config)
    carried = continued or config.optimizer_state == "carried"
    if carried and not checkpoint.moments():
        raise ConfigError(f"parent {parent.key} has no optimizer state to carry on; use optimizer_state: fresh")
    if continued:
        state.restore(checkpoint)
        state.begin_here()
        return
    has_projector = checkpoint.state["vision"] is not None
    if has_projector and checkpoint.state["vision"] != fixed_state(config)["vision"]:
        raise ConfigError(f"parent {parent.key} sees images in another way: {checkpoint.state['vision']}")
    state.vlm.load_weights(checkpoint.weights(), new_projector=not has_projector)
    if carried:
        state.optimizer.restore(checkpoint.moments())


def build_batches(job: JobFile, config: PretrainConfig, device: torch.device) -> MixtureBatches:
    """The mixture of the configured sources, opened where the job's data lie."""
    shares = [source.share for source in config.sources if source.share > 0]
    mixture = Mixture(
        open_sources(job, config),
        shares,
        by=config.share_by,
        context=config.context,
        lanes=config.batch_sequences,
        seed=config.seed,
        bad_samples_limit=job.settings.bad_samples_limit,
    )
    return MixtureBatches(mixture, micro_batch_tokens(job.settings.micro_batch_tokens, device))


def open_sources(job: JobFile, config: PretrainConfig) -> list[Source]:
    """Sources that have a share, in the order of the configuration; encoder and tokenizer only where one needs them."""
    used = [source for source in config.sources if source.share > 0]
    if all(source.kind == "text" for source in used):
        return [open_text(job, config, source) for source in used]
    if config.vision is None or config.tokenizer is None:
        raise ConfigError("sources with images need both vision and tokenizer")
    if config.context <= encoder_spec(config.vision.encoder).image_tokens:
        raise ConfigError(f"context {config.context} has no room for an image and a caption")
    tokenizer = load_tokenizer(job, config.tokenizer, config.model.vocabulary)
    images = feature_cache(job, config.vision)
    return [
        open_text(job, config, source) if source.kind == "text" else open_pairs(job, config, source, tokenizer, images)
        for source in used
    ]


def open_text(job: JobFile, config: PretrainConfig, source: SourceConfig) -> TokenShards:
    """A source of token shards."""
    path, vocabulary = job.data_path(source.name), config.model.vocabulary
    return TokenShards(source.name, path, context=config.context, vocabulary=vocabulary, seed=config.seed)


def open_pairs(
    job: JobFile, config: PretrainConfig, source: SourceConfig, tokenizer: TextTokenizer, images: FeatureCache
) -> Source:
    """A source of captioned images or of conversations."""
    path = job.data_path(source.name)
    if source.kind == "captions":
        return Captions(source.name, path, field=source.field, tokenizer=tokenizer, images=images)
    conversations = Conversations(source.name, path, tokenizer=tokenizer, images=images, max_length=config.context)
    conversations.check_malformed(job.settings.bad_samples_limit)
    return conversations
