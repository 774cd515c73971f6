"""Looks at the inputs of a plan that was just made."""

from pathlib import Path

from jobs.store.paths import Store
from sweep.content.kept import list_problem_lines
from sweep.errors import StoreError
from sweep.kept_answers import KeptAnswers
from sweep.plan.new_plan import NewPlan, find_absent_data, format_uncounted
from sweep.preflight.check import Preflight, check_inputs
from sweep.preflight.problems import SweepFileLines
from sweep.spec.yaml_source import parse_yaml


def inspect_planned_inputs(planned: NewPlan, store: Store, done: frozenset[str]) -> Preflight:
    """What is wrong with the inputs of the jobs that are not done; answers are kept in the store."""
    jobs, kept = planned.manifest.jobs, KeptAnswers(store.inspections)
    found = check_inputs(store, jobs, {job.key for job in jobs} - done, planned.manifest.data, kept=kept)
    try:
        kept.save()
    except OSError as error:
        raise StoreError(f"{kept.folder}: cannot be written: {error.strerror}") from None
    return found


def list_input_remarks(planned: NewPlan, found: Preflight, file: Path) -> list[str]:
    """A line for each problem of an input, then what was not looked at."""
    places = SweepFileLines(parse_yaml(planned.source_text, file) if found.problems else None)
    data = planned.manifest.data
    told = {name for name in data if any(f"data.{name}" == problem.setting for problem in found.problems)}
    told_paths = {data[name] for name in told}
    uncounted = planned.counts.problems if planned.counts is not None else {}
    unknown = planned.contents.problems if planned.contents is not None else {}
    return [
        *(places.format_problem(problem, str(file)) for problem in places.sort_problems(found.problems)),
        *found.remarks,
        *list_problem_lines({path: why for path, why in unknown.items() if path not in told_paths}),
        *format_uncounted({path: why for path, why in uncounted.items() if path not in told_paths}),
        *find_absent_data(planned.manifest, told),
    ]
