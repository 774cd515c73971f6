"""Whether a job fits its GPUs and nodes: the settings with which it does, or a refusal that says what would do.

What the sweep file says of a job's settings holds. What it leaves open is tried in an order: first what the catalog's
placement says, then what costs more time and needs less memory. None of these settings enters a key.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from math import ceil
from typing import Any

from jobs.job import Estimate, Resources
from stages.config import EvaluateConfig, FinetuneConfig, LanguageModel, PretrainConfig, StageConfig, Vision
from stages.gpu_memory import (  # fmt: skip
    GPU_LOSS_CHUNK_TOKENS,
    GPU_MICRO_BATCH_TOKENS,
    EvaluationPass,
    TrainingPass,
    compute_evaluation_memory,
    compute_host_memory,
    compute_training_memory,
    count_certain_host_memory,
    count_projector_numbers,
)
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import Catalog, Placement
from sweep.cost.estimate import GIB
from sweep.errors import ConfigProblemError

SMALL_CHUNK_TOKENS = 512
"""Of logits, where nothing else is left to save."""
LEAST_SHARED_TOKENS = 4_096
"""Positions of the smallest micro-batch that is tried before FSDP2 or recomputation: below it, a GPU is not busy."""
DATA_WORKERS = 4
"""Processes that read ahead for a GPU, at most, where a job does not say (`stages.data.workers`)."""
MEMORY_SETTINGS = (
    "parallel", "activation_checkpointing", "micro_batch_tokens", "loss_chunk_tokens", "attention", "compile",
    "data_workers", "feature_cache_gib",
)  # fmt: skip
"""Settings of the sweep file that a job's memory depends on."""
LONG_PROMPTS = 2
"""C: the longest prompt of a task over its mean."""


@dataclass(frozen=True, slots=True)
class RunMode:
    """How a job trains, without effect on its results."""

    sharded: bool
    recompute: bool
    micro_batch_tokens: int
    chunk_tokens: int = GPU_LOSS_CHUNK_TOKENS

    def list_settings(self) -> dict[str, Any]:
        """As the settings of a job (`stages.job_file.Settings`), what is the stage's default left out."""
        settings: dict[str, Any] = {}
        if self.sharded:
            settings["parallel"] = "fsdp"
        if self.recompute:
            settings["activation_checkpointing"] = True
        if self.micro_batch_tokens != GPU_MICRO_BATCH_TOKENS:
            settings["micro_batch_tokens"] = self.micro_batch_tokens
        if self.chunk_tokens != GPU_LOSS_CHUNK_TOKENS:
            settings["loss_chunk_tokens"] = self.chunk_tokens
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFit:
    """A job's memory, and the settings that it takes beside the sweep file's."""

    gpu_bytes: int = 0
    """Of each GPU at the worst moment, with the reserve."""
    host_bytes: int = 0
    """Of a node."""
    certain_host_bytes: int = 0
    """Of these the copies of the model alone."""
    rows: int = 0
    """Sequences that go through the model at once on each GPU."""
    passes: int = 0
    """Micro-batches of a step on each GPU, of rows that share them; see `count_most_passes`."""
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryQuestion:
    """All that a job's memory depends on."""

    phase: str
    model: str
    shape: LanguageModel
    config: StageConfig = field(compare=False)  # by its traits: the runs of a sweep differ in much else
    traits: tuple[object, ...] = field(init=False)
    """Of the configuration, all that memory depends on."""
    vision: Vision | None
    placement: Placement = field(hash=False)  # its options cannot be hashed
    given: tuple[tuple[str, Any], ...]
    """The sweep file's settings of the job."""
    answer_tokens: int = 0
    """Text of the longest prompt about an image that an evaluation generates an answer to; 0: none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "traits", list_memory_traits(self.config))

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.given)

    @property
    def ranks(self) -> int:
        return self.placement.nodes * self.placement.gpus_per_node


def list_memory_traits(config: StageConfig) -> tuple[object, ...]:
    """What `compute_training_fit` and `compute_evaluation_fit` read of a configuration."""
    if isinstance(config, EvaluateConfig):
        return config.context, config.max_new_tokens, bool(config.text_tasks), config.precision
    if not isinstance(config, PretrainConfig | FinetuneConfig):
        return ()  # of a stage that no formula is for
    traits = get_row_length(config), config.batch_sequences, config.precision
    return (*traits, config.packing, has_images(config)) if isinstance(config, PretrainConfig) else traits


def has_images(config: PretrainConfig) -> bool:
    """Whether the mixture has a source with images."""
    return any(source.kind != "text" and source.share > 0 for source in config.sources)


def select_memory_settings(given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Of the sweep file's settings those that a job's memory depends on; `as the device likes it` says nothing."""
    unsaid = {"micro_batch_tokens": 0, "loss_chunk_tokens": -1}
    return tuple((name, given[name]) for name in MEMORY_SETTINGS if name in given and unsaid.get(name) != given[name])


class MemoryFitter:
    """Fits the jobs of one sweep. Equal questions get the same answer."""

    def __init__(self, catalog: Catalog, backend: str) -> None:
        self.catalog, self.backend = catalog, backend
        self.cached_fit = cache(self.find_fit)

    def fit_job(
        self, question: MemoryQuestion, resources: Resources, estimate: Estimate
    ) -> tuple[Mapping[str, Any], Resources, Estimate]:
        """Settings that the job takes beside the sweep file's, and its resources and estimate with its memory.

        ConfigProblemError where nothing that the file leaves open makes it fit, unless `check_memory` is false. A job
        without GPUs, one of another program or of a stage that no formula is for, and one on a GPU of unknown memory
        are left as they are.
        """
        if not resources.gpus or not question.traits or getattr(question.config, "engine", None) is not None:
            return {}, resources, estimate
        fit = self.cached_fit(question)
        needed_gib = ceil(fit.host_bytes / GIB)
        if question.placement.memory_gib:
            if question.placement.check_memory and fit.certain_host_bytes > question.placement.memory_gib * GIB:
                raise ConfigProblemError(
                    f"{question.phase} of {question.model}: memory_gib {question.placement.memory_gib:g} is less than "
                    f"the {fit.certain_host_bytes / GIB:.1f} GiB that copies of the model take on a node with "
                    f"{question.placement.gpus_per_node} GPUs; set memory_gib: {needed_gib}, or check_memory: false"
                )
        elif needed_gib > resources.memory_gib:
            resources = replace(resources, memory_gib=float(needed_gib))
        estimate = replace(
            estimate,
            gpu_memory_bytes=fit.gpu_bytes,
            host_memory_bytes=fit.host_bytes,
            gpu_rows=fit.rows,
            gpu_passes=fit.passes,
        )
        return fit.settings, resources, estimate

    def find_fit(self, question: MemoryQuestion) -> MemoryFit:
        """The first way that fits; with `check_memory: false` else the first of all. ConfigProblemError."""
        gpu = self.catalog.gpus[question.placement.gpu_type]
        ranks = question.ranks if self.backend == "slurm" else 1
        fits = self.iter_fits(question, ranks)
        first = next(fits)
        if not gpu.memory_gib or first.gpu_bytes <= gpu.memory_gib * GIB:
            return first
        found = next((fit for fit in fits if fit.gpu_bytes <= gpu.memory_gib * GIB), None)
        if found is None and question.placement.check_memory:
            least = min(self.iter_fits(question, ranks), key=lambda fit: fit.gpu_bytes)
            raise ConfigProblemError(self.describe_refusal(question, ranks, least))
        return found or first

    def iter_fits(self, question: MemoryQuestion, ranks: int) -> Iterator[MemoryFit]:
        """The ways to run the job that the sweep file leaves open, in the order of preference."""
        if isinstance(question.config, EvaluateConfig):
            yield compute_evaluation_fit(question, question.config)
            return
        for mode in iter_run_modes(question, ranks):
            yield compute_training_fit(question, mode, ranks)

    def describe_refusal(self, question: MemoryQuestion, ranks: int, least: MemoryFit) -> str:
        """What is needed, what is there, and what would do."""
        place = question.placement
        return (
            f"{question.phase} of {question.model}: needs {least.gpu_bytes / GIB:.1f} GiB on each of its GPUs ("
            f"{ranks} {place.gpu_type}{format_run_settings(least.settings)}), and a GPU of that type has "
            f"{self.catalog.gpus[place.gpu_type].memory_gib:g} GiB; what would do: "
            f"{', or '.join([*self.iter_remedies(question, ranks), 'check_memory: false, to plan it all the same'])}"
        )

    def iter_remedies(self, question: MemoryQuestion, ranks: int) -> Iterator[str]:
        """Changes with which the job would fit, each alone."""
        place = question.placement
        room = self.catalog.gpus[place.gpu_type].memory_gib * GIB
        free = replace(question, given=())

        def find(of: MemoryQuestion, number: int, bytes_there: float) -> MemoryFit | None:
            return next((fit for fit in self.iter_fits(of, number) if fit.gpu_bytes <= bytes_there), None)

        if question.given and (found := find(free, ranks, room)):
            words = ", ".join(f"{name}: {format_setting(value)}" for name, value in found.settings.items())
            yield f"settings {words or 'without those of this job'}"
        if self.backend == "slurm" and not isinstance(question.config, EvaluateConfig):
            for times in (2, 4, 8, 16):
                if is_shared_evenly(question.config, times * ranks) and find(question, times * ranks, room):
                    yield f"nodes: {times * place.nodes}"
                    break
        # of types of about one size the cheapest
        larger = sorted(
            (kind for kind in self.catalog.gpus.values() if kind.memory_gib * GIB > room),
            key=lambda kind: (round(kind.memory_gib, -1), kind.factor),
        )
        for kind in larger:
            if find(question, ranks, kind.memory_gib * GIB):
                yield f"gpu_type: {kind.name}"
                break


def is_shared_evenly(config: StageConfig, ranks: int) -> bool:
    """Whether so many processes may share the batch."""
    return not isinstance(config, PretrainConfig) or config.batch_sequences % ranks == 0


def format_setting(value: object) -> str:
    """As YAML has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def format_run_settings(settings: Mapping[str, Any]) -> str:
    """`, fsdp, recompute, micro-batch of 8192`: what differs from the plain way."""
    words = ["fsdp"] if settings.get("parallel") == "fsdp" else []
    words += ["recompute"] if settings.get("activation_checkpointing") else []
    words += [f"micro-batch of {tokens}" for tokens in [settings.get("micro_batch_tokens")] if tokens]
    words += [f"logits of {tokens}" for tokens in [settings.get("loss_chunk_tokens", -1)] if tokens >= 0]
    return "".join(f", {word}" for word in words)


# Why: docs/decisions.md, D82
def iter_run_modes(question: MemoryQuestion, ranks: int) -> Iterator[RunMode]:
    """The ways to train that are tried, each once.

    A smaller micro-batch costs little down to 4,096 positions, sharding costs communication, recomputation a third more
    arithmetic, and below that size a GPU is not busy.
    """
    given, place = question.settings, question.placement
    length = get_row_length(question.config)
    sharded = given.get("parallel", place.parallel) == "fsdp"
    recompute = bool(given.get("activation_checkpointing", place.activation_checkpointing))
    chunk = given.get("loss_chunk_tokens", -1)
    chunk = GPU_LOSS_CHUNK_TOKENS if chunk < 0 else chunk
    kinds = [
        (shard, again)
        for again in ((recompute,) if recompute or "activation_checkpointing" in given else (False, True))
        for shard in ((False,) if ranks == 1 else (sharded,) if sharded or "parallel" in given else (False, True))
    ]
    micro = given.get("micro_batch_tokens") or 0
    sizes = [micro] if micro else [GPU_MICRO_BATCH_TOKENS, GPU_MICRO_BATCH_TOKENS // 2, LEAST_SHARED_TOKENS]
    modes = [RunMode(shard, again, size, chunk) for shard, again in kinds for size in sizes]
    if not micro:
        modes += [RunMode(shard, again, length, chunk) for shard, again in kinds]
    if "loss_chunk_tokens" not in given:
        modes.append(replace(modes[-1], chunk_tokens=SMALL_CHUNK_TOKENS))
    yield from dict.fromkeys(modes)


def get_row_length(config: StageConfig) -> int:
    """Positions of a sequence, of a fine-tune the longest."""
    assert isinstance(config, PretrainConfig | FinetuneConfig)  # noqa: S101 - what trains
    return config.context if isinstance(config, PretrainConfig) else config.max_length


def compute_training_fit(question: MemoryQuestion, mode: RunMode, ranks: int) -> MemoryFit:
    """A training job in one mode."""
    run = build_training_pass(question, mode, ranks)
    given = question.settings
    copies = run.trained_weights
    processes = question.placement.gpus_per_node if ranks > 1 else 1
    return MemoryFit(
        gpu_bytes=compute_training_memory(replace(run, passes=count_most_passes(question.config, run))).needed,
        host_bytes=compute_host_memory(
            copies,
            processes=processes,
            workers=count_data_workers(given.get("data_workers", -1)),
            feature_cache_gib=given.get("feature_cache_gib", 1.0) if run.images else 0.0,
            trains=True,
        ),
        certain_host_bytes=count_certain_host_memory(copies, processes=processes, trains=True),
        rows=run.rows,
        passes=run.passes,
        settings={name: value for name, value in mode.list_settings().items() if name not in given},
    )


# Why: docs/decisions.md, D85
def count_most_passes(config: StageConfig, run: TrainingPass) -> int:
    """Micro-batches of a step at most, where rows of one document may be beside packed ones, with which they share no
    micro-batch (`stages.data.collate.FixedLengthCollator`): gradients of a first pass wait for the second.
    """
    assert isinstance(config, PretrainConfig | FinetuneConfig)  # noqa: S101 - what trains
    own_rows = ceil(config.batch_sequences / run.ranks)
    if isinstance(config, FinetuneConfig) or config.packing == "padded" or own_rows < 2:
        return run.passes
    # a conversation without an image leaves room for others; of pairs, two images with a word each have to fit
    several = run.images > run.rows or any(each.kind == "conversations" and each.share > 0 for each in config.sources)
    # one row of the one kind, and in turn one left over of the other
    return (own_rows - 2) // run.rows + 2 if several else run.passes


def count_data_workers(given: int) -> int:
    """Processes that read ahead for each GPU."""
    return given if given >= 0 else DATA_WORKERS


def build_training_pass(question: MemoryQuestion, mode: RunMode, ranks: int) -> TrainingPass:
    """What goes through the model at once, at most: whole rows, with as many images as can be in them."""
    config, vision = question.config, question.vision
    assert isinstance(config, PretrainConfig | FinetuneConfig)  # noqa: S101 - what trains
    length = get_row_length(config)
    own_rows = ceil(config.batch_sequences / ranks)
    rows = min(own_rows, max(1, mode.micro_batch_tokens // length))
    images, masked = 0, False
    if vision is not None:
        image_tokens = resolve_encoder_spec(vision.encoder).image_tokens
        if isinstance(config, FinetuneConfig):
            # shorter examples, more of them
            images = min(own_rows, max(1, mode.micro_batch_tokens // (image_tokens + 1)))
        elif has_images(config):
            in_row = 1 if config.packing == "padded" else max(1, length // (image_tokens + 1))
            images = rows * in_row
            masked = in_row > 1 and not uses_flex_attention(question.settings)
    return TrainingPass(
        model=question.shape,
        rows=rows,
        length=length,
        passes=ceil(own_rows / rows),
        vision=vision,
        images=images,
        trains_encoder=vision is not None and not vision.frozen and isinstance(config, PretrainConfig),
        masked=masked,
        ranks=ranks,
        sharded=mode.sharded and ranks > 1,
        recompute=mode.recompute,
        chunk_tokens=mode.chunk_tokens,
        precision=config.precision,
    )


def uses_flex_attention(settings: Mapping[str, Any]) -> bool:
    """Whether documents are surely masked by blocks (`stages.training.parallel.select_packed_attention`).

    By default a GPU takes flex attention only where its kernels can be built, which a plan cannot know.
    """
    attention = settings.get("attention", "auto")
    return attention == "flex" or (attention == "auto" and settings.get("compile") is True)


def compute_evaluation_fit(question: MemoryQuestion, config: EvaluateConfig) -> MemoryFit:
    """An evaluation; each GPU has a whole replica."""
    image_tokens = resolve_encoder_spec(question.vision.encoder).image_tokens if question.vision is not None else 0
    answers = question.answer_tokens
    run = EvaluationPass(
        model=question.shape,
        vision=question.vision,
        answer_length=min(config.context, image_tokens + LONG_PROMPTS * answers + config.max_new_tokens)
        if answers
        else 0,
        image_answers=answers > 0,
        likelihood_length=config.context if config.text_tasks else 0,
        precision=config.precision,
    )
    weights = question.shape.weights + count_projector_numbers(question.vision, question.shape.d_model)
    processes = question.placement.gpus_per_node
    return MemoryFit(
        gpu_bytes=compute_evaluation_memory(run).needed,
        host_bytes=compute_host_memory(weights, processes=processes, workers=0, feature_cache_gib=1.0, trains=False),
        certain_host_bytes=count_certain_host_memory(weights, processes=processes, trains=False),
        settings={},
    )
