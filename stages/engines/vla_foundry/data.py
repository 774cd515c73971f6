"""The shards that vla_foundry is given, so that its checkpoint windows end where the job's do.

A window is trained on whole shards, to their last sample, whatever the manifest says. So the last shard of a window is
a copy of its beginning, with just the samples that the window still needs; all others are links. What is left of a
shard that was cut is not read in this pass over the data.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from stages.data.shards import MANIFEST, LocalFolder, OpenShard, split_member_name
from stages.data.text import read_token_ids
from stages.data.tokenizer import TextTokenizer
from stages.engines.open_lm.data import Shards, plan_shard_reads, shuffle_indices
from stages.errors import ConfigError, DataError
from stages.files import replace_atomically, write_json
from stages.vision.specs import EncoderSpec


def read_shard_folder(name: str, path: Path) -> Shards:
    """A data set's shards with samples, by its manifest or, without one, by the tars' headers. DataError for none."""
    folder = LocalFolder(path)
    names, sizes = folder.load_manifest()
    kept = [(each, size) for each, size in zip(names, sizes, strict=True) if size]
    if not kept:
        raise DataError(f"data set {name!r}: {path} has no shard with samples")
    if absent := [each for each, _ in kept if not folder.fetch_local(each).is_file()]:
        raise DataError(f"data set {name!r}: {absent[0]} is not in {path}")
    return Shards(path if path.is_dir() else path.parent, [each for each, _ in kept], [size for _, size in kept])


def check_text_shards(shards: Shards, context: int) -> None:
    """ConfigError unless the first sample is a json.gz of `context` + 1 tokens.

    vla_foundry reads no other member. Of longer samples it takes windows by chance, which would depend on where a
    trunk is cut; batches of unequal samples it cannot make.
    """
    first = OpenShard(shards.folder / shards.names[0]).find_sample(0)
    if "json.gz" not in first.extensions:
        raise ConfigError(
            f"{first.where}: it has {', '.join(first.extensions)}; vla_foundry reads json.gz members only"
        )
    if (length := len(read_token_ids(first))) != context + 1:
        raise ConfigError(
            f"{first.where}: {length} tokens; vla_foundry needs context + 1 = {context + 1} in each sample"
        )


def plan_windows(sizes: Sequence[int], *, windows: int, samples: int, seed: int) -> list[list[tuple[int, int]]]:
    """For each of `windows` windows of `samples` samples: (shard, samples to read of it), in the order of training."""
    rows = plan_shard_reads(sizes, epochs=windows, sequences=samples, seed=seed)
    return [list(limit_samples(rows, samples)) for _ in range(windows)]


def limit_samples(rows: Iterator[tuple[int, int]], samples: int) -> Iterator[tuple[int, int]]:
    """As many rows as make `samples`; `plan_shard_reads` ends one there."""
    while samples:
        shard, taken = next(rows)
        samples -= taken
        yield shard, taken


def write_windows(
    shards: Shards, folder: Path, windows: Sequence[Sequence[tuple[int, int]]], *, first: int, last: int, seed: int
) -> None:
    """`folder` with a manifest that vla_foundry, shuffling it by `seed`, reads as `windows`, and with the shards of
    those from `first` to before `last`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number, window in enumerate(windows):
        for shard, taken in window if first <= number < last else ():
            target = folder / f"{build_shard_name(shards, shard, taken)}.tar"
            if taken < shards.sizes[shard]:
                write_first_samples(shards.folder / shards.names[shard], target, taken)
            else:
                target.unlink(missing_ok=True)
                target.symlink_to(shards.folder / shards.names[shard])
    rows = [row for window in windows for row in window]
    lines = [""] * len(rows)
    for (shard, taken), place in zip(rows, shuffle_indices(len(rows), seed), strict=True):
        lines[place] = json.dumps({"shard": build_shard_name(shards, shard, taken), "num_sequences": taken})
    with replace_atomically(folder / MANIFEST) as unfinished:
        unfinished.write_text("".join(f"{line}\n" for line in lines))


def build_shard_name(shards: Shards, shard: int, taken: int) -> str:
    """Plain, as vla_foundry expands braces and commas in a shard's name."""
    return f"{shard:08d}" if taken == shards.sizes[shard] else f"{shard:08d}-{taken}"


# Why: docs/decisions.md, D61
def write_first_samples(source: Path, target: Path, samples: int) -> None:
    """A tar with the first `samples` samples of another. DataError if it has fewer, or is no whole tar."""
    if target.is_file():
        return
    try:
        with (
            tarfile.open(source) as tar,
            replace_atomically(target) as unfinished,
            tarfile.open(unfinished, "w") as out,
        ):
            for entry in iter_first_samples(source, tar, samples):
                out.addfile(entry, tar.extractfile(entry))
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{source}: not a whole tar: {error}") from error


def iter_first_samples(source: Path, tar: tarfile.TarFile, samples: int) -> Iterator[tarfile.TarInfo]:
    """The members of the first `samples` samples: neighbours whose names differ in the extension are one sample."""
    seen, last = 0, ""
    for entry in tar:
        split = split_member_name(entry.name)
        if not entry.isfile() or split is None:
            continue
        if split[0] != last or not seen:
            seen, last = seen + 1, split[0]
        if seen > samples:
            return
        yield entry
    if seen < samples:
        raise DataError(f"{source}: {seen} samples; its {MANIFEST} says more; run `sweep data check` on the data set")


# The processor that vla_foundry is given: transformers' files that make our sequence of an image and its caption.
#
# That is the image's tokens, the caption, the end-of-text token, and padding. LLaVA's processor puts as many tokens
# in an image's place as the encoder gives; the chat template writes no other words.

IMAGE, PADDING = "<|vla foundry: image|>", "<|vla foundry: padding|>"
KNOWN_PADDING = ("<|padding|>", "<|pad|>", "<pad>", "[PAD]")
THEIR_VOCABULARY = 50_432
"""Its default, which it takes for "not given": the model then gets as many tokens as the tokenizer has."""
SAMPLE = " Two small (red) squares, left of A BLUE one. "


def write_processor(tokenizer: TextTokenizer, spec: EncoderSpec, vocabulary: int, folder: Path) -> None:
    """The folder that `data.processor` names. ConfigError if this tokenizer cannot be used with vla_foundry."""
    extended = Tokenizer.from_file(str(tokenizer.file))
    extended.no_padding()
    extended.no_truncation()
    padding = add_tokens(extended, tokenizer, vocabulary)
    check_sequence(extended, tokenizer, vocabulary, padding)
    folder.mkdir(parents=True, exist_ok=True)
    with replace_atomically(folder / "tokenizer.json") as unfinished:
        extended.save(str(unfinished))
    write_json(folder / "tokenizer_config.json", build_tokenizer_config(tokenizer.end_of_text_name, padding))
    write_json(folder / "processor_config.json", build_processor_config(spec))
    write_json(folder / "preprocessor_config.json", build_image_config(spec))
    with replace_atomically(folder / "chat_template.jinja") as unfinished:
        unfinished.write_text(build_chat_template(tokenizer.end_of_text_name))


def add_tokens(extended: Tokenizer, tokenizer: TextTokenizer, vocabulary: int) -> str:
    """Adds the tokens of images and of padding; the latter's name. It is one that is never a target: vla_foundry
    leaves padding out of the loss by its id."""
    known = (name for name in KNOWN_PADDING if extended.token_to_id(name) not in {None, tokenizer.end_of_text})
    padding = next(known, PADDING)
    extended.add_special_tokens([build_token(padding), build_token(IMAGE)])
    size = extended.get_vocab_size(with_added_tokens=True)
    if vocabulary == THEIR_VOCABULARY:
        extended.add_special_tokens([build_token(f"<|vla foundry: {number}|>") for number in range(size, vocabulary)])
    return padding


def build_token(name: str) -> AddedToken:
    """One that stands for itself."""
    return AddedToken(name, special=True, normalized=False)


def check_sequence(extended: Tokenizer, tokenizer: TextTokenizer, vocabulary: int, padding: str) -> None:
    """ConfigError unless a captioned image becomes the tokens that our own stage makes of it."""
    size = extended.get_vocab_size(with_added_tokens=True)
    if vocabulary == THEIR_VOCABULARY and size != vocabulary:
        raise ConfigError(
            f"{tokenizer.file}: {size - 1} tokens leave no room for one more in the model's {vocabulary}, and "
            "vla_foundry takes that number for its default; give the model another vocabulary"
        )
    place = extended.token_to_id(padding)
    if place is None or place >= vocabulary:
        raise ConfigError(
            f"{tokenizer.file}: it knows no padding token ({', '.join(KNOWN_PADDING)}), and the model's vocabulary of "
            f"{vocabulary} has no room for one; vla_foundry needs it"
        )
    made = extended.encode(f"{IMAGE}{SAMPLE.strip()}{tokenizer.end_of_text_name}", add_special_tokens=False).ids
    wanted = [extended.token_to_id(IMAGE), *tokenizer.encode(SAMPLE.strip()), tokenizer.end_of_text]
    if made != wanted:
        raise ConfigError(
            f"{tokenizer.file}: a caption behind an image becomes other tokens than alone, and vla_foundry writes both "
            "as one text; take a tokenizer without a blank before a text's first word"
        )


def build_tokenizer_config(end_of_text: str, padding: str) -> dict[str, Any]:
    """tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": padding,
        "eos_token": end_of_text,
        "image_token": IMAGE,
        "extra_special_tokens": {"image_token": IMAGE},
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1 << 30,
    }


def build_processor_config(spec: EncoderSpec) -> dict[str, Any]:
    """processor_config.json: one token for each patch, none for a class."""
    return {
        "processor_class": "LlavaProcessor",
        "patch_size": spec.patch_size,
        "vision_feature_select_strategy": "full",
        "num_additional_image_tokens": 0,
        "image_token": IMAGE,
    }


def build_image_config(spec: EncoderSpec) -> dict[str, Any]:
    """preprocessor_config.json: stretched to a square (bicubic), then the encoder's normalisation."""
    return {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": spec.image_size, "width": spec.image_size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
    }


def build_chat_template(end_of_text: str) -> str:
    """For Jinja: the image, the caption without blanks at its ends, the end-of-text token."""
    image, end = json.dumps(IMAGE), json.dumps(end_of_text)
    return (
        "{%- for part in messages[0]['content'] -%}"
        "{%- if part['type'] == 'image' -%}{{- " + image + " -}}"
        "{%- else -%}{{- part['text'] | trim -}}{%- endif -%}"
        "{%- endfor -%}{{- " + end + " -}}"
    )
