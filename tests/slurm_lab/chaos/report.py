"""A campaign's outcome as text."""

from collections import Counter

from tests.slurm_lab.chaos.campaign import FAULTS, RAISED, Outcome


def table(outcome: Outcome) -> str:
    """Kinds of faults and how many were injected; what came of them; every violation with its evidence."""
    kinds = [*FAULTS, RAISED]
    width = max(len(kind) for kind in kinds)
    lines = [f"{kind:<{width}}  {outcome.injected[kind]:>5}" for kind in kinds]
    lines += [f"{'all':<{width}}  {outcome.faults:>5}", ""]
    lines += [f"killed {moment}: {number}" for moment, number in sorted(outcome.moments.items())]
    lines += [
        "",
        f"{outcome.jobs} jobs in {outcome.seasons} seasons, {outcome.seconds / 60:.1f} minutes",
        *_hours(outcome),
    ]
    lines += [f"resumed at the end: {words}" for words in outcome.resumed]
    lines.append(f"violations: {len(outcome.violations)}")
    return "\n".join([*lines, *outcome.violations])


def _hours(outcome: Outcome) -> list[str]:
    hours = outcome.hours
    states: Counter[str] = Counter()
    for season in hours:
        states.update(season.states)
    ours, sacct = sum(season.ours for season in hours), sum(season.sacct for season in hours)
    used, wasted = sum(season.used for season in hours), sum(season.wasted for season in hours)
    records = sum(season.by_records for season in hours)
    unclosed, forgotten = sum(season.unclosed for season in hours), sum(season.forgotten for season in hours)
    rewritten, filled = sum(season.rewritten for season in hours), sum(season.filled for season in hours)
    vanished = sum(season.vanished for season in hours)
    return [
        "executions by sacct: " + ", ".join(f"{number} {state}" for state, number in states.most_common()),
        f"GPU-seconds: ours {ours:g}, of it {filled:g} filled in and {vanished:g} since lost by the database; "
        f"over sacct {sacct:g}, of it {rewritten:g} written anew",
        f"used {used:.1f} + wasted {wasted:.1f} = {used + wasted:.1f}, of it {records:.1f} by attempts' own records",
        f"left out on both sides: {unclosed} rows never closed; {forgotten:g} GPU-seconds of deleted ledgers",
    ]
