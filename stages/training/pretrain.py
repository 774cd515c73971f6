"""The pretrain stage: text, or text with captioned images, from scratch or from a parent's checkpoint."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from stages.config import PretrainConfig
from stages.config import Source as SourceConfig
from stages.data.addresses import MANIFEST_SUFFIX
from stages.data.batches import BatchLoader
from stages.data.captions import Captions
from stages.data.collate import FixedLengthCollator
from stages.data.conversations import Conversations
from stages.data.image_reader import EncoderImageReader, open_image_reader
from stages.data.mixture import NOTHING_CONTINUED, ContinuedOrder, Mixture
from stages.data.remote import resolve_cache_folder
from stages.data.sample import SampleSource
from stages.data.shard_sets import open_shards
from stages.data.shards import ShardFolder
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.distributed import (
    DistributedContext,
    open_distributed_context,
    resolve_loss_chunk_tokens,
    resolve_micro_batch_tokens,
)
from stages.errors import ConfigError
from stages.flops import count_step_flops
from stages.job_file import JobFile
from stages.models.loss import LossSettings
from stages.models.vlm import VLM
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
from stages.training.start import TrainingStart, build_checkpoint_metadata, resolve_pretrain_start
from stages.training.state import TrainState
from stages.vision.feature_extractor import FeatureExtractor, load_feature_extractor
from stages.vision.specs import resolve_encoder_spec

# Opens the data sets that a pre-training configuration names.


def select_used_sources(config: PretrainConfig) -> list[SourceConfig]:
    """Those that have a share."""
    return [source for source in config.sources if source.share > 0]


def has_images(config: PretrainConfig) -> bool:
    """Whether a source of images has a share."""
    return any(source.kind != "text" for source in select_used_sources(config))


def open_sources(job: JobFile, config: PretrainConfig, extractor: FeatureExtractor | None) -> list[SampleSource]:
    """Sources that have a share, in the order of the configuration; the tokenizer only where one needs it.

    `extractor`: its images in memory are not decoded again; None where no source has any.
    """
    used = select_used_sources(config)
    if not has_images(config):
        return [open_text(job, config, source) for source in used]
    if config.vision is None or config.tokenizer is None:
        raise ConfigError("sources with images need both vision and tokenizer")
    if config.context <= resolve_encoder_spec(config.vision.encoder).image_tokens:
        raise ConfigError(f"context {config.context} has no room for an image and a caption")
    tokenizer = load_tokenizer(job, config.tokenizer, config.model.vocabulary)
    images = open_image_reader(job, config.vision, extractor.cached_digests if extractor is not None else ())
    return [
        open_text(job, config, source) if source.kind == "text" else open_pairs(job, config, source, tokenizer, images)
        for source in used
    ]


def open_text(job: JobFile, config: PretrainConfig, source: SourceConfig) -> TokenShards:
    """A source of token shards."""
    folder, vocabulary = open_shard_folder(job, source.name), config.model.vocabulary
    return TokenShards(source.name, folder, context=config.context, vocabulary=vocabulary, seed=config.seed)


def open_shard_folder(job: JobFile, name: str) -> ShardFolder | Path:
    """Where the shards of a data set lie: a local path, or several places, or a store behind copies on the node."""
    location = job.resolve_data_location(name)
    if isinstance(location, Path) and location.suffix != MANIFEST_SUFFIX:
        return location
    return open_shards(str(location), lambda: resolve_cache_folder(job.settings.local_cache, job.run))


def open_pairs(
    job: JobFile, config: PretrainConfig, source: SourceConfig, tokenizer: TextTokenizer, images: EncoderImageReader
) -> SampleSource:
    """A source of captioned images or of conversations."""
    if source.kind == "captions":
        folder = open_shard_folder(job, source.name)
        return Captions(source.name, folder, field=source.field, tokenizer=tokenizer, images=images, seed=config.seed)
    paths = job.resolve_data_paths(source.name)
    conversations = Conversations(source.name, paths, tokenizer=tokenizer, images=images, max_length=config.context)
    conversations.check_malformed(job.settings.bad_samples_limit)
    return conversations


def run(job: JobFile, stop: StopFlag) -> bool:
    """Trains to the configuration's last step; false if it was asked to stop, and has saved.

    All processes of the job run this; they end together.
    """
    config = job.config
    assert isinstance(config, PretrainConfig)  # noqa: S101 - read_job gives each stage its own configuration
    with open_distributed_context(job.settings, stop) as world:
        check_ranks(config, world)
        torch.manual_seed(config.seed)
        start = resolve_pretrain_start(job, config, world)
        vlm = build_vlm(job, config)
        start.load_weights(vlm)
        model = ParallelModel(vlm, world, job.settings, config.precision)
        extractor = (
            load_feature_extractor(job, config.vision, world.device) if config.vision and has_images(config) else None
        )
        batches = build_batches(job, config, world, extractor, start.continued_text)
        spikes = LossSpikeDetector(job.settings.loss_spike_sigmas)
        state = TrainState(model, AdamW(vlm.iter_named_weights(), config.optimizer), batches, spikes)
        start.restore(state)
        return run_training(job, build_pretraining(job, config, world, extractor, start), state, stop)


def check_ranks(config: PretrainConfig, world: DistributedContext) -> None:
    """ConfigError if the batch cannot be shared out equally."""
    if config.batch_sequences % world.size:
        raise ConfigError(
            f"batch_sequences {config.batch_sequences} cannot be shared by {world.size} processes: "
            "the number of processes must divide it"
        )


def build_vlm(job: JobFile, config: PretrainConfig) -> VLM:
    """The model with its initial weights, on the CPU; an encoder that is trained has those of its data sets."""
    vision, encoder = config.vision, None
    if vision is not None and not vision.frozen:
        from stages.vision.encoders import load_encoder_module, resolve_encoder_paths

        encoder = load_encoder_module(vision, resolve_encoder_paths(job, vision), torch.device("cpu"))
    return VLM(config.model, vision, encoder)


def build_batches(
    job: JobFile,
    config: PretrainConfig,
    world: DistributedContext,
    extractor: FeatureExtractor | None,
    continued: Mapping[str, ContinuedOrder] = NOTHING_CONTINUED,
) -> BatchLoader:
    """The mixture of the configured sources, opened where the job's data lie. `continued`: by identity."""
    sources = open_sources(job, config, extractor)
    known_as = {source.name: source.identity or source.name for source in config.sources}
    continued = {name: continued[identity] for name, identity in known_as.items() if identity in continued}
    if world.is_first_rank:
        print_continued_text(sources, continued)
    mixture = Mixture(
        sources,
        [source.share for source in select_used_sources(config)],
        by=config.share_by,
        context=config.context,
        stripes=config.batch_sequences,
        seed=config.seed,
        bad_samples_limit=job.settings.bad_samples_limit,
        packing=config.packing,
        shuffle_shards=config.shuffle_shards,
        continued=continued,
    )
    micro_batch_tokens = resolve_micro_batch_tokens(job.settings.micro_batch_tokens, world.device)
    return build_batch_loader(
        job, world, mixture, FixedLengthCollator(config.context, micro_batch_tokens, config.loss_mean)
    )


def print_continued_text(sources: Sequence[SampleSource], continued: Mapping[str, ContinuedOrder]) -> None:
    """Says on stderr where text goes on, and where all of it was read before: what comes then is not new."""
    for source in sources:
        if (order := continued.get(source.name)) is None:
            continue
        passes, place = divmod(order.position, source.size)
        again = f"; all of it was read before, {passes} times" if passes else ""
        print(f"data set {source.name!r}: goes on behind sample {place:,} of {source.size:,}{again}", file=sys.stderr)


def build_pretraining(
    job: JobFile,
    config: PretrainConfig,
    world: DistributedContext,
    extractor: FeatureExtractor | None,
    start: TrainingStart,
) -> Training:
    """The loop of a pre-training job."""
    # a frozen encoder's work is left out: most of its features come from memory
    frozen = config.vision is not None and config.vision.frozen
    flops = partial(count_step_flops, config.model, config.context, vision=config.vision, encoded=0 if frozen else None)
    chunk_tokens = resolve_loss_chunk_tokens(job.settings.loss_chunk_tokens, world.device)
    return Training(
        job=job,
        world=world,
        schedule=config.schedule,
        last_step=config.last_step,
        loss=LossSettings(z_loss=config.z_loss, chunk_tokens=chunk_tokens),
        gradient_clip=config.optimizer.gradient_clip,
        precision=config.precision,
        checkpoint_metadata=build_checkpoint_metadata(config, start.continued_text),
        keep_optimizer=job.settings.keep_optimizer,
        feature_extractor=extractor,
        saved_step=start.saved_step,
        log=build_training_log(job, world),
        meter=Meter(
            world.device,
            world.size,
            job.settings.peak_tflops,
            lambda tokens, images: flops(tokens, images=images),
        ),
    )
