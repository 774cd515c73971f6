"""The report of `sweep data check` as text."""

from collections.abc import Sequence
from typing import Any

from sweep.text_format import columns, counted

DOES = {
    "refuse": "a job ends with an error",
    "skip": "a job leaves it out, up to its bad_samples_limit",
    "note": "nothing is lost",
}


def report_table(reports: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each data set, then its problems by kind, each with what a job does and some examples."""
    rows: list[tuple[str, ...]] = [("data", "kind", "shards", "samples", "tokens", "images", "decoded", "found")]
    rows += [row_of(report) for report in reports]
    lines = columns(rows, left=2, rules=[1])
    for report in reports:
        for problem in report["problems"]:
            count = f"{problem['count']:,}"
            lines += [
                "",
                f"{report['name']}: {count} x {problem['kind']} ({problem['action']}: {DOES[problem['action']]})",
            ]
            lines += [f"  {example}" for example in problem["examples"]]
            more = problem["count"] - len(problem["examples"])
            lines += [f"  and {more:,} more"] if more else []
    return lines


def row_of(report: dict[str, Any]) -> tuple[str, ...]:
    """Counts that a kind has not are left empty."""
    counts = [
        f"{report[name]:,}" if report[name] else "-" for name in ("shards", "samples", "tokens", "images", "decoded")
    ]
    return (report["name"], report["kind"] or "?", *counts, found(report))


def found(report: dict[str, Any]) -> str:
    """`nothing`, or how many problems of each sort."""
    totals = dict.fromkeys(DOES, 0)
    for problem in report["problems"]:
        totals[problem["action"]] += problem["count"]
    return ", ".join(f"{count:,} {action}" for action, count in totals.items() if count) or "nothing"


def verdict(reports: Sequence[dict[str, Any]]) -> str:
    """One line."""
    bad = [report["name"] for report in reports if not report["clean"]]
    if not bad:
        return f"{counted(len(reports), 'data set')}: nothing would be skipped or refused"
    return f"{counted(len(reports), 'data set')}: something would be skipped or refused in {', '.join(bad)}"
