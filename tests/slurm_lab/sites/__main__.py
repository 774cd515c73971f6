"""A campaign for each site, or for those that are named.

    python -m tests.slurm_lab.sites
    python -m tests.slurm_lab.sites hidden few-jobs --keep

Exit codes: 0 nothing is wrong, 1 something is (printed).
"""

import argparse
import signal
import sys
import time

from tests.slurm_lab.sites.campaign import run_campaign
from tests.slurm_lab.sites.settings import SITES


def main() -> int:
    names = [site.name for site in SITES]
    parser = argparse.ArgumentParser(prog="python -m tests.slurm_lab.sites", description="Campaigns on odd clusters.")
    parser.add_argument("sites", nargs="*", metavar="SITE", help=f"default: all ({', '.join(names)})")
    parser.add_argument("--keep", action="store_true", help="leave the stores where they are")
    options = parser.parse_args()
    if unknown := set(options.sites) - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: the sites are {', '.join(names)}")
    wrong = 0
    for site in SITES:
        if options.sites and site.name not in options.sites:
            continue
        began = time.monotonic()
        problems, campaign = run_campaign(site, keep=options.keep)
        wrong += bool(problems)
        seen = ", ".join(f"{words} {number}" for words, number in campaign.seen.items())
        print(
            f"{site.name:<18} {'wrong' if problems else 'ok':<6} {time.monotonic() - began:5.1f} s, "
            f"{campaign.ticks} ticks, at most {campaign.most_queued} queued{'; ' + seen if seen else ''}",
            flush=True,
        )
        for problem in problems:
            print(f"    {problem}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster's processes end too
    sys.exit(main())
