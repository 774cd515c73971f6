"""What is assumed of answers before there are any (noise.yaml)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sweep.catalog import FOLDER, check_mapping, check_share, read_mapping
from sweep.errors import SweepFileError

FIELDS = ("answer_deviation", "model_correlation", "image_correlation", "seed_deviation")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseAssumptions:
    """Each with its source, by the same name, in `sources`."""

    answer_deviation: float
    """Standard deviation of one answer's score."""
    model_correlation: float
    """Of two models' scores of one question."""
    image_correlation: float
    """Of two models' differences in two questions about one image."""
    seed_deviation: float
    """Standard deviation of a model's score over seeds, a fraction of 1."""
    sources: Mapping[str, str]
    clusters: Mapping[str, int]
    """Scenes or passages of a task's questions, by task, where they are not the images that the catalog has."""


@cache
def load_noise_assumptions(path: Path = FOLDER / "noise.yaml") -> NoiseAssumptions:
    """The file of the package, or another one of the same form.

    Raises:
        SweepFileError: the file is missing or no YAML, a figure is missing or out of range, or has no source.
    """
    content = read_mapping(path)
    given = check_mapping(content.get("assumptions"), f"{path}: assumptions")
    wanted = {name for field in FIELDS for name in (field, f"{field}_source")}
    if set(given) != wanted:
        raise SweepFileError(
            f"{path}: assumptions: wants exactly {', '.join(sorted(wanted))}; it has {', '.join(given)}"
        )
    values = {name: check_share(given, name, f"{path}: assumptions") for name in FIELDS}
    tasks = check_mapping(content.get("clusters"), f"{path}: clusters")
    return NoiseAssumptions(
        **values,
        sources={name: " ".join(str(given[f"{name}_source"]).split()) for name in FIELDS},
        clusters={name: check_number(entry, f"{path}: clusters.{name}") for name, entry in tasks.items()},
    )


def check_number(entry: Any, where: str) -> int:
    """The number of an entry that names its source."""
    fields = check_mapping(entry, where)
    number = fields.get("number")
    if set(fields) != {"number", "source"} or not isinstance(number, int) or number < 1:
        raise SweepFileError(f"{where}: wants a number of at least 1 and a source; it has {fields!r}")
    return number
