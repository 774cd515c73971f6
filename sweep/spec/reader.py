"""Reads a sweep file and checks it whole: every problem has its file, line, the value given and what would do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stages.vision.specs import UnknownEncoderError, encoder_spec
from sweep.catalog import Catalog
from sweep.encoder_weights import KIND, encoder_problems
from sweep.errors import SweepFileError
from sweep.problems import described, problems_of, suggestion
from sweep.spec.data import ROLES, DataSet, kind_problem, resolved_path, role_problem
from sweep.spec.engines import engine_name_problem
from sweep.spec.fields import PointFields
from sweep.spec.models import Model, ModelFields, ModelProblemError, resolve_model
from sweep.spec.resources import ResourceFields, contradictions
from sweep.spec.run_settings import RunSettingFields, misplaced
from sweep.spec.schema import Block, Sweep, SweepFields
from sweep.spec.settings import Layer, axis_values, flat
from sweep.spec.yaml_source import Path_, YamlSource, read_yaml, shown

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
