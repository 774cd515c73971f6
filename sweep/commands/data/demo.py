"""`sweep data demo`: makes the demo's data set (`python -m stages.demo`)."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from sweep.arguments import parse_count
from sweep.options import CommonOptions

HELP = "make the demo's data set, without the network"
NEEDED = {"PIL": "pillow", "tokenizers": "tokenizers", "yaml": "pyyaml"}


@dataclass(frozen=True, kw_only=True)
class DataDemoOptions(CommonOptions):
    """What `sweep data demo` was given."""

    out: Path | None
    """None: data/demo in the store, or data/demo-quick."""
    seed: int
    quick: bool


OPTIONS = DataDemoOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to make (default: data/demo in the store); kept if complete"
    )
    parser.add_argument("--seed", type=parse_count, default=0, help="seed of all that is random in it (default: 0)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the small data set of `sweep demo --quick`, in data/demo-quick of the store",
    )
    parser.epilog = "example:\n  sweep data demo            about 20 seconds, 30 MB, no network"


def run(options: DataDemoOptions) -> int:
    """Prints the data set's folder once it is complete."""
    folder = options.out or options.store / "data" / ("demo-quick" if options.quick else "demo")
    code = make_demo_data(folder, seed=options.seed, quick=options.quick)
    if code == 0:
        print(folder)
    return code


def make_demo_data(folder: Path, *, seed: int = 0, quick: bool = False) -> int:
    """Makes the data set unless it is there; the exit code."""
    from sweep.commands.data.process import check_installed, run_module

    check_installed("the demo's data", NEEDED)
    words = ["--out", str(folder), "--seed", str(seed), *(["--quick"] if quick else [])]
    return 1 if run_module("stages.demo", words).returncode else 0
