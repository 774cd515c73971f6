"""Injects faults on two machines of its own that share a folder, and checks what is left.

    python -m tests.nfs --faults 100 --seed 1

With `--without claim|fence|submit-lock` that guard is taken out on purpose, and violations are what must be found.

Exit codes: 0 nothing was violated, 1 something was (printed), 2 this machine cannot mount what it takes.
"""

import argparse
import sys
from functools import partial

from tests.nfs.campaign import run_campaign
from tests.nfs.guards import Guard
from tests.nfs.machines import MountError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.nfs", description="Faults on two machines that share a folder as over NFS."
    )
    parser.add_argument("--faults", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument(
        "--without",
        type=Guard,
        choices=list(Guard),
        help="take this guard out: violations must be found",
    )
    options = parser.parse_args()
    try:
        say = partial(print, file=sys.stderr, flush=True)
        outcome = run_campaign(options.faults, options.seed, say, without=options.without)
    except MountError as error:
        print(f"tests.nfs: {error}", file=sys.stderr)
        return 2
    print(f"seed {options.seed}: {outcome.format()}")
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
