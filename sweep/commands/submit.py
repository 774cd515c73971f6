"""`sweep submit NAME`: runs here, or sends to Slurm, the jobs that are missing, and only those."""

import argparse
import logging
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from sweep.arguments import parse_amount, parse_count, parse_positive_int
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from collections.abc import Collection

    from sweep.kept_limits import KeptLimits
    from sweep.stored_sweep import StoredSweep

logger = logging.getLogger(__name__)

BACKENDS = ("local", "slurm")


@dataclass(frozen=True, kw_only=True)
class SlurmSubmitOptions(CommonOptions):
    """What `sweep submit` and `sweep tick` both were given for a submission to Slurm."""

    name: str
    only: tuple[str, ...]
    """Names of cells or keys of jobs; empty: all of the sweep."""
    max_queued: int | None
    """Jobs of this sweep in Slurm's queue at once."""
    budget_a100_hours: float | None
    pace_seconds: float | None
    """Between two sbatch calls; None: the default of `SlurmTimeouts`."""
    as_json: bool
    fresh: bool
    """Ask the cluster for its configuration and limits again."""
    dry_run: bool = False
    scripts: bool = False
    """With `dry_run`: print what sbatch would be given."""


@dataclass(frozen=True, kw_only=True)
class SubmitOptions(SlurmSubmitOptions):
    """What `sweep submit` was given."""

    backend: str | None
    """One of `BACKENDS`; None: that of the sweep file."""
    cpus: int | None
    """Cores of this machine that jobs may use at once; None: all. On Slurm of no meaning."""
    gpus: int | None
    """GPUs of this machine, likewise."""
    ignore_data: bool
    """Accept the problems of inputs that are told now."""


OPTIONS = SubmitOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument("--backend", choices=BACKENDS, help="where it runs (default: as the sweep file says)")
    parser.add_argument("--only", nargs="+", default=[], metavar="CELL", help="these cells or jobs, and what they need")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done first, and do nothing")
    parser.add_argument(
        "--scripts",
        action="store_true",
        help="with --dry-run on Slurm: print each batch script and sbatch's arguments as they would be sent",
    )
    parser.add_argument(
        "--ignore-data",
        action="store_true",
        help="go on although inputs are missing here or do not fit; what is told now is accepted from now on",
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the outcome as JSON (docs/json.md)")
    here = parser.add_argument_group("on this machine")
    here.add_argument(
        "--cpus", type=parse_positive_int, metavar="N", help="CPU cores that jobs may use at once (default: all)"
    )
    here.add_argument("--gpus", type=parse_count, metavar="N", help="GPUs that jobs may use at once (default: all)")
    slurm = parser.add_argument_group("on Slurm")
    add_slurm_arguments(slurm)
    parser.epilog = (
        "example:\n  sweep submit demo --cpus 2\n  sweep submit demo --only m5-b60-i10 --dry-run\n"
        "  sweep submit paper --max-queued 500 --budget-a100-hours 20000\n"
        "  sweep submit paper --dry-run --scripts\n"
        "On Slurm, what is given here lasts: later rounds obey it until `sweep limits NAME` changes it.\n"
        "Here: Ctrl-C once: running jobs save and stop; twice: they are killed. Run it again to go on.\n"
        "On Slurm it sends what the queue takes and ends; `sweep tick` from cron does the rest (docs/slurm.md)."
    )


def add_slurm_arguments(parser: argparse._ActionsContainer) -> None:
    """What `sweep submit` and `sweep tick` have in common."""
    parser.add_argument(
        "--max-queued", type=parse_positive_int, metavar="N", help="jobs of this sweep in the queue at once"
    )
    parser.add_argument(
        "--budget-a100-hours",
        type=parse_amount,
        metavar="X",
        help="refuse to send anything if what is spent and what is left to do come to more",
    )
    parser.add_argument(
        "--pace",
        dest="pace_seconds",
        type=parse_amount,
        metavar="SECONDS",
        help="between two sbatch calls (default: 1)",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="ask for the cluster's configuration and limits again (they are kept for a day)",
    )


SlurmOptionsT = TypeVar("SlurmOptionsT", bound=SlurmSubmitOptions)


def fill_from_limits(options: SlurmOptionsT, kept: "KeptLimits") -> SlurmOptionsT:
    """The options, with the sweep's kept limits in the place of what was not given."""
    return replace(
        options,
        max_queued=kept.max_queued if options.max_queued is None else options.max_queued,
        budget_a100_hours=kept.budget_a100_hours if options.budget_a100_hours is None else options.budget_a100_hours,
        pace_seconds=kept.pace_seconds if options.pace_seconds is None else options.pace_seconds,
    )


def select_wanted(stored: "StoredSweep", given: "Collection[str]", kept: "Collection[str]") -> set[str]:
    """Keys that may be sent: of the cells and jobs that were given now, else of those that are kept, else all."""
    from jobs.job import add_ancestors
    from sweep.kept_limits import select_kept_jobs

    named = select_kept_jobs(stored, kept) if kept and not given else {job.key for job in stored.select_jobs([*given])}
    return add_ancestors(stored.manifest.jobs, named)


def keep_choices(options: SubmitOptions, stored: "StoredSweep", backend: str, accepted: "Collection[str]") -> None:
    """Keeps what this command was given for the rounds to come. What it was not given stays as it is.

    `accepted`: names of all problems of inputs that the user has accepted, now or before.
    """
    from sweep.kept_limits import update_limits

    given: dict[str, object] = {"backend": options.backend, "ignored_inputs": tuple(accepted)}
    if backend == "slurm":
        given |= {
            "max_queued": options.max_queued,
            "budget_a100_hours": options.budget_a100_hours,
            "only": options.only,
            "pace_seconds": options.pace_seconds,
        }
    update_limits(
        stored.paths.limits, {name: value for name, value in given.items() if value is not None and value != ()}
    )


def print_limits(name: str, kept: "KeptLimits") -> None:
    """Says on stderr which kept limits hold, as they may be of another day and another person."""
    from sweep.kept_limits import build_limits_json, format_limit_lines

    lines = format_limit_lines(build_limits_json(kept))
    if lines:
        print(f"limits: {'; '.join(lines)}; `sweep limits {name}` changes them", file=sys.stderr)


def check_problems_accepted(
    stored: "StoredSweep", wanted: "Collection[str]", kept: "KeptLimits", *, ignore_data: bool, dry_run: bool
) -> tuple[tuple[str, ...], int]:
    """Names of all accepted problems of inputs, and the exit code so far: 1 for a dry run that tells of others.

    Raises InputsError for problems that nobody has accepted. With `ignore_data` they are accepted, and told on stderr.
    """
    from sweep.errors import InputsError
    from sweep.preflight.gate import check_gate

    report = check_gate(stored, wanted, kept.ignored_inputs, writes=not dry_run)
    code = 0
    for remark in report.remarks:
        print(f"sweep: {remark}", file=sys.stderr)
    if ignore_data:
        for line in report.lines:
            print(f"sweep: accepted: {line}", file=sys.stderr)
        return (*kept.ignored_inputs, *(problem.name for problem in report.problems)), code
    try:
        report.raise_problems()
    except InputsError as error:
        if not dry_run:
            raise
        print(f"sweep: {error}".replace("nothing was sent", "nothing would be sent", 1), file=sys.stderr)
        code = 1
    return kept.ignored_inputs, code


def submit_to_slurm(
    options: SlurmSubmitOptions, stored: "StoredSweep", wanted: "Collection[str]", *, held_back: str = ""
) -> int:
    """One round of `wanted` on Slurm with the options of the command; the exit code. `held_back`: as a round's."""
    from sweep.submit.slurm import RoundRequest, submit_round

    request = RoundRequest(
        wanted=wanted,
        max_queued=options.max_queued,
        submit_interval_s=options.pace_seconds,
        fresh=options.fresh,
        dry=options.dry_run,
        scripts=options.scripts,
        held_back=held_back,
    )
    return submit_round(stored, request, budget_a100_hours=options.budget_a100_hours, as_json=options.as_json)


def check_content(stored: "StoredSweep") -> None:
    """PlanConflictError where data have other content by now than the plan's keys say."""
    if not stored.manifest.identities:
        return
    from sweep.errors import PlanConflictError
    from sweep.plan.data_identity import find_content_changes

    name = stored.manifest.sweep
    if changes := find_content_changes(stored.store, name):
        raise PlanConflictError(
            f"nothing was sent: {'; '.join(map(str, changes))}: not what {name!r} was planned with; put the former "
            "data back, or plan it again (`sweep plan FILE`)"
        )


def run(options: SubmitOptions, *, only_now: "Collection[str]" = ()) -> int:
    """`only_now`: cells or jobs for this submission alone, which are not kept."""
    from sweep.errors import UsageError
    from sweep.kept_limits import read_limits
    from sweep.stored_sweep import open_sweep, print_user_errors

    stored = open_sweep(options.store, options.name)
    stored.check_version()
    with print_user_errors():
        check_content(stored)
        kept = read_limits(stored.paths.limits, acts=True)
    backend = options.backend or kept.backend or stored.manifest.backend
    on_slurm = backend == "slurm"
    wanted = select_wanted(stored, options.only or only_now, kept.only if on_slurm else ())
    logger.info("%d of %d jobs may start, backend %s", len(wanted), len(stored.manifest.jobs), backend)
    if options.scripts and not (options.dry_run and on_slurm):
        raise UsageError(
            "--scripts shows what sbatch would be given: add --dry-run"
            + ("" if on_slurm else " and --backend slurm, as on this machine no script is sent")
        )
    with print_user_errors():
        accepted, code = check_problems_accepted(
            stored, wanted, kept, ignore_data=options.ignore_data, dry_run=options.dry_run
        )
        if on_slurm:
            if not options.dry_run:
                keep_choices(options, stored, backend, accepted)
                kept = read_limits(stored.paths.limits, acts=True)
            print_limits(options.name, kept)
            return submit_to_slurm(fill_from_limits(options, kept), stored, wanted) or code
        from sweep.submit.local import run_local

        told = run_local(
            stored,
            wanted,
            cpus=options.cpus,
            gpus=options.gpus,
            dry_run=options.dry_run,
            as_json=options.as_json,
            before_start=lambda: keep_choices(options, stored, backend, accepted),
        )
        if not options.dry_run and told < 128:  # whoever stops a run does not wait for tables
            refresh_quietly(stored)
        return told or code


def refresh_quietly(stored: "StoredSweep") -> None:
    """Brings tables and report up to date behind a run. What stands against it is told, and the run counts as it is."""
    from jobs.errors import JobsError
    from sweep.commands.results import describe_missing_packages
    from sweep.errors import SweepError

    if describe_missing_packages():
        return
    from sweep.page.refresh import refresh_results

    try:
        refresh_results(stored)
    except (SweepError, JobsError, OSError) as error:
        print(f"sweep submit: tables are not refreshed: {error}", file=sys.stderr)
