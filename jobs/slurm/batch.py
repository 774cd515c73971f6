"""A batch: the jobs of one sbatch call, with a name that finds them again whatever happened to the answer."""

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.job import Resources

NAME = re.compile(r"sw-(?P<identity>[0-9a-f]{12})-(?P<phase>[a-z_]{1,20})-(?P<sweep>[A-Za-z0-9._+=-]{1,120})")
"""Job names of ours. The identity comes first, as squeue cuts names off at the end."""


def new_name(sweep: str, phase: str) -> str:
    """A job name that no other batch has."""
    return f"sw-{secrets.token_hex(6)}-{phase}-{sweep}"


def sweep_of(name: str) -> str:
    """The sweep that a job name of ours belongs to; empty for a foreign name."""
    match = NAME.fullmatch(name)
    return match["sweep"] if match else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One sbatch call that is to be made. `tasks`: array index to key; indices may have holes."""

    name: str
    phase: str
    tasks: Mapping[int, str]
    resources: Resources
    after_ids: tuple[str, ...] = ()
    """`afterok` of these ids (123 or 123_4)."""
    after_tasks: tuple[tuple[str, int], ...] = ()
    """`afterok` of tasks (batch, index) that go out in the same round, ahead of this one."""
    corresponds_id: str = ""
    """`aftercorr` of this array's id."""
    corresponds_batch: str = ""
    """`aftercorr` of a batch that goes out in the same round, ahead of this one."""
    exclude: tuple[str, ...] = ()
    """Nodes to keep away from."""
    gpu_type: str | None = None
    """The cluster's own name of the GPU type; empty where its GPUs have none, None to take the resources' own."""


@dataclass(slots=True, kw_only=True)
class KnownBatch:
    """A batch as the ledger tells it."""

    name: str
    phase: str
    tasks: dict[int, str]
    """Array index to key."""
    user: str
    """Who called sbatch."""
    intended_at: float
    """Unix seconds, as all below."""
    id: str = ""
    """The array's job id, once sbatch answered or a look-up found it."""
    sent_at: float = 0.0
    void_at: float = 0.0
    """Slurm refused it, or it was looked for long enough and is not there: none of its tasks exists."""
    void_reason: str = ""
    withdrawn: dict[str, float] = field(default_factory=dict)
    """Keys that were taken out of the queue by us, and when (Unix seconds)."""

    @property
    def in_doubt(self) -> bool:
        """sbatch was called, or was about to be, and nobody noted an answer."""
        return not self.id and not self.void_at
