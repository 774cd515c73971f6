"""The parts of the check, in the order in which they run: what one must know first comes first."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Figure = float | int | str | bool | None
Figures = Mapping[str, Figure]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process. Its module has `measure(check)`, which yields a row for each thing that it finds."""

    name: str
    module: str
    about: str
    table: Literal["checks", "training", "rates"]
    """Where its rows stand in the report."""
    gpu_seconds: float
    """Longest time on a GPU; a part that takes longer is ended."""
    cpu_seconds: float = 300.0
    """The same on a CPU; 0: it has no CPU half."""
    variant: tuple[str, ...] = ()
    """What of its module it measures."""


def _train(model: str, mode: str, gpu_seconds: float, *, on_cpu: bool = False) -> Part:
    return Part(
        name=f"train-{model}-{mode}",
        module="training",
        about=f"speed and memory of training {model}, {mode}: text, and text with images",
        table="training",
        gpu_seconds=gpu_seconds,
        cpu_seconds=300 if on_cpu else 0,
        variant=(model, mode),
    )


# By estimate seven minutes in all, at the limits sixteen: a part that hangs costs the last parts and not the first.
# Why: docs/decisions.md, D100
PARTS = (
    Part(name="numeric", module="numeric", about="the tests of tests/stages/devices", table="checks", gpu_seconds=120),
    _train("411M", "compiled", 90),
    _train("1.4B", "compiled", 130),
    Part(
        name="resume",
        module="resume",
        about="kill -9 and resume: the bits of an undisturbed run",
        table="checks",
        gpu_seconds=100,
    ),
    Part(
        name="loss-curve",
        module="loss_curve",
        about="the losses of a small run beside the CPU's in float32",
        table="checks",
        gpu_seconds=60,
    ),
    _train("79M", "compiled", 75),
    _train("411M", "eager", 40),
    _train("1.4B", "eager", 45),
    _train("79M", "eager", 30, on_cpu=True),
    Part(name="encoder", module="encoder", about="images a second of a frozen encoder", table="rates", gpu_seconds=40),
    Part(
        name="evaluation",
        module="evaluation",
        about="requests a second of an evaluation",
        table="rates",
        gpu_seconds=45,
    ),
    Part(
        name="hours",
        module="hours",
        about="hours that are recorded are wall time x devices",
        table="checks",
        gpu_seconds=45,
    ),
    Part(
        name="resume-defaults",
        module="resume",
        about="the same as resume, compiled and with the attention that a GPU takes by default",
        table="checks",
        gpu_seconds=120,
        cpu_seconds=0,
        variant=("defaults",),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a part is told."""

    device: Literal["cuda", "cpu"]
    folder: Path
    """Empty, for whatever it writes; removed afterwards."""
    variant: tuple[str, ...] = ()
    peak_tflops: float = 0.0
    """bf16 peak of the GPU; 0: not known, and no MFU is given."""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One thing that a part has found."""

    name: str
    passed: bool = True
    """False: a check that does not hold, or a measurement that could not be made."""
    reason: str = ""
    """Why it did not pass, or what a reader must know."""
    figures: Figures = field(default_factory=dict)
    """By their names in docs/gpu-check.md."""
