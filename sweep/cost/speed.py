"""How fast a GPU type trains a model: its peak times the utilisation that the catalog, or a measurement, states."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from stages.config import LanguageModel
from stages.flops import training_flops
from sweep.catalog import REFERENCE, TERA, Catalog, GpuType, ModelEntry
from sweep.measured import NOTHING_MEASURED, Measured, shape_of
from sweep.text_format import counted


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

    def evaluating(self) -> "Speed":
        return replace(
            self,
            flops_per_second=self.flops_per_second * self.evaluate_efficiency,
            encoder_flops_per_second=self.encoder_flops_per_second * self.evaluate_efficiency,
        )


def speed_of(
    catalog: Catalog,
    model: LanguageModel,
    gpu_type: str,
    *,
    name: str = "",
    measured: Measured = NOTHING_MEASURED,
    tokens_per_second: float | None = None,
    context: int = 2_048,
) -> Speed:
    """Speed of `model` (the catalog's `name`, empty for one of the user's own) on a GPU of `gpu_type`.

    In this order: `tokens_per_second` (training, of one GPU or core, at `context`); what finished jobs of the same
    shape `measured` on the type; the catalog's figure for the type; the A100's figure times the type's factor. A model
    without a figure takes one by interpolation between its neighbours in log(parameters), the end's beyond the ends.

    Raises:
        KeyError: no such GPU type (the sweep file's reader checks it).
    """
    gpu = catalog.gpus[gpu_type]
    found = measured.get((shape_of(model), gpu_type))
    if tokens_per_second is not None:
        rate, basis = tokens_per_second * training_flops(model, context), f"{tokens_per_second:g} tokens/s, given"
    elif found is not None:
        rate, basis = found.flops_per_second, f"measured from {counted(found.jobs, 'job')}"
    else:
        rate, basis = expected_rate(catalog, model, gpu, name)
    return Speed(
        flops_per_second=rate,
        encoder_flops_per_second=catalog.encoder_flops_per_second(gpu_type, rate),
        factor=gpu.factor,
        is_gpu=gpu.is_gpu,
        evaluate_efficiency=catalog.evaluate_efficiency,
        basis=basis,
    )


def expected_rate(catalog: Catalog, model: LanguageModel, gpu: GpuType, name: str) -> tuple[float, str]:
    """FLOPs a second of one GPU or core in training by the catalog, and where the figure comes from."""
    if gpu.peak_tflops is None:
        return gpu.core_gflops * 1e9, f"{gpu.core_gflops:g} GFLOP/s a core"
    peak = gpu.peak_tflops * TERA
    entry = catalog.models.get(name)
    if entry is not None and gpu.name in entry.utilisation:
        return entry.utilisation[gpu.name] * peak, f"{name} on {gpu.name}, catalog"
    utilisation, basis = reference_utilisation(catalog.models, model.parameters, name)
    rate = utilisation * catalog.reference_flops_per_second
    return rate * gpu.factor, basis if gpu.name == REFERENCE else f"{basis}, times {gpu.name}'s factor {gpu.factor:g}"


def reference_utilisation(models: Mapping[str, ModelEntry], parameters: int, name: str = "") -> tuple[float, str]:
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
