"""Checks one tar of token sequences or of captioned images, with the functions by which the stages read it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

from stages.data.captions import open_image_member, read_captions
from stages.data.conversations import (
    Conversation,
    ConversationReader,
    ImageFiles,
    find_conversation_file,
    parse_record,
    read_records,
)
from stages.data.sample import BadSampleError
from stages.data.shards import WRITE_WITHOUT_LINKS, OpenShard, TarSample
from stages.data.text import check_ids, check_length, read_token_ids
from stages.errors import ConfigError, DataError
from stages.prepare.findings import Action, CheckRequest, Findings, Shard
from stages.prepare.inputs import LARGEST_ID
from stages.prepare.pieces import load_tokenizer
from stages.prepare.shards import iter_odd_members
from stages.vision.image_input import ImageInput
from stages.vision.specs import UnknownEncoderError, resolve_encoder_spec

# Checks whether images can be used, without keeping anything of them.

SAMPLED = 16
"""With `--decode sample`: one image in this many is decoded, the first of each shard among them."""
DEFAULT_ENCODER = "siglip-so400m-14-384"
"""Whose image size is taken where the request names no encoder."""


@dataclass(slots=True)
class ImageProbe:
    """In the place of a stage's image reader: the same transform, and an image without content."""

    request: CheckRequest
    decode: str
    findings: Findings
    _transform: Callable[[bytes], object] | None = field(default=None, init=False)
    image_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        """ConfigError if there is no such encoder."""
        try:
            self.image_tokens = resolve_encoder_spec(self.request.encoder or DEFAULT_ENCODER).image_tokens
        except UnknownEncoderError as error:
            raise ConfigError(str(error)) from error

    def read(self, where: str, content: Callable[[], bytes]) -> ImageInput:
        """MissingImageError, or, where the image is decoded, BrokenImageError."""
        try:
            data = content()
        except BadSampleError as error:
            raise MissingImageError(str(error)) from error
        number = self.findings.images
        self.findings.images += 1
        if self.decode == "all" or (self.decode == "sample" and number % SAMPLED == 0):
            self.findings.decoded += 1
            self._check(where, data)
        return ImageInput("")

    def _check(self, where: str, data: bytes) -> None:
        from stages.vision.transforms import BadImageError, ImageTransform, TransformKind

        if self._transform is None:
            spec = resolve_encoder_spec(self.request.encoder or DEFAULT_ENCODER)
            self._transform = ImageTransform.from_spec(spec, cast("TransformKind", self.request.transform))
        try:
            self._transform(data)
        except BadImageError as error:
            raise BrokenImageError(f"{where}: {error}") from error


class MissingImageError(BadSampleError):
    """An image that cannot be read."""


class BrokenImageError(BadSampleError):
    """An image that cannot be decoded, or is too large."""


ANY_ID = (1 << 63) - 1
"""A vocabulary to which every id belongs."""


def check_shard(shard: Shard) -> Findings:
    """What a stage would make of the shard."""
    findings = Findings(shards=1)
    if not shard.path.exists():
        findings.note("missing shard", Action.REFUSE, f"{shard.path}: there is no such file")
        return findings
    try:
        opened = OpenShard(shard.path)
    except DataError as error:
        findings.note("torn tar", Action.REFUSE, str(error))
        return findings
    try:
        check_count(findings, shard, len(opened.index))
        for name in opened.index.hard_links:
            findings.note("hard link", Action.SKIP, f"{shard.path.name}: {name}: {WRITE_WITHOUT_LINKS}")
        for kind, name in iter_odd_members(shard.path):
            findings.note(kind, Action.NOTE, f"{shard.path.name}: {name}: is not followed, unpacked or run")
        check_samples(findings, shard, opened)
    finally:
        opened.close()
    return findings


def check_count(findings: Findings, shard: Shard, count: int) -> None:
    """The manifest's count against the tar's: a job passes over what is not there and never meets what is too much."""
    said = f"{shard.path.name}: {count} samples; the manifest says {shard.expected}"
    if shard.expected is not None and not count:
        findings.note("empty shard", Action.REFUSE, said)
    elif shard.expected not in {None, count}:
        findings.note("wrong count", Action.NOTE, said)


def check_samples(findings: Findings, shard: Shard, opened: OpenShard) -> None:
    """Every sample of a whole tar."""
    check = build_text_check(findings, shard) if shard.request.kind == "text" else build_captions_check(findings, shard)
    for key in find_scattered_keys(opened.index.keys):
        said = f"{shard.path.name}: {key}: its files are not next to each other, so each group is a sample of its own"
        findings.note("scattered files", Action.NOTE, f"{said}; sort the names before writing the tar")
    for number in range(len(opened.index)):
        findings.samples += 1
        try:
            if number in opened.index.repeated:
                findings.note("duplicate member", Action.SKIP, f"{shard.path.name}: {opened.index.keys[number]}")
            else:
                check(opened.find_sample(number))
        except BadSampleError as error:
            findings.note("unreadable member", Action.SKIP, str(error))
        except DataError as error:
            findings.note("torn tar", Action.REFUSE, str(error))


def find_scattered_keys(keys: Sequence[str]) -> list[str]:
    """Those of several samples, which may be parts of one whose members lie apart."""
    return [key for key, count in Counter(keys).items() if count > 1]


Check = Callable[[TarSample], None]


def build_text_check(findings: Findings, shard: Shard) -> Check:
    """The check of a sample of token ids. All ids of a longer one count, as any window of it may be taken."""
    context, vocabulary = shard.request.context or 1, shard.request.vocabulary or ANY_ID

    def check(sample: TarSample) -> None:
        try:
            tokens = read_token_ids(sample)
        except BadSampleError as error:
            findings.note("no list of token ids", Action.SKIP, str(error))
            return
        findings.tokens += len(tokens)
        findings.shortest = len(tokens) if findings.shortest is None else min(findings.shortest, len(tokens))
        try:
            check_length(sample.where, tokens, context)
        except BadSampleError as error:
            findings.note("too short", Action.SKIP, str(error))
            return
        try:
            check_ids(sample.where, tokens, vocabulary)
        except BadSampleError as error:
            findings.note("token id outside the vocabulary", Action.SKIP, str(error))

    return check


def build_captions_check(findings: Findings, shard: Shard) -> Check:
    """The check of a captioned image."""
    request = shard.request
    fields = [part.strip() for part in request.field.split(",") if part.strip()] or ["txt"]
    probe = ImageProbe(request, shard.decode, findings)
    tokenizer = load_tokenizer(request.tokenizer, request.vocabulary or LARGEST_ID, "") if request.tokenizer else None

    def check(sample: TarSample) -> None:
        try:
            read_image = open_image_member(sample)
        except BadSampleError as error:
            findings.note("missing image", Action.SKIP, str(error))
            return
        try:
            found = read_captions(sample, fields)
        except BadSampleError as error:
            findings.note(find_caption_problem(sample, fields), Action.SKIP, str(error))
            return
        if tokenizer is not None:
            findings.tokens += len(tokenizer.encode(found[0][0])) + 1
        try:
            probe.read(sample.where, read_image)
        except BrokenImageError as error:
            findings.note("broken or oversized image", Action.SKIP, str(error))

    return check


def find_caption_problem(sample: TarSample, fields: list[str]) -> str:
    """Why there is no caption: the file that would hold it is missing, or it holds none."""
    if fields == ["txt"]:
        return "empty caption" if "txt" in sample.extensions else "missing txt"
    has_json = any(name == "json" or name.endswith(".json") for name in sample.extensions)
    return "empty or missing caption" if has_json else "missing json"


# Checks a part of a set of conversations, with the functions by which the stages read it.

PART_RECORDS = 2_000


@dataclass(frozen=True, slots=True)
class ConversationPart:
    """Records start..stop of a set of conversations."""

    request: CheckRequest
    start: int
    stop: int
    decode: str


@lru_cache(maxsize=1)
def load_records(path: str) -> list[Any]:
    """The list of a conversation file, read once a process."""
    return read_records(Path(path))


def split_conversations(request: CheckRequest, decode: str) -> list[ConversationPart]:
    """The parts that cover all records; DataError if the file cannot be read or is empty."""
    file = find_conversation_file(Path(request.path))
    count = len(load_records(str(file)))
    if not count:
        raise DataError(f"{file}: no usable conversation")
    return [
        ConversationPart(request, start, min(start + PART_RECORDS, count), decode)
        for start in range(0, count, PART_RECORDS)
    ]


def check_conversations(part: ConversationPart) -> Findings:
    """What a stage would make of the records. The file counts as one shard, with its first part."""
    file = find_conversation_file(Path(part.request.path))
    findings = Findings(shards=0 if part.start else 1)
    check = build_image_check(part, findings, file)
    for number, record in enumerate(load_records(str(file))[part.start : part.stop], start=part.start):
        findings.samples += 1
        try:
            conversation = parse_record(f"{file.name}: record {number}", record)
        except BadSampleError as error:
            findings.note("no conversation", Action.SKIP, str(error))
            continue
        try:
            check(conversation)
        except BrokenImageError as error:
            findings.note("broken or oversized image", Action.SKIP, str(error))
        except MissingImageError as error:
            findings.note("missing image", Action.SKIP, str(error))
        except BadSampleError as error:
            findings.note("no answer within the context", Action.SKIP, str(error))
    return findings


def build_image_check(part: ConversationPart, findings: Findings, file: Path) -> Callable[[Conversation], None]:
    """The check of a well-formed record: its image, and with a tokenizer whether an answer fits the context."""
    request, probe = part.request, ImageProbe(part.request, part.decode, findings)
    if not (request.tokenizer and request.context):
        images = ImageFiles(file.parent)

        def check_image(conversation: Conversation) -> None:
            if conversation.image:
                probe.read(conversation.where, partial(images.read, conversation.where, conversation.image))

        return check_image
    tokenizer = load_tokenizer(request.tokenizer, request.vocabulary or LARGEST_ID, "")
    reader = ConversationReader(file.parent, tokenizer=tokenizer, images=probe, max_length=request.context)

    def check_document(conversation: Conversation) -> None:
        document = reader.read_document(conversation)
        findings.tokens += len(document.tokens) if document is not None else 0

    return check_document
