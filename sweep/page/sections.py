"""What the page says in words and short tables: question, axes, states, hours, failures, provenance."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jobs.counted import format_counted
from jobs.reconcile.state import JobState
from jobs.store.reading import open_to_read
from sweep.errors import SweepFileError
from sweep.page.heat_map import GridCell, format_value, list_varied
from sweep.plan.manifest import Manifest
from sweep.results.evidence import JobEvidence
from sweep.results.slices import sort_values
from sweep.results.summary import LEFT_THE_PLAN, NOT_SLURMS, HoursTotal, make_table_sort_key
from sweep.spec.yaml_source import parse_yaml
from sweep.stored_sweep import StoredSweep
from sweep.text_format import NO_HOURS, format_hours

# The question and the grid.

MOST_VALUES = 24


@dataclass(frozen=True, slots=True)
class PageAxis:
    """One axis of the grid."""

    name: str
    values: str
    count: int


def list_page_axes(cells: Sequence[GridCell]) -> list[PageAxis]:
    """The axes that vary, with their values."""
    found = []
    for name in list_varied(cell.axes for cell in cells):
        values = {repr(cell.axes.get(name)): cell.axes.get(name) for cell in cells}
        ordered = sort_values(values.values()) if all(map(is_plain, values.values())) else list(values.values())
        words = [format_value(name, value) for value in ordered[:MOST_VALUES]]
        found.append(PageAxis(name, ", ".join(words) + (", ..." if len(ordered) > MOST_VALUES else ""), len(ordered)))
    return found


def is_plain(value: Any) -> bool:
    """Whether a value can be sorted."""
    return value is None or isinstance(value, (int, float, str))


def count_job_states(jobs: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """States with their numbers of jobs, in the order of `sweep status`. `jobs`: rows of jobs.parquet."""
    counts = Counter(job["state"] for job in jobs)
    order = [*(state.value for state in JobState), *counts]
    return [(state, counts[state]) for state in dict.fromkeys(order) if counts[state]]


# Hours.


@dataclass(frozen=True, slots=True)
class PageHours:
    """One line of the table of hours, as text and as parts of the longest bar."""

    model: str
    phase: str
    done: str
    planned: str
    used: str
    wasted: str
    left: str
    bars: tuple[float, float, float]
    """Used, wasted and left, as fractions of the longest line's sum."""


@dataclass(frozen=True, slots=True)
class HoursSection:
    """The hours of a sweep by model and phase; the last line is their sum."""

    unit: str
    lines: Sequence[PageHours]
    remarks: Sequence[str]


def choose_hours_unit(jobs: Sequence[Mapping[str, Any]]) -> str:
    """`a100` where a job is planned on GPUs or used some (null: so many that nobody can convert), else `cpu`."""
    return "a100" if any(job["planned_a100_hours"] or job["used_a100_hours"] != 0 for job in jobs) else "cpu"


def build_hours_section(jobs: Sequence[Mapping[str, Any]], unit: str) -> HoursSection:
    """From rows of jobs.parquet, each job once. `unit`: by `choose_hours_unit`.

    Left is what is planned of jobs that are not done, less what they have used already.
    """
    sums: dict[tuple[str, str], HoursTotal] = {}
    left: defaultdict[tuple[str, str], float] = defaultdict(float)
    for job in jobs:
        in_plan = job["in_plan"] is not False
        place = (job["model"] or "", job["phase"]) if in_plan else LEFT_THE_PLAN
        for key in (place, ("all", "")):
            sums.setdefault(key, HoursTotal()).add_row(job, unit)
            if in_plan and job["state"] != JobState.DONE.value:
                left[key] += max(0.0, (job[f"planned_{unit}_hours"] or 0.0) - (job[f"used_{unit}_hours"] or 0.0))
    order = sorted((key for key in sums if key[1]), key=lambda key: make_table_sort_key(key, jobs))
    order += [LEFT_THE_PLAN] if LEFT_THE_PLAN in sums else []
    longest = max((add_parts(sums[key], left[key]) for key in order), default=0.0) or 1.0
    lines = [build_hours_line(key, sums[key], left[key], longest) for key in order]
    if sums:
        lines.append(build_hours_line(("all", ""), sums["all", ""], left["all", ""], 0.0))
    remarks = Counter(job["hours_remark"] for job in jobs if job["hours_remark"])
    return HoursSection(
        "A100-hours" if unit == "a100" else "core-hours",
        lines,
        [
            f"{NOT_SLURMS} hours of {format_counted(number, 'job')} are not Slurm's: {remark}"
            for remark, number in remarks.items()
        ],
    )


def add_parts(total: HoursTotal, left: float) -> float:
    """The length of a line's bar."""
    return (total.used or 0.0) + (total.wasted or 0.0) + left


def build_hours_line(key: tuple[str, str], total: HoursTotal, left: float, longest: float) -> PageHours:
    """One line; the sum has no bar (`longest` 0)."""
    used, wasted = ("?" if value is None else format_hours(value) for value in (total.used, total.wasted))
    if total.marked:
        used, wasted = (f"{NOT_SLURMS}{value}" if value != NO_HOURS else value for value in (used, wasted))
    parts = (total.used or 0.0, total.wasted or 0.0, left)
    bars = tuple(part / longest for part in parts) if longest else (0.0, 0.0, 0.0)
    return PageHours(
        model=key[0],
        phase=key[1],
        done=f"{total.done:,}/{total.jobs:,}",
        planned=format_hours(total.planned),
        used=used,
        wasted=wasted,
        left=format_hours(left),
        bars=(bars[0], bars[1], bars[2]),
    )


# Provenance.


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a reader needs to repeat the sweep, or to find what it was made from."""

    description: str
    """The sweep file's own; empty if it has none."""
    source: str
    """The sweep file's text; why it cannot be shown, in its place."""
    source_digest: str
    plan_digest: str
    data: Sequence[tuple[str, str, str, str]]
    """Name, address, identity, digest of the content."""
    revisions: Sequence[tuple[str, int]]
    """Revisions of the code with the jobs that ran it."""
    packages: Sequence[tuple[str, str, int]]
    """Package, version, jobs."""
    seeds: str
    version: str


MOST_SEEDS = 40


def read_provenance(stored: StoredSweep, evidence: Iterable[JobEvidence]) -> Provenance:
    """From the stored plan and what the jobs recorded."""
    text, problem = read_source(stored.paths.source)
    revisions: Counter[str] = Counter()
    packages: Counter[tuple[str, str]] = Counter()
    for found in evidence:
        if found.code_revision:
            revisions[found.code_revision] += 1
        versions = (found.result or {}).get("versions")
        if isinstance(versions, dict):
            packages.update((str(name), str(value)) for name, value in versions.items())
    seeds = sort_values({cell.axes.get("seed") for cell in stored.manifest.cells} - {None})
    return Provenance(
        description=find_description(text, stored.paths.source),
        source=text or problem,
        source_digest=digest_text(text) if text else "",
        plan_digest=digest_file(stored.paths.manifest),
        data=list_data(stored.manifest),
        revisions=revisions.most_common(),
        packages=[(name, value, number) for (name, value), number in sorted(packages.items())],
        seeds=", ".join(map(str, seeds[:MOST_SEEDS]))
        + (f" and {len(seeds) - MOST_SEEDS} more" if len(seeds) > MOST_SEEDS else ""),
        version=version("sweep-vlm"),
    )


def read_source(path: Path) -> tuple[str, str]:
    """The sweep file as it was planned, and else why there is none."""
    try:
        with open_to_read(path) as file:
            return file.read().decode("utf-8", "backslashreplace"), ""
    except FileNotFoundError:
        return "", "the store has no copy of the sweep file"


def find_description(text: str, path: Path) -> str:
    """The file's `description`; empty without one, or where the file is no sweep file any more."""
    try:
        data = parse_yaml(text, path).data if text else {}
    except SweepFileError:
        return ""
    found = data.get("description") if isinstance(data, dict) else None
    return found if isinstance(found, str) else ""


def list_data(manifest: Manifest) -> list[tuple[str, str, str, str]]:
    """The data sets of the plan."""
    rows = []
    for name in dict.fromkeys([*manifest.data, *manifest.identities]):
        known = manifest.identities.get(name)
        identity = " ".join(filter(None, (known.name, known.revision))) if known else ""
        rows.append((name, manifest.data.get(name, ""), identity, known.content if known else ""))
    return rows


def digest_text(text: str) -> str:
    """SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open_to_read(path) as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
