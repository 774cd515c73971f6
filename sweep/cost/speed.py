"""How fast a GPU type trains a model: as finished jobs show, else its peak times the catalog's utilisation."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from jobs.counted import format_counted
from jobs.store.paths import Store
from jobs.store.reading import parse_object, read_file
from jobs.store.results import list_names
from stages.config import STAGES, LanguageModel, PretrainConfig, Vision
from stages.flops import compute_image_cost, count_step_flops, count_training_flops
from sweep.catalog import REFERENCE, TERA, Catalog, GpuType, ModelEntry

# How fast finished pre-training jobs of a store were: what an estimate believes before the catalog.
#
# Every finished job counts, of whatever sweep, once: useful FLOPs (docs/estimates.md) over the seconds of all its
# attempts together, for one GPU or one CPU core. A figure is the median of a model's jobs on one type of device in one
# precision, so that a few slow nodes do not move it; it says nothing of another type or precision. What says little is
# left out: jobs of a few minutes, jobs whose attempts ran on different devices, jobs in which the encoder took more
# time than the language model, and jobs whose images' features were kept, as nobody knows how many of them the encoder
# saw.

MIN_MEASURED_SECONDS = 180.0
"""Of training. In a shorter job the start (compiling, first reads) weighs too much."""
# Why: docs/decisions.md, D26
MAX_MEASURED_RUNS = 300
"""Runs that are read. Keys are hashes, so the first of them in order are a fair sample of a larger store."""

Origin = Literal["counted", "given", "assumed"]
"""How a figure of an estimate is known: counted or measured, stated in the sweep file, or neither."""

Shape = tuple[int, int, int, int]
"""Width, layers, heads and vocabulary of a language model."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Speed of one model on one type of device in one precision."""

    flops_per_second: float
    """Language model and projector in training, of one GPU or CPU core; the median of `jobs`."""
    jobs: int


SpeedKey = tuple[Shape, str, str]
"""A model's shape, the GPU type (`cpu` for cores), and the precision."""

Measured = Mapping[SpeedKey, Measurement]
NOTHING_MEASURED: Measured = {}


def extract_speed_shape(model: LanguageModel) -> Shape:
    """What a speed depends on; a catalog's model and one of the same shape have one speed."""
    return model.d_model, model.layers, model.heads, model.vocabulary


def load_measured_speeds(store: Store, catalog: Catalog) -> Measured:
    """The speeds that the store shows; empty for a new one. What cannot be read or understood counts as not there."""
    rates: dict[SpeedKey, list[float]] = defaultdict(list)
    runs = f"{store.runs}/pretrain"
    for key in sorted(list_names(store.runs / "pretrain"))[:MAX_MEASURED_RUNS]:
        result = read_json_object(f"{runs}/{key}/result.json")
        if parse_number(result, "seconds") < MIN_MEASURED_SECONDS:
            continue
        devices = read_devices(f"{runs}/{key}/attempts")
        if devices is not None and devices.kind in catalog.gpus:
            job = read_json_object(f"{runs}/{key}/job.json")
            found = measure_speed(job, result, devices, catalog)
            if found is not None:
                rates[found[0], devices.kind, read_precision(job)].append(found[1])
    return {where: Measurement(compute_median(found), len(found)) for where, found in rates.items()}


def read_precision(job: Mapping[str, Any]) -> str:
    """The precision of a job that `measure_speed` understands."""
    return str(job["config"].get("precision") or PretrainConfig.model_fields["precision"].default)


@dataclass(frozen=True, slots=True)
class Startup:
    """What attempts of one stage take beside their steps on one type of device."""

    minutes: float
    """The median of `jobs`."""
    jobs: int


Startups = Mapping[tuple[str, str], Startup]
"""By stage and GPU type (`cpu` for cores)."""
NOTHING_STARTED: Startups = {}
MIN_STARTS = 3
"""Fewer jobs say little: one of them may have waited for a file system."""
MAX_STARTS_READ = 100
"""Runs of each stage that are read."""


def load_measured_startups(store: Store, catalog: Catalog) -> Startups:
    """The start-up that finished jobs show: from the attempt's start to the result, less the seconds of their steps.

    Jobs of several attempts are left out.
    """
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for stage in STAGES:
        runs = store.runs / stage
        for key in sorted(list_names(runs))[:MAX_STARTS_READ]:
            result = read_json_object(f"{runs}/{key}/result.json")
            attempts = list_names(runs / key / "attempts") if result else frozenset()
            if len(attempts) != 1:
                continue
            start = read_json_object(f"{runs}/{key}/attempts/{min(attempts)}/start.json")
            kind = str(start.get("gpu_type", "")) if parse_number(start, "gpus") else "cpu"
            beside = parse_number(result, "finished_at") - parse_number(start, "started_at")
            beside -= parse_number(result, "seconds")
            if start and kind in catalog.gpus and beside > 0:
                found[stage, kind].append(beside / 60)
    return {
        where: Startup(compute_median(minutes), len(minutes))
        for where, minutes in found.items()
        if len(minutes) >= MIN_STARTS
    }


@dataclass(frozen=True, slots=True)
class Devices:
    """What a job ran on."""

    kind: str
    """GPU type, or `cpu`."""
    number: int


def measure_speed(
    job: Mapping[str, Any], result: Mapping[str, Any], devices: Devices, catalog: Catalog
) -> tuple[Shape, float] | None:
    """The model's shape and the FLOPs a second of one device that a finished job shows; None if it shows nothing."""
    try:
        config = job["config"]
        if config.get("engine"):
            return None  # another program's speed says nothing of ours
        model = LanguageModel.model_validate(config["model"])
        vision = Vision.model_validate(config["vision"]) if config.get("vision") else None
        context = int(parse_number(config, "context")) or PretrainConfig.model_fields["context"].default
        images = parse_number(result, "images")
        image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.d_model) if vision else None
    except (KeyError, TypeError, ValueError, AttributeError):  # pydantic's and an unknown encoder's are ValueErrors
        return None
    encoder_flops = images * image.encoder_flops if image else 0.0
    if images and (job.get("settings") or {}).get("feature_store"):
        return None
    flops = count_step_flops(model, context, parse_number(result, "tokens"), vision, images, encoded=0)
    seconds = parse_number(result, "seconds") * devices.number
    if not flops:
        return None
    encoder_seconds = encoder_flops / catalog.compute_encoder_rate(devices.kind, (flops + encoder_flops) / seconds)
    if encoder_seconds > seconds / 2:
        return None
    return extract_speed_shape(model), flops / (seconds - encoder_seconds)


def read_devices(attempts: str) -> Devices | None:
    """What all attempts of a job ran on; None if they ran on different devices, or none is known."""
    found = set()
    for name in list_names(Path(attempts)):
        start = read_json_object(f"{attempts}/{name}/start.json")
        gpus, cpus = int(parse_number(start, "gpus")), int(parse_number(start, "cpus"))
        found.add(Devices(str(start.get("gpu_type", "")), gpus) if gpus else Devices("cpu", cpus))
    only = found.pop() if len(found) == 1 else None
    return only if only is not None and only.number > 0 else None


def read_json_object(path: str) -> Mapping[str, Any]:
    """A JSON object from disk; empty if it is absent, torn or no object."""
    try:
        return parse_object(read_file(path))
    except (OSError, ValueError):
        return {}


def parse_number(content: Mapping[str, Any], name: str) -> float:
    """A finite number that is not negative; 0 for all else."""
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value) if 0 <= value < 1e30 else 0.0


def compute_median(values: list[float]) -> float:
    """The middle one, or the mean of the two in the middle."""
    ordered, middle = sorted(values), len(values) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Useful FLOPs a second of one GPU, or of one CPU core where the type has none."""

    flops_per_second: float
    """Language model and projector in training."""
    encoder_flops_per_second: float
    factor: float
    """A100-hours of one hour; 0 without a GPU."""
    is_gpu: bool = True
    evaluate_efficiency: float = 1.0
    """Speed of evaluation relative to training."""
    basis: str = ""
    """Where the figure comes from, in words."""
    origin: Origin = "assumed"

    def scale_for_evaluation(self) -> "Speed":
        return replace(
            self,
            flops_per_second=self.flops_per_second * self.evaluate_efficiency,
            encoder_flops_per_second=self.encoder_flops_per_second * self.evaluate_efficiency,
        )


def estimate_speed(
    catalog: Catalog,
    model: LanguageModel,
    gpu_type: str,
    *,
    name: str = "",
    measured: Measured = NOTHING_MEASURED,
    tokens_per_second: float | None = None,
    context: int = 2_048,
    precision: str = "bf16",
) -> Speed:
    """Speed of `model` (the catalog's `name`, empty for one of the user's own) on a GPU of `gpu_type`.

    In this order: `tokens_per_second` (training, of one GPU or core, at `context`); what finished jobs of the same
    shape and `precision` `measured` on the type; the catalog's figure for the type; the A100's figure times the type's
    factor. A model without a figure takes one by interpolation between its neighbours in log(parameters), the end's
    beyond the ends. The catalog's figures are bf16's; fp32 is slower by the type's own ratio.

    Raises:
        KeyError: no such GPU type (the sweep file's reader checks it).
    """
    gpu = catalog.gpus[gpu_type]
    found = measured.get((extract_speed_shape(model), gpu_type, precision))
    origin: Origin = "assumed"
    if tokens_per_second is not None:
        rate, basis = tokens_per_second * count_training_flops(model, context), f"{tokens_per_second:g} tokens/s, given"
        origin = "given"
    elif found is not None:
        rate, basis = found.flops_per_second, f"measured from {format_counted(found.jobs, 'job')}"
        origin = "counted"
    else:
        rate, basis = estimate_catalog_rate(catalog, model, gpu, name)
        if precision == "fp32":
            rate, basis = rate * gpu.fp32_speed, f"{basis}, times {gpu.fp32_speed:g} for fp32"
    return Speed(
        flops_per_second=rate,
        encoder_flops_per_second=catalog.compute_encoder_rate(gpu_type, rate),
        factor=gpu.factor,
        is_gpu=gpu.is_gpu,
        evaluate_efficiency=catalog.evaluate_efficiency,
        basis=basis,
        origin=origin,
    )


def estimate_catalog_rate(catalog: Catalog, model: LanguageModel, gpu: GpuType, name: str) -> tuple[float, str]:
    """FLOPs a second of one GPU or core in training by the catalog, and where the figure comes from."""
    if gpu.peak_tflops is None:
        return gpu.core_gflops * 1e9, f"{gpu.core_gflops:g} GFLOP/s a core"
    peak = gpu.peak_tflops * TERA
    entry = catalog.models.get(name)
    if entry is not None and gpu.name in entry.utilisation:
        return entry.utilisation[gpu.name] * peak, f"{name} on {gpu.name}, catalog"
    utilisation, basis = estimate_reference_utilisation(catalog.models, model.parameters, name)
    rate = utilisation * catalog.reference_flops_per_second
    return rate * gpu.factor, basis if gpu.name == REFERENCE else f"{basis}, times {gpu.name}'s factor {gpu.factor:g}"


def estimate_reference_utilisation(
    models: Mapping[str, ModelEntry], parameters: int, name: str = ""
) -> tuple[float, str]:
    """Utilisation on an A100: the model's own, else interpolated in log(parameters)."""
    if name in models and REFERENCE in models[name].utilisation:
        return models[name].utilisation[REFERENCE], f"{name} on {REFERENCE}, catalog"
    known = sorted(
        (entry.shape.parameters, entry.utilisation[REFERENCE], entry.name)
        for entry in models.values()
        if REFERENCE in entry.utilisation
    )
    below = max((point for point in known if point[0] <= parameters), default=known[0])
    above = min((point for point in known if point[0] >= parameters), default=known[-1])
    if below[0] == above[0]:
        return below[1], f"as {below[2]} on {REFERENCE}"
    weight = math.log(parameters / below[0]) / math.log(above[0] / below[0])
    return below[1] + weight * (above[1] - below[1]), f"interpolated between {below[2]} and {above[2]} on {REFERENCE}"
