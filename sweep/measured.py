"""How fast finished pre-training jobs of a store were: what an estimate believes before the catalog.

Every finished job counts, of whatever sweep, once: useful FLOPs (docs/estimates.md) over the seconds of all its
attempts together, for one GPU or one CPU core. A figure is the median of a model's jobs on one type of device, so that
a few slow nodes do not move it. What says little is left out: jobs of a few minutes, jobs whose attempts ran on
different devices, jobs in which the encoder took more time than the language model, and jobs whose images' features
were kept, as nobody knows how many of them the encoder saw.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.store.paths import Store
from stages.config import LanguageModel, PretrainConfig, Vision
from stages.flops import image_cost, step_flops
from sweep.catalog import Catalog
from sweep.finished import names_in

LEAST_SECONDS = 180.0
"""Of training: below, the first steps' compiling and reading show."""
MOST_RUNS = 300
"""Runs that are looked at. Keys are hashes, so the first of them in order are a fair sample of a larger store."""

Shape = tuple[int, int, int, int]
"""Width, layers, heads and vocabulary of a language model."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Speed of one model on one type of device."""

    flops_per_second: float
    """Language model and projector in training, of one GPU or CPU core; the median of `jobs`."""
    jobs: int


Measured = Mapping[tuple[Shape, str], Measurement]
"""By the model's shape and the GPU type (`cpu` for cores)."""
NOTHING_MEASURED: Measured = {}


def shape_of(model: LanguageModel) -> Shape:
    """What a speed depends on; a catalog's model and one of the same shape have one speed."""
    return model.d_model, model.layers, model.heads, model.vocabulary


def measured_speeds(store: Store, catalog: Catalog) -> Measured:
    """The speeds that the store shows; empty for a new one. What cannot be read or understood counts as not there."""
    rates: dict[tuple[Shape, str], list[float]] = defaultdict(list)
    runs = f"{store.runs}/pretrain"
    for key in sorted(names_in(store.runs / "pretrain"))[:MOST_RUNS]:
        result = record(f"{runs}/{key}/result.json")
        if number(result, "seconds") < LEAST_SECONDS:
            continue
        devices = devices_of(f"{runs}/{key}/attempts")
        if devices is not None and devices.kind in catalog.gpus:
            found = speed_shown(record(f"{runs}/{key}/job.json"), result, devices, catalog)
            if found is not None:
                rates[found[0], devices.kind].append(found[1])
    return {where: Measurement(median(found), len(found)) for where, found in rates.items()}


@dataclass(frozen=True, slots=True)
class Devices:
    """What a job ran on."""

    kind: str
    """GPU type, or `cpu`."""
    number: int


def speed_shown(
    job: Mapping[str, Any], result: Mapping[str, Any], devices: Devices, catalog: Catalog
) -> tuple[Shape, float] | None:
    """The model's shape and the FLOPs a second of one device that a finished job shows; None if it shows nothing."""
    try:
        config = job["config"]
        if config.get("engine"):
            return None  # another program's speed says nothing of ours
        model = LanguageModel.model_validate(config["model"])
        vision = Vision.model_validate(config["vision"]) if config.get("vision") else None
        context = int(number(config, "context")) or PretrainConfig.model_fields["context"].default
        images = number(result, "images")
        image = image_cost(vision.encoder, vision.projector, vision.frozen, model.d_model) if vision else None
    except (KeyError, TypeError, ValueError, AttributeError):  # pydantic's and an unknown encoder's are ValueErrors
        return None
    encoder_flops = images * image.encoder_flops if image else 0.0
    if images and (job.get("settings") or {}).get("feature_store"):
        return None
    flops = step_flops(model, context, number(result, "tokens"), vision, images, encoded=0)
    seconds = number(result, "seconds") * devices.number
    if not flops:
        return None
    encoder_seconds = encoder_flops / catalog.encoder_flops_per_second(devices.kind, (flops + encoder_flops) / seconds)
    if encoder_seconds > seconds / 2:
        return None
    return shape_of(model), flops / (seconds - encoder_seconds)


def devices_of(attempts: str) -> Devices | None:
    """What all attempts of a job ran on; None if they ran on different devices, or none is known."""
    found = set()
    for name in names_in(Path(attempts)):
        start = record(f"{attempts}/{name}/start.json")
        gpus, cpus = int(number(start, "gpus")), int(number(start, "cpus"))
        found.add(Devices(str(start.get("gpu_type", "")), gpus) if gpus else Devices("cpu", cpus))
    only = found.pop() if len(found) == 1 else None
    return only if only is not None and only.number > 0 else None


def record(path: str) -> Mapping[str, Any]:
    """A JSON object from disk; empty if it is absent, torn or no object."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a Path costs more than the call
            content = json.loads(file.read())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def number(content: Mapping[str, Any], name: str) -> float:
    """A finite number that is not negative; 0 for all else."""
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 <= value < 1e30 else 0.0


def median(values: list[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
