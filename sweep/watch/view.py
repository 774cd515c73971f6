"""The screens of the live view, as lines of text of just the terminal's size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from jobs.counted import format_counted
from jobs.job import Job
from jobs.reconcile.state import JobState
from stages.printable import render_line
from sweep.phases import PHASES
from sweep.report.history import format_time
from sweep.report.status import find_shown_state, format_eta_line
from sweep.text_format import format_duration, format_hours, format_large_number
from sweep.watch.curves import BLOCKS, PLAIN_BLOCKS, MetricsCurve, draw_sparkline
from sweep.watch.feed import SweepFeed

TROUBLE = (JobState.FAILED, JobState.UNKNOWN, JobState.INTERRUPTED, JobState.CANCELLED, JobState.BLOCKED)
STATE_ORDER = {
    state: place
    for place, state in enumerate(
        (
            JobState.RUNNING, JobState.FAILED, JobState.UNKNOWN, JobState.INTERRUPTED, JobState.QUEUED, JobState.READY,
            JobState.BLOCKED, JobState.CANCELLED, JobState.WAITING, JobState.DONE,
        )
    )
}  # fmt: skip
STATE_STYLES = {
    JobState.RUNNING: "cyan", JobState.DONE: "green", JobState.FAILED: "bold red", JobState.UNKNOWN: "yellow",
    JobState.INTERRUPTED: "yellow", JobState.BLOCKED: "red", JobState.CANCELLED: "yellow",
}  # fmt: skip
FILTERS = ("active", "running", "trouble", "all")
SORTS = ("state", "phase", "cell", "step", "loss", "tok/s", "left")
WIDE_COLUMNS = 110
LEAST_CURVE = 10
"""From here on a job has its key beside its cell."""
LEAST_ROWS = 4
"""Rows of the job table, for which a low terminal gives up lines above it."""
HELP = """\
up, down, j, k, page up, page down, home, end   move
enter, h    history of the job: attempts, how each ended, what followed
l           log of its newest attempt, followed as it grows
s, S        sort by the next column; turn the order round
f           filter: active (running, failed, unknown, queued), running, trouble, all
/           only jobs whose line has these letters (enter: keep, escape: all)
r           read everything again now; Slurm is asked once a minute at most
escape      back
q, Ctrl-C   quit; jobs run on
"""


@dataclass
class ViewState:
    """What the user has chosen."""

    screen: str = "jobs"
    """`jobs`, `history`, `log` or `help`."""
    filter: str = "active"
    sort: str = "state"
    reverse: bool = False
    word: str = ""
    """Only jobs whose line has it."""
    typing: bool = False
    """Whether keys go into `word`."""
    key: str = ""
    """Of the chosen job; empty: the first."""
    top: int = 0
    """First row of the table, or of the text, that is on the screen."""
    lines: list[str] = field(default_factory=list)
    """The text of `history` and `log`."""
    title: str = ""
    """What that text is."""
    follows: bool = True
    """Whether the end of a text is kept on the screen as it grows."""
    page: int = 1
    """Rows that the last screen showed."""
    rows: "tuple[tuple[object, ...], list[JobRow]] | None" = None
    """The table as it was built last, and for what."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job as the table shows it."""

    job: Job
    state: JobState
    name: str
    curve: MetricsCurve | None
    left: float | None
    """Seconds."""
    message: str


def list_rows(feed: SweepFeed, view: ViewState, now: float) -> list[JobRow]:
    """The jobs that the filter leaves, in order. `now`: of times left, which are as old as the last change."""
    wanted = (feed.version, view.filter, view.sort, view.reverse, view.word)
    if view.rows is None or view.rows[0] != wanted:
        view.rows = wanted, build_rows(feed, view, now)
    return view.rows[1]


def build_rows(feed: SweepFeed, view: ViewState, now: float) -> list[JobRow]:
    """The same, anew."""
    snapshot = feed.snapshot
    trouble = {row["key"]: row for row in feed.report.get("trouble", ())}
    rows = []
    for job in snapshot.jobs:
        status = snapshot.statuses[job.key]
        state = find_shown_state(status)
        if not is_shown(state, view.filter):
            continue
        name = " ".join([*job.cells[:1], job.key])
        if view.word and view.word.lower() not in f"{state.value} {job.phase} {' '.join(job.cells)} {job.key}".lower():
            continue
        curve = feed.curves.get(job.key)
        last = snapshot.runs[job.key].last
        left = curve.estimate_seconds_left(last.start.started_at if last else 0.0, now) if curve else None
        rows.append(JobRow(job, state, name, curve, left, describe_trouble(job, state, feed, trouble.get(job.key))))
    phases = {name: place for place, name in enumerate(PHASES)}
    order = {
        "state": lambda row: (STATE_ORDER[row.state],),
        "phase": lambda row: (phases.get(row.job.phase, len(phases)), STATE_ORDER[row.state]),
        "cell": lambda row: (row.job.cells[:1], phases.get(row.job.phase, len(phases))),
        "step": lambda row: rank_number(row.curve and row.curve.get_number("step")),
        "loss": lambda row: rank_number(row.curve and row.curve.get_number("loss")),
        "tok/s": lambda row: rank_number(row.curve and row.curve.get_number("tokens_per_second")),
        "left": lambda row: rank_number(row.left),
    }[view.sort]
    return sorted(rows, key=order, reverse=view.reverse)


def rank_number(value: float | None) -> tuple[bool, float]:
    """Numbers first."""
    return value is None, value or 0.0


def is_shown(state: JobState, name: str) -> bool:
    """Whether a filter leaves a job of that state."""
    if name == "all":
        return True
    if name == "running":
        return state is JobState.RUNNING
    if name == "trouble":
        return state in TROUBLE
    return state in {JobState.RUNNING, JobState.QUEUED, JobState.FAILED, JobState.UNKNOWN, JobState.INTERRUPTED}


def describe_trouble(job: Job, state: JobState, feed: SweepFeed, row: Mapping[str, Any] | None) -> str:
    """Why a job does not run, in a line."""
    if row is not None:
        return f"{row['class']}: {row['message']}" if row["class"] else str(row["message"])
    status = feed.snapshot.statuses[job.key]
    if state is JobState.BLOCKED and status.cause:
        return f"waits for {feed.snapshot.statuses[status.cause].state.value} {status.cause}"
    seen = feed.snapshot.observed.get(job.key)
    if seen is None and state in TROUBLE:
        return feed.snapshot.runs[job.key].message
    return (seen.doubt or seen.message) if seen is not None else ""


def describe_next(feed: SweepFeed, *, in_view: bool = False) -> str:
    """What brings the sweep on. `in_view`: for who has the view's keys."""
    name, states = feed.report["sweep"], feed.report["states"]
    if states["failed"] or states["unknown"]:
        look = "l shows the log of a job that failed" if in_view else f"`sweep logs {name}` shows why a job failed"
        return f"{look}; repair that, then `sweep resume {name}`"
    if feed.report["jobs"] == states["done"]:
        return f"all is done: `sweep results {name}` writes tables and figures"
    if states["running"] or states["queued"]:
        return f"nothing to do while jobs run; `sweep results {name}` works meanwhile"
    if states["cancelled"]:
        return f"`sweep resume {name}` brings cancelled jobs back"
    return f"nothing runs: `sweep submit {name}` starts what is missing"


def draw_screen(feed: SweepFeed, view: ViewState, size: tuple[int, int], now: float, *, blocks: bool) -> list[Text]:
    """As many lines as the terminal has rows, each as wide as it at most."""
    columns, rows = size
    body = {"jobs": draw_jobs, "help": draw_help}.get(view.screen, draw_text)
    lines = [draw_title(feed, columns, now), *body(feed, view, size, now, BLOCKS if blocks else PLAIN_BLOCKS)][
        : rows - 1
    ]
    lines += [Text("")] * (rows - 1 - len(lines))
    lines.append(draw_keys(view, columns))
    for line in lines:
        line.truncate(columns, overflow="crop")
        line.no_wrap = True
    lines[0].pad_right(max(0, columns - lines[0].cell_len))
    lines[0].stylize("reverse")
    return lines


def draw_title(feed: SweepFeed, columns: int, now: float) -> Text:
    """Name, counts, and how old this is; first why it is older than it should be."""
    states = feed.report["states"]
    counts = [f"{number:,} {state}" for state, number in states.items() if number]
    age = f"read {format_duration(max(0.0, now - feed.read_at) / 3_600)} ago"
    name = f" {feed.report['sweep']}  {format_counted(feed.report['jobs'], 'job')}: {', '.join(counts) or 'none'}"
    problem = f" NOT READ, tried again: {feed.problem} " if feed.problem else ""
    clock = f"  {format_time(now)[11:]}" if columns >= 100 else ""
    return Text(render_line(f"{problem}{name}{clock}  {age}"))


def draw_keys(view: ViewState, columns: int) -> Text:
    """The last line: what may be pressed."""
    if view.typing:
        return Text(render_line(f" /{view.word}_   enter: keep   escape: show all"), style="reverse")
    if view.screen != "jobs":
        text = " escape back  up/down move  end follow  q quit"
    elif columns < 80:
        text = f" q quit  ? help  enter history  l log  s sort:{view.sort}  f filter:{view.filter}  / find"
    elif columns < 100:
        text = f" q quit  enter history  l log  s sort:{view.sort}  f filter:{view.filter}  / find  ? help"
    else:
        text = (
            f" q quit   up/down move   enter history   l log   s sort: {view.sort}{' (turned)' if view.reverse else ''}"
            f"   f filter: {view.filter}   / find{f': {view.word}' if view.word else ''}   r read again   ? help"
        )
    return Text(render_line(text), style="reverse")


def draw_jobs(feed: SweepFeed, view: ViewState, size: tuple[int, int], now: float, blocks: str) -> list[Text]:
    """Phases, times, hours, what to do next, and the table of jobs."""
    columns, rows = size
    table = list_rows(feed, view, now)
    bars = draw_phases(feed, columns)
    deep = rows >= 20  # a lower terminal has no room for what does not fit its width
    notes = [
        *draw_note("time", format_eta_line(feed.report), columns, deep=deep),
        *draw_note("hours", describe_hours(feed), columns, deep=deep),
        *draw_note("next", describe_next(feed, in_view=True), columns, deep=deep, style="bold"),
    ]
    remarks = [Text(render_line(f"note   {remark}")) for remark in feed.report.get("remarks", ())]
    room = rows - 2 - 1 - LEAST_ROWS  # title and keys, the table's head
    above = [*bars, *notes][: max(0, room)]
    above += remarks[: max(0, min(3, room - len(above) - LEAST_ROWS))]
    shown = rows - 2 - 1 - len(above)
    view.page = max(1, shown)
    place = next((number for number, row in enumerate(table) if row.job.key == view.key), 0)
    view.key = table[place].job.key if table else ""
    view.top = max(0, min(max(view.top, place - view.page + 1), place, max(0, len(table) - view.page)))
    lines = [*above, draw_table_head(columns, view, len(table), feed.longest_name)]
    part = table[view.top : view.top + view.page]
    lines += [draw_row(row, columns, feed, now, blocks, chosen=row.job.key == view.key) for row in part]
    if not table:
        everything = feed.report["jobs"]
        lines.append(Text(f"  none of {everything:,} jobs; f shows others" if everything else "  no jobs"))
    return lines


def draw_note(label: str, text: str, columns: int, *, deep: bool, style: str = "") -> list[Text]:
    """A line with its label, on a deep terminal wrapped at words."""
    shown = render_line(text)
    lines = wrap(shown, max(10, columns - 7)) if deep else [shown]
    return [Text(f"{label if not number else '':7}{line}", style=style) for number, line in enumerate(lines)]


def draw_phases(feed: SweepFeed, columns: int) -> list[Text]:
    """A bar for each phase, and one for all if there are several."""
    phases: dict[str, Mapping[str, int]] = dict(feed.report["phases"])
    if len(phases) != 1:
        phases["all"] = feed.report["states"]
    width = max(10, min(40, columns - 60))
    label = max((len(phase) for phase in phases), default=0)
    lines = []
    for phase, states in phases.items():
        total, done, running = sum(states.values()), states["done"], states["running"]
        filled = width * done // total if total else 0
        lively = min(width - filled, -(-width * running // total)) if total else 0
        line = Text(render_line(f"{phase[:20]:{min(label, 20)}}  ["))
        line.append("#" * filled, style="green")
        line.append(">" * lively, style="cyan")
        line.append("." * (width - filled - lively), style="dim")
        line.append(f"] {100 * done // total if total else 0:>3} %  {done:,} of {total:,}")
        for state, number in states.items():
            if number and state != "done":
                line.append(f"  {number:,} {state}", style=STATE_STYLES.get(JobState(state), ""))
        lines.append(line)
    return lines


def describe_hours(feed: SweepFeed) -> str:
    """Used, wasted, left to do, and the budget."""
    hours = feed.hours
    a100_left, cpu_left = feed.planned_left
    budget = feed.report.get("limits", {}).get("budget_a100_hours")
    parts = []
    if hours.gpu or a100_left:
        used = "not known" if hours.a100 is None else format_hours(hours.a100)
        parts.append(f"{used} A100-hours used ({format_hours(hours.wasted_gpu)} GPU-hours wasted)")
        parts.append(f"~{format_hours(a100_left)} left to do")
    if (hours.cpu or cpu_left) and not (hours.gpu or a100_left):
        parts.append(f"{format_hours(hours.cpu)} core-hours used ({format_hours(hours.wasted_cpu)} wasted)")
        parts.append(f"~{format_hours(cpu_left)} left to do")
    if isinstance(budget, Mapping):
        budget = budget.get("value")
    parts.append(f"budget {format_hours(float(budget))} A100-hours" if isinstance(budget, int | float) else "no budget")
    if feed.uncounted:
        parts.append(f"{format_counted(feed.uncounted, 'job')} still to be counted")
    return "; ".join(parts)


def choose_widths(columns: int, longest: int = 0) -> dict[str, int]:
    """Columns of the table and their widths; a narrow terminal has fewer. `longest`: letters of a job's name.

    A name is shown whole before a curve is wide, as names differ in their last letters.
    """
    widths = {"state": 9, "phase": 8, "job": 18, "step": 12, "loss": 6, "curve": 0, "tok/s": 6, "left": 7}
    if columns >= WIDE_COLUMNS:
        widths |= {"state": 11, "job": 36, "step": 15}
    spare = columns - sum(widths.values()) - sum(width > 0 for width in widths.values())
    if spare > 5:
        whole = max(0, min(longest - widths["job"], spare - LEAST_CURVE - 1))
        widths["job"] += whole
        spare -= whole
        widths["curve"] = min(60, spare - 1)
        spare -= widths["curve"] + 1
        widths["job"] += max(0, min(30, spare))
    else:
        fit_narrow(widths, columns)
    return {name: width for name, width in widths.items() if width > 0}


GIVEN_UP = ("tok/s", "loss", "left", "phase", "step")
"""Columns that a narrow terminal does without, the first ones first."""
LEAST_JOB, LEAST_STEP = 12, 9


def fit_narrow(widths: dict[str, int], columns: int) -> None:
    """Narrower steps and names, and fewer columns, until the table fits. State and name are always there."""

    def count_room() -> int:
        return columns - sum(widths.values()) - sum(width > 0 for width in widths.values()) + 1

    for name in GIVEN_UP:
        least = widths["job"] - LEAST_JOB + max(0, widths.get("step", 0) - LEAST_STEP)
        if count_room() + least >= 0:
            break
        del widths[name]
    if "step" in widths:
        widths["step"] -= min(widths["step"] - LEAST_STEP, max(0, -count_room()))
    widths["job"] = max(1, widths["job"] + count_room())


def draw_table_head(columns: int, view: ViewState, count: int, longest: int) -> Text:
    """Names of the columns; the one that is sorted by is marked."""
    widths = choose_widths(columns, longest)
    wide = columns >= WIDE_COLUMNS
    titles = {"job": f"{'cell, key' if wide else 'cell'} ({count:,})", "curve": "loss so far" if wide else "curve"}
    cells = []
    for name, width in widths.items():
        title = titles.get(name, name)
        mark = (" v" if view.reverse else " ^") if name == view.sort or (name, view.sort) == ("job", "cell") else ""
        right = name in {"step", "loss", "tok/s", "left"}
        cells.append(fit_cell(f"{title}{mark}", width, right=right))
    return Text(" ".join(cells), style="underline")


def draw_row(row: JobRow, columns: int, feed: SweepFeed, now: float, blocks: str, *, chosen: bool) -> Text:
    """One job."""
    widths = choose_widths(columns, feed.longest_name)
    line = Text()
    line.append(fit_cell(row.state.value, widths["state"]), style=STATE_STYLES.get(row.state, ""))
    if "phase" in widths:
        line.append(" " + fit_cell(render_line(row.job.phase), widths["phase"]))
    name = row.name if columns >= WIDE_COLUMNS else next(iter(row.job.cells), row.job.key)
    line.append(" " + fit_cell(render_line(name), widths["job"]) + " ")
    rest = columns - line.cell_len
    if row.state is not JobState.RUNNING:
        line.append(fit_cell(render_line(row.message), max(0, rest)), style="dim")
    else:
        cells = describe_running(row, feed, now, widths, blocks)
        wanted = [name for name in widths if name not in {"state", "phase", "job"}]
        line.append(" ".join(fit_cell(cells[name], widths[name], right=name != "curve") for name in wanted))
    if chosen:
        line.pad_right(max(0, columns - line.cell_len))
        line.stylize("reverse")
    return line


def describe_running(
    row: JobRow, feed: SweepFeed, now: float, widths: Mapping[str, int], blocks: str
) -> dict[str, str]:
    """The cells of a job that runs. Without metrics: how long it has run."""
    curve = row.curve
    step = curve.get_number("step") if curve else None
    last = feed.snapshot.runs[row.job.key].last
    since = f"for {format_duration(max(0.0, now - last.start.started_at) / 3_600)}" if last else ""
    if curve is None or step is None:
        return {"step": since, "loss": "", "curve": "", "tok/s": "", "left": ""}
    total, loss, speed = (curve.get_number(name) for name in ("total_steps", "loss", "tokens_per_second"))
    return {
        "step": describe_step(step, total, widths.get("step", 0)),
        "loss": f"{loss:.3f}" if loss is not None else "",
        "curve": draw_sparkline(curve.losses, widths.get("curve", 0), blocks),
        "tok/s": format_large_number(speed) if speed is not None else "",
        "left": format_duration(row.left / 3_600) if row.left is not None else "",
    }


def describe_step(step: float, total: float | None, width: int) -> str:
    """`200/3,000`, or shorter where that is too wide."""
    if total is None:
        return f"{step:,.0f}"
    whole = f"{step:,.0f}/{total:,.0f}"
    return whole if len(whole) <= width else f"{format_large_number(step)}/{format_large_number(total)}"


def fit_cell(text: str, width: int, *, right: bool = False) -> str:
    """The text in just so many columns, cut with a dot at its end where it is wider."""
    if cell_len(text) > width:
        return set_cell_size(text, max(0, width - 1)) + ("." if width else "")
    return " " * (width - cell_len(text)) + text if right else set_cell_size(text, width)


def draw_text(_feed: SweepFeed, view: ViewState, size: tuple[int, int], _now: float, _blocks: str) -> list[Text]:
    """A history or a log, wrapped, with its title."""
    columns, rows = size
    wrapped = [part for line in view.lines for part in wrap_line(line, columns)]
    view.page = max(1, rows - 3)
    last = max(0, len(wrapped) - view.page)
    view.top = last if view.follows else max(0, min(view.top, last))
    place = f"  (lines {view.top + 1:,} to {min(len(wrapped), view.top + view.page):,} of {len(wrapped):,})"
    head = Text(render_line(view.title) + (place if wrapped else ""), style="underline")
    return [head, *(Text(line) for line in wrapped[view.top : view.top + view.page])]


def wrap_line(line: str, columns: int) -> list[str]:
    """A line of any text as printable lines of that width."""
    shown = render_line(line.expandtabs(4))
    return [shown] if shown.isascii() and len(shown) <= columns else chop_cells(shown, columns)


def draw_help(_feed: SweepFeed, _view: ViewState, size: tuple[int, int], _now: float, _blocks: str) -> Sequence[Text]:
    """The keys."""
    return [Text(part) for line in HELP.splitlines() for part in wrap_line(line, size[0])]
