"""Tars of all kinds of samples, read by the sources of training; what is not read has to be told.

Judges beside the reader: what was written; webdataset on the same tar; and a search for headers in all its blocks.
"""

import contextlib
import gzip
import io
import json
import os
import random
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from stages.data.captions import Captions
from stages.data.conversations import Conversations
from stages.data.image_reader import EncoderImageReader
from stages.data.sample import AbsentSampleError, BadSampleError, SampleSource
from stages.data.shards import MANIFEST, TarShards, index_tar, iter_members, open_tar
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform
from tests.fuzz.byte_changes import change_bytes
from tests.fuzz.campaign import Outcome, Verdict, ViolationError
from tests.fuzz.json_changes import change_json
from tests.fuzz.tar_changes import BLOCK, END, FORMATS, build_member, damage, forge, is_header
from tests.stages.data.tokenizer_kinds import byte_level

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from webdataset.handlers import ignore_and_continue
    from webdataset.tariterators import group_by_keys, tar_file_iterator

CONTEXT, VOCABULARY = 16, 300
Members = dict[str, bytes]


@dataclass
class Written:
    """An archive as it was written, before anything was changed."""

    kind: str
    parts: list[bytes] = field(default_factory=list)
    samples: list[tuple[str, Members]] = field(default_factory=list)
    """Key and members, in the order of the archive."""
    spoilt: set[int] = field(default_factory=set)
    """Samples that have been written with a bad content."""

    @property
    def content(self) -> bytes:
        return b"".join(self.parts) + END


class Archives:
    """See `tests.fuzz.campaign.Program`."""

    name = "archives"

    def __init__(self, folder: Path) -> None:
        spec = resolve_encoder_spec("patches-16-32")
        self._tokenizer = TextTokenizer(byte_level(folder / "tokenizer.json"), VOCABULARY)
        self._images = EncoderImageReader(spec, ImageTransform.from_spec(spec, "resize-naive"), None)
        self._pictures = [draw_picture(kind, place) for kind in ("PNG", "JPEG", "WEBP") for place in range(2)]

    def run_case(self, dice: random.Random, folder: Path) -> Verdict:
        written = self._write_archive(dice)
        path = folder / "shard.tar"
        content, change = pick_change(dice, written)
        path.write_bytes(content)
        if written.kind == "conversations":
            return self._read_conversations(dice, folder, written, change)
        promised, listed = None, dice.random() < 0.2
        if listed:
            promised = write_manifest(dice, folder, written)
        try:
            source, shards = self._open_source(written, folder), TarShards(folder)
            check_archive(path, written, change, TarShards(path) if listed else shards)
            counts = read_all(source)
        except DataError as error:
            if change == "none" and not listed:
                raise ViolationError(f"a sound archive is refused: {error}") from error
            return Verdict(Outcome.REFUSED, change)
        if promised is not None and sum(counts.values()) != promised:
            raise ViolationError(f"{promised} samples are promised, and {dict(counts)} met")
        if change == "none" and not listed and counts["read"] < len(written.samples) - len(written.spoilt):
            raise ViolationError(
                f"{counts['read']} samples read of {len(written.samples)}: {written.spoilt} are spoilt"
            )
        return Verdict(Outcome.TOLD if counts["told"] or counts["absent"] else Outcome.PASSED, change)

    def _open_source(self, written: Written, folder: Path) -> SampleSource:
        if written.kind == "text":
            return TokenShards("text", folder, context=CONTEXT, vocabulary=VOCABULARY, seed=0)
        field = "txt,caption,syn"
        return Captions("captions", folder, field=field, tokenizer=self._tokenizer, images=self._images)

    def _write_archive(self, dice: random.Random) -> Written:
        written = Written(dice.choice(("text", "text", "captions", "captions", "conversations")))
        form, style = dice.choice(FORMATS), dice.choice(("plain", "plain", "folder", "dots", "long", "wide"))
        for number in range(dice.choice((1, 2, 3, 3, 5, 8, 12))):
            key, members = render_key(style, number), self._make_sample(dice, written.kind, number)
            if written.kind != "conversations" and dice.random() < 0.15:
                written.spoilt.add(number)
                name = dice.choice(sorted(members))
                members[name] = spoil(dice, name, members[name])
            written.samples.append((key, members))
            written.parts += [build_member(f"{key}.{name}", members[name], form) for name in members]
        return written

    def _make_sample(self, dice: random.Random, kind: str, number: int) -> Members:
        if kind == "text":
            ids = json.dumps([dice.randrange(VOCABULARY) for _ in range(CONTEXT + 1 + dice.choice((0, 0, 5)))]).encode()
            extension = dice.choice(("json", "json", "json.gz", "txt"))
            return {extension: gzip.compress(ids, mtime=0) if extension.endswith("gz") else ids}
        picture = dice.choice(self._pictures)
        extension = {b"\x89P": "png", b"\xff\xd8": "jpg", b"RI": "webp"}[picture[:2]]
        if kind == "conversations":
            return {extension: picture}
        members = {extension: picture, "txt": f"square {number} of many".encode()}
        if dice.random() < 0.5:
            members["json"] = json.dumps(
                {"caption": f"a caption {number}", "syn": ["one", "two"], "n": number}
            ).encode()
        return dict(dice.sample(sorted(members.items()), len(members)))

    def _read_conversations(self, dice: random.Random, folder: Path, written: Written, change: str) -> Verdict:
        """Conversations whose images are the members of a tar."""
        records = [render_record(number, written) for number in range(len(written.samples))]
        content = json.dumps(records).encode()
        spoilt = dice.random() < 0.5
        if spoilt:
            content = change_json(dice, content)
        (folder / "conversations.json").write_bytes(content)
        change = f"{change}, records" if spoilt else change
        try:
            source = Conversations("talks", folder, tokenizer=self._tokenizer, images=self._images, max_length=200)
            with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(DataError):
                source.check_malformed(0)
            counts = read_all(source)
        except DataError as error:
            if change == "none":
                raise ViolationError(f"sound conversations are refused: {error}") from error
            return Verdict(Outcome.REFUSED, change)
        given = json.loads(content)
        if counts["read"] + counts["told"] + len(source.malformed) != len(given):
            raise ViolationError(f"{len(given)} records, and {dict(counts)}, {len(source.malformed)} malformed")
        if change == "none" and counts["read"] != len(written.samples):
            raise ViolationError(f"{dict(counts)} of {len(written.samples)} sound conversations")
        told = counts["told"] or source.malformed
        return Verdict(Outcome.TOLD if told else Outcome.PASSED, change)


def draw_picture(kind: str, place: int) -> bytes:
    """A small picture that is not of one colour."""
    picture = Image.new("RGB", (20, 24), (200, 30 + 90 * place, 80))
    picture.putpixel((place, 3), (0, 255, 9))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def render_key(style: str, number: int) -> str:
    match style:
        case "folder":
            return f"part-{number // 3}/{number:05d}"
        case "dots":
            return f"./v1.0/{number:05d}"
        case "long":
            return f"{'deep/' * 30}{number:05d}"
        case "wide":
            return f"bild-é-{number}-{'ü' * 60}"
    return f"{number:05d}"


def spoil(dice: random.Random, name: str, content: bytes) -> bytes:
    """Another content for a member of that extension."""
    if name.endswith("gz"):
        inner = change_json(dice, gzip.decompress(content))
        packed = dice.choice(
            (gzip.compress(inner, mtime=0), change_bytes(dice, content), gzip.compress(bytes(90_000_000), 9))
        )
        return packed if dice.random() < 0.95 else gzip.compress(inner) + bytes(20)
    return change_json(dice, content) if name in {"json", "txt"} else change_bytes(dice, content)


def render_record(number: int, written: Written) -> dict[str, Any]:
    key, members = written.samples[number]
    turns = [("human", "<image>\nWhich colour?"), ("gpt", "red"), ("human", "Sure?"), ("gpt", "yes")]
    image = f"{key}.{next(iter(members))}"
    return {"id": str(number), "image": image, "conversations": [{"from": who, "value": text} for who, text in turns]}


def pick_change(dice: random.Random, written: Written) -> tuple[bytes, str]:
    """The archive's bytes after a change, and the change's name."""
    kind = dice.random()
    if kind < 0.1:
        return written.content, "none"
    return forge(dice, written.parts) if kind < 0.55 else damage(dice, written.content)


def write_manifest(dice: random.Random, folder: Path, written: Written) -> int | None:
    """A manifest beside the tar, right, wrong or damaged; the number that it promises, or None if it may be refused."""
    count = max(0, len(written.samples) + dice.choice((0, 0, -1, 1, 100)))
    content = json.dumps({"shard": "shard", "num_sequences": count}).encode()
    changed = change_json(dice, content) if dice.random() < 0.5 else content
    (folder / MANIFEST).write_bytes(changed)
    return count if changed == content else None


def read_all(source: SampleSource) -> Counter[str]:
    """How many samples of a source were read, told and absent."""
    counts: Counter[str] = Counter()
    if source.size > 10_000:  # a manifest may promise any number
        return Counter(read=source.size)
    for number in range(source.size):
        try:
            document = source.read_document(number, number)
            counts["read" if document is not None else "refused"] += 1
        except BadSampleError as error:
            counts["told"] += 1
            check_message(str(error))
        except AbsentSampleError:
            counts["absent"] += 1
    return counts


def check_message(text: str) -> None:
    if len(text) > 3_000:
        raise ViolationError(f"a message of {len(text)} letters: {text[:200]}")


def check_archive(path: Path, written: Written, change: str, shards: TarShards) -> None:
    """ViolationError unless every sample of an archive that is not refused is read as webdataset reads it, or told."""
    content = path.read_bytes()
    check_headers(path, content)
    found = list(iter_samples(shards))
    if not has_odd_name(content):
        check_as_webdataset(path, change, found)
    check_untouched(content, written, found)


def check_as_webdataset(path: Path, change: str, found: list[Members | None]) -> None:
    """ViolationError unless webdataset reads the same samples; where it gives up in the middle, those before."""
    keys = index_tar(path).keys
    expected, whole = read_as_webdataset(path)
    if len(expected) > len(found) or (whole and len(expected) < len(found)):
        raise ViolationError(f"{change}: webdataset reads {len(expected)} samples, and {len(found)} are read here")
    for number, (key, members) in enumerate(expected if whole else expected[:-1]):
        if key != keys[number] or found[number] not in (None, members):
            raise ViolationError(
                f"{change}: webdataset's sample {number} is {key!r}, and ours {keys[number]!r}, or its members differ"
            )


def has_odd_name(content: bytes) -> bool:
    """Whether a header that is not POSIX's has something in the place of the name's first part.

    Python's tarfile takes it for that; to GNU's tar, which put it there, it is a time. Or a name has a line break:
    webdataset passes over such a file if it stands in its folder's name.
    """
    blocks = (content[place : place + BLOCK] for place in range(0, len(content), BLOCK))
    return any(
        is_header(block)
        and ((block[257:263] != b"ustar\0" and block[345:346] != b"\0") or b"\n" in block[:100] + block[345:500])
        for block in blocks
    )


def iter_samples(shards: TarShards) -> Iterator[Members | None]:
    """The members of each sample; None for one that is told to be bad."""
    for number in range(shards.size):
        try:
            sample = shards.find_sample(number)
            yield {extension: sample.read(extension) for extension in sample.extensions}
        except BadSampleError:
            yield None


def read_as_webdataset(path: Path) -> tuple[list[tuple[str, Members]], bool]:
    """All samples, as `webdataset.WebDataset` reads them, and whether it came to the archive's end.

    Names that are no UTF-8 are escaped as ours are.
    """
    members: list[dict[str, Any]] = []
    with path.open("rb") as file, contextlib.suppress(tarfile.TarError, ValueError):
        members.extend({**member, "__url__": str(path)} for member in tar_file_iterator(file))
    whole = False
    with contextlib.suppress(tarfile.TarError, ValueError), tarfile.open(path) as tar:
        tar.getmembers()
        whole = not any(path.read_bytes()[tar.offset :])  # where it stopped
    samples = list(group_by_keys(members, handler=ignore_and_continue))
    found = [
        (
            escape_name(sample["__key__"]),
            {escape_name(name): part for name, part in sample.items() if name not in {"__key__", "__url__"}},
        )
        for sample in samples
    ]
    return found, whole


def escape_name(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_headers(path: Path, content: bytes) -> None:
    """ViolationError if a block of the archive is a file's header and nobody reads it: it would be lost silently."""
    descriptor = open_tar(path)
    try:
        members = [(name, member) for name, member in iter_members(path, descriptor)]
    finally:
        os.close(descriptor)
    covered: set[int] = set()
    for _, member in members:
        if member is not None:
            covered.update(range(member.offset // BLOCK - 1, (member.offset + member.size + BLOCK - 1) // BLOCK))
    inside = 0  # the block behind the content of a header that adds to the next, or of no file
    for number in range(len(content) // BLOCK):
        block = content[number * BLOCK : (number + 1) * BLOCK]
        if number < inside or number in covered or not any(block) or not is_header(block):
            continue
        kind = block[156:157]
        # of an empty file only a name can be lost, which a header before it may have made that of a folder
        if kind in b"\x0007" and block[124:136].strip(b"0\0 ") and not block[:100].partition(b"\0")[0].endswith(b"/"):
            raise ViolationError(f"a file's header in block {number} is not read: {block[:40]!r}")
        if kind not in b"123456":
            with contextlib.suppress(tarfile.HeaderError, ValueError):
                size = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size
                inside = number + 1 + (size + BLOCK - 1) // BLOCK


def check_untouched(content: bytes, written: Written, found: list[Members | None]) -> None:
    """Where only contents were changed: as many samples as were written, and those whose bytes are as before whole."""
    original = written.content
    if len(content) != len(original):
        return
    changed = (
        {place // BLOCK for place in range(0, len(content)) if content[place] != original[place]}
        if content != original
        else set()
    )
    place, touched = 0, set()
    parts = iter(written.parts)
    for number, (_, members) in enumerate(written.samples):
        for name in members:
            part = next(parts)
            blocks = range(place // BLOCK, (place + len(part)) // BLOCK)
            contents = -(-len(members[name]) // BLOCK)
            headers = len(blocks) - contents
            if changed & set(blocks[:headers]):
                return  # another name, or another size, whose sum happens to be the same
            if changed & set(blocks[headers:]):
                touched.add(number)
            place += len(part)
    if changed and max(changed) >= place // BLOCK:
        return
    if len(found) != len(written.samples):
        raise ViolationError(f"{len(found)} samples of {len(written.samples)}, with contents changed only")
    for number, (key, members) in enumerate(written.samples):
        if number not in touched and found[number] != members:
            raise ViolationError(f"sample {number} ({key}) is not what was written")
