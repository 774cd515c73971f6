"""Points -> jobs: each cell's chain, with everything that cells share planned once.

A chain is trunk segments -> image-text run -> (fine-tune -> evaluation) for each number of epochs. A trunk is cut where
any cell of the sweep branches off it. A job's key holds its parents' keys, but for trunk segments: where a trunk is cut
changes neither learning rate nor data order, so a segment's key tells the trunk and the step that it ends at.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any

from jobs.job import Estimate, Job, Resources
from stages.config import FORMAT_VERSIONS, PretrainConfig, StageConfig
from sweep.catalog import Catalog
from sweep.cost.pricing import Priced, Pricer
from sweep.cost.speed import NOTHING_MEASURED, Measured
from sweep.errors import ConfigProblemError, SweepFileError
from sweep.plan.grid import Grid, Point
from sweep.plan.job_settings import JobSettings
from sweep.plan.manifest import Cell, Chain, Manifest
from sweep.plan.stage_configs import (  # fmt: skip
    branch_step,
    evaluate_config,
    finetune_config,
    needs_trunk,
    pretrain_config,
    trunk_config,
    vision,
)
from sweep.spec.engines import StagesConfig, check_engine, check_engine_model, engine_settings, with_engine
from sweep.spec.models import Model
from sweep.spec.reader import shortened
from sweep.spec.resources import processes
from sweep.spec.schema import Sweep
from sweep.spec.settings import BASE

# The graph of a plan while it is built: work with its price, trunks and their cuts, jobs by key.


@dataclass(frozen=True, slots=True)
class Work:
    """A configuration with its price: what jobs with different parents have in common."""

    stage: str
    phase: str
    config: dict[str, Any]
    config_json: str
    settings: dict[str, Any]
    resources: Resources
    estimate: Estimate


@dataclass(slots=True)
class Trunk:
    """A whole trunk, the steps at which cells branch off, and the keys of the segments planned so far."""

    model: Model
    config: PretrainConfig
    cuts: set[int] = field(default_factory=set)
    segments: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Graph:
    """Jobs by key in the order in which they were first needed, and the cells that each serves."""

    works: dict[str, tuple[Work, tuple[str, ...]]] = field(default_factory=dict)
    cells: dict[str, list[str]] = field(default_factory=dict)

    def add(self, key: str, work: Work, parents: tuple[str, ...]) -> str:
        if key not in self.works:
            self.works[key] = (work, parents)
            self.cells[key] = []
        return key

    def jobs(self) -> Iterator[Job]:
        for key, (work, parents) in self.works.items():
            yield Job(
                key=key,
                stage=work.stage,
                version=FORMAT_VERSIONS[work.stage],
                phase=work.phase,
                parents=parents,
                config=work.config,
                cells=tuple(self.cells[key]),
                settings=work.settings,
                resources=work.resources,
                estimate=work.estimate,
            )


# Content addresses: same key, same work (docs/formats.md, Keys).

KEY_DIGITS = 16
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(config: StageConfig) -> str:
    """The configuration as JSON that is the same for the same meaning: defaults left out, names sorted, no spaces."""
    return compact_json(config.model_dump(mode="json", exclude_defaults=True))


def compact_json(content: object) -> str:
    """Sorted, without spaces; ValueError for NaN and Inf."""
    return ENCODER.encode(content)


def job_key(stage: str, config_json: str, parents: Sequence[str] = ()) -> str:
    """Key of a job of `stage` with the configuration `config_json` (`canonical_json`) and its parents' keys."""
    # stages and keys are plain words: what compact_json would write
    quoted = ",".join([f'"{parent}"' for parent in parents])
    content = f'["{stage}",{FORMAT_VERSIONS[stage]},{config_json},[{quoted}]]'
    return hashlib.sha256(content.encode()).hexdigest()[:KEY_DIGITS]


Fields = Callable[[Mapping[str, Any]], tuple[Any, ...]]


def fields_of(*sections: str, also: tuple[str, ...] = ()) -> Fields:
    """Gets the values that decide a part of the chain, as one hashable tuple."""
    return itemgetter(*also, *(name for name in BASE if name.partition(".")[0] in sections))


TRUNK = fields_of("trunk", also=("model", "text", "text_multiplier"))
AFTER = ("finetune", "evaluate")
PRETRAIN: Fields = itemgetter(*(name for name in BASE if name.partition(".")[0] not in AFTER))
# the estimate of a fine-tune needs the model and the encoder beside its own settings
VISION = (
    "model", "encoder", "freeze_encoder", "encoder_weights", "image_transform", "pretrain.projector",
    "pretrain.encoder_revision", "tokenizer",
)  # fmt: skip
FINETUNE = fields_of("finetune", also=VISION)
EVALUATE = fields_of("evaluate", also=VISION)


def plan(sweep: Sweep, grid: Grid, catalog: Catalog, measured: Measured = NOTHING_MEASURED) -> Manifest:
    """The whole plan; SweepFileError lists points whose values make no configuration.

    `measured`: speeds of finished jobs, which estimates and so time limits go by; no key does.
    """
    planner = Planner(sweep, catalog, measured)
    for point in grid.points:
        planner.note_branch(point)
    cells = [planner.cell(point, grid.axes) for point in grid.points]
    if planner.problems:
        raise SweepFileError(shortened(list(planner.problems.values())))
    return Manifest(
        sweep=sweep.name,
        backend=sweep.backend,
        data={name: each.path for name, each in sweep.data.items()},
        cells=tuple(cell for cell in cells if cell is not None),
        jobs=tuple(planner.graph.jobs()),
    )


class Planner:
    """Builds the graph of one sweep; each distinct configuration is made, checked and priced once."""

    def __init__(self, sweep: Sweep, catalog: Catalog, measured: Measured) -> None:
        self.sweep = sweep
        self.pricer = Pricer(catalog, sweep.data, sweep.resources, measured)
        self.settings = JobSettings(sweep, catalog)
        self.graph = Graph()
        self.problems: dict[tuple[str, str], str] = {}
        self.trunks: dict[tuple[Any, ...], Trunk] = {}
        self.trunks_by_content: dict[str, Trunk] = {}
        self.pretrain_keys: dict[tuple[Any, ...], str] = {}
        self.finetune_works: dict[tuple[Any, ...], list[Work]] = {}
        self.evaluate_works: dict[tuple[Any, ...], Work] = {}

    def note_branch(self, point: Point) -> None:
        """First pass: where the trunks are cut."""
        try:
            if point.values["branch"] > 0:
                self.trunk(point).cuts.add(self.branch_step(point))
        except ConfigProblemError as problem:
            self.note(point, problem)

    def cell(self, point: Point, axes: tuple[str, ...]) -> Cell | None:
        """Second pass: the jobs of one point."""
        try:
            pretrain = self.pretrain(point)
            finetunes, evaluate = self.finetunes(point), self.evaluate(point)
        except ConfigProblemError as problem:
            self.note(point, problem)
            return None
        chains, cells = [], self.graph.cells
        cells[pretrain].append(point.name)
        for epochs, work in zip(self.sweep.epochs, finetunes, strict=True):
            finetune = self.child(work, pretrain)
            evaluation = self.child(evaluate, finetune)
            cells[finetune].append(point.name)
            cells[evaluation].append(point.name)
            chains.append(Chain(epochs=epochs, finetune=finetune, evaluate=evaluation))
        return Cell(
            name=point.name, axes=point.axes(axes), pretrain=pretrain, chains=tuple(chains), block=point.block.label
        )

    def child(self, work: Work, parent: str) -> str:
        return self.graph.add(job_key(work.stage, work.config_json, (parent,)), work, (parent,))

    def note(self, point: Point, problem: ConfigProblemError) -> None:
        where = ("blocks", point.block.position)
        line = self.sweep.source.problem(where, f"cell {point.name}: {problem}")
        self.problems.setdefault((point.block.label, str(problem)), line)

    def model(self, point: Point) -> Model:
        return self.sweep.models[point.values["model"]]

    def trunk(self, point: Point) -> Trunk:
        fields = TRUNK(point.values)
        if fields not in self.trunks:
            model = self.model(point)
            config = trunk_config(point.values, model.shape, self.sweep.data)
            config = with_engine(config, point.values["trunk.engine"], self.sweep.engines)
            self.trunks[fields] = self.trunks_by_content.setdefault(canonical_json(config), Trunk(model, config))
        return self.trunks[fields]

    def branch_step(self, point: Point) -> int:
        branch, total = point.values["branch"], self.trunk(point).config.schedule.total_steps
        step = branch_step(branch, total)
        if step == 0:
            raise ConfigProblemError(
                f"branch {branch} lies before the first of the trunk's {total} steps; take 0 or more"
            )
        return step

    def segment(self, trunk: Trunk, stop: int) -> str:
        """Key of the trunk's segment that ends at step `stop`, with all segments before it."""
        previous: tuple[str, ...] = ()
        for begin, end in pairwise([0, *sorted(trunk.cuts)]):
            if end not in trunk.segments:
                trunk.segments[end] = self.new_segment(trunk, begin, end, previous)
            previous = (trunk.segments[end],)
            if end == stop:
                break
        return trunk.segments[stop]

    def new_segment(self, trunk: Trunk, begin: int, end: int, previous: tuple[str, ...]) -> str:
        whole = end == trunk.config.schedule.total_steps
        config = trunk.config if whole else trunk.config.model_copy(update={"stop_step": end})
        work = self.work("trunk", trunk.model, config, self.pricer.trunk(trunk.model, config, end - begin))
        return self.graph.add(job_key(work.stage, work.config_json), work, previous)

    def pretrain(self, point: Point) -> str:
        """Key of the point's image-text run."""
        fields = PRETRAIN(point.values)
        if fields not in self.pretrain_keys:
            model = self.model(point)
            trunk = self.trunk(point) if needs_trunk(point.values) else None
            config = pretrain_config(point.values, model.shape, self.sweep.data, trunk.config if trunk else None)
            config = with_engine(config, point.values["pretrain.engine"], self.sweep.engines)
            parents: tuple[str, ...] = ()
            if trunk is not None and point.values["branch"] > 0:
                parents = (self.segment(trunk, self.branch_step(point)),)
            keeps = config.tokenizer is not None and self.settings.keep_features(model, "pretrain", config.vision)
            price = self.pricer.pretrain(model, config, keeps_features=keeps)
            work = self.work("pretrain", model, config, price, keeps_features=keeps)
            key = job_key(work.stage, work.config_json, parents)
            self.pretrain_keys[fields] = self.graph.add(key, work, parents)
        return self.pretrain_keys[fields]

    def finetunes(self, point: Point) -> list[Work]:
        """The fine-tunes, one for each number of epochs; cells that differ in their image-text run only share them."""
        fields = FINETUNE(point.values)
        if fields in self.finetune_works:
            return self.finetune_works[fields]
        first = [self.finetune(point, epochs) for epochs in self.sweep.epochs]
        encodes = any(work.estimate.feature_bytes for work in first)
        # where the first cell's keep features, the fine-tunes of all others find them
        rest = [self.finetune(point, epochs) for epochs in self.sweep.epochs] if encodes else first
        self.finetune_works[fields] = rest
        return first

    def finetune(self, point: Point, epochs: int) -> Work:
        config, model = finetune_config(point.values, self.sweep.data, epochs), self.model(point)
        config = with_engine(config, point.values["finetune.engine"], self.sweep.engines)
        eyes = vision(point.values, self.sweep.data)
        keeps = self.settings.keep_features(model, "finetune", eyes)
        price = self.pricer.finetune(model, config, eyes, keeps_features=keeps)
        work = self.work("finetune", model, config, price, keeps_features=keeps)
        check_engine_model(config, model.shape, eyes)
        return work

    def evaluate(self, point: Point) -> Work:
        fields = EVALUATE(point.values)
        if fields not in self.evaluate_works:
            config = evaluate_config(point.values, self.sweep.data)
            config = with_engine(config, point.values["evaluate.engine"], self.sweep.engines)
            model = self.model(point)
            price = self.pricer.evaluate(model, config, vision(point.values, self.sweep.data))
            self.evaluate_works[fields] = self.work("evaluate", model, config, price)
        return self.evaluate_works[fields]

    def work(
        self, phase: str, model: Model, config: StagesConfig, price: Priced, *, keeps_features: bool = False
    ) -> Work:
        if isinstance(config, PretrainConfig):
            check_batch(phase, config, price[0], self.sweep.backend)
        check_engine(config, phase, processes(price[0], self.sweep.backend))
        content = config.model_dump(mode="json", exclude_defaults=True)
        stage = "pretrain" if phase == "trunk" else phase
        settings = self.settings.of(model, phase, price[0], keeps_features=keeps_features)
        settings = {**settings, **engine_settings(config, self.sweep.engines)}
        return Work(stage, phase, content, compact_json(content), settings, *price)


def check_batch(phase: str, config: PretrainConfig, resources: Resources, backend: str) -> None:
    """ConfigProblemError where a job's processes could not share its batches out evenly."""
    number = processes(resources, backend)
    if config.batch_sequences % number:
        each = f"nodes {resources.nodes}" + (f" x gpus_per_node {resources.gpus_per_node}" if resources.gpus else "")
        raise ConfigProblemError(
            f"{phase}: batch_sequences {config.batch_sequences} cannot be shared out evenly among {number} processes "
            f"({each}, one process for each); set {phase}.batch_sequences to a multiple of {number}, or other resources"
        )
