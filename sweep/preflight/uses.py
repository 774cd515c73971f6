"""Which inputs the jobs of a plan read, and how: one question for each that is read in another way."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from jobs.job import Job
from stages.config import (
    STAGES,
    EvaluateConfig,
    FinetuneConfig,
    PretrainConfig,
    StageConfig,
    Task,
    Vision,
    find_engine,
)
from sweep.spec.data import find_part_name, list_weighted_parts

BAD_SAMPLES_LIMIT = 100
"""The stages' own, where a job's settings do not say (`stages.job_file.Settings`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputUse:
    """A data set as jobs read it: the request of `stages.prepare.check_inputs`. Empty or 0: not asked for."""

    name: str
    """Of the data set in the sweep file."""
    kind: str
    """A kind of data; empty: read by a program that is not ours, so that nothing is known but where it lies."""
    path: str
    field: str = ""
    context: int = 0
    vocabulary: int = 0
    tokenizer: str = ""
    """Path of the tokenizer."""
    prompts: tuple[str, ...] = ()
    encoder: str = ""
    bad_samples_limit: int = BAD_SAMPLES_LIMIT
    text_tasks: tuple[Task, ...] = ()
    vision_tasks: tuple[Task, ...] = ()

    def build_request(self) -> dict[str, Any]:
        """As JSON types."""
        plain = ("kind", "path", "field", "context", "vocabulary", "tokenizer", "encoder", "bad_samples_limit")
        tasks = {name: [each.model_dump() for each in getattr(self, name)] for name in ("text_tasks", "vision_tasks")}
        return {**{name: getattr(self, name) for name in plain}, "prompts": list(self.prompts), **tasks}


@dataclass(frozen=True, slots=True)
class SeenModel:
    """What a job's parents decide of how it reads: the model's vocabulary and how it sees images."""

    vocabulary: int
    vision: Vision | None

    @property
    def encoder(self) -> str:
        return self.vision.encoder if self.vision else ""


@dataclass(frozen=True, slots=True)
class ReadConfig:
    """A job's configuration beside what it inherits."""

    phase: str
    config: StageConfig
    model: SeenModel | None
    bad_samples_limit: int
    engine: tuple[str, str, str] | None
    """Kind, program and checkout of the engine that carries it out."""


def map_configs(jobs: Sequence[Job]) -> dict[str, ReadConfig]:
    """The configuration of each job of a stage of ours, by key; equal ones are one object.

    Jobs of one kind share their configuration, so that a large grid has few.
    """
    typed: dict[int, StageConfig | None] = {}
    models: dict[str, SeenModel] = {}
    equal: dict[tuple[object, ...], ReadConfig] = {}
    found: dict[str, ReadConfig] = {}
    for job in jobs:  # parents come before children
        if id(job.config) not in typed:
            typed[id(job.config)] = parse_config(job)
        config = typed[id(job.config)]
        if config is None:
            continue
        if isinstance(config, PretrainConfig):
            models[job.key] = SeenModel(config.model.vocabulary, config.vision)
        elif inherited := next((models[parent] for parent in job.parents if parent in models), None):
            models[job.key] = inherited
        limit = job.settings.get("bad_samples_limit", BAD_SAMPLES_LIMIT)
        read = ReadConfig(
            phase=job.phase,
            config=config,
            model=models.get(job.key),
            bad_samples_limit=limit if isinstance(limit, int) else BAD_SAMPLES_LIMIT,
            engine=describe_engine(job, config),
        )
        found[job.key] = equal.setdefault((id(job.config), job.phase, read.model, limit, read.engine), read)
    return found


def read_configs(jobs: Sequence[Job], chosen: Collection[str]) -> list[ReadConfig]:
    """The different configurations of the `chosen` jobs, in the order of `jobs`."""
    found = map_configs(jobs)
    return list({id(found[job.key]): found[job.key] for job in jobs if job.key in chosen and job.key in found}.values())


def parse_config(job: Job) -> StageConfig | None:
    """The typed configuration; None for a job of no stage of ours."""
    if job.stage not in STAGES:
        return None
    try:
        return STAGES[job.stage].config.model_validate(job.config)
    except ValidationError:
        return None


def describe_engine(job: Job, config: StageConfig) -> tuple[str, str, str] | None:
    """Kind, interpreter and checkout; None where the stage itself does the work."""
    engine, where = find_engine(config), job.settings.get("engine")
    if engine is None or not isinstance(where, Mapping):
        return None
    return engine.kind, str(where.get("python", "")), str(where.get("checkout", ""))


def collect_uses(configs: Sequence[ReadConfig], data: Mapping[str, str]) -> list[InputUse]:
    """What the configurations read, in the order of the chain; `data`: where each data set lies.

    Of what differs in lengths and vocabularies alone, the strictest is asked for.
    """
    found: dict[tuple[object, ...], InputUse] = {}
    for read in configs:
        for use in iter_uses(read, data):
            same = replace(use, context=0, vocabulary=0, bad_samples_limit=0, prompts=())
            # the fewest positions are the strictest of a conversation, the most of a text
            narrow = use.kind == "conversations"
            key = (same, bool(use.prompts))
            found[key] = merge_uses(found[key], use, narrow=narrow) if key in found else use
    return add_tokenizer_of_text(list(found.values()))


def add_tokenizer_of_text(uses: Sequence[InputUse]) -> list[InputUse]:
    """Text is read without its tokenizer: where the sweep has one only, that is what its tokens are of."""
    tokenizers = {use.path for use in uses if use.kind == "tokenizer" and "://" not in use.path}
    if len(tokenizers) != 1:
        return list(uses)
    (tokenizer,) = tokenizers
    return [replace(use, tokenizer=tokenizer) if use.kind == "text" else use for use in uses]


def merge_uses(one: InputUse, other: InputUse, *, narrow: bool) -> InputUse:
    """Both as one question."""
    contexts = [each.context for each in (one, other) if each.context]
    vocabularies = [each.vocabulary for each in (one, other) if each.vocabulary]
    return replace(
        one,
        context=(min if narrow else max)(contexts, default=0),
        vocabulary=min(vocabularies, default=0),
        bad_samples_limit=min(one.bad_samples_limit, other.bad_samples_limit),
        prompts=tuple(dict.fromkeys([*one.prompts, *other.prompts])),
    )


def iter_uses(read: ReadConfig, data: Mapping[str, str]) -> Iterator[InputUse]:
    """Of one configuration. A program of the kind `command` may read anything: of its data nothing is asked."""
    for use in iter_stage_uses(read, data):
        if use.name in data:
            foreign = read.engine is not None and read.engine[0] == "command"
            yield InputUse(name=use.name, kind="", path=use.path) if foreign else use


def iter_stage_uses(read: ReadConfig, data: Mapping[str, str]) -> Iterator[InputUse]:
    """As a stage of ours reads them."""
    config = read.config
    if isinstance(config, PretrainConfig):
        yield from iter_pretrain_uses(config, read, data)
    elif isinstance(config, FinetuneConfig):
        vocabulary, encoder = (read.model.vocabulary, read.model.encoder) if read.model else (0, "")
        yield build_tokenizer_use(config.tokenizer.name, vocabulary, data, prompts=(config.prompt,))
        yield InputUse(
            name=config.conversations.name,
            kind="conversations",
            path=data.get(config.conversations.name, ""),
            context=config.max_length,
            vocabulary=vocabulary,
            tokenizer=find_local_path(config.tokenizer.name, data),
            prompts=(config.prompt,),
            encoder=encoder,
            bad_samples_limit=read.bad_samples_limit,
        )
    elif isinstance(config, EvaluateConfig):
        yield build_tokenizer_use(config.tokenizer.name, read.model.vocabulary if read.model else 0, data)
        yield InputUse(
            name=config.tasks,
            kind="tasks",
            path=data.get(config.tasks, ""),
            text_tasks=config.text_tasks,
            vision_tasks=config.vision_tasks,
        )


def iter_pretrain_uses(config: PretrainConfig, read: ReadConfig, data: Mapping[str, str]) -> Iterator[InputUse]:
    """Sources with a share, the tokenizer, and an encoder's weights."""
    vocabulary = config.model.vocabulary
    if config.tokenizer is not None:
        yield build_tokenizer_use(config.tokenizer.name, vocabulary, data)
    for source in config.sources:
        if source.share > 0:
            yield InputUse(
                name=source.name,
                kind=source.kind,
                path=data.get(source.name, ""),
                field=source.field,
                context=config.context,
                vocabulary=vocabulary,
                tokenizer=find_local_path(config.tokenizer.name, data)
                if config.tokenizer and source.kind != "text"
                else "",
                encoder=config.vision.encoder if config.vision and source.kind != "text" else "",
                bad_samples_limit=read.bad_samples_limit,
            )
    if config.vision is not None:
        yield from iter_encoder_uses(config.vision, data)


def iter_encoder_uses(vision: Vision, data: Mapping[str, str]) -> Iterator[InputUse]:
    """The folder of each part that has weights of its own."""
    for name, part in zip(vision.weights, list_weighted_parts(vision.encoder), strict=False):
        yield InputUse(name=name, kind="encoder", path=data.get(name, ""), encoder=find_part_name(part))


def build_tokenizer_use(name: str, vocabulary: int, data: Mapping[str, str], prompts: tuple[str, ...] = ()) -> InputUse:
    """The tokenizer of a model with so many ids."""
    return InputUse(name=name, kind="tokenizer", path=data.get(name, ""), vocabulary=vocabulary, prompts=prompts)


def find_local_path(name: str, data: Mapping[str, str]) -> str:
    """Where a data set lies; empty for an address."""
    path = data.get(name, "")
    return "" if "://" in path else path
