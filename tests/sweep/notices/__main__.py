"""The fault campaign of notices: a receiver that fails at random, ticks that are killed at random moments.

    python -m tests.sweep.notices --cases 20 --seed 1

Every event is to be once in its log, and none lost. A receiver may hear an event twice, under one id, where a tick was
killed, or the answer got lost, between delivery and record.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.sweep.notices.faults import run_campaign


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    good = events = ticks = killed = failures = repeated = 0
    for number in range(options.cases):
        with tempfile.TemporaryDirectory() as folder:
            report = run_campaign(random.Random(f"{options.seed}:{number}"), Path(folder))
        good += not report.problems
        events, ticks, killed = events + report.events, ticks + report.ticks, killed + report.killed
        failures, repeated = failures + report.failures, repeated + report.repeated
        print(
            f"{number:>3}  {'; '.join(report.problems) or 'ok'}  {report.events} events, {report.ticks} ticks, "
            f"{report.killed} killed, {report.failures} deliveries failed, {report.repeated} heard twice",
            flush=True,
        )
    print(
        f"{good} of {options.cases} campaigns as they should be: {events} events once each, none lost, through {ticks} "
        f"ticks of which {killed} were killed, and {failures} deliveries that failed; {repeated} were heard twice"
    )
    return 0 if good == options.cases else 1


if __name__ == "__main__":
    sys.exit(main())
