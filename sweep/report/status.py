"""The report of `sweep status`: as a mapping for `--json` (docs/json.md, section `status`), and as text from that."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.job import Job
from jobs.local.attempts import find_foreign_owner
from jobs.observation import ClusterState
from jobs.processes import read_user_name
from jobs.reconcile.attempts import find_log_path
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.snapshot import RunStatus, SweepSnapshot
from jobs.reconcile.state import STOPPED, JobState, JobStatus
from jobs.reconcile.unsettled import list_unsettled_remarks
from jobs.slurm.refusals import Refusal, read_refusals
from sweep.canary.rule import HeldJobs, build_held_rows, format_held_lines, read_held_jobs
from sweep.kept_limits import (
    BUDGETS,
    KeptLimits,
    build_limits_json,
    find_wanted_keys,
    format_limit_lines,
    read_limits,
)
from sweep.phases import PHASES
from sweep.plan.manifest import map_jobs_to_models
from sweep.report.history import format_time
from sweep.report.time_left import TimeLeft, read_last_metrics, read_time_left
from sweep.stored_sweep import StoredSweep
from sweep.text_format import format_columns, format_duration

BAR_WIDTH = 24
WIDE_ENOUGH = 90
"""Columns of a terminal from which on the bar has all of it."""
MAX_LISTED = 10
"""Running, failed and blocked jobs shown of each kind, unless all are asked for."""
PENDING = frozenset({ClusterState.QUEUED, ClusterState.STUCK})
TROUBLE_STATES = (JobState.FAILED, JobState.UNKNOWN, JobState.INTERRUPTED, JobState.CANCELLED)
"""Of cancelled jobs only those that nobody cancelled with `sweep cancel`: who did is news."""


def load_status(
    stored: StoredSweep,
    words: Sequence[str] = (),
    phase: str | None = None,
    *,
    fresh: bool = False,
    clock: Clock = SYSTEM_CLOCK,
) -> dict[str, Any]:
    """The whole report as things stand now, of the chains that `words` name, all without a word; of `phase` alone, if
    any. `fresh`: Slurm is asked even if it answered less than a minute ago."""
    wanted = {job.key for job in stored.select_chains(words, phase)}
    snapshot = stored.load_snapshot(recent_answers=not fresh, trusts_checked=True)
    now = clock.now()
    left = read_time_left(stored, snapshot, now, wanted)
    kept = read_limits(stored.paths.limits)
    budget, unpayable = measure_budgets(stored, snapshot, kept, clock)
    held = read_held_jobs(stored, snapshot, kept, unpayable)
    rows = build_held_rows(snapshot, held.shapes)
    snapshot.narrow(wanted)
    report = build_status_json(stored.manifest.sweep, snapshot, left, now, map_jobs_to_models(stored.manifest))
    add_held_jobs(report, rows, held)
    report["limits"] = build_limits_json(kept)
    report["budget"] = budget
    return report


def add_held_jobs(report: dict[str, Any], rows: Sequence[Mapping[str, Any]], held: HeldJobs) -> None:
    """What waits for the first job of its shape, and how many of these jobs wait for a person. `rows`: as
    `build_held_rows` has them."""
    report["held"] = list(rows)
    report["waits_for_release"] = len(held.stopped)
    if held.stopped:
        left_out = f"without {format_counted(len(held.stopped), 'job')} of broken shapes"
        report["eta"]["basis"] = "; ".join(filter(None, (report["eta"]["basis"], left_out)))


def measure_budgets(
    stored: StoredSweep, snapshot: SweepSnapshot, kept: KeptLimits, clock: Clock
) -> tuple[list[dict[str, Any]], Collection[str]]:
    """Section `budget` of docs/json.md, a row for each budget of the whole sweep, none where there is no budget; and
    the keys of jobs for which some budget has no room."""
    if not any(getattr(kept, name) is not None for name in BUDGETS):
        return [], ()
    # imported here: most sweeps have no budget, and the catalog's figures take time to load
    from sweep.budget.caps import BudgetWatch, read_caps

    watch = BudgetWatch(stored.manifest.sweep, read_caps(stored.manifest, kept), clock)
    room = watch.measure_room(snapshot)
    rows = watch.build_rows(snapshot, wanted=find_wanted_keys(stored, kept))
    return rows, {key for key in snapshot.by_key if room.find_full(key)}


def list_budget_lines(report: Mapping[str, Any]) -> list[str]:
    """One line a budget."""
    if not report.get("budget"):
        return []
    from sweep.budget.caps import format_budget_line

    return [format_budget_line(row, report["sweep"]) for row in report["budget"]]


def build_status_json(
    sweep: str, snapshot: SweepSnapshot, left: TimeLeft, now: float, models: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The report as JSON types. `now`: Unix seconds. `models`: of each job by key, for those that are of no cell."""
    phases = count_states_by_phase(snapshot)
    report: dict[str, Any] = {
        "format": 1,
        "sweep": sweep,
        "jobs": len(snapshot.jobs),
        "states": {state.value: sum(found[state.value] for found in phases.values()) for state in JobState},
        "phases": phases,
        "running": [
            build_running_row(job, snapshot.runs[job.key], now) for job in snapshot.select_in_state({JobState.RUNNING})
        ],
        "trouble": [
            row for job in snapshot.select_in_state(TROUBLE_STATES) if (row := build_trouble_row(job, snapshot, sweep))
        ],
        "blocked": build_blocked_rows(snapshot),
        "waits": build_waiting_rows(snapshot),
        "not_sent": build_unsent_rows(snapshot),
        "asked": build_asked_rows(snapshot, sweep),
        "remarks": [
            *snapshot.remarks,
            *list_queue_remarks(snapshot, sweep),
            *list_unsettled_remarks(snapshot),
            *list_left_remarks(snapshot),
        ],
        "eta": build_eta_row(left, snapshot),
        "answer_age_seconds": snapshot.cluster.answer_age_seconds,
    }
    for row in (*report["running"], *report["trouble"], *report["blocked"]):
        if not row["cells"] and models and models.get(row["key"]):
            row["model"] = models[row["key"]]
    return report


def list_phases(snapshot: SweepSnapshot) -> list[str]:
    """The phases that there are, in the order of the chain."""
    found = dict.fromkeys(job.phase for job in snapshot.jobs)
    return [phase for phase in dict.fromkeys([*PHASES, *found]) if phase in found]


def count_states(snapshot: SweepSnapshot, jobs: Sequence[Job]) -> dict[str, int]:
    """Every state with its number of jobs."""
    found = Counter(find_shown_state(snapshot.statuses[job.key]) for job in jobs)
    return {state.value: found[state] for state in JobState}


def count_states_by_phase(snapshot: SweepSnapshot) -> dict[str, dict[str, int]]:
    """The same of each phase, in one pass over all jobs."""
    found = Counter((job.phase, find_shown_state(snapshot.statuses[job.key])) for job in snapshot.jobs)
    return {phase: {state.value: found[phase, state] for state in JobState} for phase in list_phases(snapshot)}


# Why: docs/decisions.md, D131
def find_shown_state(status: JobStatus) -> JobState:
    """A job whose cancellation is asked for, and that the queue still holds, is shown as queued."""
    return JobState.QUEUED if status.state is JobState.CANCELLED and status.cancel_pending else status.state


def build_job_row(job: Job) -> dict[str, Any]:
    """What names a job."""
    return {"key": job.key, "phase": job.phase, "cells": list(job.cells)}


def build_running_row(job: Job, evidence: RunStatus, now: float) -> dict[str, Any]:
    """A live job with its progress, as far as its metrics show."""
    last = read_last_metrics(evidence)
    start = evidence.last.start if evidence.last else None
    return {
        **build_job_row(job),
        "attempt": start.attempt if start else "",
        "host": (start.node or start.host) if start else "",
        "pid": start.pid if start else None,
        "start": sum(outcome.began for outcome in evidence.outcomes),
        "seconds": now - start.started_at if start else None,
        "step": last.get("step"),
        "total_steps": last.get("total_steps"),
        "loss": last.get("loss"),
    }


def build_trouble_row(job: Job, snapshot: SweepSnapshot, sweep: str) -> dict[str, Any] | None:
    """A job that failed, is unknown, was interrupted for another reason than a request, or was cancelled with the
    cluster's own means; else None."""
    evidence = snapshot.runs[job.key]
    state = snapshot.statuses[job.key].state
    last = evidence.last
    if state is JobState.UNKNOWN and job.key in snapshot.observed:
        return None  # `waits` has what the cluster says
    if state is JobState.CANCELLED and job.key in snapshot.user_requests.cancelled:
        return None
    failure = last.failure if last and state is not JobState.UNKNOWN else None
    message = evidence.message
    if state is JobState.UNKNOWN and last is not None:
        message = (
            f"attempt {last.start.attempt} on {last.start.host} has no exit record, and it is not known here "
            f"whether it still runs; if it does not: `sweep resume {sweep}`"
        )
    if not message or (failure and not POLICIES[failure].listed):
        return None
    log = find_log_path(last, snapshot.store.locate_sweep(sweep)) if last else None
    return {
        **build_job_row(job),
        "state": state.value,
        "class": failure.value if failure else "",
        "message": message,
        "attempts": sum(outcome.began for outcome in evidence.outcomes),
        "log": str(log) if log and log.exists() else "",
    }


def build_blocked_rows(snapshot: SweepSnapshot) -> list[dict[str, Any]]:
    """Each blocking job with the number of jobs behind it."""
    behind = Counter(status.cause for status in snapshot.statuses.values() if status.state is JobState.BLOCKED)
    return [
        {**build_job_row(snapshot.by_key[cause]), "state": snapshot.statuses[cause].state.value, "behind": number}
        for cause, number in behind.most_common()
    ]


SHOWN_WITH_WORDS = frozenset({JobState.RUNNING, JobState.QUEUED, JobState.UNKNOWN})


def build_waiting_rows(snapshot: SweepSnapshot) -> list[dict[str, Any]]:
    """What queued jobs wait for and why others are unknown, in the cluster's words; the commonest first."""
    found = Counter(
        (snapshot.statuses[key].state.value, seen.doubt or seen.message)
        for key, seen in snapshot.observed.items()
        if (seen.doubt or seen.message)
        and snapshot.statuses[key].state in SHOWN_WITH_WORDS
        # why a job was pending says nothing any more once a process of it lives
        and not (snapshot.statuses[key].state is JobState.RUNNING and seen.state in PENDING)
    )
    return [{"state": state, "message": message, "jobs": number} for (state, message), number in found.most_common()]


UNSENT_STATES = (JobState.READY, JobState.INTERRUPTED, JobState.WAITING)


def build_unsent_rows(snapshot: SweepSnapshot) -> list[dict[str, Any]]:
    """Why Slurm did not take jobs that could go when a round last offered them, by reason."""
    found: dict[str, list[Refusal]] = {}
    for refusal in select_refusals(snapshot).values():
        found.setdefault(str(refusal), []).append(refusal)
    return [
        {
            "message": reason,
            "jobs": len(same),
            "kind": same[0].kind.value,
            "last_asked": max(each.when for each in same),
        }
        for reason, same in sorted(found.items(), key=lambda pair: -len(pair[1]))
    ]


def select_refusals(snapshot: SweepSnapshot) -> dict[str, Refusal]:
    """Slurm's last answers, by key, for jobs that it would not take and that did not go on by other means since."""
    known = read_refusals(snapshot.store, snapshot.sweep)
    return {
        key: refusal
        for key, refusal in known.items()
        if key in snapshot.statuses and snapshot.statuses[key].state in UNSENT_STATES
    }


def format_unsent_line(row: Mapping[str, Any]) -> str:
    """How many jobs, Slurm's answer, and when it was given."""
    return f"{row['jobs']:,} {row['message']} (last asked {format_time(row['last_asked'])})"


def build_asked_rows(snapshot: SweepSnapshot, sweep: str) -> list[dict[str, Any]]:
    """Cancellations that were asked for and are not carried out: who asked, whose jobs they are, who can end them."""
    found = Counter(
        (
            snapshot.user_requests.cancelled[key].by,
            find_shown_state(status).value,
            find_job_owner(snapshot, key),
            key in snapshot.observed,
        )
        for key, status in snapshot.statuses.items()
        if status.cancel_pending
    )
    me = read_user_name()
    return [
        {
            "asked": "cancel",
            "by": by,
            "state": state,
            "owner": owner,
            "jobs": number,
            "message": f"still {state}: {explain_who_ends(sweep, owner, me, on_slurm=on_slurm)}",
        }
        for (by, state, owner, on_slurm), number in found.items()
    ]


def find_job_owner(snapshot: SweepSnapshot, key: str) -> str:
    """The user whose job or process it is; empty if that is not known."""
    seen = snapshot.observed.get(key)
    return (seen.user if seen else "") or find_foreign_owner(snapshot.runs[key].run)


def explain_who_ends(sweep: str, owner: str, me: str, *, on_slurm: bool) -> str:
    """Who can end a job whose cancellation is asked for, and how."""
    command = f"sweep {'tick' if on_slurm else 'cancel'} {sweep}"
    if owner in {"", me}:
        return f"`{command}` ends it"
    return f"only {owner} (by `{command}`) or an operator can end it"


def list_queue_remarks(snapshot: SweepSnapshot, sweep: str) -> list[str]:
    """What was to leave Slurm's queue and is still in it, but for cancelled jobs (`build_asked_rows`)."""
    me = read_user_name()
    left = Counter(
        (snapshot.statuses[key].state.value, seen.user if seen.user != me else "")
        for key, seen in snapshot.observed.items()
        if seen.state in PENDING
        and snapshot.statuses[key].state in STOPPED
        and not snapshot.statuses[key].cancel_pending
    )
    return [
        f"{format_counted(number, f'{state} job')} still in Slurm's queue; "
        f"`sweep tick {sweep}`{f' of {owner}' if owner else ''} takes them out"
        for (state, owner), number in left.items()
    ]


def list_left_remarks(snapshot: SweepSnapshot) -> list[str]:
    """The hours of jobs that an edit took out of the plan."""
    if not snapshot.list_left_keys():
        return []
    # imported here: hardly any sweep has such jobs, and the catalog's factors take time to load
    from sweep.results.left_jobs import describe_left_hours, load_left_jobs, sum_left_hours

    line = describe_left_hours(sum_left_hours(load_left_jobs(snapshot)))
    return [line] if line else []


def build_eta_row(left: TimeLeft, snapshot: SweepSnapshot) -> dict[str, Any]:
    """Seconds to the end; none while a job waits that does not start by itself."""
    held = sum(
        snapshot.statuses[key].state is JobState.QUEUED and seen.message.startswith(("held", "never"))
        for key, seen in snapshot.observed.items()
    )
    if held:
        waits = "is held and does not start by itself" if held == 1 else "are held and do not start by themselves"
        return {"seconds": None, "basis": f"{format_counted(held, 'job')} {waits}"}
    if left.seconds == 0 and (stopped := describe_stopped(snapshot)):
        return {"seconds": left.seconds, "basis": stopped}
    return {"seconds": left.seconds, "basis": left.basis}


def describe_stopped(snapshot: SweepSnapshot) -> str:
    """What keeps jobs from running, where nothing is left that could run; empty if all is done."""
    counts = count_states(snapshot, snapshot.jobs)
    found = [f"{counts[state]:,} {state.value}" for state in (JobState.FAILED, JobState.CANCELLED, JobState.BLOCKED)
             if counts[state]]  # fmt: skip
    return f"nothing runs until `sweep resume {snapshot.sweep}`: {', '.join(found)}" if found else ""


def format_status(report: Mapping[str, Any], *, show_all: bool, width: int | None = None) -> str:
    """The report for a reader, with no newline at the end. `width`: of the terminal, to which the table bends."""
    limit = None if show_all else MAX_LISTED
    parts = [
        format_phase_table(report, width),
        format_age_line(report),
        format_section("running", [format_running_line(row) for row in report["running"]], limit),
        format_section(
            "trouble", [line for row in report["trouble"][:limit] for line in format_trouble_lines(row)], None
        ),
        format_section("blocked", [format_blocked_line(row) for row in report["blocked"]], limit),
        format_section("in the queue", [format_waiting_line(row) for row in report["waits"]], limit),
        format_section("asked for, and not done yet", [format_asked_line(row) for row in report["asked"]], limit),
        format_section("held", format_held_lines(report.get("held", ()), report["sweep"]), None),
        format_section("not sent", [format_unsent_line(row) for row in report["not_sent"]], limit),
        format_section("remarks", list(report["remarks"]), limit),
        format_section("limits", format_limit_lines(report["limits"]) if "limits" in report else [], None),
        format_section("budget", list_budget_lines(report), None),
        format_eta_line(report),
    ]
    return "\n\n".join(part for part in parts if part)


def format_phase_table(report: Mapping[str, Any], width: int | None = None) -> str:
    """A row a phase, a column a state that occurs, and a bar of what is done, which is short on a narrow terminal."""
    bar = BAR_WIDTH if width is None or width >= WIDE_ENOUGH else BAR_WIDTH // 3
    states = [state for state, number in report["states"].items() if number or state == "done"]
    head = [report["sweep"], "", "jobs", *states]
    phases = {**report["phases"], "all": report["states"]}
    rows = [
        [
            phase,
            format_bar(of["done"], sum(of.values()), bar),
            f"{sum(of.values()):,}",
            *(f"{of[state]:,}" for state in states),
        ]
        for phase, of in phases.items()
    ]
    return "\n".join(format_columns([head, *rows], left=2, rules=(len(rows),), width=width))


def format_bar(done: int, total: int, width: int = BAR_WIDTH) -> str:
    """`[######......]  50 %`, full only when all is done."""
    filled = width * done // total if total else 0
    return f"[{'#' * filled}{'.' * (width - filled)}] {100 * done // total if total else 0:>3} %"


def format_section(title: str, lines: Sequence[str], limit: int | None) -> str:
    """A titled list, cut at `limit` with the number of what is left out; empty if there is nothing."""
    if not lines:
        return ""
    shown = list(lines[:limit])
    if len(lines) > len(shown):
        shown.append(f"... {len(lines) - len(shown):,} more (--all)")
    return "\n".join([title, *(f"  {line}" for line in shown)])


def format_running_line(row: Mapping[str, Any]) -> str:
    """Name, steps, loss, time."""
    parts = [format_job_name(row)]
    if row["step"] is not None and row["total_steps"]:
        parts.append(f"step {row['step']:,} of {row['total_steps']:,}")
    if isinstance(row["loss"], float):
        parts.append(f"loss {row['loss']:.3f}")
    if row["seconds"] is not None:
        parts.append(f"for {format_duration(row['seconds'] / 3600)}")
    if row["start"] > 1:
        parts.append(f"start {row['start']:,}")
    return "  ".join(parts)


def format_trouble_lines(row: Mapping[str, Any]) -> list[str]:
    """What, why, and where to read more."""
    when = f"after {format_counted(row['attempts'], 'attempt')}" if row["attempts"] else "before it started"
    why = f"{row['class']}: {row['message']}" if row["class"] else row["message"]
    lines = [f"{format_job_name(row)}  {row['state']} {when}", f"  {why}"]
    return [*lines, f"  log: {row['log']}"] if row["log"] else lines


def format_blocked_line(row: Mapping[str, Any]) -> str:
    """How many jobs wait for which."""
    number = row["behind"]
    return f"{number:,} {'job waits' if number == 1 else 'jobs wait'} for {row['state']} {format_job_name(row)}"


def format_waiting_line(row: Mapping[str, Any]) -> str:
    """How many wait for what."""
    return f"{row['jobs']:,} {row['state']}: {row['message']}"


def format_asked_line(row: Mapping[str, Any]) -> str:
    """What was asked by whom, and what keeps it from being done."""
    by = f" by {row['by']}" if row["by"] else ""
    return f"{format_counted(row['jobs'], 'job')}: {row['asked']} asked{by}, {row['message']}"


def format_job_name(row: Mapping[str, Any]) -> str:
    """Phase, first cell, else model, and key; of a job that several cells share how many more they are."""
    first, more = row["cells"][:1] or [row["model"]] if "model" in row else row["cells"][:1], len(row["cells"]) - 1
    return " ".join([row["phase"], *first, *([f"(+{more})"] if more > 0 else []), row["key"]])


def format_age_line(report: Mapping[str, Any]) -> str:
    """How old the answer of Slurm's is that the report shows; empty where it was asked for the report itself."""
    age = report.get("answer_age_seconds", 0.0)
    return f"Slurm as of {format_duration(age / 3600)} ago; --fresh asks it again" if age >= 1 else ""


def format_eta_line(report: Mapping[str, Any]) -> str:
    """`about 12 min left (...)`."""
    seconds, basis = report["eta"]["seconds"], report["eta"]["basis"]
    if seconds is None:
        return f"no estimate yet: {basis}"
    return f"about {format_duration(seconds / 3600)} left ({basis})" if seconds else basis
