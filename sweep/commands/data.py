"""`sweep data demo`: makes the demo's data set, in a process of its own (`python -m stages.demo`)."""

import argparse
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from sweep.errors import SweepError

HELP = "make a data set that ships with the project"
NEEDED = {"PIL": "pillow", "tokenizers": "tokenizers", "yaml": "pyyaml"}
"""Modules that the preparation imports, and the packages that hold them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sweep data`."""
    parser.add_argument("name", choices=("demo",), help="which data set")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to make (default: data/demo in the store); kept if complete"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is random in it (default: 0)")
    parser.epilog = "example:\n  sweep data demo            about 20 seconds, 30 MB, no network"


def run(options: argparse.Namespace) -> int:
    """Prints the data set's folder once it is complete."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise SweepError(f"the demo's data needs {', '.join(missing)}; install the project with its extra `train`")
    folder: Path = options.out or options.store / "data" / options.name
    command = [sys.executable, "-m", "stages.demo", "--out", str(folder), "--seed", str(options.seed)]
    finished = subprocess.run(command, check=False)
    if finished.returncode == 0:
        print(folder)
    return 1 if finished.returncode else 0
