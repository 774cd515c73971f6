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
    """Per node; may exceed the machine's."""
    gpus: int = 8
    """Per node: names for /dev/null, counted and handed out like real ones."""
    gpu_type: str = "a100"
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
        "ClusterName=lab",
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
        "SelectTypeParameters=CR_Core_Memory",
        "DefMemPerNode=1024",  # else a job without --mem takes a node's whole memory
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
    cores = f"CPUs={options.cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={options.cpus} ThreadsPerCore=1"
    gres = f" Gres=gpu:{options.gpu_type}:{options.gpus}" if options.gpus else ""
    return [
        "SlurmdParameters=config_overrides",  # believe this file about cores and memory, not the machine
        "ReturnToService=2",
        *(["GresTypes=gpu"] if options.gpus else []),
        f"NodeName={names} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} {cores}"
        f" RealMemory={options.memory_mb}{gres} {options.node_extra} State=UNKNOWN",
    ]


def _accounting(options: Options, layout: Layout, ports: Ports) -> list[str]:
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        "AccountingStorageHost=127.0.0.1",
        f"AccountingStoragePort={ports.dbd}",
        f"AccountingStoragePass={layout.munge_socket}",  # sacct and sacctmgr find munge here, not by AuthInfo
        *([f"AccountingStorageTRES=gres/gpu,gres/gpu:{options.gpu_type}"] if options.gpus else []),
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
    if not options.gpus:
        return ""
    numbers = f"[0-{options.gpus - 1}]" if options.gpus > 1 else "0"
    return f"AutoDetect=off\nName=gpu Type={options.gpu_type} File={layout.devices}/gpu{numbers}\n"


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
        "StorageLoc=slurm_acct_db",
        f"LogFile={layout.log_file('dbd')}",
        f"PidFile={layout.pid_file('dbd')}",
    ]
    return "\n".join(lines) + "\n"
