"""The settings of a first sweep file: of a size that the data feed and the machine carries. Pure."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jobs.counted import format_counted
from stages.config import LanguageModel
from stages.prepare.finds import Find
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import Catalog, ModelEntry
from sweep.errors import SweepError
from sweep.first_file.findings import Holdings
from sweep.spec.data import STORE_PREFIX, DataKind, resolve_data_path

Device = Literal["cpu", "gpu"]

SMALL_SHAPE = {"d_model": 128, "layers": 2, "heads": 4}
"""Of a model that CPU cores train in minutes, as the demo's."""
CPU_TEXT_TOKENS, CPU_IMAGE_TOKENS = 400_000, 150_000
"""Budgets on CPU cores, at most: about a minute each."""
CPU_CONTEXT, GPU_CONTEXT = 256, 2_048
CPU_STEP_TOKENS = 512
PASSES = 4
"""Over the data, at most: more teach little (Muennighoff et al. 2023)."""
CPU_STEPS, GPU_STEPS = 100, 500
"""Optimizer steps that a run should have at least; smaller batches are taken to reach them."""
IMAGE_SHARE = 0.2
KEPT_VOCABULARIES = range(25_000, 50_433)
"""With a tokenizer of so many ids the catalog's models are taken as they are."""
TASK_LIMIT = 200
"""Documents of a task on CPU cores."""
NAME = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user chose."""

    name: str
    backend: str
    device: Device
    gpu_type: str = ""
    model: str = ""
    """Of the catalog; empty: by the data's size."""


@dataclass(frozen=True, slots=True)
class Places:
    """What the paths of a sweep file are relative to; both absolute."""

    folder: Path
    """Where the file will lie."""
    store: Path

    def write_path(self, path: str) -> str:
        """A path as the sweep file names it; SweepError for one that none can name."""
        place = Path(path)
        given = path
        if place.is_relative_to(self.store):
            given = f"{STORE_PREFIX}{place.relative_to(self.store)}"
        elif place.is_relative_to(self.folder) and place != self.folder:
            given = str(place.relative_to(self.folder))
        try:
            resolve_data_path(given, self.folder, self.store)
        except ValueError as error:
            raise SweepError(f"{error}; rename it, or make a link to it under a plain name") from None
        return given


@dataclass(slots=True, kw_only=True)
class Draft:
    """What the file will say."""

    wishes: Wishes
    data: dict[str, dict[str, Any]]
    remarks: dict[str, str]
    """Data set to a comment behind it."""
    model: str = ""
    own_model: dict[str, Any] | None = None
    encoder: str = ""
    image_tokens: int = 0
    context: int = 0
    """Of pre-training."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Settings of no single phase."""
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)


# Why: docs/decisions.md, D179
def build_draft(wishes: Wishes, holdings: Holdings, places: Places, catalog: Catalog) -> Draft:
    """The settings.

    Raises SweepError for a model that the catalog does not have, and for a path that no sweep file can name.
    """
    draft = Draft(wishes=wishes, data={}, remarks={})
    add_data(draft, holdings, places)
    entry = choose_model(draft, holdings, catalog)
    shape = build_shape(draft, entry)
    text = holdings.find_first("text")
    most = CPU_CONTEXT if wishes.device == "cpu" else GPU_CONTEXT
    draft.context = min((text.context if text else 0) or most, most)
    choose_encoder(draft, holdings)
    add_trunk(draft, entry, shape, text)
    add_image_run(draft, entry, shape, holdings.find_first("captions"))
    add_fine_tune(draft, holdings.find_first("conversations"))
    add_evaluation(draft, holdings.find_first("tasks"))
    add_resources(draft, entry)
    return draft


# Data sets.


def add_data(draft: Draft, holdings: Holdings, places: Places) -> None:
    """An entry for each data set that is there, and for each that lacks."""
    for kind, found in holdings.there.items():
        taken = ""
        for each in found:
            name = name_data_set(kind, Path(each.path), draft.data)
            taken = taken or name
            draft.data[name] = {"kind": kind, "path": places.write_path(each.path), **describe_entry(each)}
            draft.remarks[name] = describe_size(each)
        if len(found) > 1 and kind in ROLES:
            draft.defaults[ROLES[kind]] = taken
    for lack in holdings.lacks:
        name = name_data_set(lack.kind, lack.path, draft.data)
        draft.data[name] = {"kind": lack.kind, "path": places.write_path(str(lack.path))}
        draft.remarks[name] = f"not there yet: {lack.how}"


ROLES: Mapping[DataKind, str] = {
    "text": "text",
    "captions": "captions",
    "conversations": "finetune.conversations",
    "tokenizer": "tokenizer",
    "tasks": "evaluate.tasks",
}
"""The setting that names one of several data sets of a kind."""


def name_data_set(kind: DataKind, path: Path, taken: Mapping[str, object]) -> str:
    """A name of letters that tells the data set from the others."""
    stem = path.name.partition(".")[0] if path.suffix else path.name
    plain = NAME.sub("-", stem).strip("-._+")[:50] or kind
    names = [plain, f"{plain}-{kind}", *(f"{plain}-{kind}-{number}" for number in range(2, len(taken) + 3))]
    return next(name for name in names if name not in taken)


def describe_entry(found: Find) -> dict[str, Any]:
    """What an entry of `data` says beside kind and path."""
    if found.kind == "captions" and found.fields and found.fields[0] != "txt":
        return {"field": found.fields[0]}
    return {"encoder": found.encoder} if found.kind == "encoder" else {}


def describe_size(found: Find) -> str:
    """A comment behind an entry."""
    match found.kind:
        case "text":
            return f"{found.tokens:,} tokens, sequences for a context of {found.context:,}"
        case "captions":
            more = f"; texts in {', '.join(found.fields)}: choose by `field`" if len(found.fields) > 1 else ""
            return f"{format_counted(found.samples, 'image')}, {found.mean_text:.1f} text tokens each{more}"
        case "conversations":
            return f"{found.samples:,} conversations, {found.mean_text:.1f} text tokens each"
        case "tokenizer":
            return f"{found.vocabulary:,} ids" if found.vocabulary else ""
        case _:
            return ""


# The model and its encoder.


def choose_model(draft: Draft, holdings: Holdings, catalog: Catalog) -> ModelEntry | None:
    """Sets the model: the one that was chosen; on CPU cores a small one; else the largest that the text feeds."""
    wishes, vocabulary = draft.wishes, holdings.vocabulary
    if wishes.model and wishes.model not in catalog.models:
        raise SweepError(f"--model {wishes.model!r} is not a model; models are {', '.join(catalog.models)}")
    if not wishes.model and wishes.device == "cpu":
        draft.model, draft.own_model = "small", {**SMALL_SHAPE, **({"vocabulary": vocabulary} if vocabulary else {})}
        return None
    text = holdings.find_first("text")
    fed = [
        name
        for name, entry in catalog.models.items()
        if not text or 20 * entry.shape.parameters <= PASSES * text.tokens
    ]
    name = wishes.model or (fed[-1] if fed and text else "79m" if not text else next(iter(catalog.models)))
    draft.model = name
    if vocabulary and vocabulary not in KEPT_VOCABULARIES:
        draft.model, draft.own_model = f"own-{name}", {"like": name, "vocabulary": 64 * math.ceil(vocabulary / 64)}
    return catalog.models[name]


def build_shape(draft: Draft, entry: ModelEntry | None) -> LanguageModel:
    """The model's shape."""
    own = {name: value for name, value in (draft.own_model or {}).items() if name != "like"}
    return LanguageModel.model_validate({**(entry.shape.model_dump() if entry else {}), **own})


def choose_encoder(draft: Draft, holdings: Holdings) -> None:
    """Sets the encoder and its tokens of an image: one whose weights are there, else one that brings its own."""
    weights = holdings.find_first("encoder")
    if weights is not None and resolve_encoder_spec(weights.encoder).image_tokens <= draft.context * 3 // 4:
        draft.encoder = weights.encoder
    else:
        draft.encoder = "efficientnet-lite0-224" if draft.context >= 1_024 else "efficientnet-lite0"
    draft.image_tokens = resolve_encoder_spec(draft.encoder).image_tokens


# The phases.


def add_trunk(draft: Draft, entry: ModelEntry | None, shape: LanguageModel, text: Find | None) -> None:
    """The text trunk: as many tokens as the model likes, and no more than some passes over the text."""
    liked = 20 * shape.parameters if draft.wishes.device == "gpu" else CPU_TEXT_TOKENS
    budget = min(liked, PASSES * text.tokens) if text is not None and text.tokens else liked
    settings = build_training(draft, budget, liked, usual_batch=entry.batch_sequences if entry else 0)
    steps = budget // (settings["batch_sequences"] * draft.context)
    usual = {"peak_lr": 5e-3, "final_lr": 5e-4} if entry is None else {}
    usual_warmup = entry.warmup_steps if entry else 40
    draft.phases["trunk"] = {**settings, **usual, "warmup_steps": choose_warmup(usual_warmup, steps)}


def add_image_run(draft: Draft, entry: ModelEntry | None, shape: LanguageModel, captions: Find | None) -> None:
    """The image-text run, likewise: its images are shown no more than some times each."""
    liked = 20 * shape.parameters if draft.wishes.device == "gpu" else CPU_IMAGE_TOKENS
    budget = liked
    if captions is not None and captions.samples:
        shown = PASSES * captions.samples * (draft.image_tokens + max(captions.mean_text, 1))
        budget = min(liked, math.ceil(shown / IMAGE_SHARE))
    usual_batch = entry.image_text_batch_sequences if entry else 0
    settings = build_training(draft, budget, liked, usual_batch=usual_batch)
    steps = budget // (settings["batch_sequences"] * draft.context)
    usual = {"restart_lr": 4e-3, "final_lr": 1e-3} if entry is None else {}
    usual_warmup = entry.restart_warmup_steps if entry else 20
    draft.phases["pretrain"] = {**settings, **usual, "restart_warmup_steps": choose_warmup(usual_warmup, steps)}


def build_training(draft: Draft, budget: int, liked: int, *, usual_batch: int) -> dict[str, Any]:
    """Budget, context and batch: the batch is halved until the run has enough steps."""
    context = draft.context
    least = CPU_STEPS if draft.wishes.device == "cpu" else GPU_STEPS
    batch = usual_batch or max(1, CPU_STEP_TOKENS // context)
    while batch > 1 and budget // (batch * context) < least:
        batch //= 2
    budget = max(budget, 4 * batch * context)  # a trunk of two segments, each with a warmup and a step behind it
    return {
        **({"unit_tokens": budget} if draft.wishes.device == "cpu" or budget != liked else {}),
        "context": context,
        "batch_sequences": batch,
        **choose_precision(draft),
    }


def choose_precision(draft: Draft) -> dict[str, Any]:
    """Of CPU cores whatever is fast there."""
    return {"precision": "auto"} if draft.wishes.device == "cpu" else {}


def choose_warmup(usual: int, steps: int) -> int:
    """A tenth of the run at most."""
    return min(usual, max(0, steps // 10))


def add_fine_tune(draft: Draft, talks: Find | None) -> None:
    """The fine-tunes: batches that give an epoch a hundred steps, sequences that hold an image and its words."""
    examples = talks.samples if talks is not None else 0
    largest = 8 if draft.wishes.device == "cpu" else 256
    batch = min(largest, 2 ** int(math.log2(max(examples // 100, 8)))) if examples else largest
    needed = draft.image_tokens + (talks.longest_text if talks is not None else 0) + 8
    length = min(max(64 * math.ceil(needed / 64), min(draft.context, 128)), GPU_CONTEXT)
    usual = {"peak_lr": 1e-3} if draft.own_model is not None and "like" not in draft.own_model else {}
    draft.phases["finetune"] = {**usual, "batch_sequences": batch, "max_length": length, **choose_precision(draft)}


def add_evaluation(draft: Draft, tasks: Find | None) -> None:
    """The tasks that were found; on CPU cores some documents of each."""
    limited = draft.wishes.device == "cpu"

    def name_tasks(names: tuple[str, ...]) -> list[Any]:
        return [{"name": name, "limit": TASK_LIMIT} if limited else name for name in names]

    settings: dict[str, Any] = {}
    if tasks is None:
        settings["text_tasks"] = ["NAME"]
    else:
        settings |= {"text_tasks": name_tasks(tasks.text_tasks)} if tasks.text_tasks else {}
        settings |= {"vision_tasks": name_tasks(tasks.vision_tasks)} if tasks.vision_tasks else {}
    draft.phases["evaluate"] = {**settings, **({"max_new_tokens": 16} if limited else {}), **choose_precision(draft)}


def add_resources(draft: Draft, entry: ModelEntry | None) -> None:
    """What jobs ask for. Small batches are for one GPU: a batch is divided among a job's GPUs."""
    wishes = draft.wishes
    if wishes.device == "cpu":
        draft.resources = {"nodes": 1, "gpus_per_node": 0, "cpus": 1}
        return
    draft.resources["gpu_type"] = wishes.gpu_type
    usual = entry is not None and entry.batch_sequences == draft.phases["trunk"]["batch_sequences"]
    if wishes.backend == "local" or not usual:
        draft.resources |= {"nodes": 1, "gpus_per_node": 1}
