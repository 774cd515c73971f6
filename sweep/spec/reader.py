"""Reads a sweep file and checks it whole: every problem has its file, line, the value given and what would do."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from jobs.counted import format_counted
from stages.vision.specs import UnknownEncoderError, resolve_encoder_spec
from sweep.catalog import Catalog
from sweep.errors import SweepFileError
from sweep.spec.data import (
    ENCODER_KIND,
    ROLES,
    DataSet,
    find_kind_problem,
    find_role_problem,
    iter_encoder_problems,
    resolve_data_address,
)
from sweep.spec.engines import find_engine_name_problem
from sweep.spec.fields import PointFields
from sweep.spec.models import Model, ModelFields, ModelProblemError, resolve_model
from sweep.spec.resources import ResourceFields, iter_contradictions
from sweep.spec.run_settings import RunSettingFields, iter_misplaced_settings
from sweep.spec.schema import GridBlock, Sweep, SweepFields
from sweep.spec.settings import Layer, flatten_settings, freeze_axis_values
from sweep.spec.yaml_source import SettingPath, YamlSource, format_given_value, read_yaml

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

SETTING_HINTS = {
    "pretrain.seed": "the image-text run's seed is the axis `seed`",
    "pretrain.encoder": "the encoder is the axis `encoder`",
    "pretrain.peak_lr": "it follows from lr_at_branch and pretrain.restart_lr",
    "finetune.epochs": "the numbers of epochs are the list `epochs` of the file or of a block",
}
"""Keys that one may expect where they are not."""


def format_problems(error: ValidationError, source: YamlSource, model: type[BaseModel]) -> list[str]:
    """One line for each thing that is wrong in the file, which was validated as `model`."""
    details = [each for each in error.errors(include_url=False) if not is_empty_in_part(each["input"])]
    lines = (format_problem(detail, source, model) for detail in details)
    return list(dict.fromkeys(lines))  # an unknown axis is found at each of its values


def is_empty_in_part(given: object) -> bool:
    """Whether a value, or a part of it, is empty: `list_empty_fields` tells that."""
    return given is None or (isinstance(given, dict) and None in given.values())


def format_problem(detail: Mapping[str, Any], source: YamlSource, model: type[BaseModel]) -> str:
    """One line."""
    where = tuple(step for step in detail["loc"] if step != "[key]")  # pydantic's mark for a mapping's key
    unknown = detail["type"] == "extra_forbidden"
    return source.format_problem(find_place_in_file(where, source, unknown), format_message(detail, where, model))


def format_message(detail: Mapping[str, Any], where: SettingPath, model: type[BaseModel]) -> str:
    """What was given, what is wrong with it, what would do."""
    name, parent, kind = str(where[-1]) if where else "", find_model_class(model, where[:-1]), detail["type"]
    if kind == "extra_forbidden":
        meant = SETTING_HINTS.get(".".join(map(str, where[-2:])))
        return (
            f"is unknown; {meant}"
            if meant
            else f"is unknown{format_suggestion(name, parent.model_fields if parent else ())}"
        )
    if kind == "missing":
        return "is missing" + describe_field(parent, name)
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    return f"{format_given_value(detail['input'])} {format_complaint(detail)}{describe_field(parent, name)}"


# Why: docs/decisions.md, D157
def list_empty_fields(source: YamlSource) -> list[str]:
    """A line for each field or entry that the file names and leaves without a value, wherever it stands."""
    return [
        source.format_problem(where, f"is empty; give it a value or take the line out{describe_place(where)}")
        for where in source.iter_empty_values()
    ]


def describe_place(where: SettingPath) -> str:
    """What would do at a place of a sweep file."""
    if (where[:1] == ("blocks",) and where[2:3] == ("axes",)) or where[:1] == ("exclude",):
        setting = [step for step in where if isinstance(step, str)][-1].split(".")  # `trunk.seed` is an axis, too
        return describe_field(find_model_class(PointFields, setting[:-1]), setting[-1])
    names = where[:-1] if where and isinstance(where[-1], int) else where  # an entry of a list is described by its list
    return describe_field(find_model_class(SweepFields, names[:-1]), str(names[-1])) if names else ""


def format_complaint(detail: Mapping[str, Any]) -> str:
    """The end of a sentence that begins with the value."""
    kind, message = detail["type"], str(detail["msg"]).removeprefix("Input ")
    if kind == "string_type" and isinstance(detail["input"], int | float):
        return "is a number where text is wanted; put it in quotes"
    if kind in OUT_OF_RANGE:
        return f"is out of range: it {message}"
    return COMPLAINTS.get(kind, f"will not do: {message}")


def find_place_in_file(where: SettingPath, source: YamlSource, unknown: bool) -> SettingPath:
    """Without the steps that only the schema has: a value of an axis is validated as a mapping in a list."""
    if where[:1] == ("blocks",) and where[2:3] == ("axes",):
        unknown_axis = unknown and where[5:] == where[3:4]
        where = where[:4] if unknown_axis else where[:5]
    elif where[:1] == ("exclude",):
        where = where[:4]
    # a single value of `exclude` has become a list of one
    return where[:-1] if where and isinstance(where[-1], int) and not source.has_value(where) else where


def describe_field(model: type[BaseModel] | None, name: str) -> str:
    """What would do, from the field's description."""
    field = model.model_fields.get(name) if model else None
    return f"; {name} is {field.description}" if field is not None and field.description else ""


def format_suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or the whole list where nothing comes near."""
    known = sorted(known)
    close = difflib.get_close_matches(name[:MOST_COMPARED], known[:MOST_COMPARED], n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {join_names(known)}" if known else ""


MOST_COMPARED = 200
"""Names that a misspelt one is compared with, and letters of it: all of 5,000 with 5,000 take minutes."""
MOST_NAMES = 60


def join_names(names: Sequence[str]) -> str:
    """The names with commas between, and how many more there are."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more:,} more" if more > 0 else "")


def find_model_class(model: type[BaseModel], where: Sequence[str | int]) -> type[BaseModel] | None:
    """The model class that validates what lies at `where`; None where that is no model's business."""
    kind: Any = model
    for step in where:
        kind = find_part_type(kind, step)
    return strip_annotations(kind) if is_model_class(strip_annotations(kind)) else None


def find_part_type(kind: Any, step: str | int) -> Any:
    """The type of the part `step` of a value of type `kind`."""
    kind = strip_annotations(kind)
    if is_model_class(kind):
        field = kind.model_fields.get(step)
        return field.annotation if field else None
    return get_args(kind)[-1] if get_args(kind) else None  # list[X] and dict[str, X]


def strip_annotations(kind: Any) -> Any:
    """`X` of `X | None` and of `Annotated[X, ...]`."""
    while hasattr(kind, "__metadata__") or isinstance(kind, UnionType) or get_origin(kind) is Union:
        parts = [part for part in get_args(kind) if part is not type(None)]
        kind = parts[0]
    return kind


def is_model_class(kind: Any) -> bool:
    """Whether it is a pydantic class."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


MAX_PROBLEMS_SHOWN = 20

Axes = Mapping[str, tuple[Any, ...]]
PlacedSetting = tuple[str, Any, SettingPath]
"""A setting's name, the value given, and where it stands in the file."""


def load_sweep(path: Path, *, store: Path, catalog: Catalog) -> Sweep:
    """Reads and checks a sweep file; SweepFileError lists what is wrong, a line each."""
    return check_sweep_source(read_yaml(path), store=store, catalog=catalog)


def check_sweep_source(source: YamlSource, *, store: Path, catalog: Catalog) -> Sweep:
    """The same of a file that has been read."""
    if not isinstance(source.data, dict):
        raise SweepFileError(source.format_problem((), "is not a mapping; a sweep file begins with `name: ...`"))
    reader = SweepFileReader(source, store, catalog)
    fields = reader.validate_schema()
    blocks = tuple(
        GridBlock(
            label=block.name or f"blocks.{position}",
            position=position,
            axes={name: freeze_axis_values(points) for name, points in block.axes.items()},
            settings=flatten_settings(block.set),
            epochs=tuple(sorted(block.epochs or fields.epochs)),
            priority=block.priority,
        )
        for position, block in enumerate(fields.blocks)
    )
    exclude: list[Axes] = [
        {name: freeze_axis_values(points) for name, points in each.items()} for each in fields.exclude
    ]
    layers = list_placed_values(fields, blocks, exclude)
    named = [value for name, value, _ in layers if name == "model" and value is not None]
    sweep = Sweep(
        source=source,
        name=fields.name,
        description=fields.description,
        backend=fields.backend,
        data=reader.resolve_data_sets(fields),
        models=reader.resolve_models(fields.models, named),
        engines=fields.engines,
        defaults=flatten_settings(fields.defaults),
        blocks=blocks,
        exclude=tuple(exclude),
        checkpoints=fields.checkpoints.build_settings(),
        settings=fields.settings,
        resources=fields.resources,
        canary=fields.canary.build_limits() if fields.canary is not None else None,
        prices=fields.prices.build_prices() if fields.prices is not None else None,
        notices=fields.notices.build_settings() if fields.notices is not None else None,
    )
    reader.check_prices(fields)
    reader.check_sweep(sweep, layers, [*fields.models, *catalog.models])
    reader.check_epochs(fields)
    reader.raise_if_problems()
    return sweep


class SweepFileReader:
    """Collects what is wrong with one file, so that a user sees all of it at once."""

    def __init__(self, source: YamlSource, store: Path, catalog: Catalog) -> None:
        self.source = source
        self.store = store
        self.catalog = catalog
        self.problems: list[str] = []

    def record_problem(self, where: SettingPath, message: str) -> None:
        self.problems.append(self.source.format_problem(where, message))

    def check_prices(self, fields: SweepFields) -> None:
        """A price of a GPU type that nobody knows would count nowhere."""
        for name in fields.prices.gpu_hour if fields.prices is not None else ():
            if name not in self.catalog.gpus:
                known = ", ".join(self.catalog.gpus)
                self.record_problem(("prices", "gpu_hour", name), f"is no GPU type of the catalog, which has {known}")

    def raise_if_problems(self) -> None:
        if self.problems:
            raise self.build_error()

    def build_error(self) -> SweepFileError:
        return SweepFileError(truncate_problems(sorted(self.problems, key=self.extract_line)))

    def extract_line(self, problem: str) -> int:
        line = problem.removeprefix(f"{self.source.path}:").partition(":")[0]
        return int(line) if line.isdecimal() else 0  # of an option

    def validate_schema(self) -> SweepFields:
        """The file's fields; SweepFileError lists all that is wrong with them, fields without a value included."""
        self.problems += list_empty_fields(self.source)
        try:
            fields = SweepFields.model_validate(self.source.data)
        except ValidationError as error:
            self.problems += format_problems(error, self.source, SweepFields)
            raise self.build_error() from None
        self.raise_if_problems()
        return fields

    def resolve_data_sets(self, fields: SweepFields) -> dict[str, DataSet]:
        data: dict[str, DataSet] = {}
        for name, given in fields.data.items():
            try:
                path = resolve_data_address(given.path, given.kind, self.source.path.parent, self.store)
            except ValueError as error:
                self.record_problem(("data", name, "path"), str(error))
                path = given.path
            data[name] = DataSet(**{**dict(given), "name": name, "path": path})
            for key, message in iter_encoder_problems(data[name]):
                self.record_problem(("data", name, key), message)
        return data

    def resolve_models(self, given: Mapping[str, ModelFields], named: list[str]) -> dict[str, Model]:
        """The models that the file describes or names."""
        models: dict[str, Model] = {}
        for name in dict.fromkeys([*given, *named]):
            if name not in given and name not in self.catalog.models:
                continue  # reported where it is named
            try:
                models[name] = resolve_model(name, given, self.catalog)
            except ModelProblemError as error:
                self.record_problem(("models", name, *([error.key] if error.key else [])), str(error))
        return models

    def check_sweep(self, sweep: Sweep, layers: list[PlacedSetting], models: list[str]) -> None:
        """What needs more than the value itself: names of models, data sets, encoders, blocks."""
        models = list(dict.fromkeys(models))
        for name, value, where in layers:
            if message := self.find_reference_problem(name, value, sweep, models):
                self.record_problem(where, message)
        self.check_blocks(sweep)
        self.check_repeats(layers)
        self.check_resources(sweep.resources, models)
        self.check_settings(sweep.settings, models)

    def check_epochs(self, fields: SweepFields) -> None:
        lists: list[tuple[SettingPath, list[int]]] = [(("epochs",), fields.epochs)]
        lists += [(("blocks", position, "epochs"), block.epochs) for position, block in enumerate(fields.blocks)]
        for where, epochs in lists:
            if len(set(epochs)) < len(epochs):
                self.record_problem(where, "has a number twice; keep one")

    def find_reference_problem(self, name: str, value: Any, sweep: Sweep, models: list[str]) -> str:
        if name == "model" and value not in models:
            known = f"{format_counted(len(models), 'model')}: {join_names(models)}"
            return f"{format_given_value(value)} is not a model{format_suggestion(value, models)} ({known})"
        if name == "encoder":
            try:
                resolve_encoder_spec(value)
            except UnknownEncoderError as error:
                return str(error)
        if name.endswith(".engine"):
            return find_engine_name_problem(name, value, sweep.engines)
        if name == "encoder_weights":
            return next(filter(None, (find_kind_problem(name, ENCODER_KIND, part, sweep.data) for part in value)), "")
        if name in ROLES:
            given = [part for part, _ in value] if name == "text" else [value]
            return next(filter(None, (find_role_problem(name, part, sweep.data) for part in given)), "")
        return ""

    def check_blocks(self, sweep: Sweep) -> None:
        first: dict[str, int] = {}
        for block in sweep.blocks:
            where: SettingPath = ("blocks", block.position)
            if first.setdefault(block.label, block.position) != block.position:
                self.record_problem(
                    (*where, "name"), f"{block.label!r} also names blocks.{first[block.label]}; block names differ"
                )
            for name in block.axes.keys() & block.settings.keys():
                self.record_problem((*where, "set"), f"{name} is also an axis of this block; keep one")

    def check_repeats(self, layers: list[PlacedSetting]) -> None:
        """A value twice in one axis would give a cell twice."""
        seen: set[tuple[SettingPath, Any]] = set()
        for _, value, where in layers:
            if where[-2:-1] and isinstance(where[-1], int):
                if (where[:-1], value) in seen:
                    self.record_problem(where, f"{format_given_value(value)} stands here twice; keep one")
                seen.add((where[:-1], value))

    def check_resources(self, resources: ResourceFields, models: list[str]) -> None:
        for name in resources.models:
            if name not in models:
                self.record_problem(("resources", "models", name), f"is not a model{format_suggestion(name, models)}")
        for where, kind in list_gpu_types(self.source.data.get("resources"), ("resources",)):
            if kind not in self.catalog.gpus:
                self.record_problem(
                    where,
                    f"{format_given_value(kind)} is not a GPU type; types are {', '.join(self.catalog.gpus)}; "
                    "slices of them such as a100-1g.10gb; and shards such as a100-shard.1of4",
                )
        for where, message in dict(iter_contradictions(resources, list(resources.models))).items():
            self.record_problem(where, message)

    def check_settings(self, settings: RunSettingFields, models: list[str]) -> None:
        for name in settings.models:
            if name not in models:
                self.record_problem(("settings", "models", name), f"is not a model{format_suggestion(name, models)}")
        for where, message in dict(iter_misplaced_settings(settings)).items():
            self.record_problem(where, message)


def list_placed_values(fields: SweepFields, blocks: tuple[GridBlock, ...], exclude: list[Axes]) -> list[PlacedSetting]:
    """Every setting that the file gives, with its place."""
    layers: list[tuple[SettingPath, Layer]] = [(("defaults",), flatten_settings(fields.defaults))]
    layers += [(("models", name), flatten_settings(model, PointFields)) for name, model in fields.models.items()]
    layers += [(("blocks", block.position, "set"), block.settings) for block in blocks]
    found = [(name, value, (*where, *name.split("."))) for where, layer in layers for name, value in layer.items()]
    for block in blocks:
        for name, values in block.axes.items():
            found += [(name, value, ("blocks", block.position, "axes", name, i)) for i, value in enumerate(values)]
    for position, point in enumerate(exclude):
        for name, values in point.items():
            found += [(name, value, ("exclude", position, name, i)) for i, value in enumerate(values)]
    return found


def list_gpu_types(given: Any, where: SettingPath) -> list[tuple[SettingPath, Any]]:
    """Every `gpu_type` below `where`."""
    found: list[tuple[SettingPath, Any]] = []
    for name, value in given.items() if isinstance(given, dict) else ():
        if name == "gpu_type":
            found.append(((*where, name), value))
        found += list_gpu_types(value, (*where, name))
    return found


def truncate_problems(problems: list[str]) -> list[str]:
    """Each problem once, and not more than a screen of them."""
    distinct = list(dict.fromkeys(problems))
    more = len(distinct) - MAX_PROBLEMS_SHOWN
    return [*distinct[:MAX_PROBLEMS_SHOWN], f"... and {more} more"] if more > 0 else distinct
