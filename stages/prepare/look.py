"""What lies in folders and files that someone points at: `python -m stages.prepare look`, behind `sweep init`.

It finds what a sweep file can name (token shards, captioned images, conversations, tokenizers, evaluation tasks,
weights of encoders) with the functions by which jobs read them, and what the commands of `sweep data` can make such
data of (texts, images with captions). It reads little, follows no link to a folder, and counts as `count` does.
"""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.config import Task
from stages.data.captions import IMAGE_EXTENSIONS
from stages.data.sample import BadSampleError
from stages.data.shards import OpenShard, TarSample, list_tars
from stages.data.text import parse_json
from stages.errors import ConfigError, DataError
from stages.evaluation.vision_task import read_vision_task
from stages.prepare.captions import CaptionsRecipe, choose_columns, describe_input, iter_records, parse_table_kind
from stages.prepare.check_inputs import find_number, read_dataset_record
from stages.prepare.count import MOST_BYTES, CountRequest, Counts, count_data_set
from stages.prepare.inputs import parse_file_kind, read_column_names
from stages.vision.encoder_folder import check_encoder_folder
from stages.vision.specs import ENCODERS

DEEPEST = 5
"""Levels of folders below the one that is given."""
MOST_ENTRIES = 20_000
"""Files and folders that are looked at; a folder of images counts once."""
BEGINNING = 1 << 16
"""Bytes of a JSON file that say what it is."""


class LookRequest(BaseModel):
    """One place, and what its owner says it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Absolute and local."""
    kind: str = ""
    """`text`, `captions`, `conversations`, `tokenizer`, `tasks`, `encoder`; empty: whatever is found below it."""


@dataclass(slots=True)
class Find:
    """Something that was found."""

    kind: str
    """A kind of data of a sweep file; `raw text` and `raw captions`: what such data can be made of."""
    path: str
    samples: int = 0
    tokens: int = 0
    """Of text."""
    context: int = 0
    """Of text: the longest that its sequences have room for."""
    vocabulary: int = 0
    """The ids that a tokenizer or token shards need; 0: not known."""
    made_with: str = ""
    """SHA-256 of the tokenizer: of a tokenizer its own, of token shards that of theirs, where it is known."""
    fields: list[str] = field(default_factory=list)
    """Of captions: where they stand."""
    mean_text: float = 0.0
    """Tokens of a sample's text, in the mean."""
    longest_text: int = 0
    """Such that 99 of 100 are no longer."""
    text_tasks: list[str] = field(default_factory=list)
    vision_tasks: list[str] = field(default_factory=list)
    encoder: str = ""
    problem: str = ""
    """Why it cannot be used as it is."""


def read_look_requests(given: str) -> list[LookRequest]:
    """The requests of a JSON list; ConfigError if they are none."""
    try:
        return [LookRequest.model_validate(each) for each in json.loads(given)]
    except (ValueError, TypeError, ValidationError) as error:
        raise ConfigError(f"not a list of requests: {' '.join(str(error).split())}") from error


def look_at_places(requests: list[LookRequest]) -> list[list[dict[str, Any]]]:
    """What was found at each place, as JSON types, in the order of the names."""
    found = [find_at_place(request) for request in requests]
    tokenizer = next((each.path for finds in found for each in finds if each.kind == "tokenizer"), "")
    for finds in found:
        for each in finds:
            count_find(each, tokenizer)
    return [[asdict(each) for each in finds] for finds in found]


def find_at_place(request: LookRequest) -> list[Find]:
    """Likewise of one place, not yet counted. What cannot be read has a `problem`."""
    place = Path(request.path)
    try:
        if not place.exists():
            return [Find(request.kind or "raw text", request.path, problem="there is nothing")]
        found = list(iter_finds(place))
    except OSError as error:
        return [Find(request.kind or "raw text", request.path, problem=f"{error.strerror or error}")]
    if not request.kind:
        return found
    fitting = [each for each in found if each.kind.removeprefix("raw ") == request.kind]
    return fitting or [Find(request.kind, request.path, problem=f"nothing there is of kind {request.kind}")]


def iter_finds(place: Path) -> Iterator[Find]:
    """What a file or folder holds, in the order of the names."""
    if place.is_file():
        yield from filter(None, [identify_file(place)])
        return
    left = MOST_ENTRIES
    folders = [(place, 0)]
    while folders and left > 0:
        folder, depth = folders.pop(0)
        entries = list_entries(folder)
        left -= len(entries)
        whole = identify_folder(folder, entries)
        yield from whole
        if any(each.kind in {"captions", "text", "encoder", "raw captions"} and not each.problem for each in whole):
            continue  # what lies below belongs to it
        taken = {each.path for each in whole} | ({str(folder)} if whole else set())
        files = [entry for entry in entries if entry.is_file() and not is_taken(entry, taken, whole)]
        yield from identify_files(folder, files)
        if depth < DEEPEST:
            folders += [(entry, depth + 1) for entry in entries if entry.is_dir() and not entry.is_symlink()]


def list_entries(folder: Path) -> list[Path]:
    """Files and folders, the hidden ones left out, sorted by name. Of more than are looked at, the first."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    return [folder / name for name in names[:MOST_ENTRIES]]


def is_taken(entry: Path, taken: set[str], whole: list[Find]) -> bool:
    """Whether a file is part of what was found of its folder: tasks have their questions beside them."""
    if str(entry) in taken:
        return True
    tasks = next((each for each in whole if each.kind == "tasks"), None)
    if tasks is None:
        return False
    own = {*tasks.text_tasks, *tasks.vision_tasks}
    return entry.stem in own or (entry.suffix == ".jsonl" and entry.stem.partition(".")[0] in own)


# Folders that are one thing.


def identify_folder(folder: Path, entries: list[Path]) -> list[Find]:
    """What a folder is as a whole: shards, weights, tasks, images with captions; nothing, or one of them."""
    names = [entry.name for entry in entries]
    if any(name.endswith(".tar") for name in names) and (shards := identify_shards(folder)) is not None:
        return [shards]
    if "config.json" in names and any(name.endswith(".safetensors") for name in names):
        return [identify_encoder(folder)]
    tasks = identify_tasks(folder, entries)
    if tasks is not None:
        return [tasks]
    images = [entry for entry in entries if entry.suffix.lower().removeprefix(".") in IMAGE_EXTENSIONS]
    beside = {entry.stem for entry in entries if entry.suffix in {".txt", ".json"}}
    captioned = sum(entry.stem in beside for entry in images)
    return [Find("raw captions", str(folder), samples=captioned, fields=["txt"])] if captioned else []


def identify_shards(place: Path) -> Find | None:
    """A tar, or a folder of tars, by its first sample; None for tars that hold neither tokens nor images."""
    try:
        with closing(OpenShard(list_tars(place)[0])) as shard:
            sample = shard.find_sample(0)
            if any(name in IMAGE_EXTENSIONS for name in sample.extensions):
                return Find("captions", str(place), fields=list_caption_fields(sample))
            if (tokens := read_tokens(sample)) is not None:
                return describe_tokens(place, tokens)
    except (DataError, BadSampleError, IndexError) as error:
        return Find("text", str(place), problem=str(error) or "no samples in it")
    return None


def read_tokens(sample: TarSample) -> list[int] | None:
    """A sample's token ids; None where it holds none."""
    for extension in ("json.gz", "json", "txt"):
        if extension in sample.extensions:
            try:
                content = parse_json(sample.where, sample.read(extension), compressed=extension.endswith(".gz"))
            except BadSampleError:
                return None
            return content if isinstance(content, list) and all(type(each) is int for each in content) else None
    return None


def describe_tokens(place: Path, tokens: list[int]) -> Find:
    """Token shards, by what dataset.json says of all and by their first sample."""
    record = read_dataset_record(place if place.is_dir() else place.parent)
    largest = find_number(record, "counts", "largest_token")
    settings = record.get("settings")
    made_with = settings.get("tokenizer_digest") if isinstance(settings, dict) else None
    return Find(
        "text",
        str(place),
        context=find_number(record, "settings", "context") or max(len(tokens) - 1, 0),
        vocabulary=largest + 1 if largest is not None else 0,
        made_with=made_with if isinstance(made_with, str) else "",
    )


def list_caption_fields(sample: TarSample) -> list[str]:
    """Where a sample's texts stand: `txt`, then keys of its JSON that hold text or a list of texts, captions first."""
    found: list[str] = ["txt"] if "txt" in sample.extensions else []
    for extension in sample.extensions:
        if extension == "json" or extension.endswith(".json"):
            try:
                record = parse_json(sample.where, sample.read(extension), compressed=False)
            except BadSampleError:
                continue
            found += (
                [key for key, value in record.items() if is_caption(key, value)] if isinstance(record, dict) else []
            )
    names = dict.fromkeys(found)
    return sorted(names, key=lambda name: (name != "txt", "caption" not in name, name not in {"syn_text", "orig_text"}))


def is_caption(key: str, value: object) -> bool:
    """Whether a JSON value may be a caption: a sentence, and no address, digest or number."""
    texts = value if isinstance(value, list) else [value]
    name = key.isascii() and key.replace("_", "").replace("-", "").replace(".", "").isalnum() and len(key) <= 60
    return name and bool(texts) and all(isinstance(text, str) and " " in text.strip() for text in texts)


def identify_encoder(folder: Path) -> Find:
    """A folder of transformers, by the encoder that it holds the weights of."""
    problem = ""
    for name, spec in ENCODERS.items():
        if not spec.layers or spec.parts:
            continue
        try:
            check_encoder_folder(spec, folder)
        except (ConfigError, DataError) as error:
            problem = str(error)
        else:
            return Find("encoder", str(folder), encoder=name)
    return Find("encoder", str(folder), problem=problem)


def identify_tasks(folder: Path, entries: list[Path]) -> Find | None:
    """A folder of evaluation tasks: those of its files that can be read as tasks; None without any."""
    found, problem = Find("tasks", str(folder)), ""
    for entry in entries:
        if entry.suffix == ".json" and is_task_file(entry):
            try:
                read_vision_task(folder, Task(name=entry.stem))
                found.vision_tasks.append(entry.stem)
            except (DataError, ValidationError) as error:
                problem = problem or str(error)
        elif entry.suffix == ".yaml" and is_text_task_file(entry):
            try:
                check_text_task(folder, entry.stem)
                found.text_tasks.append(entry.stem)
            except (DataError, ValidationError) as error:
                problem = problem or str(error)
    if not found.text_tasks and not found.vision_tasks:
        return Find("tasks", str(folder), problem=problem) if problem else None
    return found


def check_text_task(folder: Path, name: str) -> None:
    """DataError if the task cannot be read; without the package that reads it, it is taken as it is."""
    try:
        from stages.evaluation.text_task import read_text_task
    except ImportError:
        return
    read_text_task(folder, Task(name=name))


def is_task_file(path: Path) -> bool:
    """Whether a JSON file says how a vision task is asked."""
    head = read_beginning(path)
    return head.lstrip().startswith("{") and '"format"' in head and ('"questions"' in head or '"family"' in head)


def is_text_task_file(path: Path) -> bool:
    """Whether a YAML file is a task of lm-eval."""
    head = read_beginning(path)
    return "output_type:" in head and ("doc_to_text:" in head or "dataset_path:" in head)


def read_beginning(path: Path) -> str:
    """The first characters of a file; none of one that cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(BEGINNING).decode("utf-8", "replace")
    except OSError:
        return ""


# Files, one by one.


def identify_files(folder: Path, files: list[Path]) -> Iterator[Find]:
    """What the files of a folder are; texts of one folder are one find."""
    texts = 0
    for file in files:
        if (found := identify_file(file)) is None:
            continue
        if found.kind == "raw text" and not found.problem:
            texts += 1
        else:
            yield found
    if texts:
        yield Find("raw text", str(folder), samples=texts)


def identify_file(file: Path) -> Find | None:
    """What one file is; None for one that no sweep needs."""
    if file.suffix == ".tar":
        return identify_shards(file)
    if file.suffix == ".json" and (found := identify_json(file)) is not None:
        return found
    if parse_table_kind(file)[0] and (table := identify_table(file)) is not None:
        return table
    return Find("raw text", str(file), samples=1) if has_text(file) else None


def has_text(file: Path) -> bool:
    """Whether `sweep data text` would find text in it: JSON lines have it under `text`."""
    kind, compression = parse_file_kind(file)
    if not kind or not file.stat().st_size:
        return False
    if kind != "jsonl" or compression:
        return kind != "parquet" or "text" in read_table_columns(file)
    try:
        first = json.loads(read_beginning(file).partition("\n")[0])
    except ValueError:
        return False
    return isinstance(first, dict) and isinstance(first.get("text"), str)


def identify_json(file: Path) -> Find | None:
    """A tokenizer or a file of conversations."""
    head = read_beginning(file)
    if head.lstrip().startswith("{") and '"added_tokens"' in head:
        return describe_tokenizer(file)
    if head.lstrip().startswith("[") and '"conversations"' in head:
        large = f"larger than {MOST_BYTES >> 30} GiB, and so not looked at" if file.stat().st_size > MOST_BYTES else ""
        return Find("conversations", str(file), problem=large)
    return None


def describe_tokenizer(file: Path) -> Find:
    """A tokenizer, its ids and its digest."""
    from stages.prepare.inputs import resolve_vocabulary
    from stages.prepare.recipe import compute_file_digest

    found = Find("tokenizer", str(file), made_with=compute_file_digest(file))
    try:
        found.vocabulary = resolve_vocabulary(file, 0, "")
    except ImportError:
        pass  # its ids are looked at where the package is
    except (ConfigError, DataError) as error:
        found.problem = str(error)
    return found


def identify_table(file: Path) -> Find | None:
    """A table of images and captions, by its columns."""
    try:
        names = read_table_columns(file)
        image, captions = choose_columns(str(file), names, CaptionsRecipe())
    except (DataError, ConfigError, OSError, UnicodeDecodeError):
        return None
    return Find("raw captions", str(file), fields=[image, *captions])


def read_table_columns(file: Path) -> list[str]:
    """The names of a table's columns, or of its first row."""
    if parse_table_kind(file)[0] == "parquet":
        return read_column_names(str(file))
    for _, record in iter_records(describe_input(file)):
        return list(record) if isinstance(record, dict) else []
    return []


# Counts.


def count_find(found: Find, tokenizer: str) -> None:
    """Adds samples and lengths to what a sweep can read as it is."""
    if found.problem or found.kind not in {"text", "captions", "conversations"}:
        return
    request = CountRequest(
        kind=found.kind, path=found.path, tokenizer=tokenizer, field=found.fields[0] if found.fields else ""
    )
    counts = count_data_set(request)
    found.problem = counts.problem
    found.samples, found.tokens = counts.samples, counts.tokens
    if counts.measured:
        found.mean_text = sum(tokens * number for tokens, number in counts.lengths.items()) / counts.measured
        found.longest_text = find_long_text(counts)


def find_long_text(counts: Counts) -> int:
    """The length that 99 of 100 measured samples do not exceed."""
    left = 0.99 * counts.measured
    for tokens, number in sorted(counts.lengths.items()):
        left -= number
        if left <= 0:
            return tokens
    return max(counts.lengths)
