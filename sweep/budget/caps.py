"""The budgets of a sweep: what may still be sent under them, what is left, and how that is told."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.observation import ClusterState
from jobs.reconcile.decide import AmountRoom
from jobs.reconcile.order import NO_PRIORITIES, sort_jobs
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from sweep.budget.standing import Standing, measure_standing
from sweep.budget.tariff import NOTHING_SPENT, Amount, Tariff
from sweep.kept_limits import KeptLimits
from sweep.plan.manifest import Manifest
from sweep.results.left_jobs import describe_left_hours

CAPS = {"a100_hours": "budget_a100_hours", "core_hours": "budget_core_hours", "money": "budget_money"}
"""Units that have a budget, and the field of the kept limits that holds it."""
OPTIONS = {"a100_hours": "--budget-a100-hours", "core_hours": "--budget-core-hours", "money": "--budget-money"}
WORDS = {"a100_hours": "A100-hours", "core_hours": "core-hours"}
COULD_GO = {JobState.READY, JobState.INTERRUPTED, JobState.WAITING}
THRESHOLDS = (0.8, 1.0)
"""Shares of a budget at which it is told that so much is gone or in flight."""
ROUNDING = 1e-9
"""Of a budget: sums of floats differ by less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caps:
    """The budgets that hold, by unit; and what they are measured with."""

    amounts: Mapping[str, float]
    tariff: Tariff
    problem: str = ""
    """Why the budget in money cannot be held; empty if it can."""

    @property
    def currency(self) -> str:
        return self.tariff.prices.currency if self.tariff.prices is not None else ""

    def name_unit(self, unit: str) -> str:
        """The unit for people: for money the currency."""
        return WORDS.get(unit) or self.currency


def read_caps(manifest: Manifest, kept: KeptLimits) -> Caps:
    """The budgets among the kept limits, with the plan's prices."""
    amounts = {unit: value for unit, name in CAPS.items() if (value := getattr(kept, name)) is not None}
    prices, problem = manifest.prices, ""
    if "money" in amounts and (prices is None or prices.currency != kept.budget_currency):
        there = f"are in {prices.currency}" if prices is not None else "are missing"
        problem = (
            f"nothing was sent: the budget is in {kept.budget_currency}, and the plan's prices {there}, so nobody can "
            f"hold it; give the sweep file its `prices` again and plan it, or set the budget anew: "
            f"`sweep limits {manifest.sweep} --budget-money X|none`"
        )
    return Caps(amounts=amounts, tariff=Tariff(prices), problem=problem)


@dataclass(slots=True)
class BudgetWatch:
    """Measures one sweep's budgets, round by round."""

    sweep: str
    caps: Caps
    clock: Clock = SYSTEM_CLOCK
    standing: Standing | None = None
    """As it was last measured."""

    def measure(self, snapshot: SweepSnapshot) -> Standing:
        """Measures anew."""
        self.standing = measure_standing(snapshot, self.caps.tariff, self.clock.now())
        return self.standing

    def measure_room(self, snapshot: SweepSnapshot, priorities: Mapping[str, int] = NO_PRIORITIES) -> AmountRoom:
        """What may still be sent under the budgets, and which queued jobs are to leave the queue as what runs has
        taken more than was planned: the last in order first (`jobs.reconcile.order`)."""
        standing = self.measure(snapshot)
        spent, in_flight = standing.spent, standing.in_flight
        left = {
            unit: cap * (1 + ROUNDING) - add_unit(spent, in_flight, unit) for unit, cap in self.caps.amounts.items()
        }
        return AmountRoom(
            left={OPTIONS[unit]: amount for unit, amount in left.items()},
            charges={
                key: {OPTIONS[unit]: count_unknown(getattr(each.ahead, unit)) for unit in left}
                for key, each in standing.jobs.items()
                if each.in_plan and each.ahead is not NOTHING_SPENT
            },
            withdrawn=select_excess(snapshot, standing, left, priorities),
        )

    def find_problem(self, standing: Standing) -> str:
        """Why nothing may be sent, as nobody can say whether the budget holds; empty if it can be said."""
        if self.caps.problem:
            return self.caps.problem
        unit = next((unit for unit in self.caps.amounts if is_unknown(standing, unit)), "")
        if not unit:
            return ""
        unknown = [
            each
            for each in standing.jobs.values()
            if getattr(each.spent, unit) is None or getattr(each.in_flight, unit) is None
        ]
        kinds = ", ".join(sorted({each.gpu_kinds or each.job.resources.gpu_type or "cores" for each in unknown}))
        figure = "price" if unit == "money" else "factor"
        return (
            f"nothing was sent: the {self.caps.name_unit(unit)} of {format_counted(len(unknown), 'job')} are not "
            f"known, as there is no {figure} for {kinds}, and so nobody can hold the budget; lift it: "
            f"`sweep limits {self.sweep} {OPTIONS[unit]} none`"
        )

    def build_rows(
        self,
        snapshot: SweepSnapshot,
        held: Mapping[str, Sequence[str]] | None = None,
        *,
        wanted: Collection[str] | None = None,
    ) -> list[dict[str, Any]]:
        """Section `budget` of docs/json.md, a row for each budget. `held`: keys of jobs that a round held back, by
        option; None: nobody has asked, and those are told that could go and have no room. `wanted`: keys that may be
        sent; None: all."""
        if not self.caps.amounts:
            return []
        standing = self.measure(snapshot)
        could_go = {
            key
            for key, status in snapshot.statuses.items()
            if status.state in COULD_GO and (wanted is None or key in wanted)
        }
        return [self._build_row(standing, unit, held, could_go) for unit in self.caps.amounts]

    def _build_row(
        self, standing: Standing, unit: str, held: Mapping[str, Sequence[str]] | None, could_go: Collection[str]
    ) -> dict[str, Any]:
        cap = self.caps.amounts[unit]
        spent, in_flight = getattr(standing.spent, unit), getattr(standing.in_flight, unit)
        if self.caps.problem and unit == "money":
            spent = in_flight = None
        known = spent is not None and in_flight is not None
        left = cap - spent - in_flight if known else None
        waiting = {
            key: getattr(each.ahead, unit) for key, each in standing.jobs.items() if each.ahead is not NOTHING_SPENT
        }
        keys = (
            [*held.get(OPTIONS[unit], ())]
            if held is not None
            else [
                key
                for key, charge in waiting.items()
                if key in could_go and (left is None or charge is None or charge > left + cap * ROUNDING)
            ]
        )
        charges = [waiting.get(key) for key in keys]
        share = (spent + in_flight) / cap if known and cap else None
        return {
            "unit": unit,
            "word": self.caps.name_unit(unit),
            "option": OPTIONS[unit],
            "budget": cap,
            "spent": spent,
            "in_flight": in_flight,
            "left": left,
            "share": share,
            "threshold": max(
                (each for each in THRESHOLDS if share is not None and share >= each - ROUNDING), default=None
            ),
            "held_back": len(keys),
            "least_held_back": min((each for each in charges if each), default=None),
            "jobs_in_flight": sum(each.is_in_flight for each in standing.jobs.values()),
            "needed": add_expected(standing, unit),
            "dropped": describe_left_hours(standing.left),
            "remarks": sorted({each.remark for each in standing.jobs.values() if each.remark}),
        }


def count_unknown(amount: float | None) -> float:
    """Without end where nobody knows it: no budget has room for such a job."""
    return float("inf") if amount is None else amount


def add_unit(spent: Amount, in_flight: Amount, unit: str) -> float:
    """What counts against a budget; infinite where nobody knows it."""
    one, another = getattr(spent, unit), getattr(in_flight, unit)
    return float("inf") if one is None or another is None else float(one + another)


def add_expected(standing: Standing, unit: str) -> float | None:
    """What all that is not done is estimated to take."""
    total = 0.0
    for each in standing.jobs.values():
        amount = getattr(each.expected, unit)
        if amount is None:
            return None
        total += amount
    return total


def is_unknown(standing: Standing, unit: str) -> bool:
    """Whether an amount in that unit is."""
    return getattr(standing.spent, unit) is None or getattr(standing.in_flight, unit) is None


# Why: docs/decisions.md, D231
def select_excess(
    snapshot: SweepSnapshot, standing: Standing, left: Mapping[str, float], priorities: Mapping[str, int]
) -> list[str]:
    """Keys of queued jobs, the last in order first, without which what is spent and in flight is within the budgets.
    None where it is so already, or where somebody does not know it."""
    over = {unit: -amount for unit, amount in left.items() if 0 > amount > float("-inf")}
    found = []
    done = {job.key for job in snapshot.select_in_state({JobState.DONE})}
    for job in reversed(sort_jobs(snapshot.jobs, done, priorities)):
        if not any(amount > 0 for amount in over.values()):
            break
        seen = snapshot.observed.get(job.key)
        if seen is None or seen.state is not ClusterState.QUEUED or snapshot.runs[job.key].live:
            continue
        charge = standing.jobs[job.key].in_flight
        if any(amount > 0 and (getattr(charge, unit) or 0.0) > 0 for unit, amount in over.items()):
            found.append(job.key)
            over = {unit: amount - (getattr(charge, unit) or 0.0) for unit, amount in over.items()}
    return found


def format_budget_line(row: Mapping[str, Any], sweep: str) -> str:
    """One budget for people: the figure, what is spent, in flight and left, what it holds back, and what to type."""
    word = row["word"]
    if row["left"] is None:
        return f"budget of {row['budget']:,.15g} {word}: what is spent is not known"
    text = (
        f"budget of {format_amount(row['budget'])} {word}: {format_amount(row['spent'])} spent"
        f"{' (' + row['dropped'] + ')' if row['dropped'] else ''}, {format_amount(row['in_flight'])} in flight, "
        f"{format_amount(max(0.0, row['left']))} left"
    )
    if row["left"] < 0:
        text += f", which is {format_amount(-row['left'])} too much"
    if row["held_back"]:
        least = row["least_held_back"]
        counts = "" if least is None else f", as the least of them may take {format_amount(least)}"
        text += f"; {format_counted(row['held_back'], 'job is', 'jobs are')} held back{counts}"
        text += f"; raise it: `sweep limits {sweep} {row['option']} X`"
    elif row["threshold"]:
        text += f"; {row['share']:.0%} of it are gone or in flight"
    if row["remarks"]:
        text += f"; not all of it is Slurm's: {'; '.join(row['remarks'])}"
    return text


def format_amount(value: float) -> str:
    """Two figures below 0.01, two decimals below 10, one below 10,000."""
    if 0 < value < 0.01:
        return f"{value:.2g}"
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 10_000 else f"{value:,.0f}"
