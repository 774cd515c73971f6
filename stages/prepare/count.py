"""Counts data sets for an estimate: samples, images, tokens, requests, with the functions by which stages read them.

It reads no image and no shard whole. What is exact and what is measured on a sample is said in the counts themselves.
Neither torch nor numpy is loaded, so that a login node without them can count; without `tokenizers` tokens are
reckoned from characters, and without jinja2 text tasks are not counted.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.config import Task
from stages.data.addresses import list_local_paths
from stages.data.captions import read_captions
from stages.data.conversations import Conversation, find_conversation_file, parse_record, read_records
from stages.data.prompts import TEMPLATES, PromptTemplate
from stages.data.sample import AbsentSampleError, BadSampleError
from stages.data.shard_sets import iter_folders
from stages.data.shards import MANIFEST, LocalFolder, OpenShard, ShardFolder, index_tar, list_tars
from stages.data.tokenizer import TextTokenizer
from stages.errors import ConfigError, DataError
from stages.evaluation.questions import VisionTask
from stages.evaluation.vision_task import read_vision_task
from stages.prepare.inputs import LARGEST_ID, resolve_tokenizer_file
from stages.prepare.tokenizer_probe import check_tokenizer_speed

SAMPLED = 2_000
"""Samples of captions whose text is measured, evenly spaced; see docs/decisions.md, D90."""
SAMPLED_SHARDS = 8
SAMPLED_CONVERSATIONS = 20_000
MOST_INDEXED = 64
"""Shards without a manifest whose headers are read; of more, so many are, and the others' samples go by their bytes."""
MOST_BYTES = 2 << 30
"""A larger JSON file of conversations is not read: it would take four times as much memory."""
CHARACTERS_PER_TOKEN = 4.0
"""Where no tokenizer can be asked: English text under vocabularies of about 50,000 (GPT-2, GPT-NeoX)."""
QUESTIONS_AT_ONCE = 256
"""As the evaluation asks them (`stages.evaluation.vision`)."""


class CountRequest(BaseModel):
    """One data set, as one kind of job reads it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """text, captions, conversations or tasks."""
    path: str
    """Absolute and local; several places of shards or conversations as `stages.data.addresses` writes them."""
    field: str = ""
    """Of captions: where they stand."""
    prompt: str = "pure"
    """Of conversations and questions: the words around them."""
    tokenizer: str = ""
    """Absolute path of a tokenizer.json; empty: tokens are reckoned from characters."""
    text_tasks: tuple[Task, ...] = ()
    vision_tasks: tuple[Task, ...] = ()


@dataclass(slots=True)
class TaskCounts:
    """One evaluation task."""

    documents: int = 0
    requests: int = 0
    tokens: int = 0
    """Text of all requests: prompts, and answers that are compared."""
    images: int = 0
    """Different ones."""
    new_images: int = 0
    """Those that no earlier task of the list shows."""
    round_images: int = 0
    """Different ones within each round of questions, all rounds together."""
    problem: str = ""
    """Why it is not counted."""


@dataclass(slots=True)
class Counts:
    """What a data set holds; 0 and empty: not known."""

    samples: int = 0
    images: int = 0
    """Different ones."""
    without_image: int = 0
    """Samples that have none, of those measured."""
    tokens: int = 0
    """Of text shards: token ids in all samples, as the first sample of a shard has them."""
    measured: int = 0
    """Samples whose text was measured."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Positions of a sample's text, its image left out: how many of the measured samples have it."""
    by_characters: bool = False
    """Positions were reckoned from characters."""
    shards: int = 0
    opened_shards: int = 0
    """Shards in which samples were measured or counted."""
    manifest: bool = False
    """Samples are those that a manifest states."""
    tasks: dict[str, TaskCounts] = field(default_factory=dict)
    problem: str = ""
    """Why the data set is not counted."""


def read_count_requests(given: str) -> list[CountRequest]:
    """The requests of a JSON list; ConfigError if they are none."""
    try:
        return [CountRequest.model_validate(each) for each in json.loads(given)]
    except (ValueError, TypeError, ValidationError) as error:
        raise ConfigError(f"not a list of requests: {' '.join(str(error).split())}") from error


def count_data_sets(requests: Sequence[CountRequest]) -> list[dict[str, Any]]:
    """The counts of each request, as JSON types. What cannot be read has a `problem`."""
    return [asdict(count_data_set(request)) for request in requests]


def count_data_set(request: CountRequest) -> Counts:
    """The counts of one data set."""
    problem = f"data of kind {request.kind} have no counts"
    try:
        paths = list_local_paths(request.path)
        for path in [*paths, Path(request.tokenizer)] if request.tokenizer else paths:
            check_readable_kind(path)
        ruler = Ruler(request.tokenizer)
        match request.kind:
            case "text":
                return count_text(request.path)
            case "captions":
                return count_captions(request, ruler)
            case "conversations":
                return count_conversations(request, ruler)
            case "tasks":
                return count_tasks(request, ruler)
    except OSError as error:
        problem = f"{error.filename or request.path}: {error.strerror or error}"
    except (DataError, BadSampleError, AbsentSampleError) as error:
        problem = str(error)
    return Counts(problem=problem)


def check_readable_kind(path: Path) -> None:
    """DataError for a pipe, a socket or a device, which might be waited on for ever."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise DataError(f"{path}: neither a file nor a folder")


class Ruler:
    """How many tokens a text is."""

    def __init__(self, tokenizer: str) -> None:
        """`tokenizer`: path of a file; without it, or without the package, texts are measured in characters."""
        self.measure: Callable[[str], int] = measure_characters
        self.by_characters = True
        if not tokenizer or not Path(tokenizer).exists():
            return
        if find_spec("tokenizers") is None:
            return
        check_tokenizer_speed(resolve_tokenizer_file(Path(tokenizer)))
        found = TextTokenizer(Path(tokenizer), LARGEST_ID, literal=True)
        self.by_characters, self.start = False, len(found.start_of_text)
        self.measure = lambda text: len(found.encode(text))

    start: int = 0
    """Tokens that stand before every conversation."""


def measure_characters(text: str) -> int:
    """Tokens by the usual ratio, one at least."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


# Shards of text and of captions.


def count_text(address: str) -> Counts:
    """Samples, and tokens as the first sample of the first shard has them: all samples of a set have one length."""
    counts, names = count_samples(address)
    path = next((path for path in names if path.exists()), None)
    if path is not None:
        with closing(OpenShard(path)) as shard:
            counts.tokens = counts.samples * count_ids(shard)
    return counts


def count_ids(shard: OpenShard) -> int:
    """Token ids of a shard's first sample."""
    from stages.data.text import parse_json

    sample = shard.find_sample(0)
    for extension in ("json.gz", "json", "txt"):
        if extension in sample.extensions:
            found = parse_json(sample.where, sample.read(extension), compressed=extension.endswith(".gz"))
            return len(found) if isinstance(found, list) else 0
    return 0


def count_captions(request: CountRequest, ruler: Ruler) -> Counts:
    """Samples, each with an image of its own, and the lengths of evenly spaced captions."""
    counts, paths = count_samples(request.path)
    counts.images = counts.samples
    present = [path for path in paths if path.exists()]
    chosen = select_evenly(present, SAMPLED_SHARDS)
    fields = [part.strip() for part in request.field.split(",") if part.strip()] or ["txt"]
    lengths: Counter[int] = Counter()
    for path in chosen:
        with closing(OpenShard(path)) as shard:
            numbers = select_evenly(range(len(shard.index)), -(-SAMPLED // len(chosen)))
            for number in numbers:
                counts.measured += add_caption(lengths, shard, number, fields, ruler)
    counts.lengths, counts.by_characters = dict(lengths), ruler.by_characters
    counts.opened_shards = max(counts.opened_shards, len(chosen))
    return counts


def add_caption(lengths: Counter[int], shard: OpenShard, number: int, fields: list[str], ruler: Ruler) -> int:
    """Adds a sample's caption to `lengths`; 1, or 0 if it has none. Of several captions each counts for its part."""
    try:
        found = read_captions(shard.find_sample(number), fields)
    except BadSampleError:
        return 0
    texts = [text for captions in found for text in captions]
    # which of them a run takes is chance: the mean length is what it takes in the long run
    lengths[round(sum(map(ruler.measure, texts)) / len(texts))] += 1
    return 1


def count_samples(address: str) -> tuple[Counts, list[Path]]:
    """The samples of all shards, by manifests or by the tars' headers, and the shards."""
    total, paths = Counts(manifest=True), list[Path]()
    for folder in iter_folders(map(str, list_local_paths(address)), raise_for_remote):
        counts, found = count_folder(folder)
        total.samples, total.shards = total.samples + counts.samples, total.shards + counts.shards
        total.opened_shards += counts.opened_shards
        total.manifest &= counts.manifest
        paths += found
    return total, paths


def raise_for_remote() -> Path:
    """In the place of a folder for copies, where nothing is to be fetched: DataError."""
    raise DataError("a manifest names shards that are elsewhere, which are not looked at from here")


def count_folder(folder: ShardFolder) -> tuple[Counts, list[Path]]:
    """Likewise of one folder, or of chosen shards in it."""
    assert isinstance(folder, LocalFolder)  # noqa: S101 - `raise_for_remote` has refused the others
    described = read_present_counts(folder)
    if described is not None:
        paths = [folder.path / name for name in described]
        return Counts(samples=sum(described.values()), shards=len(paths), manifest=True), paths
    paths = [folder.path / name for name in folder.names] or list_tars(folder.path)
    opened = select_evenly(paths, MOST_INDEXED)
    if not opened:
        raise DataError(f"{folder.path}: no shards")
    samples = sum(len(index_tar(path)) for path in opened)
    if len(opened) < len(paths):
        share = sum(path.stat().st_size for path in opened) / sum(path.stat().st_size for path in paths)
        samples = round(samples / share)
    return Counts(samples=samples, shards=len(paths), opened_shards=len(opened)), paths


def read_present_counts(folder: LocalFolder) -> dict[str, int] | None:
    """Samples by shard as a manifest says, in the order of the folder; None if no manifest knows all of its shards."""
    known = dict(folder.counts)
    if not known:
        if not (folder.path / MANIFEST).exists():
            return None
        known = dict(zip(*LocalFolder(folder.path).load_manifest(), strict=True))
    if set(folder.names) - known.keys():
        return None
    return {name: known[name] for name in folder.names} if folder.names else known


def select_evenly(items: Sequence[Any], most: int) -> list[Any]:
    """`most` of the items, evenly spaced; all of them where there are no more."""
    if len(items) <= most:
        return list(items)
    return [items[place * len(items) // most] for place in range(most)]


# Conversations.


def count_conversations(request: CountRequest, ruler: Ruler) -> Counts:
    """Examples that a job would use, their images, and the lengths of evenly spaced ones."""
    files = [find_conversation_file(path) for path in list_local_paths(request.path)]
    if (large := max(files, key=lambda file: file.stat().st_size)).stat().st_size > MOST_BYTES:
        raise DataError(f"{large}: larger than {MOST_BYTES >> 30} GiB, and so not read for an estimate")
    found = [(file.parent, record) for file in files for record in iter_conversations(file)]
    images = {(folder, record.image) for folder, record in found if record.image}
    records = [record for _, record in found]
    measured = select_evenly(records, SAMPLED_CONVERSATIONS)
    template = TEMPLATES[request.prompt]
    return Counts(
        samples=len(records),
        images=len(images),
        without_image=sum(not record.image for record in measured),
        measured=len(measured),
        lengths=dict(Counter(measure_conversation(record, template, ruler) for record in measured)),
        by_characters=ruler.by_characters,
        shards=len(files),
        opened_shards=len(files),
    )


def iter_conversations(file: Path) -> Iterator[Conversation]:
    """The records that are conversations."""
    for number, record in enumerate(read_records(file)):
        try:
            yield parse_record(f"{file.name}: record {number}", record)
        except BadSampleError:
            continue  # the job counts it, and leaves it out


def measure_conversation(record: Conversation, template: PromptTemplate, ruler: Ruler) -> int:
    """Positions of its text: the last token, an end of text, is a target only."""
    texts = [
        text
        for number, (question, answer) in enumerate(record.turns)
        for text in (template.format_question(question, first=number == 0), template.format_answer(answer))
    ]
    return ruler.start + sum(map(ruler.measure, texts)) + len(record.turns) - 1


# Evaluation tasks.


def count_tasks(request: CountRequest, ruler: Ruler) -> Counts:
    """Each task that has files here; the images of vision tasks in the order in which they are asked."""
    folder, counts = Path(request.path), Counts(by_characters=ruler.by_characters)
    shown: set[Path] = set()
    for task in request.text_tasks:
        counts.tasks[task.name] = count_text_task(folder, task, ruler)
    for task in request.vision_tasks:
        try:
            found = read_vision_task(folder, task)
            counts.tasks[task.name] = count_vision_task(found, TEMPLATES[request.prompt], ruler, shown)
        except DataError as error:
            counts.tasks[task.name] = TaskCounts(problem=str(error))
    return counts


def count_vision_task(task: VisionTask, template: PromptTemplate, ruler: Ruler, shown: set[Path]) -> TaskCounts:
    """Questions and their images; those seen are added to `shown`."""
    images = [task.folder / question.image for question in task.questions]
    rounds = [images[start : start + QUESTIONS_AT_ONCE] for start in range(0, len(images), QUESTIONS_AT_ONCE)]
    different = set(images)
    counts = TaskCounts(
        documents=len(images),
        requests=len(images),
        tokens=sum(
            ruler.start + ruler.measure(template.format_question(task.format_prompt(question)))
            for question in task.questions
        ),
        images=len(different),
        new_images=len(different - shown),
        round_images=sum(len(set(part)) for part in rounds),
    )
    shown |= different
    return counts


def count_text_task(folder: Path, task: Task, ruler: Ruler) -> TaskCounts:
    """Documents, requests and their tokens, as lm-eval makes them of the task's rows."""
    if task.trusted:
        return TaskCounts(problem="lm-eval reads it itself (trusted)")
    try:
        from stages.evaluation.text_task import read_text_task, render_requests
    except ImportError as error:
        return TaskCounts(problem=f"the package {error.name} is not installed")
    try:
        found = read_text_task(folder, task)
        requests = [request for row in found.rows for request in render_requests(found.settings, row)]
    except DataError as error:
        return TaskCounts(problem=str(error))
    tokens = sum(ruler.start + (ruler.measure(text) if text else 0) for text in requests)
    # a text without context is predicted from the end-of-text token
    rolling = found.settings["output_type"] == "loglikelihood_rolling"
    return TaskCounts(
        documents=len(found.rows), requests=len(requests), tokens=tokens + (len(requests) if rolling else 0)
    )
