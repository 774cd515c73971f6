"""What this machine may give to attempts at once: CPU cores and GPUs."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.errors import NeverFitsError
from jobs.job import Resources


@dataclass(frozen=True, slots=True)
class Lease:
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
    def free_cpus(self) -> int:
        return self._free_cpus

    @property
    def free_devices(self) -> list[str]:
        return [device for device in self.devices if device not in self._taken]

    def misfit(self, resources: Resources) -> str | None:
        """Why these resources can never be had here."""
        cpus = resources.cpus * resources.nodes
        if cpus > self.cpus:
            return f"it needs {cpus} CPU cores and this runner has {self.cpus} (--cpus)"
        if resources.gpus > len(self.devices):
            return f"it needs {resources.gpus} GPUs and this runner has {len(self.devices)} (--gpus)"
        return None

    def lacking(self, resources: Resources) -> set[str]:
        """What is short at this moment: a set out of `cpus`, `gpus`."""
        short = set()
        if resources.cpus * resources.nodes > self._free_cpus:
            short.add("cpus")
        if resources.gpus > len(self.free_devices):
            short.add("gpus")
        return short

    def take(self, resources: Resources) -> Lease:
        """Only when nothing is lacking."""
        lease = Lease(resources.cpus * resources.nodes, tuple(self.free_devices[: resources.gpus]))
        self.hold(lease)
        return lease

    def hold(self, lease: Lease) -> None:
        """Counts what an adopted attempt has already."""
        self._free_cpus -= lease.cpus
        self._taken.extend(lease.devices)

    def give_back(self, lease: Lease) -> None:
        self._free_cpus += lease.cpus
        for device in lease.devices:
            self._taken.remove(device)


def machine_slots(cpus: int | None = None, gpus: int | None = None) -> Slots:
    """This machine's slots, or the part that was asked for. Raises NeverFitsError for GPUs that are not here."""
    devices = visible_gpus() if gpus is None or gpus > 0 else []
    if gpus is not None and gpus > len(devices):
        raise NeverFitsError(f"--gpus {gpus}: this machine shows {len(devices)} GPUs; ask for that many at most")
    wanted = devices if gpus is None else devices[:gpus]
    return Slots(len(os.sched_getaffinity(0)) if cpus is None else cpus, wanted)


def visible_gpus() -> list[str]:
    """GPU ids: CUDA_VISIBLE_DEVICES where it is set, else what nvidia-smi lists."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [device.strip() for device in visible.split(",") if device.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)  # noqa: S607 - found on PATH wherever the driver put it
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
