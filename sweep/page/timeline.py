"""When which job ran: bars of the chains' executions, and how many jobs ran at a time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from sweep.page.charts import PageFigure
from sweep.page.curves import select_evenly
from sweep.page.drawing import cut_label, join_markup, wrap_drawing
from sweep.phases import PHASES
from sweep.results.lineage import ModelChain

WIDTH, LEFT, RIGHT = 920.0, 190.0, 910.0
ROW = 13.0
MOST_CHAINS = 40
BINS = 180
"""Of the count of running jobs."""


@dataclass(frozen=True, slots=True)
class PageExecution:
    """One execution of a job, with its place in time (Unix seconds)."""

    key: str
    phase: str
    attempt: str
    node: str
    start: float
    end: float
    ended: str
    """`done`, `running`, or the class of the failure."""
    message: str
    then: str
    lasted: float | None


def build_timeline_figures(chains: Sequence[ModelChain], executions: Sequence[PageExecution]) -> list[PageFigure]:
    """Bars of some chains, and the number of running jobs over time; empty before anything ran."""
    if not executions:
        return []
    first, last = min(each.start for each in executions), max(each.end for each in executions)
    span = (first, max(last, first + 1))
    legend = draw_phase_legend({each.phase for each in executions})
    by_key: dict[str, list[PageExecution]] = {}
    for each in executions:
        by_key.setdefault(each.key, []).append(each)
    rows: dict[str, dict[str, None]] = {}
    for chain in chains:
        for key in chain.keys:
            if key in by_key:
                shared = by_key[key][0].phase == "trunk"
                rows.setdefault(f"trunk {chain.cell.axes.get('model', '')}" if shared else chain.cell.name, {})[key] = (
                    None
                )
    names = select_evenly(sorted(rows, key=lambda name: not name.startswith("trunk ")), MOST_CHAINS)
    left = len(rows) - len(names)
    bars = [
        draw_chain(name, [each for key in rows[name] for each in by_key[key]], place, span)
        for place, name in enumerate(names)
    ]
    height = 34 + ROW * len(names)
    content = join_markup([draw_times(span, height), *bars])
    note = (
        f"; {len(names)} of {len(rows)} chains, at equal distances in the plan's order, a cell shows its own"
        if left
        else ""
    )
    return [
        PageFigure(
            title="times of the chains",
            caption=f"A bar is one execution; failed ones have a red frame. Times are UTC{note}.",
            charts=[wrap_drawing(content, WIDTH, height + 4, "Executions of each chain over time", "timeline")],
            legend=legend,
            wide=True,
        ),
        PageFigure(
            title="jobs at work",
            caption=f"Running jobs by phase, mean over each of {BINS} equal parts of the time.",
            charts=[draw_activity(executions, span)],
            legend=legend,
            wide=True,
        ),
    ]


def place_time(moment: float, span: tuple[float, float]) -> float:
    """Where a moment lies across."""
    return LEFT + (moment - span[0]) / (span[1] - span[0]) * (RIGHT - LEFT)


def draw_times(span: tuple[float, float], height: float) -> Markup:
    """Five moments with a light line each."""
    parts = []
    for number in range(5):
        moment = span[0] + number / 4 * (span[1] - span[0])
        at = place_time(moment, span)
        words = datetime.fromtimestamp(moment, UTC).strftime("%m-%d %H:%M" if span[1] - span[0] > 3_600 else "%H:%M:%S")
        anchor = ("start", "middle", "middle", "middle", "end")[number]
        parts.append(Markup('<path class="grid" d="M{:.1f},20V{:.0f}"/>').format(at, height))
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="12" text-anchor="{}">{}</text>').format(at, anchor, words)
        )
    return join_markup(parts)


def draw_chain(name: str, executions: Sequence[PageExecution], place: int, span: tuple[float, float]) -> Markup:
    """The bars of one row."""
    y = 24 + ROW * place
    parts = [
        Markup('<text class="tick" x="2" y="{:.1f}">{}<title>{}</title></text>').format(
            y + 9, cut_label(name, 31), name
        )
    ]
    for each in executions:
        start, end = place_time(each.start, span), place_time(each.end, span)
        failed = Markup(" failed") if each.ended not in {"done", "running"} else Markup("")
        took = f"{each.end - each.start:,.0f} s"
        parts.append(
            Markup(
                '<rect class="p-{}{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="10"><title>{}</title></rect>'
            ).format(
                number_phase(each.phase),
                failed,
                start,
                y,
                max(end - start, 1.0),
                f"{each.phase} {each.key}, {each.ended}, {took}",
            )
        )
    return join_markup(parts)


def number_phase(phase: str) -> str:
    """The number of the phase in the chain: a name from a file is no class."""
    known = list(PHASES)
    return str(known.index(phase)) if phase in known else "x"


def draw_phase_legend(shown: Collection[str]) -> Markup:
    """The colours of the phases that are shown."""
    items = [
        Markup(
            '<li><svg class="key" viewBox="0 0 26 12" aria-hidden="true">'
            '<rect class="p-{}" x="2" y="1" width="22" height="10"/></svg>{}</li>'
        ).format(place, phase)
        for place, phase in enumerate(PHASES)
        if phase in shown
    ]
    return Markup('<ul class="legend">{}</ul>').format(join_markup(items))


def count_running(executions: Sequence[PageExecution], span: tuple[float, float]) -> Mapping[str, list[float]]:
    """Mean number of running jobs in each part of the time, by phase."""
    width = (span[1] - span[0]) / BINS
    counts: dict[str, list[float]] = {
        phase: [0.0] * BINS for phase in dict.fromkeys([*PHASES, *(each.phase for each in executions)])
    }
    for each in executions:
        start, end = (each.start - span[0]) / width, (each.end - span[0]) / width
        for part in range(int(start), min(int(end) + 1, BINS)):
            counts[each.phase][part] += max(0.0, min(end, part + 1) - max(start, part))
    return counts


def draw_activity(executions: Sequence[PageExecution], span: tuple[float, float]) -> Markup:
    """Stacked columns over time."""
    counts = count_running(executions, span)
    height = 130.0
    most = max(sum(parts) for parts in zip(*counts.values(), strict=True)) or 1.0
    base = [0.0] * BINS
    parts = [draw_times(span, height)]
    parts += [
        Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 6, y, words)
        for words, y in ((f"{most:.3g} {'job' if most == 1 else 'jobs'}", 27.0), ("0", height))
    ]
    for phase, values in counts.items():
        if not any(values):
            continue
        top = [below + value for below, value in zip(base, values, strict=True)]
        outline = [*trace_steps(top, most, height), *reversed(trace_steps(base, most, height))]
        path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in outline) + "z"
        parts.append(
            Markup('<path class="p-{}" d="{}"><title>{}</title></path>').format(number_phase(phase), path, phase)
        )
        base = top
    return wrap_drawing(join_markup(parts), WIDTH, height + 6, "Number of running jobs over time, by phase", "timeline")


def trace_steps(values: Sequence[float], most: float, height: float) -> list[tuple[float, float]]:
    """Corners of columns of equal width."""
    width = (RIGHT - LEFT) / len(values)
    return [
        (LEFT + width * (place + side), height - value / most * (height - 22))
        for place, value in enumerate(values)
        for side in (0, 1)
    ]
