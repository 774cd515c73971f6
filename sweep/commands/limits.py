"""`sweep limits NAME`: shows, changes or lifts what `sweep submit` was told once and every later round obeys."""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweep.arguments import parse_amount, parse_positive_int
from sweep.options import CommonOptions

if TYPE_CHECKING:
    from sweep.stored_sweep import StoredSweep

NONE = "none"
ALL = "all"
ON_ANY_BACKEND = frozenset({"backend", "ignored_inputs", "first", "canary", "released"})
"""Limits that hold on this machine, too."""


@dataclass(frozen=True, kw_only=True)
class LimitsOptions(CommonOptions):
    """What `sweep limits` was given. A word `none` lifts, and so does the one cell `all`."""

    name: str
    backend: str | None
    max_queued: int | str | None
    budget_a100_hours: float | str | None
    budget_core_hours: float | str | None
    budget_money: float | str | None
    only: tuple[str, ...]
    first: tuple[str, ...]
    canary: str | None
    released: tuple[str, ...]
    pace_seconds: float | str | None
    ignored_inputs: str | None
    as_json: bool


OPTIONS = LimitsOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the sweep")
    parser.add_argument(
        "--max-queued", type=parse_or_none(parse_positive_int), metavar="N|none", help="jobs in the queue at once"
    )
    parser.add_argument(
        "--budget-a100-hours",
        type=parse_or_none(parse_amount),
        metavar="X|none",
        help="nothing is sent by which what is spent and in flight could come to more",
    )
    parser.add_argument(
        "--budget-core-hours",
        type=parse_or_none(parse_amount),
        metavar="X|none",
        help="likewise, of all cores of all jobs",
    )
    parser.add_argument(
        "--budget-money",
        type=parse_or_none(parse_amount),
        metavar="X|none",
        help="likewise, at the `prices` of the sweep file",
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="CELL|all", help="these cells or jobs, and what they need"
    )
    parser.add_argument(
        "--first", nargs="+", default=[], metavar="CELL|none", help="these cells or jobs before all others"
    )
    parser.add_argument(
        "--canary",
        choices=("on", "off", NONE),
        help="of each shape of job one goes first, or not; none: as the sweep file says",
    )
    parser.add_argument(
        "--release",
        dest="released",
        nargs="+",
        default=[],
        metavar="SHAPE|CELL|none",
        help="these no longer wait for the first job of their shape (added to those before; none: all wait again)",
    )
    parser.add_argument(
        "--pace",
        dest="pace_seconds",
        type=parse_or_none(parse_amount),
        metavar="SECONDS|none",
        help="between two sbatch calls",
    )
    parser.add_argument(
        "--backend", choices=("local", "slurm", NONE), help="where it runs; none: as the sweep file says"
    )
    parser.add_argument(
        "--ignore-data",
        dest="ignored_inputs",
        choices=(NONE,),
        help="none: problems of inputs that `sweep submit --ignore-data` accepted hold back jobs again",
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print them as JSON (docs/json.md)")
    parser.epilog = (
        "example:\n  sweep limits paper\n  sweep limits paper --max-queued 200\n"
        "  sweep limits paper --budget-a100-hours none --only all\n  sweep limits paper --first 'm1m-b50-*'\n"
        "`sweep submit` keeps what it is given; `sweep tick` and `sweep resume` obey it."
    )


def parse_or_none(parse: Callable[[str], float]) -> Callable[[str], float | str]:
    """The parser, which also takes the word that lifts a limit."""

    def parse_word(text: str) -> float | str:
        return NONE if text == NONE else parse(text)

    return parse_word


def run(options: LimitsOptions) -> int:
    from sweep.kept_limits import build_limits_json, format_limit_lines, read_limits, update_limits
    from sweep.next_step import NextStep
    from sweep.stored_sweep import open_sweep, print_user_errors
    from sweep.submit.choices import name_currency

    stored = open_sweep(options.store, options.name)
    # unknown names are an error now, and not at the next tick
    cells = () if options.only == (ALL,) else stored.select_cells(options.only).words
    first = () if options.first == (NONE,) else stored.select_cells(options.first).words
    changes = name_currency(stored.manifest, collect_changes(options, cells))
    if options.budget_money == NONE:
        changes["budget_currency"] = None
    if options.first:
        changes["first"] = first
    with print_user_errors():
        if options.released:
            changes["released"] = add_released(options, stored, read_limits(stored.paths.limits, acts=True).released)
        kept = update_limits(stored.paths.limits, changes)
    limits = build_limits_json(kept)
    if options.as_json:
        print(json.dumps({"format": 1, "sweep": options.name, **limits}, indent=1))
        return 0
    on_slurm = (kept.backend or stored.manifest.backend) == "slurm"
    no_limits = "no limits: every round sends what the queue takes" if on_slurm else "no limits"
    print("\n".join(format_limit_lines(limits)) or no_limits)
    if not on_slurm and kept.list_set().keys() - ON_ANY_BACKEND:
        print(
            f"sweep limits: {options.name} runs on this machine; limits of the queue hold on Slurm only",
            file=sys.stderr,
        )
    words = ["tick" if on_slurm else "submit", options.name]
    print(NextStep(options.store).suggest("goes by them", *words), file=sys.stderr)
    return 0


def add_released(options: LimitsOptions, stored: "StoredSweep", before: tuple[str, ...]) -> tuple[str, ...]:
    """What is released now: the shapes and cells of the command line beside those from before; nothing for `none`."""
    if options.released == (NONE,):
        return ()
    from sweep.canary.rule import name_released

    return tuple(dict.fromkeys([*before, *name_released(stored, options.released)]))


def collect_changes(options: LimitsOptions, cells: tuple[str, ...]) -> dict[str, Any]:
    """The fields of `KeptLimits` that the command line names; None and () lift. `cells`: those of `--only`."""
    words = {
        "backend": options.backend,
        "max_queued": options.max_queued,
        "budget_a100_hours": options.budget_a100_hours,
        "budget_core_hours": options.budget_core_hours,
        "budget_money": options.budget_money,
        "pace_seconds": options.pace_seconds,
        "canary": options.canary,
    }
    changes: dict[str, Any] = {name: None if word == NONE else word for name, word in words.items() if word is not None}
    if options.ignored_inputs:
        changes["ignored_inputs"] = ()
    if options.only:
        changes["only"] = cells
    return changes
