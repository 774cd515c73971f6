"""`python -m stages.demo --out DIR [--seed N] [--quick]`: makes the demo's data set, without the network."""

import argparse
import sys
import time
from pathlib import Path

from stages.demo.prepare import QUICK, DemoSize, prepare_demo
from stages.errors import DataError
from stages.printable import print_error


def main() -> int:
    """Exit code: 0 made or there already, 1 not possible."""
    parser = argparse.ArgumentParser(prog="python -m stages.demo", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="of the images and of all random choices (default: 0)")
    parser.add_argument(
        "--quick", action="store_true", help="a small data set in a few seconds, for `sweep demo --quick`"
    )
    options = parser.parse_args()
    started = time.monotonic()
    try:
        made = prepare_demo(
            options.out,
            options.seed,
            lambda line: print(f"demo data: {line}", file=sys.stderr, flush=True),
            QUICK if options.quick else DemoSize(),
        )
    except (DataError, OSError) as error:
        print_error(str(error))
        return 1
    done = f"made in {time.monotonic() - started:.0f} s" if made else "is there already"
    print(f"demo data: {options.out} {done}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
