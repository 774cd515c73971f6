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
    alone: bool = True
    """Whether nothing else may run beside it on a GPU, as it measures speed."""
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


def _check(name: str, about: str, gpu_seconds: float) -> Part:
    module = name.replace("-", "_")
    return Part(name=name, module=module, about=about, table="checks", gpu_seconds=gpu_seconds, alone=False)


def _rate(name: str, about: str, gpu_seconds: float) -> Part:
    return Part(name=name, module=name, about=about, table="rates", gpu_seconds=gpu_seconds)


# By estimate seven minutes in all: a part that hangs to its limit costs the last parts and not the first.
# Why: docs/decisions.md, D100
PARTS = (
    _check("numeric", "the tests of tests/stages/devices", 170),
    _check("resume", "kill -9 and resume: the bits of an undisturbed run", 150),
    _check("loss-curve", "the losses of a small run beside the CPU's in float32", 120),
    _check("hours", "hours that are recorded are wall time x devices", 90),
    _train("411M", "compiled", 90),
    _train("1.4B", "compiled", 130),
    _train("79M", "compiled", 75),
    _train("411M", "eager", 60),
    _train("1.4B", "eager", 60),
    _train("79M", "eager", 45, on_cpu=True),
    _rate("encoder", "images a second of a frozen encoder", 40),
    _rate("evaluation", "requests a second of an evaluation", 45),
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
