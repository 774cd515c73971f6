"""`python -m tests.store_faults --faults 3000 --seed 1`: exit code 1 if anything was lost, doubled or not told."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.store_faults.injector import PRELOAD, build_library, restart_with_library


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="part of a command's name")
    parser.add_argument("--minutes", type=float, default=1e9, help="ends early")
    given = parser.parse_args()
    if PRELOAD not in os.environ:
        with tempfile.TemporaryDirectory() as folder:
            return restart_with_library(build_library(Path(folder)), "tests.store_faults", sys.argv[1:])
    from tests.store_faults.campaign import run_campaign

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        outcome = run_campaign(
            given.faults, given.seed, Path(folder), workers=given.workers, only=given.only, minutes=given.minutes
        )
    print(outcome.format())
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
