"""sacct's lines: the fields that are asked for, and their reader (sacct(1))."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache

from jobs.slurm.row_text import is_whole, number, seconds, split_rows, value
from jobs.slurm.rows import AccountRow, Answer

REQUIRED = ("JobID", "State", "Submit", "Start", "End", "ElapsedRaw", "AllocTRES", "AllocCPUS", "NodeList", "ExitCode")
"""Known to every version from 22.05 on; JobName follows at the end."""
OPTIONAL = ("Reason", "FailedNode")
"""Asked for where `sacct --helpformat` lists them: one unknown field fails the whole call."""

ARRAY_ID = re.compile(r"(?P<array>\d+)_\[(?P<tasks>[^\]]*)\]?")
MEMORY_OF_PARSED = 4096


def fields_for(known: Collection[str]) -> tuple[str, ...]:
    """The fields to ask a version for which knows `known`."""
    names = {name.casefold() for name in known}
    return (*REQUIRED, *(name for name in OPTIONAL if name.casefold() in names), "JobName")


def read_accounting(text: str, fields: Sequence[str]) -> Answer[AccountRow]:
    """The rows of `sacct --noheader --parsable2 --delimiter=SEPARATOR --format FIELDS`, in sacct's order."""
    if not is_whole(text):
        return Answer(problem="sacct's answer breaks off")
    extra = fields[len(REQUIRED) : -1]
    return Answer(rows=tuple(_rows(text, len(fields), extra)))


def _rows(text: str, count: int, extra: Sequence[str]) -> Iterator[AccountRow]:
    times = _Times()
    for line in split_rows(text, count):
        job, word, submitted, started, ended, elapsed, tres, cpus, nodes, code, *more, name = line
        state, by_uid = bare_state(word)
        exit_code, number_of_signal = exit_status(code)
        others: Mapping[str, str] = dict(zip(extra, more, strict=True)) if extra else {}
        row = AccountRow(
            job,
            name,
            state,
            by_uid,
            times[submitted],
            times[started],
            times[ended],
            number(elapsed),
            allocated_gpus(tres),
            number(cpus),
            value(nodes),
            exit_code,
            number_of_signal,
            value(others.get("Reason", "")),
            value(others.get("FailedNode", "")),
        )
        if "[" not in job:
            yield row
        elif state != "PENDING":
            yield from (row._replace(id=task, shared=True) for task in tasks_of(job))


class _Times(dict[str, float]):
    """Times that were read before: thousands of rows share a second."""

    def __missing__(self, text: str) -> float:
        self[text] = result = seconds(text)
        return result


@lru_cache(MEMORY_OF_PARSED)
def bare_state(word: str) -> tuple[str, str]:
    """`CANCELLED by 1000` as (`CANCELLED`, `1000`)."""
    state, _, uid = word.partition(" by ")
    return state.strip().rstrip("+"), uid.strip()


@lru_cache(MEMORY_OF_PARSED)
def exit_status(text: str) -> tuple[int, int]:
    """`3:0` as (exit code, signal)."""
    code, _, number_of_signal = text.partition(":")
    return number(code), number(number_of_signal)


@lru_cache(MEMORY_OF_PARSED)
def allocated_gpus(tres: str) -> int:
    """GPUs over all nodes. `gres/gpu:TYPE` counts the same devices again; it serves where a site tracks no other."""
    amounts = dict(part.split("=", 1) for part in tres.split(",") if "=" in part)
    if "gres/gpu" in amounts:
        return number(amounts["gres/gpu"])
    return sum(number(amount) for name, amount in amounts.items() if name.startswith("gres/gpu:"))


def tasks_of(job: str) -> Iterator[str]:
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
