"""Blocks -> points: each block is the product of its axes; excluded points fall out; no point comes twice.

Values are laid over each other, later over earlier: the stage's default (`settings.BASE`), the only data set of a kind,
the catalog's model, the file's `defaults`, the file's model (`like` chains from their root on), the block's `set`, the
axis.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from stages.config import Precision
from stages.precision import has_cpu_bf16
from sweep.catalog import Catalog
from sweep.errors import SweepFileError
from sweep.phases import PHASES
from sweep.spec.data import build_data_layer
from sweep.spec.fields import BranchPoint, BranchStep
from sweep.spec.models import Model
from sweep.spec.resources import resolve_placement, select_gpu_type
from sweep.spec.schema import GridBlock, Sweep
from sweep.spec.settings import AXES, BASE, Layer, apply_recipe, replace_recipe

# Short, safe, stable names of cells.
#
# A name begins with the five axes that the paper varies (m model, b branch % or bs branch step, i image share %,
# c share of instruction data in it %, x amount) and adds what differs from the sweep's own defaults. So an axis that is
# added later, with the present value among its values, renames no cell.

MAX_NAME_LENGTH = 100
CORE_AXES = ("model", "branch", "image_share", "instruction_share", "amount")
OTHER_AXES = tuple(name for name in BASE if name not in CORE_AXES)
ALLOWED_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


# Why: docs/decisions.md, D8
def build_cell_name(values: Mapping[str, Any], base: Mapping[str, Any], taken: set[str]) -> str:
    """The name of the point `values`, different from those `taken`, to which it is added."""
    parts = [
        f"m{values['model']}",
        f"b{format_branch_point(values['branch'])}",
        f"i{format_percent(values['image_share'])}",
        f"c{format_percent(values['instruction_share'])}",
        f"x{format_number(values['amount'])}",
    ]
    parts += [format_axis_part(name, values[name]) for name in OTHER_AXES if values[name] != base[name]]
    name = "-".join(parts)
    if len(name) > MAX_NAME_LENGTH or name in taken:
        name = f"{name[: MAX_NAME_LENGTH - 9]}-{compute_digest(sorted(map(repr, values.items())))}"
    taken.add(name)
    return name


def format_branch_point(branch: BranchPoint) -> str:
    """`20` (percent) or `s813264` (a step)."""
    return f"s{branch.step}" if isinstance(branch, BranchStep) else format_number(branch)


def format_number(value: float) -> str:
    """Without `.0`."""
    return repr(int(value)) if float(value).is_integer() else repr(value)


def format_percent(share: float) -> str:
    """A share in percent."""
    return format_number(round(100 * share, 10))


def format_axis_part(name: str, value: Any) -> str:
    """A further axis: its value alone where that speaks for itself."""
    if name == "freeze_encoder":
        return "frozen" if value else "trained"
    if name == "text_multiplier":
        return f"t{format_number(value)}"
    if name == "seed":
        return f"s{value}"
    if name in {"captions", "encoder", "lr_at_branch"}:
        return format_name_value(value)
    return f"{name}={format_name_value(value)}"


def format_name_value(value: Any) -> str:
    """The value, or a digest of what cannot stand in a name."""
    if isinstance(value, BranchStep):
        return format_branch_point(value)
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        value = "+".join(value)
    text = format_number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    return text if text and ALLOWED_CHARACTERS.issuperset(text) else compute_digest(text)


def compute_digest(content: object) -> str:
    """Eight digits that differ where contents differ."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]


MAX_CELLS = 200_000
REQUIRED_AXES = ("model", "branch", "image_share")


@dataclass(frozen=True, slots=True)
class Point:
    """One cell before its jobs: a name and a value for every setting."""

    name: str
    block: GridBlock
    values: Mapping[str, Any]

    def build_axes_record(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The values to show, as JSON types."""
        return {name: convert_shown_value(self.values[name]) for name in names}


@dataclass(frozen=True, slots=True)
class Grid:
    """All points of a sweep."""

    points: tuple[Point, ...]
    axes: tuple[str, ...]
    """Names that every cell's record shows: the named axes, then the settings that a block names."""
    remarks: tuple[str, ...]
    """Warnings: no error, but worth reading."""


def expand_grid(sweep: Sweep) -> Grid:
    """All points in the order of the file, the last axis of a block varying fastest; SweepFileError."""
    check_block_size(sweep)
    points: dict[tuple[Any, ...], Point] = {}
    names: set[str] = set()
    bases: dict[tuple[str, str], Layer] = {}
    hits = [0] * len(sweep.exclude)
    for block in sweep.blocks:
        for values in iter_block_points(sweep, block):
            if is_excluded(values, sweep.exclude, hits):
                continue
            which = values["model"], values["finetune.recipe"]
            if which not in bases:
                bases[which] = replace_recipe(build_base_layer(sweep, sweep.models[values["model"]]), values)
            identity = tuple(values.values())  # every layer keeps the order of BASE
            if identity in points:
                raise SweepFileError(describe_duplicate_point(sweep, points[identity], block))
            points[identity] = Point(build_cell_name(values, bases[which], names), block, values)
    if not points:
        raise SweepFileError(sweep.source.format_problem(("exclude",), "excludes every cell; take an entry out"))
    return Grid(tuple(points.values()), list_shown_axes(sweep), tuple(list_unused_exclusions(sweep, hits)))


def build_base_layer(sweep: Sweep, model: Model | None) -> Layer:
    """The values of a model's cells before any block."""
    below = model.catalog_settings if model else {}
    above = model.settings if model else {}
    return {**BASE, **build_data_layer(sweep.data), **below, **sweep.defaults, **above}


def iter_block_points(sweep: Sweep, block: GridBlock) -> Iterator[Layer]:
    """The product of the block's axes, each point with a value for every setting."""
    names = tuple(block.axes)
    bases: dict[Any, Layer] = {}
    for combination in itertools.product(*block.axes.values()):
        chosen = dict(zip(names, combination, strict=True))
        name = chosen.get("model", block.settings.get("model", sweep.defaults.get("model")))
        if name not in bases:
            model = sweep.models[name] if name else None
            bases[name] = {**build_base_layer(sweep, model), **block.settings}
            check_required(sweep, block, {**bases[name], **chosen})
        yield apply_recipe({**bases[name], **chosen})


def check_required(sweep: Sweep, block: GridBlock, values: Layer) -> None:
    """SweepFileError where a point has no model, branch or image share."""
    missing = [name for name in REQUIRED_AXES if values[name] is None]
    if missing:
        message = (
            f"{' and '.join(missing)} not set; add {missing[0]} to the axes or `set` of the block, or to `defaults`"
        )
        raise SweepFileError(sweep.source.format_problem(("blocks", block.position), message))


def check_block_size(sweep: Sweep) -> None:
    """SweepFileError where a block is larger than anyone means."""
    for block in sweep.blocks:
        cells = math.prod(len(values) for values in block.axes.values())
        if cells > MAX_CELLS:
            message = f"the axes give {cells:,} cells; a block may have {MAX_CELLS:,}"
            raise SweepFileError(sweep.source.format_problem(("blocks", block.position, "axes"), message))


def is_excluded(values: Layer, exclude: tuple[Mapping[str, tuple[Any, ...]], ...], hits: list[int]) -> bool:
    """Whether an entry of `exclude` fits; every one that does is counted in `hits`."""
    fits = [position for position, point in enumerate(exclude) if is_match(values, point)]
    for position in fits:
        hits[position] += 1
    return bool(fits)


def is_match(values: Layer, point: Mapping[str, tuple[Any, ...]]) -> bool:
    """Whether the partial point fits."""
    return all(values[name] in barred for name, barred in point.items())


def list_unused_exclusions(sweep: Sweep, hits: list[int]) -> list[str]:
    """A remark on each exclusion without effect."""
    unused = [position for position, count in enumerate(hits) if count == 0]
    return [sweep.source.format_problem(("exclude", position), "excludes no cell") for position in unused]


# `precision: auto`: what it means is settled here, so that configurations and keys are of what runs.

AUTO = "auto"


# Why: docs/decisions.md, D92
def resolve_precisions(sweep: Sweep, grid: Grid, catalog: Catalog) -> Grid:
    """The same points with bf16 or fp32 in the place of `auto`, and a remark on each choice.

    A GPU type's word is the catalog's. A job on CPU cores of this machine goes by its processor; of a cluster's nodes
    nobody knows it here, and fp32 is right on all.
    """
    choices: dict[tuple[str, str], str] = {}
    points = []
    for point in grid.points:
        phases = [phase for phase in PHASES if point.values.get(f"{phase}.precision") == AUTO]
        settled = {
            f"{phase}.precision": choose_precision(sweep, catalog, point.values["model"], phase, choices)
            for phase in phases
        }
        points.append(replace(point, values={**point.values, **settled}) if settled else point)
    groups: dict[str, list[str]] = {}
    for (model, phase), reason in choices.items():
        groups.setdefault(reason, []).append(f"{phase} of {model}")
    remarks = [f"precision auto is {reason}: {', '.join(names)}" for reason, names in groups.items()]
    return replace(grid, points=tuple(points), remarks=(*grid.remarks, *remarks)) if choices else grid


def choose_precision(
    sweep: Sweep, catalog: Catalog, name: str, phase: str, choices: dict[tuple[str, str], str]
) -> Precision:
    """The precision of a model's jobs of a phase; adds it with its reason to `choices`."""
    placement = resolve_placement(catalog, sweep.resources, name, sweep.models[name].catalog_name, phase)
    gpu = catalog.gpus[select_gpu_type(placement)]
    if gpu.is_gpu:
        chosen, reason = gpu.bf16, f"{gpu.name} has {'' if gpu.bf16 else 'no '}bfloat16"
    elif sweep.backend == "local":
        chosen = has_cpu_bf16()
        reason = f"this machine's processor has {'' if chosen else 'no '}bfloat16"
    else:
        chosen, reason = False, "which processors the nodes have is not known here"
    choices[name, phase] = f"{'bf16' if chosen else 'fp32'} ({reason})"
    return "bf16" if chosen else "fp32"


def describe_duplicate_point(sweep: Sweep, first: Point, block: GridBlock) -> str:
    """The complaint about a point that `block` repeats."""
    line = sweep.source.find_line(("blocks", first.block.position))
    other = f"also in {first.block.label} (line {line})" if first.block is not block else "twice in this block"
    message = f"cell {first.name} is {other}; take it out of one of them, or list it under exclude"
    return sweep.source.format_problem(("blocks", block.position), message)


def list_shown_axes(sweep: Sweep) -> tuple[str, ...]:
    """Names of the values in a cell's record."""
    named = (name for block in sweep.blocks for name in itertools.chain(block.axes, block.settings))
    return tuple(dict.fromkeys(itertools.chain(AXES, named)))


def convert_shown_value(value: Any) -> Any:
    """A value of a layer as JSON: pairs become a mapping again, one whole data set its name."""
    if isinstance(value, BranchStep):
        return {"step": value.step}
    if not isinstance(value, tuple):
        return value
    if value and all(isinstance(part, tuple) and len(part) == 2 for part in value):
        return value[0][0] if value == ((value[0][0], 1),) else dict(value)
    return [getattr(part, "name", part) for part in value]
