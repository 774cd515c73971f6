"""Which events a sweep's state means. Each has an identity that does not depend on who finds it, or when."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.counted import format_counted
from jobs.reconcile.canary import Verdict
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.slurm.refusals import Refusal
from jobs.slurm.sbatch_errors import RefusalKind
from sweep.notices.log import NoticeEvent, NoticeHistory
from sweep.notices.settings import NoticeSettings
from sweep.plan.manifest import Manifest
from sweep.text_format import format_duration

MOST_LINES = 10
"""Of an event that tells of many jobs."""
DISK = "storage"
"""The failure's class where the file system refused."""
MOVABLE = {JobState.READY, JobState.INTERRUPTED, JobState.QUEUED}
HALTED = ("held", "never")
"""Beginnings of what the cluster says of a queued job that does not start by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFacts:
    """What events follow from."""

    manifest: Manifest
    snapshot: SweepSnapshot
    refusals: Mapping[str, Refusal]
    """Slurm's answers for jobs that it would not take, by key."""
    budget: Sequence[Mapping[str, Any]]
    """Section `budget` of docs/json.md; none where the sweep runs on this machine, as no budget holds there."""
    held: Sequence[Mapping[str, Any]]
    """Section `held` of docs/json.md."""
    seconds_left: float | None
    """Until the end, as `sweep status` has it; None: not known."""
    now: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that happened; several of one kind are told together."""

    member: str
    """Its identity."""
    line: str


TITLES: Mapping[str, tuple[str, str]] = {
    "failed": ("job failed for good", "jobs failed for good"),
    "disk": ("job was refused by the file system", "jobs were refused by the file system"),
    "held": ("hold that a person has to lift", "holds that a person has to lift"),
    "refused": ("job is refused by Slurm", "jobs are refused by Slurm"),
    "budget": ("budget mark", "budget marks"),
    "milestone": ("milestone", "milestones"),
}
"""Of an event that tells of several things, behind their number."""
STEPS = {"disk": "doctor", "budget": "limits", "slipped": "forecast", "done": "results"}
"""The command to type next; `status` where none stands here."""


def find_new_events(
    facts: SweepFacts, settings: NoticeSettings, history: NoticeHistory, suggest: Callable[..., str]
) -> list[NoticeEvent]:
    """Events of which the log has not heard. `suggest`: writes a command from its words."""
    known, name = history.members, facts.manifest.sweep
    failed, disk = find_failures(facts)
    found = {
        "failed": failed,
        "disk": disk,
        "held": find_held(facts),
        "refused": find_refused(facts),
        "stalled": find_stall(facts, settings, history),
        "budget": find_budget_marks(facts),
        "slipped": find_slip(facts, settings, history),
        "milestone": find_milestones(facts, settings),
        "done": find_end(facts),
    }
    events = []
    for kind, findings in found.items():
        if new := [each for each in findings if each.member not in known]:
            step = suggest(STEPS.get(kind, "status"), name)
            events.append(build_event(name, kind, new, step=step, now=facts.now))
    return events


def build_event(sweep: str, kind: str, findings: Sequence[Finding], *, step: str, now: float) -> NoticeEvent:
    """One event of all findings of a kind."""
    members = sorted(each.member for each in findings)
    several = format_counted(len(findings), *TITLES.get(kind, ("event",)))
    lines = [each.line for each in findings[:MOST_LINES]]
    if len(findings) > MOST_LINES:
        lines.append(f"... {len(findings) - MOST_LINES:,} more")
    return NoticeEvent(
        id=f"{kind}-{digest_words([sweep, *members])}",
        kind=kind,
        title=f"{sweep}: {findings[0].line if len(findings) == 1 else several}",
        lines=tuple(lines),
        step=step,
        members=tuple(members),
        time=now,
    )


def digest_words(words: Iterable[str]) -> str:
    """The same words in the same order give the same letters."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def name_job(facts: SweepFacts, key: str) -> str:
    """Phase, first cell, key."""
    job = facts.snapshot.by_key[key]
    return " ".join([job.phase, *job.cells[:1], key])


def find_failures(facts: SweepFacts) -> tuple[list[Finding], list[Finding]]:
    """Jobs that are not tried again, and jobs whose last attempt the file system refused. By their last attempt: one
    that fails again after `sweep resume` is news."""
    failed, disk = [], []
    for job in facts.snapshot.jobs:
        run, state = facts.snapshot.runs[job.key], facts.snapshot.statuses[job.key].state
        last = run.last
        if last is None or last.failure is None or state is JobState.DONE:
            continue
        line = f"{name_job(facts, job.key)}: {last.failure}: {run.message}"
        mark = f"{job.key}:{last.start.attempt}:{last.start.restart}"
        if state is JobState.FAILED:
            failed.append(Finding(f"failed:{mark}", line))
        if str(last.failure) == DISK:
            disk.append(Finding(f"disk:{job.key}", line))  # each attempt meets the full disk again
    return failed, disk


def find_held(facts: SweepFacts) -> list[Finding]:
    """Jobs in the queue, by the cluster's id; and jobs of a shape whose first one is broken, by that one."""
    queued = [
        Finding(f"held:{key}:{seen.id}", f"{name_job(facts, key)}: {seen.message}")
        for key, seen in facts.snapshot.observed.items()
        if facts.snapshot.statuses[key].state is JobState.QUEUED and seen.message.startswith(HALTED)
    ]
    shapes = [
        Finding(
            f"held:{row['shape']}:{row['canary']}",
            f"{format_counted(row['jobs'], 'job')} of shape {row['shape']}: {row['message']}",
        )
        for row in facts.held
        if row["verdict"] == Verdict.BROKEN.value
    ]
    return [*queued, *shapes]


def find_refused(facts: SweepFacts) -> list[Finding]:
    """Those that Slurm never takes as they are; by its answer."""
    return [
        Finding(f"refused:{key}:{digest_words([refusal.text])}", f"{name_job(facts, key)}: {refusal}")
        for key, refusal in facts.refusals.items()
        if refusal.kind is RefusalKind.INVALID and key in facts.snapshot.by_key
    ]


def compute_signature(snapshot: SweepSnapshot) -> str:
    """Changes whenever a job changes its state, its place in the cluster or its attempt."""
    words = []
    for job in snapshot.jobs:
        seen, run = snapshot.observed.get(job.key), snapshot.runs[job.key]
        words.append(f"{job.key} {snapshot.statuses[job.key].state} {seen.id if seen else ''} {len(run.outcomes)}")
    return digest_words(words)


def find_stall(facts: SweepFacts, settings: NoticeSettings, history: NoticeHistory) -> list[Finding]:
    """Nothing has changed for so long, nothing runs, and something could."""
    signature, since = history.seen
    states = {status.state for status in facts.snapshot.statuses.values()}
    hours = (facts.now - since) / 3600
    if JobState.RUNNING in states or not states & MOVABLE or compute_signature(facts.snapshot) != signature:
        return []
    if hours < settings.stalled_hours:
        return []
    could = sum(status.state in MOVABLE for status in facts.snapshot.statuses.values())
    line = f"nothing has moved for {format_duration(hours)}, though {format_counted(could, 'job')} could"
    return [Finding(f"stalled:{signature}", line)]


def find_budget_marks(facts: SweepFacts) -> list[Finding]:
    """80 % are spent; and the end: all of it, or what is left is too little for any job and nothing is in flight."""
    found = []
    for row in facts.budget:
        budget, spent = row["budget"], row["spent"]
        if spent is None:
            continue
        mark = f"budget:{row['unit']}:{budget:.15g}"
        amounts = f"{spent:,.1f} of {budget:,.15g} {row['word']} are spent"
        if row["held_back"] and not row["jobs_in_flight"]:
            held = format_counted(row["held_back"], "job has", "jobs have")
            line = f"{amounts}, and {held} no room: nothing more is sent"
            found.append(Finding(f"{mark}:100", line))
        elif budget and spent >= budget:
            found.append(Finding(f"{mark}:100", f"{amounts}: the budget is used up"))
        if budget and 0.8 * budget <= spent:
            found.append(Finding(f"{mark}:80", f"{amounts}, more than 80 %"))
    return found


def find_slip(facts: SweepFacts, settings: NoticeSettings, history: NoticeHistory) -> list[Finding]:
    """The end as status has it is later than the one that was expected, by more than is allowed."""
    if not facts.seconds_left or not history.expected_end:
        return []
    late = (facts.now + facts.seconds_left - history.expected_end) / 3600
    if late < settings.slipped_hours:
        return []
    line = f"it ends {format_duration(late)} later than was expected, in {format_duration(facts.seconds_left / 3600)}"
    return [Finding(f"slipped:{history.expected_end:.0f}", line)]


def find_milestones(facts: SweepFacts, settings: NoticeSettings) -> list[Finding]:
    """Phases whose jobs are all done, and shares of the cells."""
    statuses, found = facts.snapshot.statuses, []
    phases: dict[str, list[str]] = {}
    for job in facts.snapshot.jobs:
        phases.setdefault(job.phase, []).append(job.key)
    for phase, keys in phases.items():
        if all(statuses[key].state is JobState.DONE for key in keys):
            line = f"phase {phase} is done: {format_counted(len(keys), 'job')}"
            found.append(Finding(f"phase:{phase}:{len(keys)}", line))
    open_cells = {
        name for job in facts.snapshot.jobs if statuses[job.key].state is not JobState.DONE for name in job.cells
    }
    cells = [cell.name for cell in facts.manifest.cells]
    done = sum(name not in open_cells for name in cells)
    reached = [part for part in settings.cells if cells and done >= part / 100 * len(cells)]
    if reached and (part := max(reached)):
        line = f"{done:,} of {format_counted(len(cells), 'cell')} are done"
        found.append(Finding(f"cells:{part:g}:{len(cells)}", line))
    return found


def find_end(facts: SweepFacts) -> list[Finding]:
    """By the plan's jobs: a larger plan has an end of its own."""
    jobs = facts.snapshot.jobs
    if not jobs or any(facts.snapshot.statuses[job.key].state is not JobState.DONE for job in jobs):
        return []
    return [Finding(f"done:{digest_words(sorted(job.key for job in jobs))}", f"all {len(jobs):,} jobs are done")]
