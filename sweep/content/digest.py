"""Digests of local data sets: same content, same digest, wherever the files lie and whatever the data set is called.

A digest says what a job would read, from a bounded number of bytes of each data set (docs/formats.md, Content of data).
A file up to its bound is read whole; of a larger one evenly spaced pieces, the first and the last bytes among them.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.data.addresses import MANIFEST_SUFFIX, is_remote
from stages.errors import DataError
from sweep.errors import SweepFileError
from sweep.file_facts import read_file_facts
from sweep.spec.yaml_source import MAX_BYTES, parse_yaml

FORMAT = 1
"""Enters every digest; raised when the same files give another one."""
DIGITS = 32
PREFIX = "sha256-"
DATASET, MANIFEST = "dataset.json", "manifest.jsonl"
MOST_BYTES = 64 << 20
"""Of a file that holds a whole data set: conversations, a tokenizer, a task's rows, an encoder's weights."""
PIECE_BYTES = 64 << 10
MOST_SHARDS = 20_000
"""Of a folder of shards, so many names and sizes, evenly spaced."""
NOTED_SHARDS = 1_000
"""Of up to so many shards each one's facts are asked at each plan, whether its bytes are sampled or not."""
SAMPLED_SHARDS = 32
SAMPLED_FILES = 4
"""Of several large files of conversations."""
SHARD_BYTES = 48 << 10
"""Of each of these, in three pieces."""
SAMPLED_IMAGES = 64
"""Of a folder of images that a task names, evenly spaced; of each the size and the first piece."""
MOST_TASK_FILES = 16
MOST_WORDS = 1_000
"""Of a task file, so many may be names of files."""
FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*\.(?:yaml|yml|py|jsonl?|csv|parquet)\b")
MODULE = re.compile(r"!function\s+([A-Za-z_]\w*)\.")
"""The module of a task's own code, which lm-eval runs for a trusted task."""


ContentFacts = tuple[str, int, int, int]
"""Name, bytes, time of change of the content, and of the file itself, both in nanoseconds."""


# Why: docs/decisions.md, D170
def read_content_facts(path: Path) -> ContentFacts:
    """What tells a file from another one of the same size, even with the same modification time. OSError."""
    return *read_file_facts(path), path.stat().st_ctime_ns


class UnreadableDataError(Exception):
    """The data cannot be known by their content now; the message says why."""


class ContentReader:
    """Reads one data set into a digest, and notes the facts of every file and folder that it asks."""

    def __init__(self, kind: str) -> None:
        self._digest = hashlib.sha256()
        self.facts: dict[str, ContentFacts] = {}
        """By path, as they were before the file was read."""
        self.add_words(str(FORMAT), kind)

    def add_words(self, *words: str) -> None:
        for word in words:
            self.add_bytes(word.encode("utf-8", "surrogatepass"))

    def add_bytes(self, content: bytes) -> None:
        """With its length, so that two parts never read as one."""
        self._digest.update(b"%d:" % len(content))
        self._digest.update(content)

    def note_facts(self, path: Path) -> int:
        """The size of a file or folder that the digest depends on."""
        self.facts[str(path)] = facts = read_content_facts(path)
        if not (path.is_file() or path.is_dir()):  # reading a pipe would wait for ever
            raise UnreadableDataError(f"{path}: is neither a file nor a folder")
        return facts[1]

    def add_size(self, path: Path, *, noted: bool) -> None:
        """The size of a file that is not read; `noted`: it is asked again before the digest is believed again."""
        self.add_words(str(self.note_facts(path) if noted else path.stat().st_size))

    def add_file(self, path: Path, *, most: int = MOST_BYTES, piece: int = PIECE_BYTES) -> None:
        """The size of a file, and its bytes or evenly spaced pieces of them."""
        size = self.note_facts(path)
        self.add_words(str(size))
        with path.open("rb") as file:
            for start in choose_pieces(size, most, piece):
                file.seek(start)
                self.add_bytes(file.read(size if size <= most else piece))

    def read_small_file(self, path: Path) -> bytes | None:
        """The bytes of a file that is to be parsed; None where it is too large for that."""
        if self.note_facts(path) > MOST_BYTES:
            return None
        return path.read_bytes()

    def add_json_file(self, path: Path) -> None:
        """What a JSON file means: layout and the order of keys do not count. What is no JSON counts by its bytes."""
        content = self.read_small_file(path)
        meaning = None if content is None else normalise_json(content)
        if meaning is None:
            self.add_file(path)
        else:
            self.add_bytes(meaning)

    def build_digest(self) -> str:
        return PREFIX + self._digest.hexdigest()[:DIGITS]


def choose_pieces(size: int, most: int, piece: int) -> list[int]:
    """Where the pieces begin that are read of a file: one, or `most` bytes' worth, the last one at the end."""
    if size <= most:
        return [0]
    return choose_evenly(range(size - piece + 1), most // piece)


def choose_evenly(values: Sequence[Any], number: int) -> list[Any]:
    """At most `number` of the values, the first and the last among them."""
    if len(values) <= number:
        return list(values)
    if number == 1:
        return [values[0]]
    return [values[index * (len(values) - 1) // (number - 1)] for index in range(number)]


def normalise_json(content: bytes) -> bytes | None:
    """The same bytes for the same meaning; None for what is no JSON."""
    try:
        return render_plain(json.loads(content))
    except (ValueError, RecursionError):
        return None


def render_plain(content: object) -> bytes:
    """TypeError for what JSON has no words for."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


# What each kind of data set is read by.


# Why: docs/decisions.md, D147
def read_content(
    kind: str, path: Path, task: str = "", *, further: Sequence[Path] = ()
) -> tuple[str, dict[str, ContentFacts]]:
    """The digest of a data set, or of the task file `task` in a folder of tasks, and the facts of what was read.

    `further`: the other places of an address that means several, in their order.

    Raises UnreadableDataError where something is missing, cannot be read, or changes meanwhile.
    """
    reader = ContentReader("shards" if kind in {"text", "captions"} else kind)
    try:
        if kind == "tasks":
            add_task(reader, path, task)
        elif further:
            add_places(reader, kind, [path, *further])
        else:
            READERS[kind](reader, path)
        changed = [name for name, facts in reader.facts.items() if read_content_facts(Path(name)) != facts]
    except OSError as error:
        raise UnreadableDataError(f"{error.filename or path}: {error.strerror or error}") from None
    if changed:
        raise UnreadableDataError(f"{changed[0]}: changes while it is read")
    return reader.build_digest(), reader.facts


def add_shards(reader: ContentReader, path: Path) -> None:
    """Token shards or captioned images: the digest of dataset.json, else manifest, names and sizes, and a sample."""
    if path.name.endswith(MANIFEST_SUFFIX):
        add_listed_shards(reader, path)
        return
    if not path.is_dir():
        reader.add_file(path, most=SHARD_BYTES, piece=SHARD_BYTES // 3)
        return
    reader.note_facts(path)  # its time of change moves when a shard comes or goes
    if digest := read_own_digest(reader, path / DATASET):
        reader.add_words(DATASET, digest)
        return
    if (path / MANIFEST).exists():
        reader.add_words(MANIFEST)
        reader.add_file(path / MANIFEST)
    add_tars(reader, path)


def add_listed_shards(reader: ContentReader, manifest: Path) -> None:
    """The shards that a manifest names, and how many samples it says that they have."""
    from stages.data.shards import read_listed_places

    if reader.note_facts(manifest) > MOST_BYTES:
        raise UnreadableDataError(f"{manifest}: too large for a manifest")
    try:
        listed = read_listed_places(manifest)
    except DataError as error:
        raise UnreadableDataError(str(error)) from None
    if remote := next(filter(is_remote, listed), ""):
        raise UnreadableDataError(f"{manifest}: names {remote}, which lies elsewhere")
    reader.add_words(*map(str, listed.values()))
    add_places(reader, "captions", [Path(place) for place in listed])


def add_places(reader: ContentReader, kind: str, places: Sequence[Path]) -> None:
    """Several folders, shards or files as one: what each is by itself, of as many as are sampled."""
    reader.add_words(str(len(places)))
    for folder in dict.fromkeys(place.parent for place in places[:MOST_SHARDS]):
        reader.note_facts(folder)  # its time of change moves when a name comes that a pattern means
    small = kind == "conversations" and sum(place.stat().st_size for place in places) <= MOST_BYTES
    most = len(places) if small else SAMPLED_FILES if kind == "conversations" else SAMPLED_SHARDS
    sampled = set(choose_evenly(places, most))
    for place in dict.fromkeys([*choose_evenly(places, MOST_SHARDS), *(each for each in places if each in sampled)]):
        reader.add_words(place.name)
        if place in sampled:
            READERS[kind](reader, place)
        elif not place.is_dir():
            reader.add_size(place, noted=len(places) <= NOTED_SHARDS)


def read_own_digest(reader: ContentReader, path: Path) -> str:
    """What dataset.json says that the data's digest is; empty where there is none."""
    if not path.exists():
        return ""
    content = reader.read_small_file(path)
    try:
        record = json.loads(content or b"")
    except (ValueError, RecursionError):
        return ""
    digest = record.get("digest") if isinstance(record, dict) else None
    return digest if isinstance(digest, str) else ""


def add_tars(reader: ContentReader, folder: Path) -> None:
    """Names and sizes of the tars of a folder, and a sample of their bytes."""
    names = sorted(name for name in list_names(folder) if name.endswith(".tar") and name[0] != ".")
    if not names:
        raise UnreadableDataError(f"{folder}: holds no shards (*.tar)")
    sampled = set(choose_evenly(names, SAMPLED_SHARDS))
    reader.add_words(str(len(names)))
    for name in dict.fromkeys([*choose_evenly(names, MOST_SHARDS), *sorted(sampled)]):
        reader.add_words(name)
        if name in sampled:
            reader.add_file(folder / name, most=SHARD_BYTES, piece=SHARD_BYTES // 3)
        else:
            reader.add_size(folder / name, noted=len(names) <= NOTED_SHARDS)


def list_names(folder: Path) -> list[str]:
    """Of all entries, in no order."""
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def add_conversations(reader: ContentReader, path: Path) -> None:
    """The JSON file, and the tars beside it, which hold images. Images in files are not read."""
    folder, file = path, path
    if path.is_dir():
        reader.note_facts(path)
        files = sorted(path.glob("*.json"))
        if len(files) != 1:
            raise UnreadableDataError(f"{path}: {len(files)} JSON files; give a folder with one, or the file itself")
        file = files[0]
        if any(name.endswith(".tar") and name[0] != "." for name in list_names(folder)):
            add_tars(reader, folder)
    reader.add_file(file)


def add_tokenizer(reader: ContentReader, path: Path) -> None:
    """A tokenizer.json, or its folder."""
    reader.add_json_file(path / "tokenizer.json" if path.is_dir() else path)


def add_encoder(reader: ContentReader, path: Path) -> None:
    """A folder of transformers: its configuration and its weights."""
    reader.note_facts(path)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        raise UnreadableDataError(f"{path}: holds no weights (*.safetensors)")
    reader.add_json_file(path / "config.json")
    for file in weights:
        reader.add_words(file.name)
        reader.add_file(file, most=MOST_BYTES // len(choose_evenly(weights, 16)))


READERS = {
    "text": add_shards,
    "captions": add_shards,
    "conversations": add_conversations,
    "tokenizer": add_tokenizer,
    "encoder": add_encoder,
}


# Evaluation tasks: the task file by its meaning, and the files and folders of images that it names.


def add_task(reader: ContentReader, folder: Path, file: str) -> None:
    """One task of a folder, by the name of its file. Files that it names by themselves may name others."""
    reader.note_facts(folder)  # its time of change moves when a file comes that a task names
    waiting, seen = [file], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name in seen or len(seen) >= MOST_TASK_FILES:
            continue
        seen.add(name)
        if name != file:  # so that a task's own name is no part of it
            reader.add_words(name)
        if (folder / name).is_dir():
            add_images(reader, folder / name)
        elif name == file or name.endswith((".yaml", ".yml")):  # another .json holds rows, not names
            waiting += list_named_files(folder, add_task_file(reader, folder / name))
        else:
            reader.add_file(folder / name)


def list_named_files(folder: Path, words: Sequence[str]) -> list[str]:
    """The words that name something in the folder. UnreadableDataError for the name of a file that is not there yet."""
    missing = [word for word in words if FILE.fullmatch(word) and ".." not in word and not (folder / word).exists()]
    if missing:
        raise UnreadableDataError(f"{folder / missing[0]}: is not there, and a task names it")
    return [word for word in words if is_part_of(folder, word)]


def is_part_of(folder: Path, name: str) -> bool:
    """Whether a word of a task file is the name of something in its folder."""
    plain = (
        0 < len(name) <= 255 and name.isprintable() and not name.startswith(("/", ".")) and ".." not in name.split("/")
    )
    try:
        return plain and (folder / name).exists()
    except OSError:
        return False


def add_task_file(reader: ContentReader, path: Path) -> list[str]:
    """What a YAML or JSON file means, and the words in it that may name files. What has no plain values counts by its
    bytes: the file of a trusted task, which may name code."""
    if reader.note_facts(path) > MAX_BYTES:
        reader.add_file(path)
        return []
    raw = path.read_bytes()
    content = parse_plain(path, raw)
    if content is None:
        reader.add_bytes(raw)
        text = raw.decode("utf-8", "replace")
        words = {*FILE.findall(text), *(f"{module}.py" for module in MODULE.findall(text))}
        words = {word for word in words if is_part_of(path.parent, word)}  # a comment may name others
    else:
        reader.add_bytes(content[0])
        words = set(iter_words(content[1]))
    return sorted(words)[:MOST_WORDS]


def parse_plain(path: Path, raw: bytes) -> tuple[bytes, Any] | None:
    """Canonical bytes and the plain values of a task file; None for what is none, or no plain values."""
    try:
        if path.suffix == ".json":
            content = json.loads(raw)
        else:
            parse_yaml(raw.decode(), path)  # bounded in depth and aliases; refuses tags
            content = yaml.safe_load(raw)  # as lm-eval and the stage read it: `no` is a truth value there
        return render_plain(content), content
    except (ValueError, TypeError, RecursionError, SweepFileError, yaml.YAMLError):
        return None


def iter_words(content: object) -> Iterator[str]:
    """All strings among the values."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for value in content.values():
            yield from iter_words(value)
    elif isinstance(content, list):
        for value in content:
            yield from iter_words(value)


def add_images(reader: ContentReader, folder: Path) -> None:
    """A folder that a task names: how many entries, and a sample of its files."""
    reader.note_facts(folder)
    names = sorted(list_names(folder))
    reader.add_words(str(len(names)))
    for name in choose_evenly(names, SAMPLED_IMAGES):
        reader.add_words(name)
        if (folder / name).is_file():
            reader.add_file(folder / name, most=PIECE_BYTES, piece=PIECE_BYTES)
