"""Opens the data sets that a pre-training configuration names."""

from pathlib import Path

from stages.config import PretrainConfig
from stages.config import Source as SourceConfig
from stages.data.captions import Captions
from stages.data.conversations import Conversations
from stages.data.images import PictureReader, open_pictures
from stages.data.sample import Source
from stages.data.shards import ShardFolder
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.training.setup import load_tokenizer
from stages.vision.feature_extractor import Eyes
from stages.vision.specs import encoder_spec


def used_sources(config: PretrainConfig) -> list[SourceConfig]:
    """Those that have a share."""
    return [source for source in config.sources if source.share > 0]


def has_images(config: PretrainConfig) -> bool:
    """Whether a source of images has a share."""
    return any(source.kind != "text" for source in used_sources(config))


def open_sources(job: JobFile, config: PretrainConfig, eyes: Eyes | None) -> list[Source]:
    """Sources that have a share, in the order of the configuration; the tokenizer only where one needs it.

    `eyes`: what remembers images; None where no source has any.
    """
    used = used_sources(config)
    if not has_images(config):
        return [open_text(job, config, source) for source in used]
    if config.vision is None or config.tokenizer is None:
        raise ConfigError("sources with images need both vision and tokenizer")
    if config.context <= encoder_spec(config.vision.encoder).image_tokens:
        raise ConfigError(f"context {config.context} has no room for an image and a caption")
    tokenizer = load_tokenizer(job, config.tokenizer, config.model.vocabulary)
    images = open_pictures(job, config.vision, eyes.known if eyes is not None else ())
    return [
        open_text(job, config, source) if source.kind == "text" else open_pairs(job, config, source, tokenizer, images)
        for source in used
    ]


def open_text(job: JobFile, config: PretrainConfig, source: SourceConfig) -> TokenShards:
    """A source of token shards."""
    folder, vocabulary = shard_folder(job, source.name), config.model.vocabulary
    return TokenShards(source.name, folder, context=config.context, vocabulary=vocabulary, seed=config.seed)


def shard_folder(job: JobFile, name: str) -> ShardFolder | Path:
    """Where the shards of a data set lie: a local path, or a folder of a store behind copies on the node."""
    location = job.data_location(name)
    if isinstance(location, Path):
        return location
    from stages.data.remote import RemoteFolder, cache_folder

    return RemoteFolder(location, cache_folder(job.settings.local_cache, job.run))


def open_pairs(
    job: JobFile, config: PretrainConfig, source: SourceConfig, tokenizer: TextTokenizer, images: PictureReader
) -> Source:
    """A source of captioned images or of conversations."""
    if source.kind == "captions":
        folder = shard_folder(job, source.name)
        return Captions(source.name, folder, field=source.field, tokenizer=tokenizer, images=images, seed=config.seed)
    path = job.data_path(source.name)
    conversations = Conversations(source.name, path, tokenizer=tokenizer, images=images, max_length=config.context)
    conversations.check_malformed(job.settings.bad_samples_limit)
    return conversations
