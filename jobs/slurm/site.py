"""A cluster as its own clients describe it: version, limits, partitions, accounting. Read once, used purely."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from jobs.job import Resources
from jobs.slurm.commands import Output
from jobs.slurm.setting_text import read_config
from jobs.slurm.site_parts import (
    ASSOCIATION_COLUMNS,
    Association,
    Partition,
    Qos,
    associations_of,
    number_of,
    partitions_of,
    qos_of,
    shapes_of,
    table,
    words_of,
)

NO_ACCOUNTING = "accounting_storage/none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What this cluster allows to one user. A part that could not be read is None, with a remark that says why."""

    user: str = ""
    problem: str = ""
    """Why the controller said nothing of itself; the defaults below are then Slurm's own."""
    version: str = ""
    """The controller's, such as 22.05.8."""
    cluster: str = ""
    array_limit: int = 1001
    """The most tasks of an array, and more than its highest index."""
    max_jobs: int = 10_000
    """Jobs that the controller holds in memory, of everybody, finished ones for `min_job_age_seconds` included."""
    min_job_age_seconds: int = 300
    kill_wait_seconds: int = 30
    """From SIGTERM to SIGKILL at the time limit, at preemption and when cancelled."""
    message_timeout_seconds: int = 10
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
    partitions: tuple[Partition, ...] | None = None
    qos: Mapping[str, Qos] | None = None
    associations: tuple[Association, ...] | None = None
    """The user's own, and those of all accounts."""
    default_account: str = ""
    remarks: tuple[str, ...] = ()
    known_lanes: dict[tuple[str, ...], tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Answers of `lanes` so far: thousands of jobs have few kinds of resources."""
    known_misfits: dict[int, tuple[Resources, str | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """Answers of `misfit` so far, by the identity of the resources, which this keeps alive."""

    @property
    def preempts(self) -> bool:
        return self.preempt_type not in {"", "preempt/none"} and self.preempt_mode not in {"", "OFF"}

    @property
    def accounts_gpus(self) -> bool:
        """Whether sacct tells of GPUs (`gres/gpu` in AllocTRES)."""
        return bool(self.accounting_answers) and "gres/gpu" in self.accounted


class Client(Protocol):
    """What is needed of `jobs.slurm.client.SlurmClient`."""

    def run(self, program: str, *arguments: str) -> Output:
        """Runs one of Slurm's programs for a bounded time."""
        ...


@dataclass(slots=True)
class Questions:
    """Asks a cluster's clients, and keeps what they could not tell."""

    client: Client
    remarks: list[str] = field(default_factory=list)

    def ask(self, what: str, program: str, *arguments: str) -> str | None:
        """The client's text; None, with a remark, where it has none."""
        output = self.client.run(program, *arguments)
        if output.problem:
            self.remarks.append(f"{what}: {output.problem}")
            return None
        return output.text


def read_site(client: Client, user: str) -> Site:
    """Six short calls (three without accounting), each bounded by the client's patience; never an error."""
    questions = Questions(client)
    text = questions.ask("configuration", "scontrol", "show", "config")
    if text is None:
        return Site(user=user, problem=questions.remarks[0], remarks=tuple(questions.remarks))
    config = read_config(text)[0]
    partitions = read_partitions(questions)
    accounting = read_accounting(questions, config, user)
    return Site(
        user=user,
        **config_fields(config),
        **accounting,
        partitions=partitions,
        remarks=tuple(questions.remarks),
    )


def read_partitions(questions: Questions) -> tuple[Partition, ...] | None:
    """Hidden partitions too; None where they could not be read."""
    text = questions.ask("partitions", "scontrol", "--all", "--oneliner", "show", "partition")
    if text is None:
        return None
    form = "--format=%R|%D|%c|%m|%G"
    nodes = questions.ask("nodes", "sinfo", "--all", "--noheader", "--exact", "--noconvert", form)
    return partitions_of(text, shapes_of(nodes or ""))


def read_accounting(questions: Questions, config: Mapping[str, str], user: str) -> dict[str, Any]:
    """The fields of `Site` that come from slurmdbd; asks no further once it does not answer."""
    if config.get("AccountingStorageType", NO_ACCOUNTING) == NO_ACCOUNTING:
        return {}
    sacctmgr = ("sacctmgr", "--readonly", "--parsable2", "show")
    rules = questions.ask("QOS", *sacctmgr, "qos")
    if rules is None:
        return {"accounting_answers": False}
    columns = f"format={','.join(ASSOCIATION_COLUMNS)}"
    where = ("associations", "where", f"cluster={config.get('ClusterName', '')}")
    own = questions.ask("associations", *sacctmgr, *where, f"user={user}", columns)
    accounts = questions.ask("accounts", *sacctmgr, *where, "user=", columns)
    default = questions.ask("user", *sacctmgr, "user", "where", f"name={user}", "format=User,DefaultAccount")
    known = [associations_of(text) for text in (own, accounts) if text is not None]
    return {
        "accounting_answers": True,
        "qos": qos_of(rules),
        "associations": tuple(each for found in known for each in found) if own is not None else None,
        "default_account": next((row.get("Def Acct", "") for row in table(default or "")), ""),
    }


def config_fields(config: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `Site` that stand in `scontrol show config`; what it lacks is left to Slurm's defaults."""
    numbers = {
        "max_jobs": number_of(config.get("MaxJobCount", "")),
        "min_job_age_seconds": number_of(config.get("MinJobAge", "")),
        "kill_wait_seconds": number_of(config.get("KillWait", "")),
        "message_timeout_seconds": number_of(config.get("MessageTimeout", "")),
    }
    enforced = frozenset(word.lower() for word in words_of(config.get("AccountingStorageEnforce", "")))
    array = [number_of(config.get("MaxArraySize", "")), max_array_tasks(config.get("SchedulerParameters", ""))]
    given = [number for number in array if number is not None]
    return {
        **{name: number for name, number in numbers.items() if number is not None},
        **({"array_limit": min(given)} if given else {}),
        "version": config.get("SLURM_VERSION", ""),
        "cluster": config.get("ClusterName", ""),
        "enforces_partition_limits": config.get("EnforcePartLimits", "NO").upper() in {"ALL", "ANY", "YES"},
        "requeues": config.get("JobRequeue", "1") != "0",
        "preempt_type": config.get("PreemptType", ""),
        "preempt_mode": config.get("PreemptMode", ""),
        "sends_user_signal": "preempt_send_user_signal" in words_of(config.get("SlurmctldParameters", "")),
        "default_memory": next(
            (f"{key} {config[key]} MiB" for key in ("DefMemPerNode", "DefMemPerCPU") if key in config), ""
        ),
        "accounting_type": config.get("AccountingStorageType", NO_ACCOUNTING),
        "accounted": words_of(config.get("AccountingStorageTRES", "")),
        # `safe` brings limits with it, `limits` and `qos` bring associations (slurm.conf(5))
        "enforced": enforced | {word for word, by in IMPLIED.items() if enforced & by},
    }


IMPLIED = {"associations": {"limits", "qos", "safe", "wckeys", "all"}, "limits": {"safe", "all"}, "qos": {"all"}}


def max_array_tasks(parameters: str) -> int | None:
    """`max_array_tasks` of SchedulerParameters: the most tasks of one array, which MaxArraySize alone does not tell."""
    for word in words_of(parameters):
        name, _, value = word.partition("=")
        if name == "max_array_tasks":
            return number_of(value)
    return None
