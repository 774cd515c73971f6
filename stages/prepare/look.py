"""What lies in folders and files that someone points at: `python -m stages.prepare look`, behind `sweep init`.

It finds what a sweep file can name (token shards, captioned images, conversations, tokenizers, evaluation tasks,
weights of encoders) with the functions by which jobs read them, and what the commands of `sweep data` can make such
data of (texts, images with captions). It reads little, follows no link to a folder, and counts as `count` does.
"""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.config import Task
from stages.data.captions import IMAGE_EXTENSIONS
from stages.data.conversations import AS_JSON
from stages.data.sample import BadSampleError
from stages.data.shards import OpenShard, TarSample, list_tars
from stages.data.text import parse_json
from stages.errors import ConfigError, DataError
from stages.evaluation.vision_task import read_vision_task
from stages.prepare.check_inputs import find_number, read_dataset_record
from stages.prepare.count import MOST_BYTES, CountRequest, Counts, count_data_set
from stages.prepare.finds import Find
from stages.prepare.inputs import KNOWN
from stages.prepare.raw_data import (  # fmt: skip
    describe_contents,
    describe_texts,
    find_text_field,
    identify_conversation_lines,
    identify_table,
    is_sentence,
    read_examples,
)
from stages.vision.encoder_folder import check_encoder_folder
from stages.vision.specs import ENCODERS

DEEPEST = 5
"""Levels of folders below the one that is given."""
MOST_ENTRIES = 20_000
"""Files and folders that are looked at; a folder of images counts once."""
BARE_IMAGES = "images without captions: put NAME.txt beside each, or name a table of images and captions"
BEGINNING = 1 << 16
"""Bytes of a JSON file that say what it is."""


class LookRequest(BaseModel):
    """One place, and what its owner says it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Absolute and local."""
    kind: str = ""
    """`text`, `captions`, `conversations`, `tokenizer`, `tasks`, `encoder`; empty: whatever is found below it."""


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
    return [[asdict(count_find(each, tokenizer)) for each in finds] for finds in found]


def find_at_place(request: LookRequest) -> list[Find]:
    """Likewise of one place, not yet counted. What cannot be read has a `problem`."""
    place = Path(request.path)
    try:
        if not place.exists():
            return [Find(request.kind or "raw text", request.path, problem="there is nothing")]
        found = list(iter_finds(place))
    except OSError as error:
        return [Find(request.kind or "raw text", request.path, problem=f"{error.strerror or error}")]
    found = [each for each in found if not (each.problem == BARE_IMAGES and is_explained(each, found))]
    if not request.kind:
        return found
    fitting = [each for each in found if each.kind.removeprefix("raw ") == request.kind]
    return fitting or [Find(request.kind, request.path, problem=describe_misfit(place, request.kind, found))]


def is_explained(images: Find, found: list[Find]) -> bool:
    """Whether images without captions belong to something else: to talks, to tasks, to a table that names them."""
    for each in found:
        folder = Path(each.path) if each.kind == "tasks" else Path(each.path).parent
        if each.kind in {"conversations", "raw conversations", "tasks"} and Path(images.path).is_relative_to(folder):
            return True
        if each.kind == "raw captions" and each.fields and (images.path in each.options or images.path == str(folder)):
            return True
    return False


def describe_misfit(place: Path, kind: str, found: list[Find]) -> str:
    """Why a place is not of the kind that it is said to be, by what it holds."""
    kinds = list(dict.fromkeys(each.kind for each in found if not each.problem))
    what = f"it holds {', '.join(kinds)}" if kinds else describe_contents(place)
    cure = {
        "captions": "; images have NAME.txt beside them, or a table names them: "
        "sweep data captions TABLE --image COLUMN --caption COLUMN",
        "conversations": f"; {AS_JSON}",
        "text": f"; texts are {KNOWN}: sweep data text FILE --field COLUMN",
    }.get(kind, "")
    return f"nothing there is of kind {kind}: {what}{cure}"


def iter_finds(place: Path) -> Iterator[Find]:
    """What a file or folder holds, in the order of the names."""
    if place.is_file():
        yield from identify_files(place.parent, [place], has_folders=True)
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
        below = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
        yield from identify_files(folder, files, has_folders=bool(below))
        if depth < DEEPEST:
            folders += [(entry, depth + 1) for entry in below]


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
    if captioned:
        return [Find("raw captions", str(folder), samples=captioned, fields=("txt",))]
    return [Find("raw captions", str(folder), samples=len(images), problem=BARE_IMAGES)] if images else []


def identify_shards(place: Path) -> Find | None:
    """A tar, or a folder of tars, by its first sample; None for tars that hold neither tokens nor images."""
    try:
        with closing(OpenShard(list_tars(place)[0])) as shard:
            sample = shard.find_sample(0)
            if any(name in IMAGE_EXTENSIONS for name in sample.extensions):
                return Find("captions", str(place), fields=tuple(list_caption_fields(sample)))
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
    name = key.isascii() and key.replace("_", "").replace("-", "").replace(".", "").isalnum() and len(key) <= 60
    return name and is_sentence(value)


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
    text_tasks: list[str] = []
    vision_tasks: list[str] = []
    problem = ""
    for entry in entries:
        if entry.suffix == ".json" and is_task_file(entry):
            try:
                read_vision_task(folder, Task(name=entry.stem))
                vision_tasks.append(entry.stem)
            except (DataError, ValidationError) as error:
                problem = problem or str(error)
        elif entry.suffix == ".yaml" and is_text_task_file(entry):
            try:
                check_text_task(folder, entry.stem)
                text_tasks.append(entry.stem)
            except (DataError, ValidationError) as error:
                problem = problem or str(error)
    if not text_tasks and not vision_tasks:
        return Find("tasks", str(folder), problem=problem) if problem else None
    return Find("tasks", str(folder), text_tasks=tuple(text_tasks), vision_tasks=tuple(vision_tasks))


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


def identify_files(folder: Path, files: list[Path], *, has_folders: bool) -> Iterator[Find]:
    """What the files of a folder are; texts of a folder that holds nothing else are one find."""
    texts: dict[Path, str] = {}
    others: list[Path] = []
    for file in files:
        is_list = file.suffix == ".json" and read_beginning(file).lstrip().startswith("[")  # one value, no lines
        records = [] if is_list else read_examples(file)
        if (found := identify_file(file, records)) is not None:
            yield found
        elif (field := find_text_field(file, records)) is not None:
            texts[file] = field
        else:
            others.append(file)
    yield from describe_texts(folder, texts, others, has_folders=has_folders)


def identify_file(file: Path, records: list[dict[str, Any]]) -> Find | None:
    """What one file is; None for text, and for one that no sweep needs. `records`: its first ones, of a table."""
    if file.suffix == ".tar":
        return identify_shards(file)
    if file.suffix == ".json" and (found := identify_json(file)) is not None:
        return found
    return identify_conversation_lines(file, records) or identify_table(file, records)


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
        return replace(found, vocabulary=resolve_vocabulary(file, 0, ""))
    except ImportError:
        return found  # its ids are looked at where the package is
    except (ConfigError, DataError) as error:
        return replace(found, problem=str(error))


# Counts.


def count_find(found: Find, tokenizer: str) -> Find:
    """With samples and lengths, where a sweep can read it as it is."""
    if found.problem or found.kind not in {"text", "captions", "conversations"}:
        return found
    request = CountRequest(
        kind=found.kind, path=found.path, tokenizer=tokenizer, field=found.fields[0] if found.fields else ""
    )
    counts = count_data_set(request)
    found = replace(found, problem=counts.problem, samples=counts.samples, tokens=counts.tokens)
    if not counts.measured:
        return found
    mean = sum(tokens * number for tokens, number in counts.lengths.items()) / counts.measured
    return replace(found, mean_text=mean, longest_text=find_long_text(counts))


def find_long_text(counts: Counts) -> int:
    """The length that 99 of 100 measured samples do not exceed."""
    left = 0.99 * counts.measured
    for tokens, number in sorted(counts.lengths.items()):
        left -= number
        if left <= 0:
            return tokens
    return max(counts.lengths)
