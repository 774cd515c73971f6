"""`sweep submit NAME`: runs here, or sends to Slurm, the jobs that are missing, and only those."""

import argparse
import logging
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from sweep.arguments import add_cell_arguments, add_old_cells_option, parse_amount, parse_count, parse_positive_int
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
    cells: tuple[str, ...]
    """As `sweep.selection` reads them; empty: all of the sweep."""
    only: tuple[str, ...]
    """The same, by the option of before."""
    max_queued: int | None
    """Jobs of this sweep in Slurm's queue at once."""
    budget_a100_hours: float | None
    budget_core_hours: float | None
    budget_money: float | None
    """In the currency of the plan's prices."""
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
    canary: bool
    """Of each shape of job one goes first."""
    first: tuple[str, ...]
    """Cells and jobs that go before all others, as `sweep.selection` reads them."""


OPTIONS = SubmitOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_cell_arguments(parser, reads=False, cells="these and what they need (default: all)")
    add_old_cells_option(parser, "--only", "only")
    parser.add_argument("--backend", choices=BACKENDS, help="where it runs (default: as the sweep file says)")
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
    parser.add_argument(
        "--canary",
        action="store_true",
        help="of each shape of job one goes first, the others once it has a sane first checkpoint; lasts",
    )
    parser.add_argument(
        "--first",
        action="append",
        default=[],
        metavar="CELL",
        help="this cell, pattern of cells or job goes before all others, with what it needs; may be repeated; lasts",
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
        "example:\n  sweep submit demo --cpus 2\n  sweep submit demo 'm1m-b50-*' --dry-run\n"
        "  sweep submit paper --max-queued 500 --budget-a100-hours 20000\n"
        "  sweep submit paper --dry-run --scripts\n"
        "On Slurm, what is given here lasts, the cells too: later rounds obey it until `sweep limits NAME` lifts it.\n"
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
        help="send nothing by which what is spent and in flight could come to more",
    )
    parser.add_argument(
        "--budget-core-hours", type=parse_amount, metavar="X", help="likewise, of all cores of all jobs"
    )
    parser.add_argument(
        "--budget-money", type=parse_amount, metavar="X", help="likewise, at the `prices` of the sweep file"
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
        pace_seconds=kept.pace_seconds if options.pace_seconds is None else options.pace_seconds,
    )


def name_given_cells(command: str, options: SlurmSubmitOptions) -> tuple[str, ...]:
    """The cells of the command line, with those of `--only`, which is told of on stderr."""
    if options.only:
        line = " ".join(["sweep", command, options.name, *options.cells, *options.only])
        print(f"sweep {command}: --only is not needed any more: `{line}` does the same", file=sys.stderr)
    return (*options.cells, *options.only)


def list_choices(
    options: SubmitOptions, backend: str, cells: "Collection[str]", first: "Collection[str]"
) -> "dict[str, object]":
    """What this command was given and what lasts, by the names of `KeptLimits`. `cells`, `first`: as they are kept."""
    given: dict[str, object] = {
        "backend": options.backend,
        "first": tuple(first),
        "canary": "on" if options.canary else None,
    }
    if backend == "slurm":
        given |= {
            "max_queued": options.max_queued,
            "budget_a100_hours": options.budget_a100_hours,
            "budget_core_hours": options.budget_core_hours,
            "budget_money": options.budget_money,
            "only": tuple(cells),
            "pace_seconds": options.pace_seconds,
        }
    return given


def choose_now(options: SubmitOptions, kept: "KeptLimits", first: tuple[str, ...]) -> "KeptLimits":
    """What holds for this submission, which a dry run does not keep. `first`: as it would be kept."""
    return replace(kept, first=first or kept.first, canary="on" if options.canary else kept.canary)


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
    Raises PlanConflictError for data that are not those of the plan, which nobody can accept.
    """
    from sweep.errors import InputsError
    from sweep.preflight.gate import check_gate
    from sweep.submit.choices import list_accepted_problems

    report = check_gate(stored, wanted, kept.ignored_inputs, writes=not dry_run)
    for remark in report.remarks:
        print(f"sweep: {remark}", file=sys.stderr)
    try:
        accepted = list_accepted_problems(report, kept, ignore_data=ignore_data)
    except InputsError as error:
        if not dry_run:
            raise
        print(f"sweep: {error}".replace("nothing was sent", "nothing would be sent", 1), file=sys.stderr)
        return kept.ignored_inputs, 1
    for line in report.lines:
        print(f"sweep: accepted: {line}", file=sys.stderr)
    return accepted, 0


def submit_to_slurm(
    options: SlurmSubmitOptions,
    stored: "StoredSweep",
    wanted: "Collection[str]",
    kept: "KeptLimits",
    *,
    held_back: str = "",
) -> int:
    """One round of `wanted` on Slurm; the exit code. `kept`: what holds where the command's options say nothing, what
    goes first, and whether one job of a shape does. `held_back`: as a round's."""
    options = fill_from_limits(options, kept)
    from sweep.budget.caps import read_caps
    from sweep.submit.choices import merge_budgets
    from sweep.submit.slurm import RoundRequest, submit_round

    request = RoundRequest(
        wanted=wanted,
        kept=kept,
        max_queued=options.max_queued,
        submit_interval_s=options.pace_seconds,
        fresh=options.fresh,
        dry=options.dry_run,
        scripts=options.scripts,
        held_back=held_back,
    )
    given = {
        "budget_a100_hours": options.budget_a100_hours,
        "budget_core_hours": options.budget_core_hours,
        "budget_money": options.budget_money,
    }
    return submit_round(
        stored,
        request,
        read_caps(stored.manifest, merge_budgets(stored.manifest, kept, given)),
        as_json=options.as_json,
    )


def run(options: SubmitOptions, *, only_now: "Collection[str]" = ()) -> int:
    """`only_now`: cells or jobs for this submission alone, which are not kept."""
    from sweep.errors import UsageError
    from sweep.kept_limits import read_limits
    from sweep.stored_sweep import open_sweep, print_user_errors
    from sweep.submit.choices import keep_choices, name_currency, select_wanted

    stored = open_sweep(options.store, options.name)
    stored.check_version()
    with print_user_errors():
        kept = read_limits(stored.paths.limits, acts=True)
    backend = options.backend or kept.backend or stored.manifest.backend
    on_slurm = backend == "slurm"
    cells = stored.select_cells(name_given_cells("submit", options)).words
    first = stored.select_cells(options.first).words
    wanted = select_wanted(stored, cells or only_now, kept.only if on_slurm else ())
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
                choices = list_choices(options, backend, cells, first)
                keep_choices(stored, name_currency(stored.manifest, choices), accepted)
                kept = read_limits(stored.paths.limits, acts=True)
            print_limits(options.name, kept)
            return submit_to_slurm(options, stored, wanted, choose_now(options, kept, first)) or code
        from sweep.submit.local import run_local

        outcome = run_local(
            stored,
            wanted,
            cpus=options.cpus,
            gpus=options.gpus,
            dry_run=options.dry_run,
            as_json=options.as_json,
            kept=choose_now(options, kept, first),
            before_start=lambda: keep_choices(stored, list_choices(options, backend, cells, first), accepted),
        )
        return outcome or code
