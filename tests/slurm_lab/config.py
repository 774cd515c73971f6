"""What a cluster is to be like, and the text of its configuration files: pure, nothing is run or written here.

Sources: slurm.conf(5), gres.conf(5), slurmdbd.conf(5) of Slurm 22.05.
"""

from dataclasses import dataclass
from enum import StrEnum

from tests.slurm_lab.layout import Layout

SCHEDULER = (
    # Slurm's defaults wait up to 3 s before the scheduler looks at a new job, and up to 30 s between backfills
    "batch_sched_delay=0,sched_interval=1,sched_min_interval=10000,default_queue_depth=2000,partition_job_depth=0,"
    "bf_interval=1,bf_continue,bf_max_job_test=5000,bf_yield_interval=1000000"
)

CLUSTER = "lab"
"""Its name, which is also in the names of the accounting's tables."""

ACCOUNTING_DATABASE = "slurm_acct_db"
"""slurmdbd's, on the cluster's own MariaDB."""

READ_ONCE = frozenset({"maxarraysize"})
"""Keys whose value slurmctld keeps from its first use to its end, whatever `scontrol reconfigure` says."""

CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"
"""Text of cgroup.conf. No plugin of ours uses cgroups, and yet slurmd looks for them and gives up if it finds none, or
those of version 2 without systemd, as in a container. Told of version 1, it does not look."""


class Accounting(StrEnum):
    """Whether the cluster keeps records of jobs that it has forgotten."""

    NONE = "none"
    """No accounting at all: `sacct` fails, there are no QOS and no limits of users."""
    SLURMDBD = "slurmdbd"
    """slurmdbd on a MariaDB of its own: sacct, sacctmgr, QOS, preemption, enforced limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One cluster's settings. Times in seconds, memory in MiB."""

    nodes: int = 4
    """Virtual nodes n1, n2, ...: one slurmd each, told apart by port."""
    cpus: int = 64
    """Per node; may exceed the machine's."""
    memory_mb: int = 512_000
    """Per node; may exceed the machine's. 0: the cluster neither knows nor hands out memory."""
    gpus: int = 8
    """Per node: names for /dev/null, counted and handed out like real ones."""
    gpu_type: str = "a100"
    node_gres: tuple[str, ...] = ()
    """Instead of GPUs of one type: what each node has, such as `gpu:a100:2,gpu:1g.5gb:7` or `gpu:4,shard:16`."""
    node_features: tuple[str, ...] = ()
    """Features of each node, such as `a100_80gb,ib`; none where it is shorter."""
    accounting: Accounting = Accounting.SLURMDBD
    users: tuple[str, ...] = ()
    """Who may submit besides the user who starts the cluster."""
    max_array_size: int = 1001
    """Slurm's default: the greatest index is one less."""
    max_job_count: int = 10_000
    min_job_age: int = 300
    """How long a finished job stays visible to squeue, scontrol and dependencies."""
    message_timeout: int = 5
    """About how long a client waits for a dead controller (Slurm's default: 10)."""
    credential_expires: int = 5
    """A requeued job waits one second more than this; Slurm takes less than 5 for its default of 120."""
    kill_wait: int = 3
    """From SIGTERM to SIGKILL at a time limit, a cancellation, a preemption."""
    slurmd_timeout: int = 10
    """How long a silent node is still believed to be up."""
    node_extra: str = ""
    """More words of the nodes' line, such as `CoreSpecCount=2`."""
    extra: str = ""
    """More lines of slurm.conf; a line about what is set above replaces it."""

    @property
    def node_names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    @property
    def devices(self) -> int:
        """Files that stand for GPUs: as many as any node has."""
        return max(
            (sum(count for name, _, count in parse_gres(text) if name == "gpu") for text in self.gres), default=0
        )

    @property
    def gres(self) -> list[str]:
        """What each node has."""
        usual = f"gpu:{self.gpu_type}:{self.gpus}" if self.gpus else ""
        return [*self.node_gres, *[usual] * self.nodes][: self.nodes]


def parse_gres(text: str) -> list[tuple[str, str, int]]:
    """`gpu:a100:2,shard:8` as name, type and number; the type may be empty."""
    parts = [word.split(":") for word in text.split(",") if word]
    return [(name, ":".join(kind), int(count)) for name, *kind, count in parts]


@dataclass(frozen=True, slots=True)
class Ports:
    """Consecutive TCP ports on loopback."""

    base: int

    @property
    def ctld(self) -> int:
        return self.base

    @property
    def dbd(self) -> int:
        return self.base + 1

    def node(self, name: str) -> int:
        return self.base + 1 + int(name.removeprefix("n"))

    @staticmethod
    def count(nodes: int) -> int:
        return nodes + 2


def slurm_conf(options: Options, layout: Layout, ports: Ports, *, user: str) -> str:
    """The text of slurm.conf for daemons that run as `user`."""
    lines = _basics(options, layout, ports, user) + _times(options) + _nodes(options, ports)
    with_database = options.accounting is Accounting.SLURMDBD
    lines += _accounting(options, layout, ports) if with_database else _no_accounting()
    lines += [
        "PartitionName=DEFAULT Nodes=ALL State=UP DefaultTime=60 MaxTime=INFINITE",
        "PartitionName=main Default=YES",
        "PartitionName=short MaxTime=1 DefaultTime=1",
        "PartitionName=urgent PriorityTier=10",
    ]
    return "\n".join(merged(lines, options.extra.splitlines())) + "\n"


def needs_restart(before: str, after: str) -> bool:
    """Whether slurmctld must be restarted when these extra lines take the place of those before."""
    old, new = ({_subject(line): line.strip() for line in text.splitlines()} for text in (before, after))
    return any(old.get(key) != new.get(key) for key in READ_ONCE)


def merged(lines: list[str], extra: list[str]) -> list[str]:
    """`lines` with those of `extra` in place of what sets the same, or else behind them: Slurm warns of doubles."""
    named = {_subject(line): line for line in lines}
    named.update({_subject(line): line.strip() for line in extra if line.strip()})
    return list(named.values())


def _subject(line: str) -> str:
    """What a line of slurm.conf is about: its key, and for a partition or node also its name."""
    key, _, value = line.strip().partition("=")
    key = key.strip().lower()
    return f"{key}={value.split()[0]}" if key in {"partitionname", "nodename"} else key


def _basics(options: Options, layout: Layout, ports: Ports, user: str) -> list[str]:
    return [
        f"ClusterName={CLUSTER}",
        "SlurmctldHost=localhost(127.0.0.1)",
        f"SlurmctldPort={ports.ctld}",
        f"SlurmUser={user}",
        f"SlurmdUser={user}",
        f"AuthInfo=socket={layout.munge_socket},cred_expire={options.credential_expires}",
        "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",  # listen on loopback only
        f"StateSaveLocation={layout.state}",
        f"SlurmdSpoolDir={layout.spool('%n')}",
        f"SlurmctldPidFile={layout.pid_file('ctld')}",
        f"SlurmdPidFile={layout.pid_file('%n')}",
        f"SlurmctldLogFile={layout.log_file('ctld')}",
        f"SlurmdLogFile={layout.log_file('%n')}",
        "ProctrackType=proctrack/linuxproc",  # needs neither cgroups nor root
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/linux",
        "JobAcctGatherFrequency=task=1",
        "JobAcctGatherParams=OverMemoryKill",  # without cgroups nothing else holds a job to its memory
        "MpiDefault=none",
        "SelectType=select/cons_tres",
        # without a default a job without --mem takes a node's whole memory
        *(["SelectTypeParameters=CR_Core_Memory", "DefMemPerNode=1024"] if options.memory_mb else []),
        *([] if options.memory_mb else ["SelectTypeParameters=CR_Core"]),
        f"SchedulerParameters={SCHEDULER}",
        f"MaxArraySize={options.max_array_size}",
        f"MaxJobCount={options.max_job_count}",
        "JobRequeue=1",
        "PreemptMode=REQUEUE",
    ]


def _times(options: Options) -> list[str]:
    return [
        f"MinJobAge={options.min_job_age}",
        f"KillWait={options.kill_wait}",
        f"MessageTimeout={options.message_timeout}",
        f"SlurmdTimeout={options.slurmd_timeout}",
        "SlurmctldTimeout=10",
        "BatchStartTimeout=20",
        "UnkillableStepTimeout=30",
    ]


def _nodes(options: Options, ports: Ports) -> list[str]:
    first, last = ports.node("n1"), ports.node(f"n{options.nodes}")
    names, port = (f"n[1-{options.nodes}]", f"[{first}-{last}]") if options.nodes > 1 else ("n1", str(first))
    nodes = [(names, port, options.gres[0], "")]
    if options.node_gres or options.node_features:
        features = [*options.node_features, *[""] * options.nodes]
        nodes = [
            (name, str(ports.node(name)), gres, own)
            for name, gres, own in zip(options.node_names, options.gres, features, strict=False)
        ]
    kinds = sorted({name for text in options.gres for name, _, _ in parse_gres(text)})
    cores = f"CPUs={options.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={options.cpus} ThreadsPerCore=1"
    memory = f" RealMemory={options.memory_mb}" if options.memory_mb else ""
    return [
        "SlurmdParameters=config_overrides",  # believe this file about cores and memory, not the machine
        "ReturnToService=2",
        *([f"GresTypes={','.join(kinds)}"] if kinds else []),
        *(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} {cores}"
            f"{memory}{f' Gres={gres}' if gres else ''}{f' Feature={own}' if own else ''}"
            f"{f' {options.node_extra}' if options.node_extra else ''} State=UNKNOWN"
            for name, port, gres, own in nodes
        ),
    ]


def _accounting(options: Options, layout: Layout, ports: Ports) -> list[str]:
    found = {(name, kind) for text in options.gres for name, kind, _ in parse_gres(text)}
    tracked = sorted({f"gres/{name}" for name, _ in found} | {f"gres/{name}:{kind}" for name, kind in found if kind})
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={ports.dbd}",
        f"AccountingStoragePass={layout.munge_socket}",  # sacct and sacctmgr find munge here, not by AuthInfo
        *([f"AccountingStorageTRES={','.join(tracked)}"] if tracked else []),
        "AccountingStoreFlags=job_comment",
        "AccountingStorageEnforce=associations,limits,qos",
        "PriorityType=priority/multifactor",
        "PriorityWeightQOS=10000",
        "PreemptType=preempt/qos",
    ]


def _no_accounting() -> list[str]:
    return ["AccountingStorageType=accounting_storage/none", "PreemptType=preempt/partition_prio"]


def gres_conf(options: Options, layout: Layout) -> str:
    """The text of gres.conf. `Count=` alone is refused for GPUs: every one needs a device file of its own."""
    if not options.devices:
        return ""
    if not options.node_gres:
        return f"AutoDetect=off\nName=gpu Type={options.gpu_type} File={layout.devices}/gpu{_range(0, options.gpus)}\n"
    lines = ["AutoDetect=off"]
    for node, text in zip(options.node_names, options.gres, strict=True):
        first = 0
        for name, kind, count in parse_gres(text):
            typed = f" Type={kind}" if kind else ""
            what = f"File={layout.devices}/gpu{_range(first, count)}" if name == "gpu" else f"Count={count}"
            lines.append(f"NodeName={node} Name={name}{typed} {what}")
            first += count if name == "gpu" else 0
    return "\n".join(lines) + "\n"


def _range(first: int, count: int) -> str:
    return f"[{first}-{first + count - 1}]" if count > 1 else str(first)


def slurmdbd_conf(layout: Layout, ports: Ports, *, user: str) -> str:
    """The text of slurmdbd.conf; slurmdbd refuses the file if anyone else can read it."""
    lines = [
        f"AuthInfo=socket={layout.munge_socket}",
        "DbdHost=localhost",
        "DbdAddr=127.0.0.1",
        f"DbdPort={ports.dbd}",
        f"SlurmUser={user}",
        "StorageType=accounting_storage/mysql",
        "StorageHost=localhost",
        "StorageUser=root",
        f"StorageLoc={ACCOUNTING_DATABASE}",
        f"LogFile={layout.log_file('dbd')}",
        f"PidFile={layout.pid_file('dbd')}",
    ]
    return "\n".join(lines) + "\n"
