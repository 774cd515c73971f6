"""What a training logs: metrics.jsonl first, then the trackers, then the figures of a line and its loss spikes."""

import json
import math
import resource
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from stages.files import check_fence, convert_storage_errors, replace_atomically
from stages.trackers import Tracker


class MetricsLog:
    """metrics.jsonl of one job, over all attempts: a JSON object a line, append-only; a torn last line is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def drop_after(self, step: int) -> None:
        """Removes the lines of steps that a restored run will do again, and a torn last line."""
        if not self.path.exists():
            return
        kept = [line for line in self.path.read_text().splitlines() if (found := parse_step(line)) and found <= step]
        with replace_atomically(self.path) as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Appends a line. StorageError if the file system refuses it; an attempt that was taken over adds none."""
        check_fence()
        with convert_storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as log:
                log.write(json.dumps(record, allow_nan=False) + "\n")


def parse_step(line: str) -> int | None:
    """The step of a metrics line; None for a torn one."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


class TrainingLog:
    """Where a training's figures go: metrics.jsonl, and the trackers of the settings.

    Of several processes the first alone has one that writes.
    """

    def __init__(self, metrics: MetricsLog | None, trackers: Callable[[int], Sequence[Tracker]]) -> None:
        """`metrics`: None for a process that logs nothing. `trackers` opens them, given the step to go on from."""
        self._metrics, self._open_trackers = metrics, trackers
        self._trackers: Sequence[Tracker] = ()

    def begin(self, step: int) -> None:
        """The run goes on after `step`: what was logged of later ones will come again."""
        if self._metrics is not None:
            self._metrics.drop_after(step)
            self._trackers = self._open_trackers(step)

    def drop_after(self, step: int) -> None:
        """What was logged of later steps comes again; trackers take the same step twice."""
        if self._metrics is not None:
            self._metrics.drop_after(step)

    def write(self, record: dict[str, Any]) -> None:
        """A line; see `MetricsLog.write`."""
        if self._metrics is not None:
            self._metrics.write(record)
            for tracker in self._trackers:
                tracker.write(record["step"], flatten_record(record))

    def close(self) -> None:
        """Closes the trackers, which write what is still in memory."""
        for tracker in self._trackers:
            tracker.close()


def flatten_record(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line; those of a nested object under `outer/inner`."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= flatten_record(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found[prefix + name] = value
    return found


# What a training run averages between two log lines.


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSums:
    """What a step's targets add up to, for each source."""

    entropies: Sequence[float]
    targets: Sequence[int]
    weights: Sequence[float]
    """Of the targets, in the loss."""
    weighted_entropies: Sequence[float]


class LossWindow:
    """Means over the steps since the last log line. Part of a checkpoint, so that an interrupted run logs the same."""

    def __init__(self, source_names: Sequence[str]) -> None:
        self._names = source_names
        self._norm, self._rate = 0.0, 0.0
        self._losses: list[float] = []
        self._sums = [0.0] * len(source_names)
        self._counts = [0] * len(source_names)
        self._weights = [0.0] * len(source_names)
        self._weighted = [0.0] * len(source_names)
        self._spikes = 0

    def add(self, loss: float, norm: float, rate: float, *, spike: bool = False) -> None:
        """One step: its loss, gradient norm and learning rate, and whether the loss is a spike."""
        self._losses.append(loss)
        self._norm, self._rate = norm, rate
        self._spikes += spike

    @property
    def steps(self) -> int:
        """Steps that were added since the last line."""
        return len(self._losses)

    def add_sources(self, sums: SourceSums) -> None:
        """What a step took of each source. Every step counts the same, however many targets it has."""
        total = sum(sums.weights) or 1.0
        self._sums = [old + new for old, new in zip(self._sums, sums.entropies, strict=True)]
        self._counts = [old + new for old, new in zip(self._counts, sums.targets, strict=True)]
        self._weights = [old + new / total for old, new in zip(self._weights, sums.weights, strict=True)]
        self._weighted = [old + new / total for old, new in zip(self._weighted, sums.weighted_entropies, strict=True)]

    def flush(self) -> dict[str, Any]:
        """Means; empties the window. `losses` has cross entropies by source, each a plain mean over the source's
        targets, without z-loss; `grad_norm` and `lr` are the last step's. With several sources also their shares:
        `target_share` of the targets, `weight_share` of the weight in the loss, `loss_share` of the cross entropies so
        weighted."""
        losses = {
            name: total / count
            for name, total, count in zip(self._names, self._sums, self._counts, strict=True)
            if count
        }
        mean = math.fsum(self._losses) / len(self._losses)
        averages = {
            "loss": mean, "lr": self._rate, "grad_norm": self._norm, "losses": losses, "spikes": self._spikes,
        }  # fmt: skip
        if len(self._names) > 1:
            averages |= {
                "target_share": self._divide_by_sum(self._counts),
                "weight_share": self._divide_by_sum(self._weights),
                "loss_share": self._divide_by_sum(self._weighted),
            }
        self.restore(LossWindow(self._names).dump_state())
        return averages

    def _divide_by_sum(self, values: Sequence[float]) -> dict[str, float]:
        """By source."""
        total = sum(values)
        return {name: value / total if total else 0.0 for name, value in zip(self._names, values, strict=True)}

    def dump_state(self) -> dict[str, Any]:
        """As JSON; a copy, which a writer may keep."""
        return {
            "losses": list(self._losses),
            "sums": list(self._sums),
            "counts": list(self._counts),
            "weights": list(self._weights),
            "weighted": list(self._weighted),
            "spikes": self._spikes,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Sets the state that `dump_state` returned."""
        self._losses, self._sums, self._counts = list(state["losses"]), list(state["sums"]), list(state["counts"])
        # checkpoints of earlier versions do not have these
        nothing = [0.0] * len(self._names)
        self._weights, self._weighted = list(state.get("weights", nothing)), list(state.get("weighted", nothing))
        self._spikes = state.get("spikes", 0)


# How fast a training runs, and what it takes: the figures of a log line that depend on the machine.

GIB = 1 << 30


@dataclass
class Meter:
    """Work and time of this process since the last log line."""

    device: torch.device
    devices: int = 1
    """Processes of the job: each a GPU, or a CPU's share."""
    peak_tflops: float = 0.0
    """Of one device; 0 where that is not known, and then no utilisation is given."""
    flops: Callable[[int, int], float] | None = None
    """FLOPs of so many positions with so many images."""
    tokens: int = 0
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, tokens: int, images: int, seconds: float, waited: float) -> None:
        """One step of all processes: positions, images, seconds, and how many of them this process waited for data."""
        self.tokens += tokens
        self.images += images
        self.seconds += seconds
        self.waited += waited

    def flush(self) -> dict[str, float]:
        """`tokens_per_second`, `mfu` where the device's peak is known, `data_wait` (a share of the time), and
        `measure_peak_memory` (of this process, from its start on); the meter starts at 0."""
        seconds = max(self.seconds, 1e-9)
        found = {"tokens_per_second": self.tokens / seconds}
        if self.peak_tflops and self.flops is not None:
            found["mfu"] = self.flops(self.tokens, self.images) / (seconds * self.devices * self.peak_tflops * 1e12)
        found["data_wait"] = self.waited / seconds
        found["peak_memory_gib"] = measure_peak_memory(self.device)
        self.tokens, self.images, self.seconds, self.waited = 0, 0, 0.0, 0.0
        return found


def measure_peak_memory(device: torch.device) -> float:
    """Most memory that was in use at once: tensors on a GPU; all of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB  # Linux counts KiB


# Loss spikes: steps whose loss lies far above what the steps before it had.

SPIKE_WINDOW = 128
"""Steps that a loss is compared with."""
MIN_LOSSES = 32
"""Steps before the first comparison: fewer say little about the scatter."""
SIGMA_PER_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
MIN_RELATIVE_DEVIATION = 1e-3
"""Least deviation, as a share of the mean: where losses hardly scatter, a small step is no spike."""


class LossSpikeDetector:
    """Takes each loss once. Part of a checkpoint, so that an interrupted run finds the same spikes.

    Mean and deviation are the median and the scaled median absolute deviation, which the spikes themselves hardly move;
    they enter the window all the same, so that a loss that stays high becomes the normal one after half a window.
    """

    def __init__(self, sigmas: float) -> None:
        """`sigmas`: deviations above the mean that make a spike; 0: none is found."""
        self.sigmas = sigmas
        self.in_a_row = 0
        """Spikes up to and with the last loss, without another loss between them."""
        self._losses: deque[float] = deque(maxlen=SPIKE_WINDOW)

    def add(self, loss: float) -> bool:
        """Whether this loss is a spike; it is then part of the window of the following ones."""
        spike = self.sigmas > 0 and len(self._losses) >= MIN_LOSSES and loss > self.compute_threshold()
        self.in_a_row = self.in_a_row + 1 if spike else 0
        self._losses.append(loss)
        return spike

    def compute_threshold(self) -> float:
        """The highest loss that is no spike."""
        middle = median(self._losses)
        deviation = SIGMA_PER_MAD * median(abs(loss - middle) for loss in self._losses)
        return middle + self.sigmas * max(deviation, MIN_RELATIVE_DEVIATION * abs(middle))

    def dump_state(self) -> dict[str, Any]:
        """As JSON."""
        return {"losses": list(self._losses), "in_a_row": self.in_a_row}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Sets the state that `dump_state` returned."""
        self._losses = deque(state["losses"], maxlen=SPIKE_WINDOW)
        self.in_a_row = state["in_a_row"]
