"""The gate before jobs are sent: `sweep submit`, `resume` and `tick` pass it, on this machine and on Slurm alike."""

import logging
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from jobs.counted import format_counted
from jobs.job import Job
from jobs.store.results import list_finished_keys
from sweep.content.kept import DataContents
from sweep.errors import InputsError, PlanConflictError
from sweep.kept_answers import KeptAnswers
from sweep.plan.data_identity import ContentChange, find_content_changes
from sweep.preflight.check import check_inputs
from sweep.preflight.problems import InputProblem, SweepFileLines, select_new
from sweep.preflight.uses import collect_uses, map_configs, read_configs
from sweep.stored_sweep import StoredSweep

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GateReport:
    """What stands against sending the wanted jobs that are not done."""

    sweep: str
    problems: tuple[InputProblem, ...]
    """Without those that a user has accepted."""
    lines: tuple[str, ...]
    """One for each problem."""
    remarks: tuple[str, ...] = ()
    """What was not looked at, and why."""
    changes: tuple[ContentChange, ...] = ()
    """Data that are not those that the plan's keys mean. A user cannot accept them: only another plan can."""

    @property
    def conflict(self) -> str:
        """Why the data are not those of the plan, and what to do; empty if they are."""
        if not self.changes:
            return ""
        return (
            f"nothing was sent: {'; '.join(map(str, self.changes))}: not what {self.sweep!r} was planned with; put the "
            "former data back, or plan it again (`sweep plan FILE`)"
        )

    @property
    def advice(self) -> str:
        """What to do next."""
        return (
            f"correct them and plan again, or accept them: `sweep submit {self.sweep} --ignore-data`"
            if any(not problem.setting.startswith("store") for problem in self.problems)
            else f"make room, or go on all the same: `sweep submit {self.sweep} --ignore-data`"
        )

    @property
    def summary(self) -> str:
        """In one line, with the first problem; empty if there is none."""
        if self.changes or not self.problems:
            return self.conflict
        number = format_counted(len(self.problems), "problem")
        return f"nothing was sent: {number} of what the jobs read; {self.lines[0]}; {self.advice}"

    def raise_problems(self) -> None:
        """InputsError with a line for each problem, if there is one."""
        if self.problems:
            number = format_counted(len(self.problems), "problem")
            raise InputsError(
                "\n".join([f"nothing was sent: {number} of what the jobs read", *self.lines, self.advice])
            )

    def raise_conflict(self) -> None:
        """PlanConflictError if data are not those that the plan's keys mean."""
        if self.changes:
            raise PlanConflictError(self.conflict)


# Why: docs/decisions.md, D137, D169
def check_gate(
    stored: StoredSweep, wanted: Collection[str], accepted: Collection[str], *, writes: bool = True
) -> GateReport:
    """Looks at what the wanted jobs that are not done will read.

    `accepted`: names of problems that a user has accepted. `writes`: answers are kept in the store.
    """
    manifest = stored.manifest
    kept, contents = KeptAnswers(stored.store.inspections), DataContents(stored.store)
    jobs = [job for job in manifest.jobs if job.key in wanted]
    open_keys = {job.key for job in jobs} - list_finished_keys(stored.store, jobs)
    changes = find_content_changes(stored.paths, contents, list_read_places(manifest.jobs, open_keys, manifest.data))
    found = check_inputs(stored.store, manifest.jobs, open_keys, manifest.data, kept=kept)
    if writes:
        try:
            kept.save()
            contents.save()
        except OSError as error:
            logger.info("%s: answers are not kept: %s", kept.folder, error)
    problems = select_new(found.problems, accepted)
    places = SweepFileLines.from_file(stored.paths.source) if problems else SweepFileLines(None)
    ordered = places.sort_problems(problems)
    lines = tuple(places.format_problem(problem, "") for problem in ordered)
    return GateReport(manifest.sweep, ordered, lines, found.remarks, changes)


def list_read_places(jobs: Sequence[Job], chosen: AbstractSet[str], data: Mapping[str, str]) -> set[str]:
    """Where the data lie that the `chosen` jobs read. Of a stage that is not ours nothing is known: it may read all."""
    configs = map_configs(jobs)
    if not chosen <= configs.keys():
        return set(data.values())
    return {use.path for use in collect_uses(read_configs(jobs, chosen), data)}
