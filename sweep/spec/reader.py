"""Reads a sweep file and checks it whole: every problem has its file, line, the value given and what would do."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from stages.vision.specs import UnknownEncoderError, encoder_spec
from sweep.catalog import Catalog
from sweep.errors import SweepFileError
from sweep.spec.data import KIND, ROLES, DataSet, encoder_problems, kind_problem, resolved_path, role_problem
from sweep.spec.engines import engine_name_problem
from sweep.spec.fields import PointFields
from sweep.spec.models import Model, ModelFields, ModelProblemError, resolve_model
from sweep.spec.resources import ResourceFields, contradictions
from sweep.spec.run_settings import RunSettingFields, misplaced
from sweep.spec.schema import Block, Sweep, SweepFields
from sweep.spec.settings import Layer, axis_values, flat
from sweep.spec.yaml_source import Path_, YamlSource, read_yaml, shown

# pydantic's errors as lines that a user can act on: FILE:LINE: where: what was given, what would do.

COMPLAINTS = {
    "literal_error": "is not one of the choices",
    "string_pattern_mismatch": "is not a plain word (letters, digits and . _ + -, no spaces, no leading mark)",
    "too_short": "has no values; give at least one, or take it out",
    "list_type": "will not do: a list is wanted, [in brackets]",
    "dict_type": "will not do: a mapping is wanted, name: value",
    "model_type": "will not do: a mapping is wanted, name: value",
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "bool_type": "is neither true nor false",
    "string_type": "is not text",
}
"""pydantic's error types, as the end of a sentence that begins with the value given."""

OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}

MEANT = {
    "pretrain.seed": "the image-text run's seed is the axis `seed`",
    "pretrain.encoder": "the encoder is the axis `encoder`",
    "pretrain.peak_lr": "it follows from lr_at_branch and pretrain.restart_lr",
    "finetune.epochs": "the numbers of epochs are the list `epochs` of the whole file",
}
"""Keys that one may expect where they are not."""


def problems_of(error: ValidationError, source: YamlSource, model: type[BaseModel]) -> list[str]:
    """One line for each thing that is wrong in the file, which was validated as `model`."""
    lines = (problem_of(detail, source, model) for detail in error.errors(include_url=False))
    return list(dict.fromkeys(lines))  # an unknown axis is found at each of its values


def problem_of(detail: Mapping[str, Any], source: YamlSource, model: type[BaseModel]) -> str:
    """One line."""
    where = tuple(step for step in detail["loc"] if step != "[key]")  # pydantic's mark for a mapping's key
    unknown = detail["type"] == "extra_forbidden"
    return source.problem(place_in_file(where, source, unknown), message_of(detail, where, model))


def message_of(detail: Mapping[str, Any], where: Path_, model: type[BaseModel]) -> str:
    """What was given, what is wrong with it, what would do."""
    name, parent, kind = str(where[-1]) if where else "", model_at(model, where[:-1]), detail["type"]
    if kind == "extra_forbidden":
        meant = MEANT.get(".".join(map(str, where[-2:])))
        return (
            f"is unknown; {meant}" if meant else f"is unknown{suggestion(name, parent.model_fields if parent else ())}"
        )
    if kind == "missing":
        return "is missing" + described(parent, name)
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if detail["input"] is None:
        return "is empty; give it a value or take the line out" + described(parent, name)
    return f"{shown(detail['input'])} {complaint(detail)}{described(parent, name)}"


def complaint(detail: Mapping[str, Any]) -> str:
    """The end of a sentence that begins with the value."""
    kind, message = detail["type"], str(detail["msg"]).removeprefix("Input ")
    if kind == "string_type" and isinstance(detail["input"], int | float):
        return "is a number where text is wanted; put it in quotes"
    if kind in OUT_OF_RANGE:
        return f"is out of range: it {message}"
    return COMPLAINTS.get(kind, f"will not do: {message}")


def place_in_file(where: Path_, source: YamlSource, unknown: bool) -> Path_:
    """Without the steps that only the schema has: a value of an axis is validated as a mapping in a list."""
    if where[:1] == ("blocks",) and where[2:3] == ("axes",):
        unknown_axis = unknown and where[5:] == where[3:4]
        where = where[:4] if unknown_axis else where[:5]
    elif where[:1] == ("exclude",):
        where = where[:4]
    # a single value of `exclude` has become a list of one
    return where[:-1] if where and isinstance(where[-1], int) and not source.has(where) else where


def described(model: type[BaseModel] | None, name: str) -> str:
    """What would do, from the field's description."""
    field = model.model_fields.get(name) if model else None
    return f"; {name} is {field.description}" if field is not None and field.description else ""


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or the whole list where nothing comes near."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(known)}" if known else ""


def model_at(model: type[BaseModel], where: Sequence[str | int]) -> type[BaseModel] | None:
    """The model class that validates what lies at `where`; None where that is no model's business."""
    kind: Any = model
    for step in where:
        kind = kind_at(kind, step)
    return bare(kind) if is_model(bare(kind)) else None


def kind_at(kind: Any, step: str | int) -> Any:
    """The type of the part `step` of a value of type `kind`."""
    kind = bare(kind)
    if is_model(kind):
        field = kind.model_fields.get(step)
        return field.annotation if field else None
    return get_args(kind)[-1] if get_args(kind) else None  # list[X] and dict[str, X]


def bare(kind: Any) -> Any:
    """`X` of `X | None` and of `Annotated[X, ...]`."""
    while hasattr(kind, "__metadata__") or isinstance(kind, UnionType) or get_origin(kind) is Union:
        parts = [part for part in get_args(kind) if part is not type(None)]
        kind = parts[0]
    return kind


def is_model(kind: Any) -> bool:
    """Whether it is a pydantic class."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


PROBLEMS_SHOWN = 20

Axes = Mapping[str, tuple[Any, ...]]
Placed = tuple[str, Any, Path_]
"""A setting's name, the value given, and where it stands in the file."""


def load_sweep(path: Path, *, store: Path, catalog: Catalog) -> Sweep:
    """Reads and checks a sweep file; SweepFileError lists what is wrong, a line each."""
    source = read_yaml(path)
    if not isinstance(source.data, dict):
        raise SweepFileError(source.problem((), "is not a mapping; a sweep file begins with `name: ...`"))
    reader = Reader(source, store, catalog)
    fields = reader.schema()
    blocks = tuple(
        Block(
            label=block.name or f"blocks.{position}",
            position=position,
            axes={name: axis_values(points) for name, points in block.axes.items()},
            settings=flat(block.set),
        )
        for position, block in enumerate(fields.blocks)
    )
    exclude: list[Axes] = [{name: axis_values(points) for name, points in each.items()} for each in fields.exclude]
    layers = placed_values(fields, blocks, exclude)
    named = [value for name, value, _ in layers if name == "model" and value is not None]
    sweep = Sweep(
        source=source,
        name=fields.name,
        description=fields.description,
        backend=fields.backend,
        data=reader.data_sets(fields),
        models=reader.models(fields.models, named),
        engines=fields.engines,
        defaults=flat(fields.defaults),
        blocks=blocks,
        exclude=tuple(exclude),
        epochs=tuple(sorted(fields.epochs)),
        checkpoints=fields.checkpoints.as_settings(),
        settings=fields.settings,
        resources=fields.resources,
    )
    reader.check(sweep, layers, [*fields.models, *catalog.models])
    reader.stop_at_problems()
    return sweep


class Reader:
    """Collects what is wrong with one file, so that a user sees all of it at once."""

    def __init__(self, source: YamlSource, store: Path, catalog: Catalog) -> None:
        self.source = source
        self.store = store
        self.catalog = catalog
        self.problems: list[str] = []

    def note(self, where: Path_, message: str) -> None:
        self.problems.append(self.source.problem(where, message))

    def stop_at_problems(self) -> None:
        if self.problems:
            raise self.error()

    def error(self) -> SweepFileError:
        return SweepFileError(shortened(sorted(self.problems, key=self.line_of)))

    def line_of(self, problem: str) -> int:
        return int(problem.removeprefix(f"{self.source.path}:").partition(":")[0])

    def schema(self) -> SweepFields:
        """The file's fields; SweepFileError lists all that is wrong with them."""
        try:
            return SweepFields.model_validate(self.source.data)
        except ValidationError as error:
            self.problems += problems_of(error, self.source, SweepFields)
            raise self.error() from None

    def data_sets(self, fields: SweepFields) -> dict[str, DataSet]:
        data: dict[str, DataSet] = {}
        for name, given in fields.data.items():
            try:
                path = resolved_path(given.path, self.source.path.parent, self.store)
            except ValueError as error:
                self.note(("data", name, "path"), str(error))
                path = given.path
            data[name] = DataSet(**{**dict(given), "name": name, "path": path})
            for key, message in encoder_problems(data[name]):
                self.note(("data", name, key), message)
        return data

    def models(self, given: Mapping[str, ModelFields], named: list[str]) -> dict[str, Model]:
        """The models that the file describes or names."""
        models: dict[str, Model] = {}
        for name in dict.fromkeys([*given, *named]):
            if name not in given and name not in self.catalog.models:
                continue  # reported where it is named
            try:
                models[name] = resolve_model(name, given, self.catalog)
            except ModelProblemError as error:
                self.note(("models", name, *([error.key] if error.key else [])), str(error))
        return models

    def check(self, sweep: Sweep, layers: list[Placed], models: list[str]) -> None:
        """What needs more than the value itself: names of models, data sets, encoders, blocks."""
        models = list(dict.fromkeys(models))
        for name, value, where in layers:
            message = f"is empty; give it a value or take it out{described(PointFields, name)}"
            if value is not None:
                message = self.reference_problem(name, value, sweep, models)
            if message:
                self.note(where, message)
        self.check_blocks(sweep)
        self.check_repeats(layers)
        self.check_resources(sweep.resources, models)
        self.check_settings(sweep.settings, models)
        if len(set(sweep.epochs)) < len(sweep.epochs):
            self.note(("epochs",), "has a number twice; keep one")

    def reference_problem(self, name: str, value: Any, sweep: Sweep, models: list[str]) -> str:
        if name == "model" and value not in models:
            return f"{value!r} is not a model{suggestion(value, models)} ({len(models)} models: {', '.join(models)})"
        if name == "encoder":
            try:
                encoder_spec(value)
            except UnknownEncoderError as error:
                return str(error)
        if name.endswith(".engine"):
            return engine_name_problem(name, value, sweep.engines)
        if name == "encoder_weights":
            return next(filter(None, (kind_problem(name, KIND, part, sweep.data) for part in value)), "")
        if name in ROLES:
            given = [part for part, _ in value] if name == "text" else [value]
            return next(filter(None, (role_problem(name, part, sweep.data) for part in given)), "")
        return ""

    def check_blocks(self, sweep: Sweep) -> None:
        first: dict[str, int] = {}
        for block in sweep.blocks:
            where: Path_ = ("blocks", block.position)
            if first.setdefault(block.label, block.position) != block.position:
                self.note(
                    (*where, "name"), f"{block.label!r} also names blocks.{first[block.label]}; block names differ"
                )
            for name in block.axes.keys() & block.settings.keys():
                self.note((*where, "set"), f"{name} is also an axis of this block; keep one")

    def check_repeats(self, layers: list[Placed]) -> None:
        """A value twice in one axis would give a cell twice."""
        seen: set[tuple[Path_, Any]] = set()
        for _, value, where in layers:
            if where[-2:-1] and isinstance(where[-1], int):
                if (where[:-1], value) in seen:
                    self.note(where, f"{shown(value)} stands here twice; keep one")
                seen.add((where[:-1], value))

    def check_resources(self, resources: ResourceFields, models: list[str]) -> None:
        for name in resources.models:
            if name not in models:
                self.note(("resources", "models", name), f"is not a model{suggestion(name, models)}")
        for where, kind in gpu_types(self.source.data.get("resources"), ("resources",)):
            if kind not in self.catalog.gpus:
                self.note(where, f"{shown(kind)} is not a GPU type; types are {', '.join(self.catalog.gpus)}")
        for where, message in dict(contradictions(resources, list(resources.models))).items():
            self.note(where, message)

    def check_settings(self, settings: RunSettingFields, models: list[str]) -> None:
        for name in settings.models:
            if name not in models:
                self.note(("settings", "models", name), f"is not a model{suggestion(name, models)}")
        for where, message in dict(misplaced(settings)).items():
            self.note(where, message)


def placed_values(fields: SweepFields, blocks: tuple[Block, ...], exclude: list[Axes]) -> list[Placed]:
    """Every setting that the file gives, with its place."""
    layers: list[tuple[Path_, Layer]] = [(("defaults",), flat(fields.defaults))]
    layers += [(("models", name), flat(model, PointFields)) for name, model in fields.models.items()]
    layers += [(("blocks", block.position, "set"), block.settings) for block in blocks]
    found = [(name, value, (*where, *name.split("."))) for where, layer in layers for name, value in layer.items()]
    for block in blocks:
        for name, values in block.axes.items():
            found += [(name, value, ("blocks", block.position, "axes", name, i)) for i, value in enumerate(values)]
    for position, point in enumerate(exclude):
        for name, values in point.items():
            found += [(name, value, ("exclude", position, name, i)) for i, value in enumerate(values)]
    return found


def gpu_types(given: Any, where: Path_) -> list[tuple[Path_, Any]]:
    """Every `gpu_type` below `where`."""
    found: list[tuple[Path_, Any]] = []
    for name, value in given.items() if isinstance(given, dict) else ():
        if name == "gpu_type":
            found.append(((*where, name), value))
        found += gpu_types(value, (*where, name))
    return found


def shortened(problems: list[str]) -> list[str]:
    """Each problem once, and not more than a screen of them."""
    distinct = list(dict.fromkeys(problems))
    more = len(distinct) - PROBLEMS_SHOWN
    return [*distinct[:PROBLEMS_SHOWN], f"... and {more} more"] if more > 0 else distinct
