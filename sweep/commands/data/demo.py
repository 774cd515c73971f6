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
    """None: data/demo in the store."""
    seed: int


OPTIONS = DataDemoOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to make (default: data/demo in the store); kept if complete"
    )
    parser.add_argument("--seed", type=parse_count, default=0, help="seed of all that is random in it (default: 0)")
    parser.epilog = "example:\n  sweep data demo            about 20 seconds, 30 MB, no network"


def run(options: DataDemoOptions) -> int:
    """Prints the data set's folder once it is complete."""
    from sweep.commands.data.process import check_installed, run_module

    check_installed("the demo's data", NEEDED)
    folder = options.out or options.store / "data" / "demo"
    finished = run_module("stages.demo", ["--out", str(folder), "--seed", str(options.seed)])
    if finished.returncode == 0:
        print(folder)
    return 1 if finished.returncode else 0
