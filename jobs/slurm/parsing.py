"""What squeue, sacct and scontrol print, as typed rows (squeue(1), sacct(1), scontrol(1)).

squeue and sacct are asked for fields parted by the unit separator, with the job's name last.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

SEPARATOR = "\x1f"
"""No name of ours holds it; a foreign job's name may hold anything, and comes last so that it harms no other field."""
NOTHING = {"", "Unknown", "None", "N/A", "NONE", "(null)", "None assigned"}
"""How the programs print that there is no value."""
QUEUE_FIELDS = ("%i", "%T", "%r", "%E", "%u", "%q", "%a", "%P", "%V", "%S", "%N", "%e", "%j")
"""Id, state, reason, dependency, user, QOS, account, partition, submitted, started, nodes, ends, name."""
QUEUE_FORMAT = SEPARATOR.join(QUEUE_FIELDS)
ACCOUNT_FIELDS = (
    "JobID",
    "State",
    "Submit",
    "Start",
    "End",
    "ElapsedRaw",
    "AllocTRES",
    "AllocCPUS",
    "NodeList",
    "ExitCode",
)
"""Known to every version from 22.05 on; JobName follows at the end."""
OPTIONAL_ACCOUNT_FIELDS = ("Reason", "FailedNode")
"""Asked for where `sacct --helpformat` lists them: one unknown field fails the whole call."""
ARRAY_ID = re.compile(r"(?P<array>\d+)_\[(?P<tasks>[^\]]*)\]?")
MEMORY_OF_PARSED = 4096
Row = TypeVar("Row")


class QueueRow(NamedTuple):  # no dataclass: a hundred thousand rows are made at once
    """A line of `squeue --array`: a job or array task that is not finished."""

    id: str
    """123, or 123_4 for an array's task."""
    name: str
    user: str
    state: str
    """PENDING, RUNNING, COMPLETING..."""
    reason: str = ""
    """Why it is pending, by Slurm's name."""
    dependency: str = ""
    qos: str = ""
    account: str = ""
    partition: str = ""
    submitted_at: float = 0.0
    """Unix seconds."""
    started_at: float = 0.0
    """Of a pending job: when the scheduler expects to start it; 0 where it does not say."""
    nodes: str = ""
    ends_at: float = 0.0
    """When it ended, or its time limit will end it."""


class AccountRow(NamedTuple):
    """A line of `sacct --duplicates --allocations`: one execution; a requeued job has several with one id."""

    id: str
    """123, or 123_4. Lines of pending array tasks (123_[5-9]) are left out: squeue reports them. Such a line in a
    final state (the tasks were cancelled before they began) is given as one row a task."""
    name: str
    state: str
    """`CANCELLED by 1000` is CANCELLED here, with `by_uid` 1000."""
    by_uid: str = ""
    submitted_at: float = 0.0
    """Unix seconds; 0 where Slurm says Unknown or None."""
    started_at: float = 0.0
    ended_at: float = 0.0
    elapsed_seconds: int = 0
    gpus: int = 0
    """`gres/gpu=` of AllocTRES alone: `gres/gpu:a100=` counts the same devices again."""
    cpus: int = 0
    """Allocated, over all nodes; for a job that never started, what it asked for."""
    nodes: str = ""
    """Empty: it never started."""
    exit_code: int = 0
    """Codes of 128 and more come folded (less 128)."""
    signal: int = 0
    reason: str = ""
    failed_node: str = ""
    """Whose failure ended it; only later versions of Slurm say so."""
    shared: bool = False
    """Made of one line for several tasks. Slurm's list of them may be out of date: a task's own row outweighs it."""
    gpu_kinds: str = ""
    """What AllocTRES says of the GPUs' types, such as `a100=2,=1` or `shard=1` (`parse_allocated_kinds`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmAnswer(Generic[Row]):
    """What a program answered, or why it gave no answer."""

    rows: tuple[Row, ...] = ()
    problem: str = ""
    """Empty if `rows` is complete; else one line, such as `Unable to contact slurm controller`."""
    absent: bool = False
    """With a problem: this cluster does not have the service at all (accounting is switched off)."""

    @property
    def ok(self) -> bool:
        return not self.problem


class HiddenUsers(NamedTuple):
    """Users whose jobs this cluster does not show to the user who asks (PrivateData)."""

    queue: frozenset[str] = frozenset()
    """By squeue and scontrol: PrivateData in slurm.conf."""
    records: frozenset[str] = frozenset()
    """By sacct: PrivateData in slurmdbd.conf."""


class SlurmAnswers(NamedTuple):
    """What squeue and sacct answered at one moment."""

    queue: SlurmAnswer[QueueRow]
    accounting: SlurmAnswer[AccountRow]
    taken_at: float
    """Unix seconds by this machine's clock, before the questions."""
    hidden: HiddenUsers = HiddenUsers()
    controller_time: float = 0.0
    """Unix seconds by the controller's clock; 0 where it was not needed or not told."""

    @property
    def cluster_now(self) -> float:
        """The moment of the answers by the clock that stamps Slurm's times, as far as it is known."""
        return self.controller_time or self.taken_at


def parse_queue(text: str) -> SlurmAnswer[QueueRow]:
    """The rows of `squeue --array --noheader --format QUEUE_FORMAT`, in order. Text that breaks off is a problem."""
    if not is_whole(text):
        return SlurmAnswer(problem="squeue's answer breaks off")
    times: dict[str, float] = {}
    rows = []
    for line in split_rows(text, len(QUEUE_FIELDS)):
        job, state, reason, dependency, user, qos, account, partition, submitted, started, *rest = line
        nodes, ends, name = rest
        for moment in (submitted, started, ends):
            if moment not in times:
                times[moment] = parse_time(moment)
        rows.append(
            QueueRow(
                job,
                name,
                user,
                state,
                parse_value(reason),
                "" if dependency in NOTHING else dependency,
                qos,
                account,
                partition,
                times[submitted],
                times[started],
                nodes,
                times[ends],
            )
        )
    return SlurmAnswer(rows=tuple(rows))


def select_fields(known: Collection[str]) -> tuple[str, ...]:
    """The fields to ask a version for which knows `known`."""
    names = {name.casefold() for name in known}
    return (*ACCOUNT_FIELDS, *(name for name in OPTIONAL_ACCOUNT_FIELDS if name.casefold() in names), "JobName")


def parse_accounting(text: str, fields: Sequence[str]) -> SlurmAnswer[AccountRow]:
    """The rows of `sacct --noheader --parsable2 --delimiter=SEPARATOR --format FIELDS`, in sacct's order."""
    if not is_whole(text):
        return SlurmAnswer(problem="sacct's answer breaks off")
    extra = fields[len(ACCOUNT_FIELDS) : -1]
    return SlurmAnswer(rows=tuple(_iter_account_rows(text, len(fields), extra)))


def _iter_account_rows(text: str, count: int, extra: Sequence[str]) -> Iterator[AccountRow]:
    times = _Times()
    for line in split_rows(text, count):
        job, word, submitted, started, ended, elapsed, tres, cpus, nodes, code, *more, name = line
        state, by_uid = parse_state(word)
        exit_code, number_of_signal = parse_exit_status(code)
        others: Mapping[str, str] = dict(zip(extra, more, strict=True)) if extra else {}
        row = AccountRow(
            job,
            name,
            state,
            by_uid,
            times[submitted],
            times[started],
            times[ended],
            parse_number(elapsed),
            parse_allocated_gpus(tres),
            parse_number(cpus),
            parse_value(nodes),
            exit_code,
            number_of_signal,
            parse_value(others.get("Reason", "")),
            parse_value(others.get("FailedNode", "")),
            gpu_kinds=parse_allocated_kinds(tres),
        )
        if "[" not in job:
            yield row
        elif state != "PENDING":
            yield from (row._replace(id=task, shared=True) for task in parse_array_tasks(job))


STEP_FIELDS = ("JobID", "Start", "MaxRSS")
"""Of the steps of a job (`123_4.batch`, `123_4.0`), which `sacct --allocations` leaves out."""
BYTES = {"": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40, "P": 2.0**50}


class StepMemory(NamedTuple):
    """What one step of an execution used."""

    id: str
    """Of the job: 123, or 123_4."""
    started_at: float
    """Unix seconds. A requeued job's steps have its one id; this tells whose they are."""
    largest_bytes: float
    """Of the task that used most, as sampled (MaxRSS)."""


def parse_step_memory(text: str) -> Iterator[StepMemory]:
    """The steps of `sacct --format STEP_FIELDS` whose memory was sampled."""
    times = _Times()
    for name, started, used in split_rows(text, len(STEP_FIELDS)):
        job, dot, _ = name.partition(".")
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTP]?)", used)
        if dot and match:
            yield StepMemory(job, times[started], float(match[1]) * BYTES[match[2]])


class _Times(dict[str, float]):
    """Times that were read before: thousands of rows share a second."""

    def __missing__(self, text: str) -> float:
        self[text] = result = parse_time(text)
        return result


@lru_cache(MEMORY_OF_PARSED)
def parse_state(word: str) -> tuple[str, str]:
    """`CANCELLED by 1000` as (`CANCELLED`, `1000`)."""
    state, _, uid = word.partition(" by ")
    return state.strip().rstrip("+"), uid.strip()


@lru_cache(MEMORY_OF_PARSED)
def parse_exit_status(text: str) -> tuple[int, int]:
    """`3:0` as (exit code, signal)."""
    code, _, number_of_signal = text.partition(":")
    return parse_number(code), parse_number(number_of_signal)


@lru_cache(MEMORY_OF_PARSED)
def parse_allocated_gpus(tres: str) -> int:
    """GPUs over all nodes. `gres/gpu:TYPE` counts the same devices again; it serves where a site tracks no other."""
    amounts = dict(part.split("=", 1) for part in tres.split(",") if "=" in part)
    if "gres/gpu" in amounts:
        return parse_number(amounts["gres/gpu"])
    return sum(parse_number(amount) for name, amount in amounts.items() if name.startswith("gres/gpu:"))


@lru_cache(MEMORY_OF_PARSED)
def parse_allocated_kinds(tres: str) -> str:
    """Types of the GPUs with their numbers, `a100_1g.5gb=2`; shares of GPUs as `shard=4` or `mps=50`.

    Without a name come those of which the site tracks no type. Empty where it tracks none at all.
    """
    amounts = dict(part.split("=", 1) for part in tres.split(",") if "=" in part)
    found = {
        name.removeprefix("gres/gpu:").removeprefix("gres/"): parse_number(amount)
        for name, amount in amounts.items()
        if name.startswith(("gres/gpu:", "gres/shard", "gres/mps"))
    }
    if not found:
        return ""
    rest = parse_allocated_gpus(tres) - sum(parse_number(amounts[name]) for name in amounts if name[:9] == "gres/gpu:")
    typed = [f"{name}={amount}" for name, amount in sorted(found.items())]
    return ",".join([*typed, f"={rest}"] if rest > 0 else typed)


def parse_controller_time(text: str) -> float:
    """Unix seconds of the controller's clock in sdiag's first line, `sdiag output at DATE (1795981260)`; 0 without."""
    match = re.search(r"^sdiag output at .*\((\d+)\)", text, re.MULTILINE)
    return float(match[1]) if match else 0.0


def parse_array_tasks(job: str) -> Iterator[str]:
    """`36_[0,2-3%4]` as 36_0, 36_2, 36_3. Of an expression that was cut off (`...`) only what is whole."""
    match = ARRAY_ID.fullmatch(job)
    if match is None:
        return
    for part in match["tasks"].partition("%")[0].split(","):
        bounds = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part)
        if bounds is not None:
            first, last, step = (int(bound) if bound else None for bound in bounds.groups())
            assert first is not None  # noqa: S101 - the pattern has it
            yield from (f"{match['array']}_{index}" for index in range(first, (last or first) + 1, step or 1))


def parse_config(text: str) -> tuple[Mapping[str, str], ...]:
    """`scontrol show config`: one mapping of the lines `Key = value`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, sign, value = line.partition("=")
        if sign and re.fullmatch(r"\S+\s*", key):
            found.setdefault(key.strip(), value.strip())  # later sections repeat names of the first
    return (found,)


def parse_records(text: str) -> tuple[Mapping[str, str], ...]:
    """`scontrol --oneliner show ...`: one mapping a line of `Key=value Key=value`; a value may hold `=` and spaces."""
    return tuple(_parse_record(line) for line in text.splitlines() if line.strip())


def _parse_record(line: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    last = ""
    for word in line.split():
        key, sign, value = word.partition("=")
        if sign and re.fullmatch(r"[A-Za-z][\w:/]*", key):
            last = key
            found[key] = value
        elif last:
            found[last] += f" {word}"
    return found


def split_rows(text: str, fields: int) -> Iterator[list[str]]:
    """The lines of `text`, split into `fields` each. A line with fewer goes on a foreign name with a line break in it,
    or is a remark of a site's wrapper: neither is a row."""
    cuts = fields - 1
    for line in text.split("\n"):
        parts = line.split(SEPARATOR, cuts)
        if len(parts) == fields:
            yield parts


def is_whole(text: str) -> bool:
    """Whether the last line was printed to its end."""
    return not text or text.endswith("\n")


def parse_time(text: str) -> float:
    """Unix seconds of a time as printed with SLURM_TIME_FORMAT=%s, else of `2026-01-31T12:00:00` in UTC; 0 for none."""
    if text.isdecimal():
        return float(text)
    if text in NOTHING:
        return 0.0
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def parse_value(text: str) -> str:
    """The field itself; empty where the program prints one of its words for nothing."""
    return "" if text in NOTHING else text


def parse_number(text: str) -> int:
    """A whole number; 0 where there is none."""
    return int(text) if text.isdecimal() else 0
