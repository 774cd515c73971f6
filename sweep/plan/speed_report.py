"""What finished jobs say of the speeds that a plan reckons with, beside what it would reckon with otherwise."""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

from jobs.counted import format_counted
from stages.config import Precision
from sweep.catalog import TERA, Catalog, GpuType
from sweep.cost.speed import Measured, Measurement, estimate_speed, extract_speed_shape
from sweep.phases import PHASES
from sweep.plan.grid import build_base_layer
from sweep.spec.resources import resolve_placement, select_gpu_type
from sweep.spec.schema import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedComparison:
    """A measured speed of one model on one type of device that the plan uses."""

    model: str
    gpu_type: str
    """`cpu` for cores."""
    precision: str
    jobs: int
    """Finished jobs that it comes from."""
    flops_per_second: float
    """Of one GPU or core: the median of those jobs."""
    utilisation: float | None
    """The part of the bf16 peak that this is; None for cores."""
    expected_flops_per_second: float
    """What holds without them: the catalog's figure, or the sweep file's `tokens_per_second`."""
    used: bool
    """False where the sweep file's `tokens_per_second` goes before it."""

    def convert_to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_speed_comparisons(sweep: Sweep, catalog: Catalog, measured: Measured) -> tuple[SpeedComparison, ...]:
    """One for each model of the sweep and type of device that finished jobs have measured, in the file's order."""
    return tuple(iter_speed_comparisons(sweep, catalog, measured)) if measured else ()


def iter_speed_comparisons(sweep: Sweep, catalog: Catalog, measured: Measured) -> Iterator[SpeedComparison]:
    """The lines."""
    for model in sweep.models.values():
        places = [
            resolve_placement(catalog, sweep.resources, model.name, model.catalog_name, phase) for phase in PHASES
        ]
        kinds = dict.fromkeys(map(select_gpu_type, places))
        for kind, precision in itertools.product(kinds, get_args(Precision)):
            found = measured.get((extract_speed_shape(model.shape), kind, precision))
            if found is not None:
                given = sweep.resources.models.get(model.name)
                tokens = given.tokens_per_second if given else None
                context = build_base_layer(sweep, model)["trunk.context"]
                expected = estimate_speed(
                    catalog, model.shape, kind, name=model.catalog_name, tokens_per_second=tokens, context=context,
                    precision=precision,
                )  # fmt: skip
                yield build_speed_comparison(
                    model.name, catalog.gpus[kind], precision, found, expected.flops_per_second, used=tokens is None
                )


def build_speed_comparison(
    model: str, gpu: GpuType, precision: str, found: Measurement, expected: float, *, used: bool
) -> SpeedComparison:
    """One line."""
    return SpeedComparison(
        model=model,
        gpu_type=gpu.name,
        precision=precision,
        jobs=found.jobs,
        flops_per_second=found.flops_per_second,
        utilisation=found.flops_per_second / (gpu.peak_tflops * TERA) if gpu.peak_tflops else None,
        expected_flops_per_second=expected,
        used=used,
    )


def format_speed_comparison(found: SpeedComparison) -> str:
    """`79m in bf16 on a100: measured from 14 jobs: 21 % (catalog 6.5 %)`."""
    peak = found.flops_per_second / found.utilisation if found.utilisation else 0.0

    def shown(rate: float) -> str:
        return f"{100 * rate / peak:.2g} %" if peak else f"{rate / 1e9:.3g} GFLOP/s a core"

    source = "catalog" if found.used else "the sweep file's tokens_per_second, which goes before it,"
    return (
        f"{found.model} in {found.precision} on {found.gpu_type}: measured from {format_counted(found.jobs, 'job')}: "
        f"{shown(found.flops_per_second)} ({source} {shown(found.expected_flops_per_second)})"
    )
