"""The report of `sweep costs`: what phases, blocks and cells have cost and will (docs/json.md, section `costs`)."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.reconcile.state import JobState
from sweep.budget.caps import BudgetWatch, format_budget_line, read_caps
from sweep.budget.standing import JobStanding
from sweep.budget.tariff import NOTHING_SPENT, Amount
from sweep.catalog.power import load_power_table
from sweep.kept_limits import find_wanted_keys, read_limits
from sweep.phases import PHASES
from sweep.plan.manifest import Manifest
from sweep.stored_sweep import StoredSweep
from sweep.text_format import format_columns, format_hours, format_labelled_lines

NO_BLOCK = "(no block)"


@dataclass(slots=True)
class CostRow:
    """A sum over jobs, each with its part."""

    jobs: int = 0
    done: int = 0
    spent: Amount = NOTHING_SPENT
    wasted: Amount = NOTHING_SPENT
    in_flight: Amount = NOTHING_SPENT
    """By the estimate of what the jobs in the cluster still take."""
    ahead: Amount = NOTHING_SPENT
    """Likewise, of those that are still to be sent."""

    def add(self, standing: JobStanding, part: float = 1.0) -> None:
        """Takes in a part of a job."""
        self.jobs += 1
        self.done += standing.state is JobState.DONE
        self.spent = self.spent + scale_amount(standing.spent, part)
        self.wasted = self.wasted + scale_amount(standing.wasted, part)
        expected = scale_amount(standing.expected, part)
        if standing.is_in_flight:
            self.in_flight = self.in_flight + expected
        else:
            self.ahead = self.ahead + expected

    def build_record(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def scale_amount(amount: Amount, part: float) -> Amount:
    """A part of it."""
    return amount if part == 1.0 or amount is NOTHING_SPENT else amount.multiply(part)


def load_costs(stored: StoredSweep, *, fresh: bool = False, clock: Clock = SYSTEM_CLOCK) -> dict[str, Any]:
    """The whole report as things stand now. `fresh`: Slurm is asked even if it answered less than a minute ago."""
    manifest = stored.manifest
    snapshot = stored.load_snapshot(recent_answers=not fresh, whole_account=True, trusts_checked=True)
    kept = read_limits(stored.paths.limits)
    watch = BudgetWatch(manifest.sweep, read_caps(manifest, kept), clock)
    budget = watch.build_rows(snapshot, wanted=find_wanted_keys(stored, kept))
    standing = watch.standing if watch.standing is not None else watch.measure(snapshot)
    planned = {key: each for key, each in standing.jobs.items() if each.in_plan}
    gone = [each for each in standing.jobs.values() if not each.in_plan and each.spent != NOTHING_SPENT]
    users = map_jobs_to_cells(manifest)
    blocks = {cell.name: cell.block or NO_BLOCK for cell in manifest.cells}
    cells: dict[str, CostRow] = {cell.name: CostRow() for cell in manifest.cells}
    by_block: dict[str, CostRow] = {name: CostRow() for name in blocks.values()}
    by_phase: dict[str, CostRow] = {}
    for key, each in planned.items():
        by_phase.setdefault(each.job.phase, CostRow()).add(each)
        of_job = users.get(key, ())
        for name in of_job:
            cells[name].add(each, 1 / len(of_job))
        for block in dict.fromkeys(blocks[name] for name in of_job):
            by_block[block].add(each, sum(blocks[name] == block for name in of_job) / len(of_job))
    return {
        "format": 1,
        "sweep": manifest.sweep,
        "now": clock.now(),
        "currency": watch.caps.currency,
        "price_source": manifest.prices.source if manifest.prices is not None else "",
        "total": sum_rows([*planned.values(), *gone]).build_record(),
        "left_plan": sum_rows(gone).build_record(),
        "phases": {name: by_phase[name].build_record() for name in (*PHASES, *by_phase) if name in by_phase},
        "blocks": {name: row.build_record() for name, row in by_block.items()},
        "cells": {name: row.build_record() for name, row in cells.items()},
        "budget": budget,
        "remarks": sorted({each.remark for each in standing.jobs.values() if each.remark}),
    }


def sum_rows(standings: Iterable[JobStanding]) -> CostRow:
    """All of them together."""
    row = CostRow()
    for each in standings:
        row.add(each)
    return row


def map_jobs_to_cells(manifest: Manifest) -> dict[str, list[str]]:
    """Names of the cells that need each job, by its key; a cell's own jobs and all above them."""
    by_key = {job.key: job for job in manifest.jobs}
    needed: dict[str, dict[str, None]] = {job.key: dict.fromkeys(job.cells) for job in manifest.jobs}
    for key in reversed(by_key):
        for parent in by_key[key].parents:
            needed[parent] |= needed[key]
    known = {cell.name for cell in manifest.cells}
    return {key: [name for name in names if name in known] for key, names in needed.items()}


def choose_unit(report: Mapping[str, Any]) -> tuple[str, str]:
    """The unit of the tables and its name: A100-hours, or core-hours of a sweep without GPUs."""
    total = report["total"]
    on_gpus = any(total[part]["gpu_hours"] for part in ("spent", "in_flight", "ahead"))
    return ("a100_hours", "A100-hours") if on_gpus else ("core_hours", "core-hours")


def format_costs(report: Mapping[str, Any], cells: Collection[str] = (), width: int | None = None) -> str:
    """The report for people, without a newline at its end. `cells`: names of those that are listed."""
    unit, word = choose_unit(report)
    currency = report["currency"]
    head = ["", "jobs", "done", word, "wasted", "in flight", "ahead", "in all"]
    head += [currency, "in all"] if currency else []
    head.append("~kWh in all")
    rows, rules = [head], [1]
    groups = [report["phases"], report["blocks"] if len(report["blocks"]) > 1 else {}]
    groups.append({name: row for name, row in report["cells"].items() if name in set(cells)})
    for group in groups:
        if group:
            rules.append(len(rows))
            rows += [format_cost_row(name, row, unit, with_money=bool(currency)) for name, row in group.items()]
    rules.append(len(rows))
    if report["left_plan"]["jobs"]:
        rows.append(format_cost_row("left the plan", report["left_plan"], unit, with_money=bool(currency)))
    rows.append(format_cost_row("all", report["total"], unit, with_money=bool(currency)))
    lines = format_columns(rows, rules=sorted(set(rules)), width=width)
    labelled = [("budget", format_budget_line(row, report["sweep"])) for row in report["budget"]]
    if currency:
        labelled.append(("prices", report["price_source"]))
    labelled.append(("energy", describe_energy_basis()))
    labelled += [("hours", f"not all are Slurm's: {remark}") for remark in report["remarks"]]
    return "\n".join(
        [f"{report['sweep']}: what it has cost and will cost", "", *lines, "", *format_labelled_lines(labelled)]
    )


def format_cost_row(name: str, row: Mapping[str, Any], unit: str, *, with_money: bool) -> list[str]:
    """One line of the table."""
    spent, wasted = row["spent"][unit], row["wasted"][unit]
    cells = [name, f"{row['jobs']:,}", f"{row['done']:,}", show_hours(spent), format_share(wasted, spent)]
    cells += [show_hours(row["in_flight"][unit]), show_hours(row["ahead"][unit]), show_hours(add_parts(row, unit))]
    if with_money:
        cells += [show_money(row["spent"]["money"]), show_money(add_parts(row, "money"))]
    return [*cells, show_hours(add_parts(row, "kwh"))]


def add_parts(row: Mapping[str, Any], unit: str) -> float | None:
    """Spent, in flight and ahead together; None where a part is not known."""
    parts: Sequence[float | None] = [row[part][unit] for part in ("spent", "in_flight", "ahead")]
    return None if None in parts else sum(part for part in parts if part is not None)


def show_hours(value: float | None) -> str:
    """`?` for what nobody knows."""
    return "?" if value is None else format_hours(value)


def show_money(value: float | None) -> str:
    """With two decimals."""
    return "?" if value is None else f"{value:,.2f}"


def format_share(part: float | None, whole: float | None) -> str:
    """In percent of what is spent."""
    return "?" if part is None or whole is None else f"{part / whole:.0%}" if whole else "-"


def describe_energy_basis() -> str:
    """What the kWh rest on."""
    power = load_power_table()
    loads = ", ".join(f"{phase} {load:.0%}" for phase, load in power.loads.items())
    return (
        f"an estimate, and not measured: by what GPUs and cores draw at the load of each phase ({loads}), "
        f"for {format_counted(len(power.gpus), 'GPU type')} and cores (sweep/catalog/power.yaml)"
    )
