"""What the store shows of each job of a sweep, as the tables need it: read once, by the same code as `sweep status`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.facts import Evidence
from jobs.job import Job
from jobs.reconcile.attempts import Outcome, finished_outcomes
from jobs.reconcile.executions import Ending
from jobs.reconcile.snapshot import Picture
from jobs.reconcile.state import State
from jobs.store.records import read_record
from sweep.results.cost import Costs, costs_of
from sweep.results.values import number


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvidence:
    """One job."""

    job: Job
    state: State
    result: Mapping[str, Any] | None
    """A valid result.json."""
    outcomes: Sequence[Outcome]
    """Attempts, and executions that failed before one began, oldest first."""
    costs: Costs
    code_revision: str
    """Empty if it is not known."""

    @property
    def done(self) -> bool:
        return self.state is State.DONE

    @property
    def finished_at(self) -> float | None:
        """Unix seconds; of the result, else of the last attempt's end; None while it runs or before it began."""
        if self.result is not None:
            return number(self.result.get("finished_at"))
        end = self.outcomes[-1].end if self.outcomes else None
        return end.ended_at if end else None


def gather(picture: Picture) -> dict[str, JobEvidence]:
    """By key, in the order of the plan: parents before children. Costs are by the picture's endings."""
    return {
        job.key: job_evidence(
            job, picture.statuses[job.key].state, picture.evidence[job.key], picture.endings.get(job.key, ())
        )
        for job in picture.jobs
    }


def job_evidence(job: Job, state: State, found: Evidence, endings: Sequence[Ending] = ()) -> JobEvidence:
    """The rest of one job's evidence: attempts (those of a finished job too), cost, code."""
    begun = found.result is not None or bool(found.outcomes)
    outcomes = found.outcomes if found.result is None else finished_outcomes(found.run, found.result, endings)
    code = (read_record(found.run.job) or {}).get("code") if begun else None
    return JobEvidence(
        job=job,
        state=state,
        result=found.result,
        outcomes=outcomes,
        costs=costs_of(job, outcomes, endings),
        code_revision=str(code.get("revision") or "") if isinstance(code, dict) else "",
    )
