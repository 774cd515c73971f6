"""A cluster as its own programs describe it: version, limits, partitions, accounting. Queried once; the rest is pure.

Tables of sacctmgr are read by the names in their head, those of scontrol by their keys: both gain columns from release
to release and keep those that they have. Sources: scontrol(1), sinfo(1), sacctmgr(1) of 22.05, 23.11 and 24.11.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jobs.slurm.commands import ProgramRunner
from jobs.slurm.parsing import parse_config, parse_records

NO_ACCOUNTING = "accounting_storage/none"
NOTHING = {"", "(null)", "N/A", "None", "none", "UNLIMITED", "INFINITE", "NONE"}
"""How Slurm says that a limit or a name is not set."""
UNITS = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2, "P": 1024.0**3}
"""Of memory, in MiB; a bare number is MiB."""
NODE_COLUMNS = 6
"""What sinfo is asked for of nodes."""
IN_SERVICE = re.compile(r"(?:idle|mixed|allocated|completing|planned|reserved)[~#^@+-]?")
"""Their states in which `sbatch --test-only` counts them; a sign behind the word tells of power saving and reboots."""
ASSOCIATION_COLUMNS = (
    "Account", "User", "Partition", "ParentName", "QOS", "DefaultQOS", "MaxSubmitJobs", "GrpSubmitJobs", "MaxWall",
)  # fmt: skip
RUNNING_COLUMNS = {
    "user": ("MaxJobsPU", "MaxJobsPerUser"),
    "account": ("MaxJobsPA", "MaxJobsPerAccount"),
    "everybody": ("GrpJobs",),
}
"""Of a QOS: limits on running jobs, by whose they are, with the names of their columns."""
TRES_COLUMNS = {"user": "MaxTRESPU", "account": "MaxTRESPA", "everybody": "GrpTRES"}
IMPLIED = {"associations": {"limits", "qos", "safe", "wckeys", "all"}, "limits": {"safe", "all"}, "qos": {"all"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeShape:
    """Nodes of one partition that are alike."""

    nodes: int
    cpus: int
    memory_mib: int
    gpus: Mapping[str, int] = field(default_factory=dict)
    """GPU type to number a node; the type is empty where the cluster does not distinguish types."""
    shards: int = 0
    """Shards a node, into which its GPUs are divided (`gres/shard`)."""
    features: frozenset[str] = frozenset()
    """For `constraint`."""


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
    nodes_out: int = 0
    """Nodes that take no jobs today: down, drained, failing, powered off."""
    max_memory_mib: int | None = None
    """Of a job on one node (MaxMemPerNode); None: the cluster's."""
    node_list: str = ""
    """Its nodes as Slurm writes them, `n[1-4],m7`; empty: not known."""

    @property
    def knows_memory(self) -> bool:
        """False where no node is configured with its memory: Slurm takes it for 1 MiB, and refuses every `--mem`."""
        return not self.shapes or any(shape.memory_mib > 1 for shape in self.shapes)


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
    max_running: Mapping[str, int] = field(default_factory=dict)
    """Running jobs, by whose they are: `user`, `account` or `everybody`."""
    running_tres: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What running jobs hold together, likewise: of MaxTRESPerUser, MaxTRESPerAccount and GrpTRES."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What this cluster allows to one user. A part that could not be read is None, with a remark that says why."""

    user: str = ""
    problem: str = ""
    """Why the controller gave no answer; the defaults below are then Slurm's own."""
    version: str = ""
    """The controller's, such as 22.05.8."""
    cluster: str = ""
    array_limit: int = 1001
    """The most tasks of an array, and more than its highest index. 0: the cluster takes no arrays."""
    max_memory_mib: int | None = None
    """Of a job on one node, where its partition has no limit of its own; None: no limit."""
    max_jobs: int = 10_000
    """Jobs that the controller holds in memory, of everybody, finished ones for `min_job_age_seconds` included."""
    min_job_age_seconds: int = 300
    kill_wait_seconds: int = 30
    """From SIGTERM to SIGKILL at the time limit, at preemption and when cancelled."""
    message_timeout_seconds: int = 10
    requeue_seconds: int = 121
    """What a job that goes back into the queue waits before it may start again: until its credential has expired."""
    enforces_partition_limits: bool = False
    """Jobs beyond a partition's limits are refused; else they wait for ever."""
    requeues: bool = True
    preempt_type: str = ""
    preempt_mode: str = ""
    sends_user_signal: bool = False
    """The signal asked for with `--signal` also comes at preemption."""
    default_memory: str = ""
    accounting_type: str = NO_ACCOUNTING
    accounting_answers: bool | None = None
    """None: there is none."""
    accounted: tuple[str, ...] = ()
    """What is accounted for: cpu, mem, gres/gpu..."""
    enforced: frozenset[str] = frozenset()
    """Of associations, limits, qos."""
    private_data: frozenset[str] = frozenset()
    """What ordinary users do not see of others: jobs, usage, users..."""
    partitions: tuple[Partition, ...] | None = None
    qos: Mapping[str, Qos] | None = None
    associations: tuple[Association, ...] | None = None
    """The user's own, and those of all accounts."""
    default_account: str = ""
    remarks: tuple[str, ...] = ()
    known_limit_names: dict[tuple[str, ...], tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Answers of `limits.list_limit_names` so far: thousands of jobs have few kinds of resources."""
    known_gpu_choices: dict[tuple[object, ...], object] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Answers of `gpu_choice.choose_gpus` so far, by what they depend on."""

    @property
    def preempts(self) -> bool:
        return self.preempt_type not in {*NOTHING, "preempt/none"} and self.preempt_mode not in {*NOTHING, "OFF"}

    @property
    def accounts_gpus(self) -> bool:
        """Whether sacct reports GPUs (`gres/gpu` in AllocTRES)."""
        return bool(self.accounting_answers) and "gres/gpu" in self.accounted


@dataclass(slots=True)
class SiteReader:
    """Runs a cluster's programs, and keeps what they could not answer."""

    client: ProgramRunner
    remarks: list[str] = field(default_factory=list)

    def query(self, what: str, program: str, *arguments: str) -> str | None:
        """What the program printed; None, with a remark, where it failed."""
        output = self.client.run(program, *arguments)
        if output.problem:
            self.remarks.append(f"{what}: {output.problem}")
            return None
        return output.text


def query_site(client: ProgramRunner, user: str) -> Site:
    """Six short calls (three without accounting), each within the client's time limit; never an error."""
    questions = SiteReader(client)
    text = questions.query("configuration", "scontrol", "show", "config")
    if text is None:
        return Site(user=user, problem=questions.remarks[0], remarks=tuple(questions.remarks))
    config = parse_config(text)[0]
    partitions = query_partitions(questions)
    accounting = query_accounting_settings(questions, config, user)
    return Site(
        user=user,
        **build_config_fields(config),
        **accounting,
        partitions=partitions,
        remarks=tuple(questions.remarks),
    )


def query_partitions(questions: SiteReader) -> tuple[Partition, ...] | None:
    """Hidden partitions too; None where they could not be read."""
    text = questions.query("partitions", "scontrol", "--all", "--oneliner", "show", "partition")
    if text is None:
        return None
    form = "--format=%R|%D|%c|%m|%G|%T|%f"
    nodes = questions.query("nodes", "sinfo", "--all", "--noheader", "--exact", "--noconvert", form)
    return parse_partitions(text, parse_node_shapes(nodes or ""), count_nodes_out(nodes or ""))


def query_accounting_settings(questions: SiteReader, config: Mapping[str, str], user: str) -> dict[str, Any]:
    """The fields of `Site` that come from slurmdbd; asks no further once it does not answer."""
    if read_accounting_type(config) == NO_ACCOUNTING:
        return {}
    sacctmgr = ("sacctmgr", "--readonly", "--parsable2", "show")
    rules = questions.query("QOS", *sacctmgr, "qos")
    if rules is None:
        return {"accounting_answers": False}
    columns = f"format={','.join(ASSOCIATION_COLUMNS)}"
    where = ("associations", "where", f"cluster={config.get('ClusterName', '')}")
    own = questions.query("associations", *sacctmgr, *where, f"user={user}", columns)
    accounts = questions.query("accounts", *sacctmgr, *where, "user=", columns)
    default = questions.query("user", *sacctmgr, "user", "where", f"name={user}", "format=User,DefaultAccount")
    known = [parse_associations(text) for text in (own, accounts) if text is not None]
    return {
        "accounting_answers": True,
        "qos": parse_qos(rules),
        "associations": tuple(each for found in known for each in found) if own is not None else None,
        "default_account": next((row.get("Def Acct", "").lower() for row in parse_headed_table(default or "")), ""),
    }


def read_accounting_type(config: Mapping[str, str]) -> str:
    """`accounting_storage/none`, which 24.11 calls `(null)`, or whatever it is."""
    given = config.get("AccountingStorageType", "")
    return NO_ACCOUNTING if given in NOTHING else given


def build_config_fields(config: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `Site` that stand in `scontrol show config`; what it lacks is left to Slurm's defaults."""
    numbers = {
        "max_jobs": parse_optional_number(config.get("MaxJobCount", "")),
        "min_job_age_seconds": parse_optional_number(config.get("MinJobAge", "")),
        "kill_wait_seconds": parse_optional_number(config.get("KillWait", "")),
        "message_timeout_seconds": parse_optional_number(config.get("MessageTimeout", "")),
        "max_memory_mib": parse_optional_number(config.get("MaxMemPerNode", "")),
    }
    expires = re.search(r"cred_expire=(\d+)", config.get("AuthInfo", ""))
    enforced = frozenset(word.lower() for word in parse_words(config.get("AccountingStorageEnforce", "")))
    array = [
        parse_optional_number(config.get("MaxArraySize", "")),
        parse_max_array_tasks(config.get("SchedulerParameters", "")),
    ]
    given = [number for number in array if number is not None]
    return {
        **{name: number for name, number in numbers.items() if number is not None},
        **({"array_limit": min(given)} if given else {}),
        **({"requeue_seconds": int(expires[1]) + 1} if expires else {}),
        "version": config.get("SLURM_VERSION", ""),
        "cluster": config.get("ClusterName", ""),
        "enforces_partition_limits": config.get("EnforcePartLimits", "NO").upper() in {"ALL", "ANY", "YES"},
        "requeues": config.get("JobRequeue", "1") != "0",
        "preempt_type": config.get("PreemptType", ""),
        "preempt_mode": config.get("PreemptMode", ""),
        "sends_user_signal": "preempt_send_user_signal" in parse_words(config.get("SlurmctldParameters", "")),
        "default_memory": next(
            (f"{key} {config[key]} MiB" for key in ("DefMemPerNode", "DefMemPerCPU") if key in config), ""
        ),
        "accounting_type": read_accounting_type(config),
        "accounted": parse_words(config.get("AccountingStorageTRES", "")),
        "private_data": frozenset(word.lower() for word in parse_words(config.get("PrivateData", ""))),
        # `safe` brings limits with it, `limits` and `qos` bring associations (slurm.conf(5))
        "enforced": enforced | {word for word, by in IMPLIED.items() if enforced & by},
    }


def parse_max_array_tasks(parameters: str) -> int | None:
    """`max_array_tasks` of SchedulerParameters: the most tasks of one array, which may be below MaxArraySize."""
    for word in parse_words(parameters):
        name, _, value = word.partition("=")
        if name == "max_array_tasks":
            return parse_optional_number(value)
    return None


def parse_partitions(
    text: str, shapes: Mapping[str, tuple[NodeShape, ...]], nodes_out: Mapping[str, int]
) -> tuple[Partition, ...]:
    """From `scontrol --oneliner show partition`. Accounts and QOS are in small letters, as Slurm compares them."""
    return tuple(
        Partition(
            name=each["PartitionName"],
            state=each.get("State", "UP").partition("+")[0],
            is_default=each.get("Default") == "YES",
            max_minutes=parse_minutes(each.get("MaxTime", "")),
            max_nodes=parse_optional_number(each.get("MaxNodes", "")),
            nodes=parse_optional_number(each.get("TotalNodes", "")) or 0,
            qos="".join(parse_names(each.get("QoS", ""))),
            allowed_qos=parse_names(each.get("AllowQos", "")),
            denied_qos=parse_names(each.get("DenyQos", "")),
            allowed_accounts=parse_names(each.get("AllowAccounts", "")),
            denied_accounts=parse_names(each.get("DenyAccounts", "")),
            shapes=shapes.get(each["PartitionName"], ()),
            nodes_out=nodes_out.get(each["PartitionName"], 0),
            max_memory_mib=parse_optional_number(each.get("MaxMemPerNode", "")),
            node_list="" if each.get("Nodes", "") in NOTHING else each["Nodes"],
        )
        for each in parse_records(text)
        if "PartitionName" in each
    )


def parse_node_shapes(text: str) -> dict[str, tuple[NodeShape, ...]]:
    """Node shapes by partition, from sinfo's lines as `query_partitions` asks for them, one for each state."""
    found: dict[str, dict[tuple[str, ...], int]] = {}
    for parts in split_node_lines(text):
        kinds = found.setdefault(parts[0], {})
        kind = (*parts[2:5], *parts[6:])
        kinds[kind] = kinds.get(kind, 0) + (parse_optional_number(parts[1]) or 0)
    return {
        name: tuple(
            NodeShape(
                nodes=nodes,
                cpus=parse_optional_number(cpus) or 0,
                memory_mib=parse_optional_number(memory) or 0,
                gpus=parse_gpus(gres),
                shards=sum(parse_gpus(gres, "shard").values()),
                features=frozenset(word for part in features for word in parse_words(part)),
            )
            for (cpus, memory, gres, *features), nodes in kinds.items()
        )
        for name, kinds in found.items()
    }


def count_nodes_out(text: str) -> dict[str, int]:
    """Nodes by partition that take no jobs at present, from the same lines."""
    found: dict[str, int] = {}
    for name, nodes, _, _, _, state, *_ in split_node_lines(text):
        if not IN_SERVICE.fullmatch(state):
            found[name] = found.get(name, 0) + (parse_optional_number(nodes) or 0)
    return found


def split_node_lines(text: str) -> list[list[str]]:
    """The whole lines of sinfo; features, at their end, may be missing."""
    return [parts for line in text.splitlines() if len(parts := line.split("|")) >= NODE_COLUMNS]


def parse_gpus(gres: str, resource: str = "gpu") -> dict[str, int]:
    """GPUs of sinfo's `gpu:a100:8(S:0-1),gpu:v100:2,nvme:1`, by type; or another generic resource."""
    found: dict[str, int] = {}
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        name, *kind, count = [part for part in word.split(":") if part != "no_consume"] if ":" in word else ("", "")
        if name == resource and count.isdigit():
            found[":".join(kind)] = found.get(":".join(kind), 0) + int(count)
    return found


def parse_qos(text: str) -> dict[str, Qos]:
    """From `sacctmgr --parsable2 show qos`, whole: naming columns fails where a release knows one of them not."""
    tres = ("MaxTRES", "MaxTRESPU", "MaxTRESPA", "GrpTRES")
    return {
        row["Name"].lower(): Qos(
            name=row["Name"].lower(),
            flags=frozenset(parse_words(row.get("Flags", ""))),
            max_submit_user=parse_optional_number(
                find_first(row, ("MaxSubmitPU", "MaxSubmitJobsPU", "MaxSubmitJobsPerUser"))
            ),
            max_submit_account=parse_optional_number(
                find_first(row, ("MaxSubmitPA", "MaxSubmitJobsPA", "MaxSubmitJobsPerAccount"))
            ),
            max_submit_group=parse_optional_number(find_first(row, ("GrpSubmit", "GrpSubmitJobs"))),
            max_minutes=parse_minutes(row.get("MaxWall", "")),
            max_tres=tuple(limits for name in tres if (limits := parse_tres(row.get(name, "")))),
            max_running={
                whose: most
                for whose, names in RUNNING_COLUMNS.items()
                if (most := parse_optional_number(find_first(row, names))) is not None
            },
            running_tres={
                whose: limits for whose, name in TRES_COLUMNS.items() if (limits := parse_tres(row.get(name, "")))
            },
        )
        for row in parse_headed_table(text)
        if row.get("Name")
    }


def parse_associations(text: str) -> tuple[Association, ...]:
    """From `sacctmgr --parsable2 show associations format=` the columns above, which it heads with shorter names."""
    return tuple(
        Association(
            account=row.get("Account", "").lower(),
            user=row.get("User", ""),
            partition=row.get("Partition", ""),
            parent=find_first(row, ("ParentName", "Par Name")).lower(),
            qos=tuple(name.lstrip("+-") for name in parse_names(row.get("QOS", ""))),
            default_qos=find_first(row, ("Def QOS", "DefaultQOS", "DefQOS")).lower(),
            max_submit=parse_optional_number(find_first(row, ("MaxSubmit", "MaxSubmitJobs"))),
            max_submit_group=parse_optional_number(find_first(row, ("GrpSubmit", "GrpSubmitJobs"))),
            max_minutes=parse_minutes(row.get("MaxWall", "")),
        )
        for row in parse_headed_table(text)
    )


def parse_headed_table(text: str) -> list[dict[str, str]]:
    """Rows of `sacctmgr --parsable2`, by the names in its head."""
    lines = [line.split("|") for line in text.splitlines() if "|" in line]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]


def find_first(row: Mapping[str, str], names: Iterable[str]) -> str:
    """The value of the first column that is there, under any of its names."""
    return next((row[name] for name in names if name in row), "")


def parse_words(text: str) -> tuple[str, ...]:
    """A list with commas; empty for any of Slurm's words for nothing, and for ALL."""
    return () if text in NOTHING or text == "ALL" else tuple(filter(None, (word.strip() for word in text.split(","))))


def parse_names(text: str) -> tuple[str, ...]:
    """Such a list of accounts or QOS, in small letters: Slurm compares these so."""
    return parse_words(text.lower() if text not in NOTHING | {"ALL"} else text)


def parse_optional_number(text: str) -> int | None:
    """`300`, `300 sec`; None where there is no number."""
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def parse_minutes(text: str) -> int | None:
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


def parse_tres(text: str) -> dict[str, float]:
    """`cpu=64,mem=1.50T,gres/gpu=8`; memory in MiB."""
    found = {}
    for name, _, value in (word.partition("=") for word in text.split(",") if "=" in word):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", value.strip())
        if match:
            found[name.strip()] = float(match[1]) * (UNITS[match[2] or "M"] if name == "mem" else 1.0)
    return found
