"""LLaVA conversations: a JSON list of {id, image (optional), conversations: [{from: human|gpt, value}]}."""

import json
import os
import stat
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from posixpath import normpath
from typing import Any

from stages.data.prompts import IMAGE_PLACEHOLDER, PLAIN, PromptTemplate
from stages.data.sample import BadSampleError, Document, ImageReader, check_text
from stages.data.shards import TarMember, format_names, iter_members, list_tars, open_tar, read_tar_member
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError, find_mount_errno
from stages.files import read_regular

MAX_LINE_BYTES = 1 << 24
ASKERS, ANSWERERS = ("human", "user"), ("gpt", "assistant")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A checked record: questions and answers in turn."""

    where: str
    image: str
    """Path of the image within the data set; empty where there is none."""
    turns: tuple[tuple[str, str], ...]
    """(question, answer)"""

    @property
    def words(self) -> int:
        """Of all turns: what is known of its length before it is tokenized (Prismatic's measure)."""
        return sum(len(text.split()) for turn in self.turns for text in turn)


class Conversations:
    """The image, then question and answer in turn; the loss is on the answers and their ends.

    `path` is the JSON file, a folder with one JSON file, or several of these, whose records follow each other. Images
    lie in their file's folder, or in a tar there that holds them under the same names. Records that are no conversation
    are left out and counted in `malformed`.
    """

    def __init__(
        self,
        name: str,
        path: Path | Sequence[Path],
        *,
        tokenizer: TextTokenizer,
        images: ImageReader | None,
        max_length: int,
        template: PromptTemplate = PLAIN,
        start: Sequence[int] = (),
    ) -> None:
        """`start`: token ids before the image (`TextTokenizer.start_of_text`)."""
        self.name = name
        self.records: list[Conversation] = []
        self.malformed: list[str] = []
        self._readers: list[ConversationReader] = []
        self._ends: list[int] = []
        files = list(map(find_conversation_file, [path] if isinstance(path, Path) else path))
        for file in files:
            self._add_records(file)
            reader = ConversationReader(
                file.parent, tokenizer=tokenizer, images=images, max_length=max_length, template=template, start=start
            )
            self._readers.append(reader)
            self._ends.append(len(self.records))
        self.size = len(self.records)
        if not self.size:
            reason = f"; the first: {self.malformed[0]}" if self.malformed else ""
            raise DataError(f"{files[0]}: no usable conversation{reason}")

    def _add_records(self, file: Path) -> None:
        for number, record in enumerate(read_records(file)):
            try:
                self.records.append(parse_record(f"{file.name}: record {number}", record))
            except BadSampleError as error:
                self.malformed.append(str(error))

    def check_malformed(self, limit: int) -> None:
        """DataError if more records than `limit` are no conversation."""
        for reason in self.malformed[: limit + 1]:
            print(f"data set {self.name!r}: skipped: {reason}", file=sys.stderr)
        if (count := len(self.malformed)) > limit:
            first = self.malformed[0]
            raise DataError(
                f"data set {self.name!r}: {count} malformed records; the limit is {limit}; the first: {first}"
            )

    @property
    def shard_sizes(self) -> Sequence[int]:
        return [self.size]

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:  # noqa: ARG002 - a conversation is used whole
        return self._readers[bisect_right(self._ends, index)].read_document(self.records[index], room)

    def has_image(self, index: int) -> bool:
        """Whether conversation `index` has an image."""
        return bool(self.records[index].image)

    def count_words(self, index: int) -> int:
        """About how long conversation `index` is, its image left out."""
        return self.records[index].words

    def prefetch(self, shards: Sequence[int]) -> None:
        """Conversations are in memory."""


class ConversationReader:
    """Checked records to documents."""

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer: TextTokenizer,
        images: ImageReader | None,
        max_length: int,
        template: PromptTemplate = PLAIN,
        start: Sequence[int] = (),
    ) -> None:
        """`folder`: where the images lie. `start`: token ids before the image."""
        self.max_length, self.template, self.start = max_length, template, tuple(start)
        self._tokenizer, self._images = tokenizer, images
        self._image_files = ImageFiles(folder)

    def read_document(self, record: Conversation, room: int | None = None) -> Document | None:
        """See `Source.document`; a conversation is cut after `max_length` positions."""
        if record.image and self._images is None:
            raise DataError(f"{record.where}: it has an image, and the model sees none; set vision in pre-training")
        image_tokens = self._images.image_tokens if record.image and self._images else 0
        before = len(self.start) + image_tokens
        tokens, learned = encode_turns(self._tokenizer, self.template, record.where, record.turns)
        most = self.max_length + 1 - before
        tokens, learned = tokens[:most], learned[:most]
        if not any(learned if before else learned[1:]):
            raise BadSampleError(f"{record.where}: no answer within {self.max_length} tokens")
        if room is not None and before + len(tokens) - 1 > room:
            return None
        if not record.image or self._images is None:
            return Document(tokens, learned, start=self.start)
        image = self._images.read(record.where, partial(self._image_files.read, record.where, record.image))
        return Document(tokens, learned, image, image_tokens, self.start)


def encode_turns(
    tokenizer: TextTokenizer, template: PromptTemplate, where: str, turns: Sequence[tuple[str, str]]
) -> tuple[list[int], list[bool]]:
    """Token ids of questions and answers, and which are learned. Each is encoded by itself; an answer has its end.

    BadSampleError, naming `where`, if a text becomes a special token.
    """
    tokens: list[int] = []
    learned: list[bool] = []
    for number, (question, answer) in enumerate(turns):
        asked = tokenizer.encode(template.format_question(question, first=number == 0))
        answered = tokenizer.encode(template.format_answer(answer))
        # some vocabularies make a special token of its name even where the name is to be plain text
        if tokenizer.literal and not tokenizer.control.isdisjoint([*asked, *answered]):
            raise BadSampleError(f"{where}: turn {2 * number} or the next holds a special token's name")
        answered.append(tokenizer.end_of_text)
        tokens += asked + answered
        learned += [False] * len(asked) + [True] * len(answered)
    return tokens, learned


class ImageFiles:
    """Images by the names that records use: files below a folder, else members of the tars in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._members: dict[str, tuple[Path, TarMember]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Another process reads the names of its own."""
        return {**self.__dict__, "_members": None}

    def read(self, where: str, name: str) -> bytes:
        """An image file's bytes. BadSampleError if there is none of that name, or the name leads out of the folder.

        Links in the folder are its owner's and are followed, as when images lie on another disk.
        """
        if name.startswith("/") or ".." in name.split("/"):
            raise BadSampleError(f"{where}: image {name[:80]!r} lies outside the data set")
        path = self._folder / name
        try:
            is_file = stat.S_ISREG(path.stat().st_mode)  # no pipe, which would be waited on for ever
        except (FileNotFoundError, NotADirectoryError):
            is_file = False
        except (ValueError, OSError) as error:  # a zero byte, or more letters than a file system takes
            if find_mount_errno(error) is not None:
                raise  # the image may be there: left out, it would change what is learned
            raise BadSampleError(f"{where}: image {name[:80]!r} is no file name: {str(error)[:80]}") from error
        if is_file:
            return path.read_bytes()
        if self._members is None:
            self._members = {normpath(each): place for each, place in self._iter_tar_members()}
        if (found := self._members.get(normpath(name))) is None:
            raise BadSampleError(f"{where}: there is no image {name!r}")
        tar, member = found
        return read_tar_member(tar, member, f"{where}: {name}")

    def _iter_tar_members(self) -> Iterator[tuple[str, tuple[Path, TarMember]]]:
        for tar in list_tars(self._folder):
            descriptor = open_tar(tar)
            try:
                yield from ((name, (tar, member)) for name, member in iter_members(tar, descriptor) if member)
            finally:
                os.close(descriptor)


OTHER_FORMATS = (".jsonl", ".ndjson", ".json.gz", ".json.zst", ".json.xz", ".json.bz2", ".jsonl.gz", ".jsonl.zst",
                 ".jsonl.xz", ".parquet", ".csv", ".tsv", ".arrow")  # fmt: skip
"""Files in which conversations may lie, and which are not read."""
AS_JSON = "conversations are read from one plain JSON list; for JSON lines `jq -s . FILE > FILE.json` makes one"


def find_conversation_file(path: Path) -> Path:
    """The JSON file that a data path means; DataError if a folder does not hold exactly one, or for another format."""
    if not path.is_dir():
        if path.name.lower().endswith(OTHER_FORMATS):
            raise DataError(f"{path}: not a format that is read: {AS_JSON}")
        return path
    files = sorted(each for each in path.glob("*.json") if each.name[0] != ".")
    if len(files) == 1:
        return files[0]
    others = sorted(each.name for each in path.iterdir() if each.name.lower().endswith(OTHER_FORMATS))
    unread = f" ({format_names(others)} not read: {AS_JSON})" if others and not files else ""
    raise DataError(f"{path}: {len(files)} JSON files{unread}; give a folder with one, or the file itself")


def read_records(file: Path) -> list[Any]:
    """The list of a conversation file, unchecked."""
    try:
        content = json.loads(read_regular(file))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and is_json_lines(file):
            raise DataError(f"{file}: JSON lines, an object a line: {AS_JSON}") from error
        raise DataError(f"{file}: not a readable JSON file: {error}") from error
    if not isinstance(content, list):
        one = f"; if it is one line of JSON lines: {AS_JSON}" if isinstance(content, dict) else ""
        raise DataError(f"{file}: a list of conversations is expected, not {type(content).__name__}{one}")
    return content


def is_json_lines(file: Path) -> bool:
    """Whether the first two lines of a file are a JSON value each, the first an object."""
    with file.open("rb") as opened:
        lines = [line for _ in range(2) if (line := opened.readline(MAX_LINE_BYTES))]
    try:
        return len(lines) == 2 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def parse_record(where: str, record: object) -> Conversation:
    """A record as a typed conversation; BadSampleError says what is wrong with it."""
    if not isinstance(record, dict):
        raise BadSampleError(f"{where}: an object is expected")
    image, turns = record.get("image") or "", record.get("conversations")
    if not isinstance(image, str):
        raise BadSampleError(f"{where}: image must be a path")
    check_text(f"{where}: image", image)
    if not isinstance(turns, list) or len(turns) < 2:
        raise BadSampleError(f"{where}: conversations must be a list of a question and an answer at least")
    texts = [parse_turn(where, number, turn) for number, turn in enumerate(turns)]
    pairs = tuple(zip(texts[::2], texts[1::2], strict=False))  # a last question without an answer is left out
    if not image and any(IMAGE_PLACEHOLDER in question for question, _ in pairs):
        raise BadSampleError(f"{where}: {IMAGE_PLACEHOLDER} in the text, and no image")
    return Conversation(where, image, pairs)


def parse_turn(where: str, number: int, turn: object) -> str:
    """The text of a turn: even ones are asked, odd ones answered."""
    expected = ANSWERERS if number % 2 else ASKERS
    if not isinstance(turn, dict) or turn.get("from") not in expected:
        raise BadSampleError(f"{where}: turn {number} must come from {' or '.join(expected)}")
    value = turn.get("value")
    # An empty answer is one: as with Prismatic, its end is learned.
    if not isinstance(value, str) or not (value.strip() or number % 2):
        raise BadSampleError(f"{where}: turn {number} has no text")
    check_text(f"{where}: turn {number}", value)
    return value
