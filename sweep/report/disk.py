"""`sweep gc`: what a sweep's runs hold, what goes and what stays, as text and as JSON (docs/json.md, section `gc`)."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jobs.counted import format_counted
from jobs.job import Job
from jobs.set_aside import TrashItem, TrashRecord
from sweep.disk.collect import CollectReport, group_items
from sweep.disk.inventory import FileKind
from sweep.disk.rules import Holding
from sweep.disk.survey import DiskSurvey
from sweep.phases import PHASES
from sweep.report.history import format_time
from sweep.text_format import format_bytes, format_columns, format_hours

UNPLANNED = "(no plan)"
MOST_REASONS = 3


@dataclass(slots=True)
class KindTotals:
    """Of one kind of file in one phase."""

    runs: set[str] = field(default_factory=set)
    bytes: int = 0
    inodes: int = 0
    going: set[str] = field(default_factory=set)
    """Keys of the runs that give some."""
    going_bytes: int = 0
    going_inodes: int = 0
    stays: Counter[str] = field(default_factory=Counter)
    """Why the rest stays, with the number of files or folders."""

    def add(self, holding: Holding) -> None:
        self.runs.add(holding.key)
        self.bytes += holding.files.bytes
        self.inodes += holding.files.inodes
        if holding.goes:
            self.going.add(holding.key)
            self.going_bytes += holding.files.bytes
            self.going_inodes += holding.files.inodes
        else:
            self.stays[holding.why] += 1


def sum_by_kind(holdings: Sequence[Holding]) -> dict[tuple[FileKind, str], KindTotals]:
    """Totals by kind and phase, in the order of both."""
    found: dict[tuple[FileKind, str], KindTotals] = defaultdict(KindTotals)
    for holding in holdings:
        found[holding.files.kind, holding.phase].add(holding)
    kinds, phases = [*FileKind], [*PHASES, ""]
    return {
        place: found[place] for place in sorted(found, key=lambda each: (kinds.index(each[0]), phases.index(each[1])))
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeCost:
    """What the plan estimates for making jobs once more."""

    jobs: int = 0
    a100_hours: float = 0.0
    core_hours: float = 0.0
    """Of jobs without a GPU."""
    unknown: int = 0
    """Jobs that no plan names."""

    def convert_to_dict(self) -> dict[str, Any]:
        return {
            "jobs": self.jobs,
            "a100_hours": self.a100_hours,
            "core_hours": self.core_hours,
            "unknown": self.unknown,
        }

    def __str__(self) -> str:
        parts = [f"{format_hours(self.a100_hours)} A100-h"] if self.a100_hours else []
        parts += [f"{format_hours(self.core_hours)} core-h"] if self.core_hours else []
        parts += [f"{self.unknown} unplanned"] if self.unknown else []
        return ", ".join(parts) or "-"


def price_again(keys: Sequence[str], jobs: Mapping[str, Job]) -> MakeCost:
    """Of finished jobs whose files go: each has to run again, if something ever reads them."""
    known = [jobs[key] for key in keys if key in jobs]
    return MakeCost(
        jobs=len(known),
        a100_hours=sum(job.estimate.a100_hours for job in known),
        core_hours=sum(job.estimate.cpu_hours for job in known),
        unknown=len(keys) - len(known),
    )


COSTLESS = {FileKind.OLDER, FileKind.UNFINISHED}
"""Nothing has to be made again for them."""


def build_gc_json(survey: DiskSurvey, holdings: Sequence[Holding], trash: Sequence[TrashRecord]) -> dict[str, Any]:
    """Of a dry run."""
    jobs = survey.index_jobs()
    rows = [
        {
            "kind": kind.value,
            "phase": phase,
            "runs": len(each.runs),
            "bytes": each.bytes,
            "inodes": each.inodes,
            "goes": {
                "runs": len(each.going),
                "bytes": each.going_bytes,
                "inodes": each.going_inodes,
                "make_again": price_again([] if kind in COSTLESS else sorted(each.going), jobs).convert_to_dict(),
            },
            "stays_because": dict(each.stays.most_common()),
        }
        for (kind, phase), each in sum_by_kind(holdings).items()
    ]
    lost = sorted({each.key for each in holdings if each.goes and each.files.kind not in COSTLESS})
    return {
        "format": 1,
        "sweep": survey.sweep,
        "kinds": rows,
        "goes": {
            "runs": len({each.key for each in holdings if each.goes}),
            "bytes": sum(each.files.bytes for each in holdings if each.goes),
            "inodes": sum(each.files.inodes for each in holdings if each.goes),
            "make_again": price_again(lost, jobs).convert_to_dict(),
        },
        "items": [build_item_json(item) for item in group_items(holdings)],
        "unplanned": build_unplanned_json(holdings),
        "features": {"bytes": survey.features.bytes, "inodes": survey.features.inodes} if survey.features else None,
        "trash": [build_trash_json(record) for record in trash],
    }


def build_item_json(item: TrashItem) -> dict[str, Any]:
    """A run that gives something."""
    return {
        "stage": item.stage,
        "key": item.key,
        "phase": item.phase,
        "bytes": item.bytes,
        "inodes": item.inodes,
        "paths": {name: {"bytes": each.bytes, "inodes": each.inodes} for name, each in item.paths.items()},
    }


def build_unplanned_json(holdings: Sequence[Holding]) -> dict[str, Any]:
    """Runs that no plan of the store names."""
    found = [each for each in holdings if not each.planned]
    return {
        "runs": sorted({f"{each.stage}/{each.key}" for each in found}),
        "bytes": sum(each.files.bytes for each in found),
        "inodes": sum(each.files.inodes for each in found),
    }


def build_trash_json(record: TrashRecord) -> dict[str, Any]:
    """A folder of the trash."""
    return {
        "id": record.id,
        "sweep": record.sweep,
        "by": record.by,
        "set_aside_at": record.set_aside_at,
        "runs": len(record.items),
        "bytes": sum(item.bytes for item in record.items),
        "inodes": sum(item.inodes for item in record.items),
    }


def build_done_json(sweep: str, action: str, reports: Sequence[CollectReport]) -> dict[str, Any]:
    """Of what was done. `action`: set_aside, restore or remove."""
    return {
        "format": 1,
        "sweep": sweep,
        "action": action,
        "ids": [report.id for report in reports if report.id],
        "bytes": sum(report.bytes for report in reports),
        "inodes": sum(report.inodes for report in reports),
        "items": [build_item_json(item) for report in reports for item in report.moved],
        "kept": [build_item_json(item) for report in reports for item in report.kept],
    }


def format_gc_report(report: Mapping[str, Any], *, width: int | None = None) -> str:
    """The table of a dry run, with what stays in its way."""
    rows = [["kind", "phase", "runs", "inodes", "size", "go", "inodes", "size", "to make again"]]
    for row in report["kinds"]:
        goes = row["goes"]
        moves = [str(goes["runs"]), f"{goes['inodes']:,}", format_bytes(goes["bytes"])] if goes["runs"] else ["-"] * 3
        rows.append(
            [
                row["kind"],
                row["phase"] or UNPLANNED,
                str(row["runs"]),
                f"{row['inodes']:,}",
                format_bytes(row["bytes"]),
                *moves,
                str(MakeCost(**goes["make_again"])),
            ]
        )
    total = report["goes"]
    lines = format_columns(rows, left=2, rules=[1], width=width) if len(rows) > 1 else ["no job has left a file yet"]
    if report["features"]:
        held = f"{format_bytes(report['features']['bytes'])} in {report['features']['inodes']:,} inodes"
        lines += ["", f"features of frozen encoders, for all sweeps of the store: {held}; they stay"]
    if total["runs"]:
        lines += [
            "",
            f"{format_bytes(total['bytes'])} in {total['inodes']:,} inodes of {format_counted(total['runs'], 'run')} "
            f"may go; to make them again: {MakeCost(**total['make_again'])}",
        ]
    else:
        lines += ["", "nothing may go: all that is there is needed, or promised by `keep` of the sweep file"]
    unplanned = report["unplanned"]
    if unplanned["runs"]:
        lines.append(
            f"{format_counted(len(unplanned['runs']), 'run that no plan names', 'runs that no plan names')}: "
            f"{format_bytes(unplanned['bytes'])} in {unplanned['inodes']:,} inodes"
        )
    lines += [format_trash_line(each) for each in report["trash"]]
    return "\n".join(lines)


def format_trash_line(trash: Mapping[str, Any]) -> str:
    """`set aside as 20261130-...: 2.0 GiB of 3 runs of sweep paper, by ann, 2026-11-30 12:00 UTC`."""
    return (
        f"set aside as {trash['id']}: {format_bytes(trash['bytes'])} of {format_counted(trash['runs'], 'run')} of "
        f"sweep {trash['sweep']}, by {trash['by']}, {format_time(trash['set_aside_at'])}"
    )


DONE_WORDS = {"set_aside": "set aside", "restore": "brought back", "remove": "removed"}


def format_done_report(done: Mapping[str, Any]) -> str:
    """What was done, in a line; and what stayed."""
    runs = format_counted(len(done["items"]), "run")
    ids = f" ({', '.join(done['ids'])})" if done["ids"] else ""
    what = f"{format_bytes(done['bytes'])} in {done['inodes']:,} inodes of {runs}" if done["items"] else "nothing"
    lines = [f"{DONE_WORDS[done['action']]}{ids}: {what}"]
    if done["kept"]:
        stayed = "stay where they are" if done["action"] == "restore" else "are needed by now, and stay in their runs"
        lines.append(f"files of {format_counted(len(done['kept']), 'run')} {stayed}")
    return "\n".join(lines)
