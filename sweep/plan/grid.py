"""Blocks -> points: each block is the product of its axes; excluded points fall out; no point comes twice.

Values are laid over each other, later over earlier: the stage's default (`settings.BASE`), the only data set of a kind,
the catalog's model, the file's `defaults`, the file's model (`like` chains from their root on), the block's `set`, the
axis.
"""

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweep.errors import SweepFileError
from sweep.spec.data import data_layer
from sweep.spec.models import Model
from sweep.spec.schema import Block, Sweep
from sweep.spec.settings import AXES, BASE, Layer, same_recipe, with_recipe

# Short, safe, stable names of cells.
#
# A name begins with the five axes that the paper varies (m model, b branch %, i image share %, c share of instruction
# data in it %, x amount) and adds what differs from the sweep's own defaults. So an axis that is added later, with
# the present value among its values, renames no cell.

LONGEST = 100
CORE = ("model", "branch", "image_share", "instruction_share", "amount")
OTHERS = tuple(name for name in BASE if name not in CORE)
ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")


def cell_name(values: Mapping[str, Any], base: Mapping[str, Any], taken: set[str]) -> str:
    """The name of the point `values`, told apart from those `taken`, to which it is added."""
    parts = [
        f"m{values['model']}",
        f"b{number(values['branch'])}",
        f"i{percent(values['image_share'])}",
        f"c{percent(values['instruction_share'])}",
        f"x{number(values['amount'])}",
    ]
    parts += [part_of(name, values[name]) for name in OTHERS if values[name] != base[name]]
    name = "-".join(parts)
    if len(name) > LONGEST or name in taken:
        name = f"{name[: LONGEST - 9]}-{digest(sorted(map(repr, values.items())))}"
    taken.add(name)
    return name


def number(value: float) -> str:
    """Without `.0`."""
    return repr(int(value)) if float(value).is_integer() else repr(value)


def percent(share: float) -> str:
    """A share in percent."""
    return number(round(100 * share, 10))


def part_of(name: str, value: Any) -> str:
    """A further axis: its value alone where that speaks for itself."""
    if name == "freeze_encoder":
        return "frozen" if value else "trained"
    if name == "text_multiplier":
        return f"t{number(value)}"
    if name == "seed":
        return f"s{value}"
    if name in {"captions", "encoder", "lr_at_branch"}:
        return word(value)
    return f"{name}={word(value)}"


def word(value: Any) -> str:
    """The value, or a digest of what cannot stand in a name."""
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
        value = "+".join(value)
    text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    return text if text and ALLOWED.issuperset(text) else digest(text)


def digest(content: object) -> str:
    """Eight digits that tell contents apart."""
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]


MAX_CELLS = 200_000
REQUIRED = ("model", "branch", "image_share")


@dataclass(frozen=True, slots=True)
class Point:
    """One cell before its jobs: a name and a value for every setting."""

    name: str
    block: Block
    values: Mapping[str, Any]

    def axes(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The values to show, as JSON types."""
        return {name: shown_value(self.values[name]) for name in names}


@dataclass(frozen=True, slots=True)
class Grid:
    """All points of a sweep."""

    points: tuple[Point, ...]
    axes: tuple[str, ...]
    """Names that every cell's record shows: the named axes, then the settings that a block names."""
    remarks: tuple[str, ...]
    """What is no error and yet worth a look."""


def expand(sweep: Sweep) -> Grid:
    """All points in the order of the file, the last axis of a block varying fastest; SweepFileError."""
    check_size(sweep)
    points: dict[tuple[Any, ...], Point] = {}
    names: set[str] = set()
    bases: dict[tuple[str, str], Layer] = {}
    hits = [0] * len(sweep.exclude)
    for block in sweep.blocks:
        for values in block_points(sweep, block):
            if excluded(values, sweep.exclude, hits):
                continue
            which = values["model"], values["finetune.recipe"]
            if which not in bases:
                bases[which] = same_recipe(base_layer(sweep, sweep.models[values["model"]]), values)
            identity = tuple(values.values())  # every layer keeps the order of BASE
            if identity in points:
                raise SweepFileError(twice(sweep, points[identity], block))
            points[identity] = Point(cell_name(values, bases[which], names), block, values)
    if not points:
        raise SweepFileError(sweep.source.problem(("exclude",), "excludes every cell; take an entry out"))
    return Grid(tuple(points.values()), shown_axes(sweep), tuple(unused_exclusions(sweep, hits)))


def base_layer(sweep: Sweep, model: Model | None) -> Layer:
    """The values of a model's cells before any block."""
    below = model.catalog_settings if model else {}
    above = model.settings if model else {}
    return {**BASE, **data_layer(sweep.data), **below, **sweep.defaults, **above}


def block_points(sweep: Sweep, block: Block) -> Iterator[Layer]:
    """The product of the block's axes, each point with a value for every setting."""
    names = tuple(block.axes)
    bases: dict[Any, Layer] = {}
    for combination in itertools.product(*block.axes.values()):
        chosen = dict(zip(names, combination, strict=True))
        name = chosen.get("model", block.settings.get("model", sweep.defaults.get("model")))
        if name not in bases:
            model = sweep.models[name] if name else None
            bases[name] = {**base_layer(sweep, model), **block.settings}
            check_required(sweep, block, {**bases[name], **chosen})
        yield with_recipe({**bases[name], **chosen})


def check_required(sweep: Sweep, block: Block, values: Layer) -> None:
    """SweepFileError where a point has no model, branch or image share."""
    missing = [name for name in REQUIRED if values[name] is None]
    if missing:
        message = (
            f"{' and '.join(missing)} not set; add {missing[0]} to the axes or `set` of the block, or to `defaults`"
        )
        raise SweepFileError(sweep.source.problem(("blocks", block.position), message))


def check_size(sweep: Sweep) -> None:
    """SweepFileError where a block is larger than anyone means."""
    for block in sweep.blocks:
        cells = math.prod(len(values) for values in block.axes.values())
        if cells > MAX_CELLS:
            message = f"the axes give {cells:,} cells; a block may have {MAX_CELLS:,}"
            raise SweepFileError(sweep.source.problem(("blocks", block.position, "axes"), message))


def excluded(values: Layer, exclude: tuple[Mapping[str, tuple[Any, ...]], ...], hits: list[int]) -> bool:
    """Whether an entry of `exclude` fits; every one that does is counted in `hits`."""
    fits = [position for position, point in enumerate(exclude) if fit(values, point)]
    for position in fits:
        hits[position] += 1
    return bool(fits)


def fit(values: Layer, point: Mapping[str, tuple[Any, ...]]) -> bool:
    """Whether the partial point fits."""
    return all(values[name] in barred for name, barred in point.items())


def unused_exclusions(sweep: Sweep, hits: list[int]) -> list[str]:
    """A remark on each exclusion without effect."""
    unused = [position for position, count in enumerate(hits) if count == 0]
    return [sweep.source.problem(("exclude", position), "excludes no cell") for position in unused]


def twice(sweep: Sweep, first: Point, block: Block) -> str:
    """The complaint about a point that `block` repeats."""
    line = sweep.source.line(("blocks", first.block.position))
    other = f"also in {first.block.label} (line {line})" if first.block is not block else "twice in this block"
    message = f"cell {first.name} is {other}; take it out of one of them, or list it under exclude"
    return sweep.source.problem(("blocks", block.position), message)


def shown_axes(sweep: Sweep) -> tuple[str, ...]:
    """Names of the values in a cell's record."""
    named = (name for block in sweep.blocks for name in itertools.chain(block.axes, block.settings))
    return tuple(dict.fromkeys(itertools.chain(AXES, named)))


def shown_value(value: Any) -> Any:
    """A value of a layer as JSON: pairs become a mapping again, one whole data set its name."""
    if not isinstance(value, tuple):
        return value
    if value and all(isinstance(part, tuple) and len(part) == 2 for part in value):
        return value[0][0] if value == ((value[0][0], 1),) else dict(value)
    return [getattr(part, "name", part) for part in value]
