"""The record of a check, and its tables: for the terminal, and in Markdown for benchmarks/README.md."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu_check.parts import Figures, Row

FORMAT = 1
"""Of gpu-check.json; raised when a field changes its meaning or is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a part."""

    name: str
    about: str
    table: str
    device: str
    """cuda or cpu: where it ran, or would have."""
    state: str = "done"
    """done, failed, timed out, skipped (no time was left) or needs a GPU; running, if the command was stopped in it."""
    reason: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class CheckReport:
    """The content of gpu-check.json (docs/gpu-check.md)."""

    format: int
    date: str
    machine: dict[str, Any]
    budget_minutes: float
    seconds: float = 0.0
    parts: list[Outcome] = field(default_factory=list)

    @property
    def has_gpu(self) -> bool:
        return self.machine["gpu"] is not None


def format_summary(report: CheckReport) -> str:
    """For the terminal: each part, what ran of it, and what needs a GPU."""
    heads = ("part", "state", "s", "on a GPU") if not report.has_gpu else ("part", "state", "s", "")
    lines = [heads]
    for outcome in report.parts:
        state = outcome.state if report.has_gpu or outcome.state != "done" else "done on the CPU"
        on_gpu = "needs a GPU, not run" if not report.has_gpu else ""
        last = on_gpu if outcome.state in {"done", "needs a GPU"} else outcome.reason
        lines.append((outcome.name, state, f"{outcome.seconds:.0f}", last))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    text = [
        f"{name:{widths[0]}}  {state:{widths[1]}}  {seconds:>{widths[2]}}  {last}".rstrip()
        for name, state, seconds, last in lines
    ]
    return "\n".join([*text, "", summarize(report)])


def summarize(report: CheckReport) -> str:
    """One line: how many parts came to what, and what of this a GPU would add."""
    states = [outcome.state for outcome in report.parts]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    if report.has_gpu:
        goals = [row for _, row in iter_rows(report, "training") if row.figures.get("goal_mfu")]
        reached = sum(is_goal_reached(row.figures) for row in goals)
        return f"{counts}; MFU goals reached: {reached} of {len(goals)} measured"
    return (
        f"{counts}. No GPU is here: only CPU halves ran, on small shapes. "
        f"All {len(report.parts)} parts need a GPU for the rest."
    )


def format_report(report: CheckReport) -> str:
    """Markdown: a section with a table of parts, and one for each kind of row."""
    sections = [f"## `make gpu-check`\n{describe_run(report)}", format_parts(report)]
    for title, table in (
        ("Training in bf16 on one device", format_training(report)),
        ("Rates", format_rates(report)),
        ("Checks", format_checks(report)),
    ):
        if table:
            sections.append(f"### {title}\n{table}")
    return "\n\n".join(sections) + "\n"


def describe_run(report: CheckReport) -> str:
    """Machine, versions, date and time."""
    machine, gpu = report.machine, report.machine["gpu"]
    versions = f"torch {machine['torch']}, Python {machine['python']}"
    when = f"{report.date}, {report.seconds:.0f} s of at most {60 * report.budget_minutes:.0f}"
    if gpu is None:
        return (
            f"No GPU: the CPU halves alone, on small shapes. No figure here says anything about a GPU. "
            f"{machine['processor']}, {machine['cores']} cores, {versions}. {when}."
        )
    return (
        f"{gpu['name']} ({gpu['memory_gib']} GiB, capability {gpu['capability']}, driver {gpu['driver'] or 'unknown'}, "
        f"bf16 peak {gpu['peak_tflops'] or 'unknown'} TFLOP/s), {versions}, CUDA {machine['cuda']}, "
        f"{machine['processor']}, {machine['cores']} cores. {when}."
    )


def format_parts(report: CheckReport) -> str:
    """What ran, and why the rest did not."""
    return format_table(
        ("part", "what", "state", "s", "remark"),
        [(each.name, each.about, each.state, f"{each.seconds:.0f}", each.reason) for each in report.parts],
    )


def format_training(report: CheckReport) -> str:
    """Speed and memory; empty where nothing was measured."""
    rows = [
        (
            f"{format_number(row.figures.get('parameters'), 1e-6)}M",
            row.name,
            format_number(row.figures.get("tokens_per_second")),
            format_number(row.figures.get("mfu")),
            format_goal(row.figures),
            format_number(row.figures.get("peak_memory_gib")),
            format_number(row.figures.get("micro_batch_tokens")),
            format_number(row.figures.get("first_step_seconds")),
            row.reason,
        )
        for _, row in iter_rows(report, "training")
    ]
    heads = ("weights", "case", "tokens/s", "MFU", "goal", "peak GiB", "at once", "first step, s", "remark")
    return format_table(heads, rows) if rows else ""


def format_rates(report: CheckReport) -> str:
    """Images and requests a second; empty where nothing was measured."""
    rows = [
        (
            name,
            row.name,
            f"{format_number(row.figures.get('per_second'))} {row.figures.get('unit', '')}",
            format_number(row.figures.get("mfu")),
            row.reason,
        )
        for name, row in iter_rows(report, "rates")
    ]
    return format_table(("part", "what", "a second", "MFU", "remark"), rows) if rows else ""


def format_checks(report: CheckReport) -> str:
    """What holds and what does not; empty where nothing was checked."""
    rows = [
        (name, row.name, "passed" if row.passed else "failed", format_figures(row.figures), row.reason)
        for name, row in iter_rows(report, "checks")
    ]
    return format_table(("part", "check", "outcome", "figures", "remark"), rows) if rows else ""


def iter_rows(report: CheckReport, table: str) -> Iterable[tuple[str, Row]]:
    """The rows of that kind with their parts' names."""
    return [(each.name, row) for each in report.parts if each.table == table for row in each.rows]


def format_row(row: Row) -> str:
    """One line for the terminal."""
    words = [row.name, "" if row.passed else "FAILED", format_figures(row.figures), row.reason]
    return "; ".join(word for word in words if word)


def format_figures(figures: Figures) -> str:
    """`name number, name number`."""
    return ", ".join(
        f"{name} {value if isinstance(value, str | bool) else format_number(value)}" for name, value in figures.items()
    )


def format_goal(figures: Figures) -> str:
    """Whether the MFU is the one that was wanted; empty where none was, or no peak is known."""
    if not figures.get("goal_mfu") or "mfu" not in figures:
        return ""
    return f"{figures['goal_mfu']}: {'reached' if is_goal_reached(figures) else 'not reached'}"


def is_goal_reached(figures: Figures) -> bool:
    """False, too, where no MFU could be computed."""
    found, wanted = figures.get("mfu"), figures.get("goal_mfu")
    return isinstance(found, float) and isinstance(wanted, float) and found >= wanted


def format_number(value: object, factor: float = 1) -> str:
    """Three significant digits or all of a whole number; empty for None."""
    if not isinstance(value, int | float):
        return ""
    number = value * factor
    if isinstance(number, int) or number == round(number) or abs(number) >= 1_000:
        return f"{number:,.0f}"
    return f"{number:.3g}"


def format_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
