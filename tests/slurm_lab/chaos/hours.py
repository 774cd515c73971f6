"""Our GPU-seconds beside an independent sum over raw `sacct --duplicates` rows.

Rows that Slurm never closed (the controller forgot the job in a crash) have no length that means anything. They count
on neither side, and are told. So are rows of batches that no ledger names any more since the ledgers were deleted.
After a crash the controller goes on from an older state of its own and writes rows of ended jobs anew, with a later end
or without their GPUs; an outage of slurmdbd may cost a row its GPUs, too. We keep what was said first, and fill in the
GPUs from the attempt's own record; by how much that differs is told. In a strict season (no such crash or outage, no
deleted ledger) every row must be equal.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.reconcile.snapshot import load_snapshot
from jobs.reconcile.usage import compute_execution_usage
from jobs.slurm.batches import parse_sweep_name
from jobs.slurm.client import SlurmClient
from jobs.slurm.query import SlurmSnapshot, build_slurm_snapshot, load_batch_history, query_answers
from jobs.slurm.timeouts import SlurmTimeouts
from sweep.results.evidence import load_job_evidence
from tests.slurm_lab.chaos.world import World

FIELDS = ("JobID", "JobName", "Submit", "Start", "End", "State", "ElapsedRaw", "AllocTRES")
LAG_SECONDS = 20.0
"""How long sacct may take to hear of the last ends."""


@dataclass(slots=True)
class Hours:
    """One season's. All in GPU-seconds but `states`."""

    ours: float = 0.0
    """By the cluster's rows, as our accounting has them."""
    used: float = 0.0
    wasted: float = 0.0
    by_records: float = 0.0
    """Of attempts that the cluster has no row for: in `used` and `wasted`, and not in `ours`."""
    sacct: float = 0.0
    """The independent sum."""
    forgotten: float = 0.0
    """In rows that no ledger names any more."""
    unclosed: int = 0
    """Rows without an end."""
    rewritten: float = 0.0
    """By how much more (or less) the controller made of rows after they had ended."""
    filled: float = 0.0
    """Part of `ours` in rows that came without their GPUs: taken from the attempts' own records."""
    vanished: float = 0.0
    """Part of `ours` in rows that we noted and that a crash of the database took from sacct."""
    states: dict[str, int] = field(default_factory=dict)
    """How many rows ended in which way."""
    problems: list[str] = field(default_factory=list)


def compare(world: World, *, strict: bool) -> Hours:
    """To be called when nothing of the sweep is queued any more."""
    _wait_for_accounting(world)
    world.run("tick")
    look = _look(world)
    found = Hours()
    _add_ours(found, world, look)
    _add_sacct(found, world, look)
    # a torn line may be the only one that named a batch, so what was forgotten is told and is no fault
    if strict and (found.rewritten or found.filled or found.unclosed or found.vanished):
        found.problems.append(f"{world.sweep}: no controller crashed, no accounting was away, and yet: {found}")
    if found.ours - found.filled - found.vanished != found.sacct - found.rewritten:
        found.problems.append(f"{world.sweep}: our rows sum to {found.ours} GPU-seconds, sacct's to {found.sacct}")
    if abs(found.used + found.wasted - found.ours - found.by_records) > 1e-6:
        found.problems.append(f"{world.sweep}: used {found.used} + wasted {found.wasted} is not the total")
    return found


def _look(world: World) -> SlurmSnapshot:
    client = SlurmClient(SlurmTimeouts(), environment=world.environment)
    notes = load_batch_history(world.store, world.sweep, [job.key for job in world.jobs])
    return build_slurm_snapshot(world.sweep, notes, query_answers(client, notes, settled_too=True), SlurmTimeouts())


def _add_ours(found: Hours, world: World, look: SlurmSnapshot) -> None:
    report = look.build_report()
    picture = load_snapshot(world.jobs, world.store, world.sweep, report)
    priced = 0.0
    for key, evidence in load_job_evidence(picture).items():
        for execution in compute_execution_usage(
            evidence.outcomes, report.accounting_records.get(key, ()), gpus=evidence.job.resources.gpus
        ):
            total = execution.total.gpu_seconds
            found.used += execution.used.gpu_seconds
            found.wasted += execution.wasted.gpu_seconds
            found.ours += total if execution.by_cluster else 0
            found.by_records += 0 if execution.by_cluster else total
        priced += evidence.costs.total.gpu_hours * 3600
    found.filled = found.ours - sum(each.gpu_seconds for known in report.accounting_records.values() for each in known)
    if abs(priced - found.used - found.wasted) > 1e-6:
        found.problems.append(f"{world.sweep}: the tables' costs come to {priced} GPU-seconds")


def _add_sacct(found: Hours, world: World, look: SlurmSnapshot) -> None:
    records = look.build_report().accounting_records
    ours = {(each.id, each.batch, each.submitted_at): each for known in records.values() for each in known}
    told = set()
    for row in _rows(world):
        seconds = _gpu_seconds(row)
        if not row["End"].isdigit():
            found.unclosed += 1
        elif row["JobName"] not in look.batch_history.batches:
            found.forgotten += seconds
        else:
            found.states[row["State"].split()[0]] = found.states.get(row["State"].split()[0], 0) + 1
            found.sacct += seconds
            identity = _identity(row)
            told.add(identity)
            known = ours.get(identity)
            if known is not None:
                found.rewritten += seconds - known.gpu_seconds
            elif seconds:
                found.problems.append(f"{world.sweep}: sacct has {row}, and we do not")
    for identity, each in ours.items():
        if identity in told or not each.gpu_seconds:
            continue
        by_id = [_gpu_seconds(row) for row in _rows(world, "-j", each.id) if _identity(row) == identity]
        if by_id:  # a listing leaves out rows whose eligible time was lost
            found.sacct += by_id[0]
            found.rewritten += by_id[0] - each.gpu_seconds
        else:
            found.vanished += each.gpu_seconds


def _identity(row: Mapping[str, str]) -> tuple[str, str, float]:
    return row["JobID"], row["JobName"], float(row["Submit"])


def _rows(world: World, *which: str) -> list[dict[str, str]]:
    """Every execution of the season's sweep, as sacct prints it, parsed with nothing of ours; `which`: of some ids."""
    done = world.lab.run(
        *("env", "SLURM_TIME_FORMAT=%s", "SLURM_BITSTR_LEN=0", "sacct", "-n", "-P", "-D", "-X", "-a"),
        *("-S", f"uts{int(world.began) - 5}", *which, "-o", ",".join(FIELDS)),
    )
    rows = [dict(zip(FIELDS, line.split("|"), strict=True)) for line in done.stdout.splitlines()]
    return [row for row in rows if parse_sweep_name(row["JobName"]) == world.sweep]


def _gpu_seconds(row: Mapping[str, str]) -> int:
    resources = dict(word.split("=") for word in row["AllocTRES"].split(",") if word)
    return int(row["ElapsedRaw"]) * int(resources.get("gres/gpu", 0))


def _wait_for_accounting(world: World) -> None:
    """Until sacct says the same twice in a second, and of nothing that it still lasts, unless that does not change."""
    until, before = time.monotonic() + LAG_SECONDS, ""
    while time.monotonic() < until:
        rows = _rows(world)
        now = repr([(row["JobID"], row["Submit"], row["End"]) for row in rows])
        if now == before and all(row["End"].isdigit() for row in rows):
            return
        before = now
        time.sleep(1.0)
