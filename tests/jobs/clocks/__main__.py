"""Runs histories by hand: `python -m tests.jobs.clocks --histories 200 [--seed 1] [--hours 3] [--folder DIR]`."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.jobs.clocks.history import run_histories


def main() -> int:
    """The exit code: 1 if a history broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.jobs.clocks")
    parser.add_argument("--histories", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the first")
    parser.add_argument("--hours", type=float, default=3.0, help="clocks differ from the files' by up to so much")
    parser.add_argument("--steps", type=int, default=4, help="of each history")
    parser.add_argument("--folder", type=Path, help="for stores; that of a broken history stays")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="clocks-"))
    seeds = range(given.seed, given.seed + given.histories)
    broken = run_histories(folder, seeds, hours=given.hours, steps=given.steps)
    print(f"{given.histories} histories, clocks up to {given.hours:g} h off: {len(broken)} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
