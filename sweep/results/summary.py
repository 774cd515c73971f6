"""What `sweep results` prints: the best models with remarks, JSON, CSV, and hours by stage."""

import csv
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.counted import format_counted
from sweep.catalog.chance import load_chances
from sweep.phases import PHASES
from sweep.results.slices import BITS_PER_BYTE, HELD_OUT, MEASURES, TEXT, VISION, Measure, Row, find_best_row
from sweep.text_format import NO_HOURS, format_columns, format_hours

NESTED = ("overrides", "scores", "versions", "vision_tasks", "text_tasks", "vision_z_metrics")
TITLES = {VISION: "vision", HELD_OUT: "held-out", TEXT: "text", BITS_PER_BYTE: "bits/byte"}


def format_summary_table(rows: Sequence[Row], limit: int | None = None) -> str:
    """At most `limit` scored models, the best first, then the chance levels; empty without a scored model."""
    scored = sort_best_first(rows)[:limit]
    if not scored:
        return ""
    measures = [measure for measure in MEASURES if any(has_score(row, measure) for row in scored)]
    on_gpu = any(row[name] != 0 for row in scored for name in ("a100_hours_own", "a100_hours_shared"))
    unit, cost = ("A100-h", "a100_hours") if on_gpu else ("core-h", "cpu_hours")
    title = ["cell", "epochs", *(TITLES[measure] for measure in measures), f"{unit} own", "shared"]
    table = [title]
    for row in scored:
        scores = [format_score(row, measure) for measure in measures]
        table.append(
            [
                row["cell"],
                str(row["epochs"]),
                *scores,
                *(mark_hours(format_hours_or_unknown(row[cost + part]), row) for part in ("_own", "_shared")),
            ]
        )
    notes = [
        *format_chance_note(scored),
        *format_tasks_note(scored),
        *format_hours_note(scored),
        *format_source_note(scored, "model"),
    ]
    return "\n".join([*format_columns(table), *notes]) + "\n"


def format_hours_note(rows: Sequence[Row]) -> list[str]:
    """That A100-hours are not known, and where to see why; empty where all are."""
    if all(row[name] is not None for row in rows for name in ("a100_hours_own", "a100_hours_shared")):
        return []
    return ["?: on GPUs of a kind without a factor; gpu_kinds and gpu_type of jobs.parquet name it."]


def join_tables(*parts: str) -> str:
    """The tables that are not empty, with an empty line between them."""
    return "\n".join(part for part in parts if part)


def format_score(row: Row, measure: Measure) -> str:
    """`0.412 ±0.016`; where all answers are equal, which has an error of 0, the 95 % interval instead."""
    value, stderr = row[measure.column], row.get(measure.stderr)
    low, high = (row.get(f"{measure.name}_{end}") for end in ("low", "high"))
    if value is not None and stderr == 0 and low is not None and high is not None:
        return f"{value:.3f} [{low:.3f}, {high:.3f}]"
    return format_with_error(value, stderr)


def format_with_error(value: float | None, stderr: float | None) -> str:
    """`0.412 ±0.016`; `-` for no value."""
    if value is None:
        return "-"
    return f"{value:.3f}" if stderr is None else f"{value:.3f} ±{stderr:.3f}"


def format_hours_or_unknown(value: float | None) -> str:
    """Hours; `?` where they are not known."""
    return "?" if value is None else format_hours(value)


NOT_SLURMS = "~"
"""Before hours that are not Slurm's, or not all of them."""


# Why: docs/decisions.md, D119
def mark_hours(text: str, row: Row) -> str:
    """The hours of a row of any table with the mark, where they are not Slurm's."""
    return f"{NOT_SLURMS}{text}" if row.get("hours_remark") and text != NO_HOURS else text


def format_source_note(rows: Sequence[Mapping[str, Any]], what: str) -> list[str]:
    """What the mark means, and why the hours of so many rows bear it; empty where none does."""
    found = Counter(row["hours_remark"] for row in rows if row.get("hours_remark"))
    return ["", *(describe_source(what, number, remark) for remark, number in found.items())] if found else []


def describe_source(what: str, number: int, remark: str) -> str:
    """One line on hours that are not Slurm's."""
    counted = f"1 {what}" if number == 1 else f"{number:,} {what}s"
    return f"{NOT_SLURMS} Hours of {counted} are not Slurm's: {remark}. What the attempts recorded is counted."


def format_chance_note(rows: Sequence[Row]) -> list[str]:
    """The chance levels that scores are measured from."""
    chances = []
    for measure in (VISION, HELD_OUT, TEXT):
        levels = {round(row[measure.chance], 3) for row in rows if row.get(measure.chance) is not None}
        if levels:
            chances.append(
                f"{TITLES[measure]} {'-'.join(f'{level:g}' for level in sorted({min(levels), max(levels)}))}"
            )
    return ["", "Scores are accuracy above chance; chance: " + ", ".join(chances) + "."] if chances else []


def format_tasks_note(rows: Sequence[Row]) -> list[str]:
    """For each score that is not over the study's tasks, a line with the tasks that it is over."""
    lines = []
    for kind in ("vision", "text"):
        partial = [tuple(row[f"{kind}_tasks"]) for row in rows if row.get(f"{kind}_complete") is False]
        words = [
            format_partial_tasks(tasks, load_chances().list_counted_tasks(kind)) for tasks in dict.fromkeys(partial)
        ]
        lines += [f"Not the study's {kind} score: {each}." for each in words]
    return lines


def format_partial_tasks(tasks: Sequence[str], wanted: Sequence[str]) -> str:
    """`over 4 of its 6 tasks, without gqa, pope`, or `over tasks of its own: cloze`."""
    if not set(tasks) <= set(wanted):
        return f"over tasks of its own: {', '.join(tasks)}"
    missing = [task for task in wanted if task not in tasks]
    without = f", without {', '.join(missing)}" if missing else ", not all with their parts"
    return f"over {len(tasks)} of its {format_counted(len(wanted), 'task')}{without}"


def list_remarks(rows: Sequence[Row]) -> list[str]:
    """The best finished model, and how many models are unfinished in which state."""
    finished = [row for row in rows if row["state"] == "done"]
    lines = []
    best = find_best_row(finished)
    if best is not None:
        measure = next(measure for measure in (VISION, HELD_OUT, TEXT, BITS_PER_BYTE) if has_score(best, measure))
        score = format_score(best, measure)
        lines.append(f"best {TITLES[measure]} score: {best['cell']}, {format_epochs(best['epochs'])}: {score}")
    if len(finished) < len(rows):
        states = Counter(row["state"] for row in rows if row["state"] != "done")
        waiting = ", ".join(f"{count} {state}" for state, count in states.most_common())
        lines.append(f"missing: {len(rows) - len(finished)} of {format_counted(len(rows), 'model')} ({waiting})")
    return lines


def format_epochs(epochs: int) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{epochs} epoch" if epochs == 1 else f"{epochs} epochs"


def sort_best_first(rows: Sequence[Row]) -> list[Row]:
    """The scored rows, the best first by the first measure that any row has; rows without that measure come last."""
    measure = next((measure for measure in MEASURES if any(has_score(row, measure) for row in rows)), None)
    if measure is None:
        return []
    sign = -1 if measure.higher_is_better else 1
    scored = [row for row in rows if any(has_score(row, any_measure) for any_measure in MEASURES)]
    return sorted(scored, key=lambda row: (not has_score(row, measure), sign * (row[measure.column] or 0.0)))


def has_score(row: Row, measure: Measure) -> bool:
    """Whether the model has that score."""
    return row.get(measure.column) is not None


def build_results_json(sweep: str, rows: Sequence[Row], files: Sequence[str]) -> dict[str, Any]:
    """What `sweep results --json` prints (docs/json.md)."""
    finished = [row for row in rows if row["state"] == "done"]
    best = find_best_row(finished)
    return {
        "format": 1,
        "sweep": sweep,
        "models": len(rows),
        "finished": len(finished),
        "states": dict(sorted(Counter(row["state"] for row in rows).items())),
        "best": {"cell": best["cell"], "epochs": best["epochs"], "key": best["key"]} if best else None,
        "files": list(files),
        "rows": [build_row_json(row) for row in rows],
    }


def build_row_json(row: Row) -> dict[str, Any]:
    """A row of results.parquet: times as ISO 8601, maps as objects, NaN (JSON has none) as null."""
    values = {name: replace_non_finite(value) for name, value in row.items()}
    for name in ("overrides", "versions"):
        values[name] = None if row[name] is None else dict(row[name])
    values["finished_at"] = row["finished_at"].isoformat() if row["finished_at"] else None
    return values


def replace_non_finite(value: Any) -> Any:
    """`value` with null for every number in it that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [replace_non_finite(entry) for entry in value]
    return {name: replace_non_finite(entry) for name, entry in value.items()} if isinstance(value, dict) else value


def render_csv(rows: Sequence[Row]) -> str:
    """The flat columns of results.parquet as CSV, then one for each override; other maps and lists are left out."""
    names = [name for name in (rows[0] if rows else {}) if name not in NESTED]
    overrides = list_override_names(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *overrides])
    for row in rows:
        own = read_overrides(row)
        writer.writerow([*(row[name] for name in names), *(own.get(name) for name in overrides)])
    return text.getvalue()


def list_override_names(rows: Sequence[Row]) -> list[str]:
    """Dotted names of all settings that are axes of a cell without a column of their own, such as `finetune.seed`."""
    return sorted({name for row in rows for name, _ in row["overrides"] or ()})


def read_overrides(row: Row) -> dict[str, Any]:
    """Their values in one row; what is no plain value stays JSON."""
    return {name: text if text[:1] in "[{" else json.loads(text) for name, text in row["overrides"] or ()}


# Hours by model and stage, planned, used and wasted, from rows of jobs.parquet.

KINDS = ("planned", "used", "wasted")
JOB_COLUMNS = (
    *("model", "phase", "state", "overstated_seconds", "hours_remark", "in_plan"),
    *(f"{kind}_{unit}_hours" for kind in KINDS for unit in ("a100", "cpu")),
)
"""The columns of jobs.parquet that this table needs."""


LEFT_THE_PLAN = ("left the plan", "")
"""The line of jobs that an edit took out of the plan after they had been run."""


@dataclass(slots=True)
class HoursTotal:
    """Sums over jobs, in hours. `used` and `wasted` are None where a GPU type has no A100 factor."""

    jobs: int = 0
    done: int = 0
    planned: float = 0.0
    planned_of_done: float = 0.0
    used: float | None = 0.0
    wasted: float | None = 0.0
    marked: bool = False
    """Some of the hours are not Slurm's."""

    def add_row(self, row: Mapping[str, Any], unit: str) -> None:
        """Adds a job: a row of jobs.parquet. `unit`: a100 or cpu."""
        planned, done = row[f"planned_{unit}_hours"] or 0.0, row["state"] == "done"
        self.jobs += 1
        self.done += done
        self.planned += planned
        self.planned_of_done += planned * done
        self.used = add_known(self.used, row[f"used_{unit}_hours"])
        self.wasted = add_known(self.wasted, row[f"wasted_{unit}_hours"])
        self.marked |= bool(row.get("hours_remark"))

    def format_cells(self) -> list[str]:
        """The sums as cells of a table."""
        known = ["?" if value is None else format_hours(value) for value in (self.used, self.wasted)]
        known = [f"{NOT_SLURMS}{each}" if self.marked and each != NO_HOURS else each for each in known]
        return [f"{self.done:,}/{self.jobs:,}", format_hours(self.planned), format_hours(self.planned_of_done), *known]


def add_known(first: float | None, second: float | None) -> float | None:
    """The sum; None if a part is unknown."""
    return None if first is None or second is None else first + second


def format_hours_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line for each stage of each model, one for what left the plan, and one for all; each job counts once.

    Empty before anything has run.
    """
    found = list(rows)
    unit = "a100" if any(row["planned_a100_hours"] or row["used_a100_hours"] != 0 for row in found) else "cpu"
    if not any(row[f"{kind}_{unit}_hours"] != 0 for row in found for kind in ("used", "wasted")):
        return ""
    sums: dict[tuple[str, str], HoursTotal] = defaultdict(HoursTotal)
    for row in found:
        place = LEFT_THE_PLAN if row.get("in_plan") is False else (row["model"] or "", row["phase"])
        sums[place].add_row(row, unit)
        sums["all", ""].add_row(row, unit)
    name = "A100-hours" if unit == "a100" else "core-hours"
    head = [name, "phase", "done", "planned", "of done", "used", "wasted"]
    order = sorted((key for key in sums if key[1]), key=lambda key: make_table_sort_key(key, found))
    order += [LEFT_THE_PLAN] if LEFT_THE_PLAN in sums else []
    table = [head, *([*key, *sums[key].format_cells()] for key in order), ["all", "", *sums["all", ""].format_cells()]]
    notes = [*format_overstated_note(found), *format_source_note(found, "job")]
    return "\n".join([*format_columns(table, left=2, rules=(1, len(table) - 1)), *notes]) + "\n"


def make_table_sort_key(key: tuple[str, str], rows: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Sort key: models in the order of the plan, stages in the order of the chain."""
    models = list(dict.fromkeys(row["model"] or "" for row in rows))
    phases = list(PHASES)
    return models.index(key[0]), phases.index(key[1]) if key[1] in phases else len(phases)


def format_overstated_note(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A remark where the cluster's accounting has more wall seconds than the attempts recorded; else empty."""
    seconds = sum(row["overstated_seconds"] or 0 for row in rows)
    jobs = sum(bool(row["overstated_seconds"]) for row in rows)
    if not seconds:
        return []
    whose = format_counted(jobs, "job")
    return [
        "",
        f"The cluster's accounting has {seconds:,} s more than the attempts of {whose} recorded; they are counted.",
    ]
