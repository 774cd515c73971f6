"""Data, each figure with its source: models, GPU types, data sets, tasks (the YAML files of this folder).

`load_catalog()` reads and checks them; `sweep.catalog.parse_entries` has the types.
"""

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from stages.config import LanguageModel
from sweep.catalog.entries import (
    REFERENCE,
    TERA,
    Catalog,
    DatasetEntry,
    GpuType,
    ModelEntry,
    Placement,
    TaskChance,
    TaskEntry,
    ZMetric,
)
from sweep.catalog.gpu_parts import GpuTable, SliceProfiles
from sweep.errors import SweepFileError
from sweep.phases import PHASES

__all__ = [
    "REFERENCE",
    "TERA",
    "Catalog",
    "DatasetEntry",
    "GpuType",
    "ModelEntry",
    "Placement",
    "TaskEntry",
    "load_catalog",
]

FOLDER = Path(__file__).parent
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times faster, where it was built in

ACCEPTED_TYPES: Mapping[object, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    float | None: (int, float),
    str: (str,),
    bool: (bool,),
}
Entry = TypeVar("Entry", GpuType, DatasetEntry, TaskEntry, ModelEntry, Placement, TaskChance, ZMetric, SliceProfiles)


@cache
def load_catalog(folder: Path = FOLDER) -> Catalog:
    """The catalog of the package, or of another folder with the same files.

    Raises:
        SweepFileError: a file is missing, is no YAML, or has a field that is unknown, missing or of another type.
    """
    gpus = read_mapping(folder / "gpus.yaml")
    whole = parse_entries(GpuType, gpus, "gpus", folder / "gpus.yaml")
    data = read_mapping(folder / "data.yaml")
    catalog = Catalog(
        models=read_model_entries(folder / "models.yaml"),
        gpus=GpuTable(whole, read_slices(gpus, whole, folder / "gpus.yaml")),
        datasets=parse_entries(DatasetEntry, data, "datasets", folder / "data.yaml"),
        tasks=parse_entries(TaskEntry, data, "tasks", folder / "data.yaml"),
        encoder_utilisation=check_share(gpus, "encoder_utilisation", folder / "gpus.yaml"),
        evaluate_efficiency=check_share(gpus, "evaluate_efficiency", folder / "gpus.yaml"),
    )
    check_references(catalog, folder)
    check_startups(catalog, folder)
    return catalog


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds one mapping."""
    try:
        content = yaml.load(path.read_bytes(), Loader=SafeLoader)  # noqa: S506 - a safe loader, by either name
    except (OSError, yaml.YAMLError) as error:
        raise SweepFileError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error
    return check_mapping(content, str(path))


def read_slices(content: Mapping[str, Any], whole: Mapping[str, GpuType], path: Path) -> dict[str, SliceProfiles]:
    """The MIG slices of the types."""
    found = parse_entries(SliceProfiles, content, "slices", path)
    for name, slices in found.items():
        where = f"{path}: slices.{name}"
        if name not in whole:
            raise SweepFileError(f"{where}: there is no GPU type of that name")
        shares = check_mapping(slices.memory, f"{where}.memory")
        for profile in shares:
            check_share(shares, profile, f"{where}.memory")
            units = re.fullmatch(r"([1-9])g\.[1-9]\d{0,2}gb", profile)
            if units is None or int(units[1]) > slices.units:
                raise SweepFileError(f"{where}.memory: {profile!r} is no profile such as 1g.10gb")
    return found


def read_model_entries(path: Path) -> dict[str, ModelEntry]:
    found = {}
    for name, content in check_mapping(read_mapping(path).get("models"), f"{path}: models").items():
        where = f"{path}: models.{name}"
        values = dict(check_mapping(content, where))
        values["shape"] = parse_model_shape(values.get("shape"), where)
        values["utilisation"] = {
            gpu: check_share(values["utilisation"], gpu, where)
            for gpu in check_mapping(values.get("utilisation"), where)
        }
        placements = check_mapping(values.get("resources"), f"{where}.resources")
        phases = [name for name, phase in PHASES.items() if phase.in_catalog]
        if set(placements) != set(phases):
            raise SweepFileError(
                f"{where}.resources: wants exactly {', '.join(phases)}; it has {', '.join(placements)}"
            )
        values["resources"] = {
            phase: build_checked_entry(Placement, check_mapping(placements[phase], where), f"{where}.resources.{phase}")
            for phase in phases
        }
        found[name] = build_checked_entry(ModelEntry, {"name": name, **values}, where)
    return found


def parse_model_shape(content: object, where: str) -> LanguageModel:
    try:
        return LanguageModel(**check_mapping(content, f"{where}.shape"))
    except ValueError as error:
        raise SweepFileError(f"{where}.shape: {' '.join(str(error).split())}") from error


def parse_entries(cls: type[Entry], content: Mapping[str, Any], section: str, path: Path) -> dict[str, Entry]:
    found = check_mapping(content.get(section), f"{path}: {section}")
    return {
        name: build_checked_entry(
            cls, {"name": name, **check_mapping(values, f"{path}: {section}.{name}")}, f"{path}: {section}.{name}"
        )
        for name, values in found.items()
    }


def build_checked_entry(cls: type[Entry], values: Mapping[str, Any], where: str) -> Entry:
    """`cls` of `values`, if they are its fields and of their types."""
    known = {item.name: item for item in fields(cls)}
    if unknown := [name for name in values if name not in known]:
        raise SweepFileError(f"{where}: field {unknown[0]!r} is unknown; fields are {', '.join(known)}")
    for name, item in known.items():
        if name not in values:
            if item.default is MISSING and item.default_factory is MISSING:
                raise SweepFileError(f"{where}: field {name!r} is missing")
            continue
        wanted = ACCEPTED_TYPES.get(item.type)
        value = values[name]
        if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
            raise SweepFileError(f"{where}.{name}: {value!r} is not of type {wanted[-1].__name__}")
        if wanted and isinstance(value, int | float) and value < 0:
            raise SweepFileError(f"{where}.{name}: {value!r} is below 0")
    return cls(**values)


def check_mapping(content: object, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise SweepFileError(f"{where}: wants a mapping, and has {content!r}")
    return content


def check_share(content: Mapping[str, Any], name: str, where: object) -> float:
    """A number above 0 and up to 1."""
    value = content.get(name)
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise SweepFileError(f"{where}: {name}: {value!r} is not a number above 0 and up to 1")
    return float(value)


def check_startups(catalog: Catalog, folder: Path) -> None:
    """Each GPU type states the start-up of every phase."""
    for gpu in catalog.gpus.values():
        given = check_mapping(gpu.startup_minutes, f"{folder / 'gpus.yaml'}: gpus.{gpu.name}.startup_minutes")
        named = [name for name, phase in PHASES.items() if phase.in_catalog]
        sound = all(isinstance(value, int | float) and value >= 0 for value in given.values())
        if set(given) != set(named) or not sound:
            place = f"{folder / 'gpus.yaml'}: gpus.{gpu.name}.startup_minutes"
            raise SweepFileError(f"{place}: wants minutes for exactly {', '.join(named)}")


def check_references(catalog: Catalog, folder: Path) -> None:
    """GPU types that models name exist, and so do the defaults that searches fall back to."""
    if REFERENCE not in catalog.gpus or catalog.gpus[REFERENCE].factor != 1:
        raise SweepFileError(f"{folder / 'gpus.yaml'}: gpus.{REFERENCE}: must be there, with the factor 1")
    for model in catalog.models.values():
        named = {*model.utilisation, *(placement.gpu_type for placement in model.resources.values())}
        if unknown := named - set(catalog.gpus):
            raise SweepFileError(f"{folder / 'models.yaml'}: models.{model.name}: no GPU type {min(unknown)!r}")
    for name, known in (
        ("default", catalog.datasets),
        ("default_text", catalog.tasks),
        ("default_vision", catalog.tasks),
    ):
        if name not in known:
            raise SweepFileError(f"{folder / 'data.yaml'}: the entry {name!r} is missing")
