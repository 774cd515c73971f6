"""Partitions, QOS and associations of a cluster, and how Slurm's clients print them. Pure.

Tables of sacctmgr are read by the names in their head, `scontrol` by its keys: both gain columns from release to
release and keep those that they have. Sources: scontrol(1), sinfo(1), sacctmgr(1) of 22.05, 23.11 and 24.11.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jobs.slurm.setting_text import read_records

NOTHING = {"", "(null)", "N/A", "None", "none", "UNLIMITED", "INFINITE", "NONE"}
"""How Slurm says that a limit or a name is not set."""

UNITS = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}
"""Of memory, in MiB; a bare number is MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShape:
    """Nodes of one partition that are alike."""

    nodes: int
    cpus: int
    memory_mib: int
    gpus: Mapping[str, int] = field(default_factory=dict)
    """GPU type to number a node; the type is empty where the cluster does not tell types apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition, with what its nodes hold."""

    name: str
    state: str = "UP"
    """UP, DOWN, DRAIN or INACTIVE."""
    is_default: bool = False
    max_minutes: int | None = None
    """None: no limit, as below."""
    max_nodes: int | None = None
    nodes: int = 0
    qos: str = ""
    """The partition's own QOS, whose limits hold for all of its jobs."""
    allowed_qos: tuple[str, ...] = ()
    """Empty: all."""
    denied_qos: tuple[str, ...] = ()
    allowed_accounts: tuple[str, ...] = ()
    """Empty: all."""
    denied_accounts: tuple[str, ...] = ()
    shapes: tuple[NodeShape, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Qos:
    """A quality of service. None: no limit."""

    name: str
    flags: frozenset[str] = frozenset()
    max_submit_user: int | None = None
    """Jobs of one user in the queue, running ones included."""
    max_submit_account: int | None = None
    max_submit_group: int | None = None
    """Jobs of everybody."""
    max_minutes: int | None = None
    max_tres: tuple[Mapping[str, float], ...] = ()
    """Most of each resource that a job may hold: of MaxTRES, MaxTRESPerUser, MaxTRESPerAccount and GrpTRES; memory in
    MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """A user in an account, or an account itself (`user` empty). None: no limit."""

    account: str
    user: str = ""
    partition: str = ""
    """The only partition that it holds for; empty: any."""
    parent: str = ""
    """Of an account: the account above it."""
    qos: tuple[str, ...] = ()
    default_qos: str = ""
    max_submit: int | None = None
    max_submit_group: int | None = None
    max_minutes: int | None = None


def words_of(text: str) -> tuple[str, ...]:
    """A list with commas; empty for any of Slurm's words for nothing, and for ALL."""
    return () if text in NOTHING or text == "ALL" else tuple(filter(None, (word.strip() for word in text.split(","))))


def number_of(text: str) -> int | None:
    """`300`, `300 sec`; None where there is no number."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def minutes_of(text: str) -> int | None:
    """Whole minutes of `1-12:00:00`, `12:00:00`, `30:00`, `90` and `2-00`; None for no limit."""
    if text in NOTHING or not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        return None
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, minutes = [*parts, 0][:2]
        return (int(days) * 24 + hours) * 60 + minutes
    if len(parts) == 3:
        return parts[0] * 60 + parts[1]
    return parts[0]  # minutes, or minutes:seconds


def tres_of(text: str) -> dict[str, float]:
    """`cpu=64,mem=1.50T,gres/gpu=8`; memory in MiB."""
    found = {}
    for name, _, value in (word.partition("=") for word in text.split(",") if "=" in word):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", value.strip())
        if match:
            found[name.strip()] = float(match[1]) * (UNITS[match[2] or "M"] if name == "mem" else 1.0)
    return found


def gpus_of(gres: str) -> dict[str, int]:
    """GPUs of sinfo's `gpu:a100:8(S:0-1),gpu:v100:2,nvme:1`, by type."""
    found: dict[str, int] = {}
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *kind, count = [part for part in word.split(":") if part != "no_consume"] if ":" in word else ("", "")
        if name == "gpu" and count.isdigit():
            found[":".join(kind)] = found.get(":".join(kind), 0) + int(count)
    return found


def shapes_of(text: str) -> dict[str, tuple[NodeShape, ...]]:
    """Node shapes by partition, from `sinfo --exact --format=%R|%D|%c|%m|%G`."""
    found: dict[str, list[NodeShape]] = {}
    for line in text.splitlines():
        parts = line.split("|")
        if len(parts) != 5:
            continue
        nodes, cpus, memory = (number_of(part) or 0 for part in parts[1:4])
        shape = NodeShape(nodes=nodes, cpus=cpus, memory_mib=memory, gpus=gpus_of(parts[4]))
        found.setdefault(parts[0], []).append(shape)
    return {name: tuple(shapes) for name, shapes in found.items()}


def partitions_of(text: str, shapes: Mapping[str, tuple[NodeShape, ...]]) -> tuple[Partition, ...]:
    """From `scontrol --oneliner show partition`."""
    return tuple(
        Partition(
            name=each["PartitionName"],
            state=each.get("State", "UP").partition("+")[0],
            is_default=each.get("Default") == "YES",
            max_minutes=minutes_of(each.get("MaxTime", "")),
            max_nodes=number_of(each.get("MaxNodes", "")),
            nodes=number_of(each.get("TotalNodes", "")) or 0,
            qos="".join(words_of(each.get("QoS", ""))),
            allowed_qos=words_of(each.get("AllowQos", "")),
            denied_qos=words_of(each.get("DenyQos", "")),
            allowed_accounts=words_of(each.get("AllowAccounts", "")),
            denied_accounts=words_of(each.get("DenyAccounts", "")),
            shapes=shapes.get(each["PartitionName"], ()),
        )
        for each in read_records(text)
        if "PartitionName" in each
    )


def table(text: str) -> list[dict[str, str]]:
    """Rows of `sacctmgr --parsable2`, by the names in its head."""
    lines = [line.split("|") for line in text.splitlines() if "|" in line]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]


def first_of(row: Mapping[str, str], names: Iterable[str]) -> str:
    """The value of the first column that is there, under any of its names."""
    return next((row[name] for name in names if name in row), "")


def qos_of(text: str) -> dict[str, Qos]:
    """From `sacctmgr --parsable2 show qos`, whole: naming columns fails where a release knows one of them not."""
    tres = ("MaxTRES", "MaxTRESPU", "MaxTRESPA", "GrpTRES")
    return {
        row["Name"]: Qos(
            name=row["Name"],
            flags=frozenset(words_of(row.get("Flags", ""))),
            max_submit_user=number_of(first_of(row, ("MaxSubmitPU", "MaxSubmitJobsPU", "MaxSubmitJobsPerUser"))),
            max_submit_account=number_of(first_of(row, ("MaxSubmitPA", "MaxSubmitJobsPA", "MaxSubmitJobsPerAccount"))),
            max_submit_group=number_of(first_of(row, ("GrpSubmit", "GrpSubmitJobs"))),
            max_minutes=minutes_of(row.get("MaxWall", "")),
            max_tres=tuple(limits for name in tres if (limits := tres_of(row.get(name, "")))),
        )
        for row in table(text)
        if row.get("Name")
    }


ASSOCIATION_COLUMNS = (
    "Account", "User", "Partition", "ParentName", "QOS", "DefaultQOS", "MaxSubmitJobs", "GrpSubmitJobs", "MaxWall",
)  # fmt: skip


def associations_of(text: str) -> tuple[Association, ...]:
    """From `sacctmgr --parsable2 show associations format=` the columns above, which it heads with shorter names."""
    return tuple(
        Association(
            account=row.get("Account", ""),
            user=row.get("User", ""),
            partition=row.get("Partition", ""),
            parent=first_of(row, ("ParentName", "Par Name")),
            qos=tuple(name.lstrip("+-") for name in words_of(row.get("QOS", ""))),
            default_qos=first_of(row, ("Def QOS", "DefaultQOS", "DefQOS")),
            max_submit=number_of(first_of(row, ("MaxSubmit", "MaxSubmitJobs"))),
            max_submit_group=number_of(first_of(row, ("GrpSubmit", "GrpSubmitJobs"))),
            max_minutes=minutes_of(row.get("MaxWall", "")),
        )
        for row in table(text)
    )
