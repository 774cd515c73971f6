"""Points -> jobs: each cell's chain, with everything that cells share planned once.

A chain is trunk segments -> image-text run -> (fine-tune -> evaluation) for each number of epochs. A trunk is cut where
any cell of the sweep branches off it. A job's key holds its parents' keys, but for trunk segments: where a trunk is cut
changes neither learning rate nor data order, so a segment's key names the trunk and the step that it ends at.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from types import MappingProxyType
from typing import Any

from jobs.job import Estimate, Job, Resources
from stages.config import STAGES, PretrainConfig, StageConfig, Vision, name_by_identity
from sweep.catalog import Catalog
from sweep.cost.figures import FigureBook
from sweep.cost.pricing import Pricer, ResourcesAndEstimate
from sweep.cost.speed import NOTHING_MEASURED, NOTHING_STARTED, Measured, Startups
from sweep.errors import ConfigProblemError, SweepFileError
from sweep.phases import PHASES
from sweep.plan.grid import Grid, Point
from sweep.plan.job_settings import JobSettingsBuilder
from sweep.plan.manifest import Cell, DataIdentity, FinetuneChain, Manifest
from sweep.plan.memory import MemoryFitter, MemoryQuestion, select_memory_settings
from sweep.plan.stage_configs import (  # fmt: skip
    build_evaluate_config,
    build_finetune_config,
    build_pretrain_config,
    build_trunk_config,
    build_vision,
    compute_branch_step,
    needs_trunk,
)
from sweep.plan.task_families import add_family_labels
from sweep.spec.data import ENCODER_KIND, DataSet
from sweep.spec.engines import add_engine, build_engine_settings, check_engine, check_engine_model
from sweep.spec.fields import BranchStep
from sweep.spec.models import Model
from sweep.spec.reader import truncate_problems
from sweep.spec.resources import count_processes
from sweep.spec.schema import Sweep
from sweep.spec.settings import BASE

# The graph of a plan while it is built: work with its price, trunks and their cuts, jobs by key.


@dataclass(frozen=True, slots=True)
class JobTemplate:
    """A configuration with its price: what jobs with different parents have in common."""

    stage: str
    phase: str
    config: dict[str, Any]
    config_json: str
    settings: dict[str, Any]
    resources: Resources
    estimate: Estimate


@dataclass(slots=True)
class PlannedTrunk:
    """A whole trunk, the steps at which cells branch off, and the keys of the segments planned so far."""

    model: Model
    config: PretrainConfig
    cuts: set[int] = field(default_factory=set)
    segments: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class JobGraph:
    """Jobs by key in the order in which they were first needed, and the cells that each serves."""

    templates: dict[str, tuple[JobTemplate, tuple[str, ...]]] = field(default_factory=dict)
    cells: dict[str, list[str]] = field(default_factory=dict)

    def add_job(self, key: str, work: JobTemplate, parents: tuple[str, ...]) -> str:
        if key not in self.templates:
            self.templates[key] = (work, parents)
            self.cells[key] = []
        return key

    def iter_jobs(self) -> Iterator[Job]:
        for key, (work, parents) in self.templates.items():
            yield Job(
                key=key,
                stage=work.stage,
                version=STAGES[work.stage].version,
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


def render_canonical_json(config: StageConfig) -> str:
    """The configuration as JSON that is the same for the same meaning: data by their identity, defaults left out,
    names sorted, no spaces."""
    return render_compact_json(name_by_identity(config.model_dump(mode="json", exclude_defaults=True)))


def render_compact_json(content: object) -> str:
    """Sorted, without spaces; ValueError for NaN and Inf."""
    return ENCODER.encode(content)


def compute_job_key(stage: str, config_json: str, parents: Sequence[str] = ()) -> str:
    """Key of a job of `stage` with the configuration `config_json` (`render_canonical_json`) and its parents' keys."""
    # stages and keys need no escapes: this is what render_compact_json would write
    quoted = ",".join([f'"{parent}"' for parent in parents])
    content = f'["{stage}",{STAGES[stage].version},{config_json},[{quoted}]]'
    return hashlib.sha256(content.encode()).hexdigest()[:KEY_DIGITS]


FieldGetter = Callable[[Mapping[str, Any]], tuple[Any, ...]]


def make_field_getter(*sections: str, also: tuple[str, ...] = ()) -> FieldGetter:
    """Gets the values that decide a part of the chain, as one hashable tuple."""
    return itemgetter(*also, *(name for name in BASE if name.partition(".")[0] in sections))


TRUNK_FIELDS = make_field_getter("trunk", also=("model", "text", "text_multiplier"))
AFTER = ("finetune", "evaluate")
PRETRAIN_FIELDS: FieldGetter = itemgetter(*(name for name in BASE if name.partition(".")[0] not in AFTER))
# the estimate of a fine-tune needs the model and the encoder beside its own settings
VISION = (
    "model", "encoder", "freeze_encoder", "encoder_weights", "image_transform", "pretrain.projector",
    "pretrain.encoder_revision", "tokenizer",
)  # fmt: skip
FINETUNE_FIELDS = make_field_getter("finetune", also=VISION)
EVALUATE_FIELDS = make_field_getter("evaluate", also=(*VISION, "finetune.prompt"))


NOTHING_IDENTIFIED: Mapping[str, DataIdentity] = MappingProxyType({})


def build_manifest(
    sweep: Sweep,
    grid: Grid,
    catalog: Catalog,
    measured: Measured = NOTHING_MEASURED,
    *,
    startups: Startups = NOTHING_STARTED,
    figures: FigureBook | None = None,
    identities: Mapping[str, DataIdentity] = NOTHING_IDENTIFIED,
) -> Manifest:
    """The whole plan; SweepFileError lists points whose values make no configuration.

    `measured`, `startups`: what finished jobs show, and `figures`: what is counted of the data; estimates and so time
    limits go by them, no key does. The book takes note of what it is asked for. `identities`: those of the sweep's data
    sets (`sweep.plan.data_identity`), to be stored with the plan.
    """
    planner = Planner(sweep, catalog, Pricer(sweep, catalog, measured, startups=startups, figures=figures))
    with_steps = any(isinstance(point.values["branch"], BranchStep) for point in grid.points)
    for point in grid.points:
        planner.record_branch(point, with_steps=with_steps)
    cells = [planner.plan_cell(point, grid.axes) for point in grid.points]
    if planner.problems:
        raise SweepFileError(truncate_problems(list(planner.problems.values())))
    return Manifest(
        sweep=sweep.name,
        backend=sweep.backend,
        data=dict(iter_data_places(sweep.data)),
        cells=tuple(cell for cell in cells if cell is not None),
        jobs=tuple(planner.graph.iter_jobs()),
        identities=identities,
        canary=sweep.canary,
        prices=sweep.prices,
        notices=sweep.notices,
    )


def iter_data_places(data: Mapping[str, DataSet]) -> Iterator[tuple[str, str]]:
    """Where the data sets lie, by name. A checkpoint names an encoder's weights by their identity, so they stand under
    that too; SweepFileError where a name would mean two of them."""
    for name, each in data.items():
        yield name, each.path
    for name, each in data.items():
        if each.kind == ENCODER_KIND and each.identity:
            if each.identity in data and data[each.identity].identity:
                raise SweepFileError(
                    f"data {name}: keys of this store know these weights as {each.identity}, a name that the file "
                    f"gives to other data; give data {each.identity} another name"
                )
            yield each.identity, each.path


class Planner:
    """Builds the graph of one sweep. It makes, checks and prices each distinct configuration once."""

    def __init__(self, sweep: Sweep, catalog: Catalog, pricer: Pricer) -> None:
        self.sweep = sweep
        self.pricer = pricer
        self.settings = JobSettingsBuilder(sweep, catalog)
        self.memory = MemoryFitter(catalog, sweep.backend)
        self.graph = JobGraph()
        self.problems: dict[tuple[str, str], str] = {}
        self.trunks: dict[tuple[Any, ...], PlannedTrunk] = {}
        self.trunks_by_content: dict[str, PlannedTrunk] = {}
        self.pretrain_keys: dict[tuple[Any, ...], str] = {}
        self.finetune_works: dict[tuple[Any, ...], dict[int, JobTemplate]] = {}
        self.evaluate_works: dict[tuple[Any, ...], JobTemplate] = {}
        self.points_by_step: dict[tuple[Any, ...], Point] = {}

    def record_branch(self, point: Point, *, with_steps: bool) -> None:
        """First pass: where the trunks are cut. `with_steps`: the grid has branch points that are steps."""
        try:
            if point.values["branch"] != 0:
                step = self.compute_branch_step(point)
                self.plan_trunk(point).cuts.add(step)
                if with_steps:
                    self.check_same_step(point, step)
        except ConfigProblemError as problem:
            self.record_problem(point, problem)

    # Why: docs/decisions.md, D78
    def check_same_step(self, point: Point, step: int) -> None:
        """ConfigProblemError where a step says of one cell what a percentage says of another."""
        identity = step, *(value for name, value in point.values.items() if name != "branch")
        first = self.points_by_step.setdefault(identity, point)
        if first is not point and any(isinstance(each.values["branch"], BranchStep) for each in (first, point)):
            raise ConfigProblemError(f"branches at step {step:,}, where cell {first.name} does; take one of them out")

    def plan_cell(self, point: Point, axes: tuple[str, ...]) -> Cell | None:
        """Second pass: the jobs of one point."""
        try:
            pretrain = self.plan_pretrain(point)
            finetunes, evaluate = self.plan_finetunes(point), self.plan_evaluate(point)
        except ConfigProblemError as problem:
            self.record_problem(point, problem)
            return None
        chains, cells = [], self.graph.cells
        cells[pretrain].append(point.name)
        for epochs, work in zip(point.block.epochs, finetunes, strict=True):
            finetune = self.add_child_job(work, pretrain)
            evaluation = self.add_child_job(evaluate, finetune)
            cells[finetune].append(point.name)
            cells[evaluation].append(point.name)
            chains.append(FinetuneChain(epochs=epochs, finetune=finetune, evaluate=evaluation))
        return Cell(
            name=point.name,
            axes=self.build_axes_record(point, axes),
            pretrain=pretrain,
            chains=tuple(chains),
            block=point.block.label,
            priority=point.block.priority,
        )

    def build_axes_record(self, point: Point, names: tuple[str, ...]) -> dict[str, Any]:
        """The values to show. A branch step stands there in percent, as tables and figures need it, and as the step."""
        shown = point.build_axes_record(names)
        if not isinstance(point.values["branch"], BranchStep):
            return shown
        step, total = self.compute_branch_step(point), self.plan_trunk(point).config.schedule.total_steps
        record: dict[str, Any] = {}
        for name, value in shown.items():
            record |= {"branch": 100 * step / total, "branch_step": step} if name == "branch" else {name: value}
        return record

    def add_child_job(self, work: JobTemplate, parent: str) -> str:
        return self.graph.add_job(compute_job_key(work.stage, work.config_json, (parent,)), work, (parent,))

    def record_problem(self, point: Point, problem: ConfigProblemError) -> None:
        where = ("blocks", point.block.position)
        line = self.sweep.source.format_problem(where, f"cell {point.name}: {problem}")
        self.problems.setdefault((point.block.label, str(problem)), line)

    def find_model(self, point: Point) -> Model:
        return self.sweep.models[point.values["model"]]

    def plan_trunk(self, point: Point) -> PlannedTrunk:
        fields = TRUNK_FIELDS(point.values)
        if fields not in self.trunks:
            model = self.find_model(point)
            config = build_trunk_config(point.values, model.shape, self.sweep.data)
            config = add_engine(config, point.values["trunk.engine"], self.sweep.engines)
            self.trunks[fields] = self.trunks_by_content.setdefault(
                render_canonical_json(config), PlannedTrunk(model, config)
            )
        return self.trunks[fields]

    def compute_branch_step(self, point: Point) -> int:
        branch, total = point.values["branch"], self.plan_trunk(point).config.schedule.total_steps
        step = compute_branch_step(branch, total)
        if step == 0:
            raise ConfigProblemError(
                f"branch {branch} lies before the first of the trunk's {total} steps; take 0 or more"
            )
        return step

    def plan_segment(self, trunk: PlannedTrunk, stop: int) -> str:
        """Key of the trunk's segment that ends at step `stop`, with all segments before it."""
        previous: tuple[str, ...] = ()
        for begin, end in pairwise([0, *sorted(trunk.cuts)]):
            if end not in trunk.segments:
                trunk.segments[end] = self.add_segment_job(trunk, begin, end, previous)
            previous = (trunk.segments[end],)
            if end == stop:
                break
        return trunk.segments[stop]

    def add_segment_job(self, trunk: PlannedTrunk, begin: int, end: int, previous: tuple[str, ...]) -> str:
        whole = end == trunk.config.schedule.total_steps
        config = trunk.config if whole else trunk.config.model_copy(update={"stop_step": end})
        work = self.build_template(
            "trunk", trunk.model, config, self.pricer.price_trunk(trunk.model, config, end - begin)
        )
        # Why: docs/decisions.md, D1
        return self.graph.add_job(compute_job_key(work.stage, work.config_json), work, previous)

    def plan_pretrain(self, point: Point) -> str:
        """Key of the point's image-text run."""
        fields = PRETRAIN_FIELDS(point.values)
        if fields not in self.pretrain_keys:
            model = self.find_model(point)
            trunk = self.plan_trunk(point) if needs_trunk(point.values) else None
            config = build_pretrain_config(point.values, model.shape, self.sweep.data, trunk.config if trunk else None)
            config = add_engine(config, point.values["pretrain.engine"], self.sweep.engines)
            parents: tuple[str, ...] = ()
            if trunk is not None and point.values["branch"] != 0:
                parents = (self.plan_segment(trunk, self.compute_branch_step(point)),)
            keeps = config.tokenizer is not None and self.settings.needs_feature_cache(model, "pretrain", config.vision)
            memory = self.settings.read_feature_memory(model, "pretrain")
            price = self.pricer.price_pretrain(model, config, keeps_features=keeps, memory_gib=memory)
            work = self.build_template("pretrain", model, config, price, keeps_features=keeps)
            key = compute_job_key(work.stage, work.config_json, parents)
            self.pretrain_keys[fields] = self.graph.add_job(key, work, parents)
        return self.pretrain_keys[fields]

    def plan_finetunes(self, point: Point) -> list[JobTemplate]:
        """The fine-tunes, one for each number of epochs; cells that differ in their image-text run only share them."""
        known = self.finetune_works.setdefault(FINETUNE_FIELDS(point.values), {})
        works = []
        for epochs in point.block.epochs:
            work = known.get(epochs) or self.plan_finetune(point, epochs)
            # where the first one keeps features, the fine-tunes of all other cells find them
            encodes = epochs not in known and work.estimate.feature_bytes
            known.setdefault(epochs, self.plan_finetune(point, epochs) if encodes else work)
            works.append(work)
        return works

    def plan_finetune(self, point: Point, epochs: int) -> JobTemplate:
        config, model = build_finetune_config(point.values, self.sweep.data, epochs), self.find_model(point)
        config = add_engine(config, point.values["finetune.engine"], self.sweep.engines)
        vision = build_vision(point.values, self.sweep.data)
        keeps = self.settings.needs_feature_cache(model, "finetune", vision)
        memory = self.settings.read_feature_memory(model, "finetune")
        price = self.pricer.price_finetune(model, config, vision, keeps_features=keeps, memory_gib=memory)
        work = self.build_template("finetune", model, config, price, keeps_features=keeps, vision=vision)
        check_engine_model(config, model.shape, vision)
        return work

    def plan_evaluate(self, point: Point) -> JobTemplate:
        fields = EVALUATE_FIELDS(point.values)
        if fields not in self.evaluate_works:
            config = build_evaluate_config(point.values, self.sweep.data)
            config = add_family_labels(config, self.sweep.data[config.tasks].path)
            config = add_engine(config, point.values["evaluate.engine"], self.sweep.engines)
            model = self.find_model(point)
            vision, prompt = build_vision(point.values, self.sweep.data), point.values["finetune.prompt"]
            price = self.pricer.price_evaluate(model, config, vision, prompt=prompt)
            # the price stays that of a first evaluation. Why: docs/decisions.md, D175
            keeps = bool(config.vision_tasks) and self.settings.needs_feature_cache(model, "evaluate", vision)
            self.evaluate_works[fields] = self.build_template(
                "evaluate", model, config, price, keeps_features=keeps, vision=vision
            )
        return self.evaluate_works[fields]

    def build_template(
        self,
        phase: str,
        model: Model,
        config: StageConfig,
        price: ResourcesAndEstimate,
        *,
        keeps_features: bool = False,
        vision: Vision | None = None,
    ) -> JobTemplate:
        """`vision`: how images enter, where the configuration does not say."""
        if isinstance(config, PretrainConfig):
            check_batch_divides(phase, config, price[0], self.sweep.backend)
            vision = config.vision
        check_engine(config, phase, count_processes(price[0], self.sweep.backend))
        question = self.build_memory_question(phase, model, config, vision)
        fitted, resources, estimate = self.memory.fit_job(question, *price)
        content = config.model_dump(mode="json", exclude_defaults=True)
        settings = self.settings.build_settings(model, phase, resources, keeps_features=keeps_features, fitted=fitted)
        settings = {**settings, **build_engine_settings(config, self.sweep.engines)}
        stage = PHASES[phase].stage
        return JobTemplate(
            stage, phase, content, render_compact_json(name_by_identity(content)), settings, resources, estimate
        )

    def build_memory_question(
        self, phase: str, model: Model, config: StageConfig, vision: Vision | None
    ) -> MemoryQuestion:
        given = self.settings.read_file_settings(model.name, phase)
        return MemoryQuestion(
            phase=phase,
            model=model.name,
            shape=model.shape,
            config=config,
            vision=vision,
            placement=self.pricer.cached_placement(model.name, model.catalog_name, phase),
            given=select_memory_settings(given),
            answer_tokens=self.pricer.find_longest_prompt(config),
        )


def check_batch_divides(phase: str, config: PretrainConfig, resources: Resources, backend: str) -> None:
    """ConfigProblemError where a job's processes could not share its batches out evenly."""
    number = count_processes(resources, backend)
    if config.batch_sequences % number:
        each = f"nodes {resources.nodes}" + (f" x gpus_per_node {resources.gpus_per_node}" if resources.gpus else "")
        raise ConfigProblemError(
            f"{phase}: batch_sequences {config.batch_sequences} cannot be shared out evenly among {number} processes "
            f"({each}, one process for each); set {phase}.batch_sequences to a multiple of {number}, or other resources"
        )
