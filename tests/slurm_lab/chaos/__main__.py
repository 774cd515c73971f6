"""Starts a cluster of its own, injects faults and checks what is left.

    python -m tests.slurm_lab.chaos --faults 300 --seed 1

Exit codes: 0 nothing was violated, 1 something was (printed with its evidence).
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.slurm_lab import Lab
from tests.slurm_lab.chaos.campaign import Outcome, Plan, campaign
from tests.slurm_lab.chaos.report import table
from tests.slurm_lab.chaos.world import OPTIONS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.slurm_lab.chaos", description="Faults of every kind on a cluster of its own."
    )
    parser.add_argument("--faults", type=int, default=300, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--season", type=int, default=50, help="faults for each sweep; default: %(default)s")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no new sweep after that")
    parser.add_argument("--keep", action="store_true", help="leave the stores where they are")
    options = parser.parse_args()
    plan = Plan(faults=options.faults, seed=options.seed, season_faults=options.season, minutes=options.minutes)
    folder = Path(tempfile.mkdtemp(prefix="sweep-chaos-"))
    say = partial(print, file=sys.stderr, flush=True)
    say(f"seed {plan.seed}; stores in {folder}")
    outcome = on_a_cluster_of_its_own(folder, plan)
    print(table(outcome))
    if not outcome.violations and not options.keep:
        shutil.rmtree(folder)
    return 1 if outcome.violations else 0


def on_a_cluster_of_its_own(folder: Path, plan: Plan) -> Outcome:
    """The cluster's processes end with it, whatever happens."""
    lab = Lab(Path(tempfile.gettempdir()) / f"sw-chaos-{random.SystemRandom().randrange(10**6)}", OPTIONS)
    try:
        lab.up()
        return campaign(lab, folder, plan, partial(print, file=sys.stderr, flush=True))
    finally:
        lab.down()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster's processes end too
    sys.exit(main())
