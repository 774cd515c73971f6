"""What the calls answer: how a sweep stands, and what a submission did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.printable import escape_unprintable
from sweep.interface.html import render_preformatted
from sweep.report.status import format_status
from sweep.submit.report import format_outcome_line

OVER = ("failed", "cancelled", "blocked", "unknown")
"""States of jobs that nothing but a person, or a job before them, brings further."""


@dataclass(frozen=True, slots=True, repr=False)
class SweepStatus:
    """How a sweep stands: the report of `sweep status`."""

    record: Mapping[str, Any]
    """As `sweep status --json` has it (docs/json.md)."""

    @property
    def states(self) -> Mapping[str, int]:
        """Jobs by state; every state is there."""
        states: Mapping[str, int] = self.record["states"]
        return states

    @property
    def phases(self) -> Mapping[str, Mapping[str, int]]:
        """The same by phase."""
        phases: Mapping[str, Mapping[str, int]] = self.record["phases"]
        return phases

    @property
    def jobs(self) -> int:
        return int(self.record["jobs"])

    @property
    def done(self) -> int:
        return self.states["done"]

    @property
    def is_complete(self) -> bool:
        """Whether all jobs are done."""
        return self.done == self.jobs

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on without a person: each job is done, or has failed, or waits for one that has, or is
        of a broken shape."""
        waits = int(self.record.get("waits_for_release", 0))
        return self.done + waits + sum(self.states.get(state, 0) for state in OVER) == self.jobs

    @property
    def running(self) -> Sequence[Mapping[str, Any]]:
        """A row for each running job."""
        rows: Sequence[Mapping[str, Any]] = self.record["running"]
        return rows

    @property
    def trouble(self) -> Sequence[Mapping[str, Any]]:
        """A row for each job that has failed or was interrupted, with its failure and what to do."""
        rows: Sequence[Mapping[str, Any]] = self.record["trouble"]
        return rows

    @property
    def seconds_left(self) -> float | None:
        """None where nothing tells."""
        left: float | None = self.record["eta"]["seconds"]
        return left

    def __str__(self) -> str:
        return escape_unprintable(format_status(self.record, show_all=False))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return render_preformatted(str(self))


@dataclass(frozen=True, slots=True, repr=False)
class SubmitReport:
    """What a submission did."""

    record: Mapping[str, Any]
    """As `sweep submit --json` has it (docs/json.md)."""
    remarks: tuple[str, ...] = ()
    """What to know besides, a line each."""

    @property
    def states(self) -> Mapping[str, int]:
        """The submitted jobs by state."""
        states: Mapping[str, int] = self.record["states"]
        return states

    @property
    def is_complete(self) -> bool:
        """Whether all of them are done."""
        return bool(self.record["complete"])

    @property
    def problem(self) -> str:
        """Why nothing more was started or sent; empty if everything that could be was."""
        return str(self.record["problem"])

    def __str__(self) -> str:
        problem = [f"stopped: {self.problem}"] if self.problem else []
        return escape_unprintable("\n".join([format_outcome_line(dict(self.record)), *problem, *self.remarks]))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return render_preformatted(str(self))
