"""What this machine may give to attempts at once: CPU cores and GPUs."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.counted import format_counted
from jobs.errors import InfeasibleJobError
from jobs.job import Resources


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one attempt holds."""

    cpus: int
    devices: tuple[str, ...] = ()
    """GPU ids, as CUDA_VISIBLE_DEVICES names them."""


class Slots:
    """Counts what is free. An adopted attempt may hold more than there is; then nothing starts until it ends."""

    def __init__(self, cpus: int, devices: Sequence[str] = ()) -> None:
        self.cpus = cpus
        self.devices = tuple(devices)
        self._free_cpus = cpus
        self._taken: list[str] = []

    @property
    def free_devices(self) -> list[str]:
        return [device for device in self.devices if device not in self._taken]

    def find_infeasible_reason(self, resources: Resources) -> str | None:
        """Why these resources can never be had here; None if they can."""
        cpus = resources.cpus * resources.nodes
        if cpus > self.cpus:
            return f"it needs {cpus} CPU cores and this runner has {self.cpus} (--cpus)"
        if resources.gpus > len(self.devices):
            return f"it needs {format_counted(resources.gpus, 'GPU')} and this runner has {len(self.devices)} (--gpus)"
        return None

    def find_shortages(self, resources: Resources) -> set[str]:
        """What is short at this moment: a set out of `cpus`, `gpus`."""
        short = set()
        if resources.cpus * resources.nodes > self._free_cpus:
            short.add("cpus")
        if resources.gpus > len(self.free_devices):
            short.add("gpus")
        return short

    def allocate(self, resources: Resources) -> Allocation:
        """Only when nothing is short."""
        allocation = Allocation(resources.cpus * resources.nodes, tuple(self.free_devices[: resources.gpus]))
        self.add_allocation(allocation)
        return allocation

    def add_allocation(self, allocation: Allocation) -> None:
        """Counts what an adopted attempt holds already."""
        self._free_cpus -= allocation.cpus
        self._taken.extend(allocation.devices)

    def release(self, allocation: Allocation) -> None:
        self._free_cpus += allocation.cpus
        for device in allocation.devices:
            self._taken.remove(device)


def detect_machine_slots(cpus: int | None = None, gpus: int | None = None) -> Slots:
    """This machine's slots, or the part that was asked for. Raises InfeasibleJobError for GPUs that are not here."""
    devices = query_visible_gpus() if gpus is None or gpus > 0 else []
    if gpus is not None and gpus > len(devices):
        raise InfeasibleJobError(
            f"--gpus {gpus}: this machine shows {format_counted(len(devices), 'GPU')}; ask for that many at most"
        )
    wanted = devices if gpus is None else devices[:gpus]
    return Slots(len(os.sched_getaffinity(0)) if cpus is None else cpus, wanted)


def query_visible_gpus() -> list[str]:
    """GPU ids: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)  # noqa: S607 - found on PATH wherever the driver put it
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
