"""What can be known of a job's inputs before it is sent, by reading little: `python -m stages.prepare inspect`.

It opens what a job will open, with the stages' own functions, and reads the first and some evenly spaced samples. What
it tells would end a job, or is so often wrong in what was read that the job's limit of bad samples would. Packages that
are not installed here (torch, tokenizers, jinja2) leave out what needs them.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stages.config import Task
from stages.data.addresses import MANIFEST_SUFFIX, has_several_places, is_remote, list_near_paths, split_places
from stages.data.captions import open_image_member, read_captions
from stages.data.conversations import (
    Conversation,
    ConversationReader,
    ImageFiles,
    find_conversation_file,
    parse_record,
    read_records,
)
from stages.data.prompts import TEMPLATES
from stages.data.sample import AbsentSampleError, BadSampleError
from stages.data.shards import MANIFEST, OpenShard, TarSample, list_tars, read_listed_places, read_manifest
from stages.data.text import check_ids, check_length, read_token_ids
from stages.data.tokenizer import TextTokenizer, check_tokenizer
from stages.errors import ConfigError, DataError
from stages.evaluation.questions import check_images
from stages.evaluation.vision_task import read_vision_task
from stages.prepare.count import MOST_BYTES, check_readable_kind, select_evenly
from stages.prepare.recipe import compute_file_digest
from stages.vision.encoder_folder import check_encoder_folder
from stages.vision.image_input import ImageInput
from stages.vision.specs import resolve_encoder_spec

SHARDS_READ = 3
PLACES_READ = 3
"""Of an address that means several."""
SAMPLES_READ = 16
"""Of each shard."""
CONVERSATIONS_READ = 256
ROWS_READ = 100
"""Rows of a text task that are made into requests."""
NAMES_SHOWN = 8
DATASET = "dataset.json"


class InputRequest(BaseModel):
    """One input as the jobs of a sweep read it; what is empty or 0 is not asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["text", "captions", "conversations", "tokenizer", "encoder", "tasks"]
    path: str
    """Absolute; what is local of it is there."""
    field: str = ""
    """Of captions: where they stand."""
    context: int = 0
    """Most positions of a sequence, or of a conversation."""
    vocabulary: int = 0
    """Ids of the model."""
    tokenizer: str = ""
    """Absolute path of the tokenizer that reads it, or that its tokens are of."""
    prompts: tuple[str, ...] = ()
    """Templates of fine-tunes; empty: the texts are read as in pre-training."""
    encoder: str = ""
    bad_samples_limit: int = 100
    text_tasks: tuple[Task, ...] = ()
    vision_tasks: tuple[Task, ...] = ()


@dataclass(frozen=True, slots=True)
class Complaint:
    """Something that is missing or does not fit."""

    what: str
    """Names the file."""
    cure: str
    task: str = ""
    """The evaluation task that it is about."""


@dataclass(slots=True)
class Inspection:
    """What was found of one input."""

    complaints: list[Complaint] = field(default_factory=list)
    missing_package: str = ""
    """Not installed here, so that a part was not looked at."""

    def render_json(self) -> dict[str, Any]:
        return asdict(self)


def read_input_requests(given: str) -> list[InputRequest]:
    """The requests of a JSON list; ConfigError if they are none."""
    try:
        return [InputRequest.model_validate(each) for each in json.loads(given)]
    except (ValueError, TypeError, ValidationError) as error:
        raise ConfigError(f"not a list of requests: {' '.join(str(error).split())}") from error


def inspect_inputs(requests: Sequence[InputRequest]) -> list[dict[str, Any]]:
    """Of each request an `Inspection`, as JSON types."""
    return [inspect_input(request).render_json() for request in requests]


def divide_request(request: InputRequest, places: Sequence[Path]) -> list[InputRequest]:
    """Shards in several places are one data set; files of conversations are read one by one, some of them."""
    if request.kind != "conversations":
        return [request]
    return [request.model_copy(update={"path": str(place)}) for place in select_evenly(places, PLACES_READ)]


CURES = {
    "text": "correct the path, or make the shards again (`sweep data text`)",
    "captions": "correct the path or field; `sweep data check` reads all of it",
    "conversations": "correct the path or the file; `sweep data check` reads all of it",
    "tokenizer": "name a tokenizer.json that fits the model",
    "encoder": "name a folder of transformers with this encoder's config.json and model.safetensors",
    "tasks": "correct the task's file",
}
"""What would do where an error says no more."""


def inspect_input(request: InputRequest) -> Inspection:
    """What is wrong with one input."""
    found, cure = Inspection(), CURES[request.kind]
    try:
        places = list_near_paths(request.path)
        for path in [*select_evenly(places, PLACES_READ), *([Path(request.tokenizer)] if request.tokenizer else [])]:
            check_readable_kind(path)
        for each in divide_request(request, places):
            found.complaints += INSPECTIONS[request.kind](each)
    except ImportError as error:
        found.missing_package = error.name or str(error)
    except PermissionError as error:
        problem = f"{error.filename or request.path}: {error.strerror}"
        found.complaints.append(Complaint(problem, "have its owner let you read it (chmod, setfacl)"))
    except OSError as error:
        found.complaints.append(Complaint(f"{error.filename or request.path}: {error.strerror or error}", cure))
    except (DataError, ConfigError) as error:
        found.complaints.append(Complaint(str(error), cure))
    return found


# Shards of text and of captions.


@dataclass(frozen=True, slots=True)
class ShardList:
    """The shards of a folder, by its manifest or by its tars."""

    paths: Sequence[Path]
    samples: int | None
    """By the manifest; None without one."""


def list_address_shards(address: str) -> ShardList:
    """As `list_input_shards`, of all places of an address that are on this machine; none where all are elsewhere."""
    if not has_several_places(address) and not address.endswith(MANIFEST_SUFFIX):
        return list_input_shards(Path(address))
    paths: list[Path] = []
    elsewhere = any(map(is_remote, split_places(address)))
    for place in list_near_paths(address):
        if place.is_dir():
            paths += list_input_shards(place).paths
        elif place.name.endswith(MANIFEST_SUFFIX):
            listed = read_listed_places(place)
            paths += [Path(each) for each in listed if not is_remote(each)]
            elsewhere |= any(map(is_remote, listed))
        else:
            paths.append(place)
    if elsewhere and not paths:
        return ShardList([], None)
    if not paths:
        raise DataError(f"{address}: no samples; tars, or folders of tars, are expected")
    for path in (paths[0], paths[-1]):
        if not path.stat().st_size:
            raise DataError(f"{path}: an empty file; copy it again")
    return ShardList(paths, None)


def list_input_shards(folder: Path) -> ShardList:
    """DataError where there are none, where one that the manifest names is missing or empty, or where they have no
    samples."""
    if (folder / MANIFEST).exists():
        names, sizes = read_manifest(str(folder / MANIFEST), (folder / MANIFEST).read_bytes())
        present = set(os.listdir(folder))  # noqa: PTH208 - names alone: one question, not one for each shard
        if missing := [name for name in names if name not in present]:
            raise DataError(f"{folder / MANIFEST}: {len(missing)} of {len(names)} shards are not there: {missing[0]}")
        shards = ShardList([folder / name for name in names], sum(sizes))
    else:
        shards = ShardList(list_tars(folder), None)
    if not shards.paths or shards.samples == 0:
        raise DataError(f"{folder}: no samples; a folder of tars with a {MANIFEST}, or a tar, is expected")
    for path in (shards.paths[0], shards.paths[-1]):
        if not path.stat().st_size:
            raise DataError(f"{path}: an empty file; copy it again")
    return shards


def iter_samples(paths: Sequence[Path]) -> Iterator[TarSample]:
    """Some samples of some of the shards, the first of each among them. DataError for a shard that is not whole."""
    for path in select_evenly(paths, SHARDS_READ):
        with closing(OpenShard(path)) as shard:
            if not len(shard.index):
                raise DataError(f"{path}: no samples in it")
            for number in select_evenly(range(len(shard.index)), SAMPLES_READ):
                try:
                    yield shard.find_sample(number)
                except (BadSampleError, AbsentSampleError):
                    continue


def inspect_text(request: InputRequest) -> Iterator[Complaint]:
    """Token shards against the context and the vocabulary of the models, and against the tokenizer."""
    shards = list_address_shards(request.path)
    if not shards.paths:
        return
    folder = shards.paths[0].parent
    recorded = read_dataset_record(folder)
    complaint = find_recorded_misfit(request, folder / DATASET, recorded)
    if complaint is None:
        complaint = find_text_misfit(request, shards)
    if complaint is not None:
        yield complaint
    if complaint := find_other_tokenizer(request, folder / DATASET, recorded):
        yield complaint


def read_dataset_record(folder: Path) -> dict[str, Any]:
    """What dataset.json says; nothing where there is none. DataError if it cannot be read."""
    path = folder / DATASET
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable: {error}") from error
    return content if isinstance(content, dict) else {}


def find_number(record: dict[str, Any], part: str, name: str) -> int | None:
    """A whole number of dataset.json."""
    found = record.get(part)
    value = found.get(name) if isinstance(found, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def find_recorded_misfit(request: InputRequest, path: Path, record: dict[str, Any]) -> Complaint | None:
    """By what dataset.json says of all sequences."""
    made_for, largest = find_number(record, "settings", "context"), find_number(record, "counts", "largest_token")
    if made_for is not None and request.context > made_for:
        return build_context_complaint(f"{path}: made for context {made_for}", request.context)
    if largest is not None and 0 < request.vocabulary <= largest:
        return build_vocabulary_complaint(f"{path}: holds token id {largest}", request.vocabulary)
    return None


def build_context_complaint(what: str, context: int) -> Complaint:
    """Of shards whose sequences are too short."""
    cure = f"lower the context, or make the shards again with `sweep data text --context {context}`"
    return Complaint(f"{what}; context {context} needs sequences of {context + 1} tokens", cure)


def build_vocabulary_complaint(what: str, vocabulary: int) -> Complaint:
    """Of shards with token ids that the model does not have."""
    cure = "raise the model's vocabulary, or take shards that were made with the model's tokenizer"
    return Complaint(f"{what}, beyond the model's vocabulary of {vocabulary}", cure)


def find_text_misfit(request: InputRequest, shards: ShardList) -> Complaint | None:
    """By the samples that are read. One foreign token id is enough; other samples may be bad, but not all of them."""
    reason = ""
    read = good = 0
    for sample in iter_samples(shards.paths):
        read += 1
        try:
            tokens = read_token_ids(sample)
            if request.vocabulary and (largest := int(max(tokens, default=0))) >= request.vocabulary:
                return build_vocabulary_complaint(f"{shards.paths[0].parent}: {sample.where}: token id {largest}",
                                                  request.vocabulary)  # fmt: skip
            check_length(sample.where, tokens, request.context or 1)
            check_ids(sample.where, tokens, request.vocabulary or int(max(tokens)) + 1)
            good += 1
        except BadSampleError as error:
            reason = reason or str(error)
    if good or not read:
        return None
    return Complaint(
        f"{shards.paths[0].parent}: none of {read} samples that were read can be used: {reason}",
        f"make the shards again with `sweep data text --context {request.context}`, or lower the context",
    )


def find_other_tokenizer(request: InputRequest, path: Path, record: dict[str, Any]) -> Complaint | None:
    """Where dataset.json names another tokenizer's digest than that of the sweep's."""
    settings = record.get("settings")
    made_with = settings.get("tokenizer_digest") if isinstance(settings, dict) else None
    file = Path(request.tokenizer)
    if not (isinstance(made_with, str) and made_with and request.tokenizer and file.exists()):
        return None
    file = file / "tokenizer.json" if file.is_dir() else file
    if compute_file_digest(file) == made_with:
        return None
    return Complaint(
        f"{path}: its tokens were made with another tokenizer (SHA-256 {made_with[:12]}...) than {file}",
        "name that tokenizer, or make the shards again with this one; where both give the same ids, --ignore-data",
    )


def inspect_captions(request: InputRequest) -> Iterator[Complaint]:
    """Captioned images: at least one sample can be used, and images and captions stand where they are looked for."""
    shards = list_address_shards(request.path)
    if not shards.paths:
        return
    fields = [part.strip() for part in request.field.split(",") if part.strip()] or ["txt"]
    probe = UndecodedImages(request.encoder) if request.encoder else None
    bad: list[str] = []
    read, keys = 0, dict[str, None]()
    for sample in iter_samples(shards.paths):
        read += 1
        keys |= dict.fromkeys(list_caption_places(sample))
        try:
            read_image = open_image_member(sample)
            read_captions(sample, fields)
            if probe is not None:
                probe.read(sample.where, read_image)
        except BadSampleError as error:
            bad.append(str(error))
    if read and are_too_many(bad, read, shards.samples or read, request.bad_samples_limit):
        places = f"; these samples have {', '.join([*keys][:NAMES_SHOWN])}" if keys else ""
        yield Complaint(
            f"{request.path}: {len(bad)} of {read} samples that were read cannot be used: {bad[0]}",
            f"set field to where the captions stand{places}, or take other shards",
        )


def list_caption_places(sample: TarSample) -> list[str]:
    """Where a caption may stand: the text file, and the keys of the JSON file with a text."""
    places = ["txt"] if "txt" in sample.extensions else []
    if "json" in sample.extensions:
        try:
            content = json.loads(sample.read("json"))
        except (ValueError, RecursionError, BadSampleError):
            return places
        if isinstance(content, dict):
            places += [str(key)[:60] for key, value in content.items() if isinstance(value, str | list)]
    return places


# Why: docs/decisions.md, D139
def are_too_many(bad: Sequence[str], read: int, samples: int, limit: int) -> bool:
    """Whether a job would end: all are bad, or, by several of those read, more than its limit of all samples."""
    return len(bad) == read or (len(bad) > 1 and len(bad) * samples > limit * read)


class UndecodedImages:
    """In the place of a stage's image reader: the bytes are read, and nothing is made of them."""

    def __init__(self, encoder: str) -> None:
        self.image_tokens = resolve_encoder_spec(encoder).image_tokens

    def read(self, where: str, content: Callable[[], bytes]) -> ImageInput:  # noqa: ARG002 - a form
        """BadSampleError for an image that is not there."""
        content()
        return ImageInput("")


# Conversations.


def inspect_conversations(request: InputRequest) -> Iterator[Complaint]:
    """Records, their images, and whether an answer fits: with the reader of the job, images undecoded."""
    file = find_conversation_file(Path(request.path))
    if file.stat().st_size > MOST_BYTES:
        return
    records = read_records(file)
    if not records:
        raise DataError(f"{file}: an empty list; no conversation in it")
    chosen = select_evenly(range(len(records)), CONVERSATIONS_READ)
    bad: list[str] = []
    for check in build_conversation_checks(request, file):
        bad = []
        for number in chosen:
            try:
                check(parse_record(f"{file.name}: record {number}", records[number]))
            except BadSampleError as error:
                bad.append(str(error))
        if are_too_many(bad, len(chosen), len(records), request.bad_samples_limit):
            yield Complaint(
                f"{file}: {len(bad)} of {len(chosen)} conversations that were read cannot be used: {bad[0]}",
                find_conversation_cure(bad[0], file),
            )
            return  # the next check would say the same again


def build_conversation_checks(request: InputRequest, file: Path) -> Iterator[Callable[[Conversation], object]]:
    """Form and images first, which need no package; then the whole of it, by each template."""
    images = ImageFiles(file.parent)
    yield lambda record: images.read(record.where, record.image) if record.image else None
    if not (request.tokenizer and request.context and Path(request.tokenizer).exists()):
        return
    for prompt in request.prompts or ("",):
        try:
            tokenizer = TextTokenizer(
                Path(request.tokenizer), request.vocabulary or (1 << 32), literal=bool(request.prompts)
            )
        except DataError:
            return  # told of the tokenizer itself
        how: dict[str, Any] = (
            {"template": TEMPLATES[prompt], "start": tokenizer.start_of_text} if request.prompts else {}
        )
        reader = ConversationReader(
            file.parent,
            tokenizer=tokenizer,
            images=UndecodedImages(request.encoder) if request.encoder else None,
            max_length=request.context,
            **how,
        )
        yield reader.read_document


def find_conversation_cure(reason: str, file: Path) -> str:
    """What would do about the first conversation that cannot be used."""
    if "there is no image" in reason or "lies outside" in reason:
        return f"put the images below {file.parent}, in folders or tars, under the names of the records"
    if "no answer within" in reason:
        return "raise the longest sequence (finetune.max_length), or take an encoder with fewer tokens of an image"
    return CURES["conversations"]


# Tokenizers and encoders.


def inspect_tokenizer(request: InputRequest) -> Iterator[Complaint]:
    """Whether it loads, its ids are the model's, and its special tokens do what fine-tuning asks of them."""
    path = Path(request.path)
    try:
        tokenizer = TextTokenizer(path, request.vocabulary or (1 << 32), literal=bool(request.prompts))
    except DataError as error:
        cure = CURES["tokenizer"]
        if "beyond the model's vocabulary" in str(error):
            cure = "raise the model's vocabulary above that id, or take the tokenizer that the model is meant for"
        elif "no end-of-text token" in str(error):
            cure = "add one of these special tokens to the file, or take another tokenizer"
        yield Complaint(str(error), cure)
        return
    for prompt in request.prompts:
        try:
            check_tokenizer(tokenizer, TEMPLATES[prompt])
        except DataError as error:
            yield Complaint(str(error), "take another tokenizer")
            return


def inspect_encoder(request: InputRequest) -> Iterator[Complaint]:
    """The folder's configuration and the headers of its weights against the encoder's sizes."""
    try:
        check_encoder_folder(resolve_encoder_spec(request.encoder), Path(request.path))
    except (ConfigError, DataError) as error:
        yield Complaint(str(error), f"name a folder with the weights of {request.encoder}, or change the encoder")


# Evaluation tasks.


def inspect_tasks(request: InputRequest) -> Iterator[Complaint]:
    """Each task's file, its data and its images. A task that another cannot be read for is still looked at."""
    folder = Path(request.path)
    for task in request.text_tasks:
        if not task.trusted and (complaint := inspect_text_task(folder, task)):
            yield complaint
    for task in request.vision_tasks:
        if complaint := inspect_vision_task(folder, task):
            yield complaint


def inspect_text_task(folder: Path, task: Task) -> Complaint | None:
    """The task as the evaluation reads it, and the requests of its first rows."""
    from stages.evaluation.text_task import read_text_task, render_requests

    if complaint := find_missing_task(folder, task, ".yaml"):
        return complaint
    try:
        found = read_text_task(folder, task)
        for number, row in enumerate(found.rows[:ROWS_READ], start=1):
            try:
                render_requests(found.settings, row)
            except DataError as error:
                return Complaint(
                    f"{folder / f'{task.name}.yaml'}: row {number} of its data does not fill it: {error}",
                    f"correct the task's fields, or its data (a row has {', '.join([*row][:NAMES_SHOWN])})",
                    task.name,
                )
    except DataError as error:
        return Complaint(str(error), CURES["tasks"], task.name)
    return None


def inspect_vision_task(folder: Path, task: Task) -> Complaint | None:
    """The task as the evaluation reads it, and whether its images are there."""
    if complaint := find_missing_task(folder, task, ".json"):
        return complaint
    path = folder / f"{task.name}.json"
    try:
        found = read_vision_task(folder, task)  # of a published benchmark it looks for all images itself
        if found.folder == folder:
            check_images(path, folder, found.questions)
        for question in found.questions[:ROWS_READ]:
            found.resolve_image(question)
    except DataError as error:
        missing = "images are not in" in str(error)
        return Complaint(str(error), "put the images there" if missing else CURES["tasks"], task.name)
    return None


def find_missing_task(folder: Path, task: Task, suffix: str) -> Complaint | None:
    """A complaint about a task without a file, with the names that are like it."""
    path = folder / f"{task.name}{suffix}"
    if path.exists():
        return None
    there = sorted(each.stem for each in folder.glob(f"*{suffix}"))
    close = get_close_matches(task.name, there, n=1)
    known = f"is it {close[0]}? " if close else ""
    known += f"tasks there are {', '.join(there[:NAMES_SHOWN])}" if there else "there are no such tasks in that folder"
    return Complaint(f"{path}: there is no such file, and so no task {task.name}", known, task.name)


INSPECTIONS: dict[str, Callable[[InputRequest], Iterator[Complaint]]] = {
    "text": inspect_text,
    "captions": inspect_captions,
    "conversations": inspect_conversations,
    "tokenizer": inspect_tokenizer,
    "encoder": inspect_encoder,
    "tasks": inspect_tasks,
}
