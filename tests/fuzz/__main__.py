"""python -m tests.fuzz PROGRAM --cases N --seed S: cases by chance for a reader, each of which can be run again.

    python -m tests.fuzz archives --cases 20000 --seed 1 --jobs 1
    python -m tests.fuzz archives --seed 1 --case 123 --keep /tmp/case

Exit codes: 0 no fault, 1 faults (each printed once, with the command that runs it again).
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import SOUND, Program, run_campaign, run_one
from tests.fuzz.programs import PROGRAMS, load_program


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--cases", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="number of the first case; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=1, help="processes; default: %(default)s")
    parser.add_argument("--case", type=int, help="run this one again, in this process")
    parser.add_argument("--keep", type=Path, help="with --case: where its input stays")
    parser.add_argument("--details", action="store_true", help="also say how often each change was made")
    given = parser.parse_args()
    # the process that runs the cases is forked, and waits for ever on threads that its parent had
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryDirectory(prefix="sweep-fuzz-") as scratch:
        program = load_program(given.program, Path(scratch))
        if given.case is not None:
            return run_again(program, given.seed, given.case, given.keep or Path(scratch) / "case")
        numbers = range(given.first, given.first + given.cases)
        report = run_campaign(program, Path(scratch), seed=given.seed, numbers=numbers, jobs=given.jobs)
        print(report.format())
        if given.details:
            print("\n".join(f"{count:7} {detail}" for detail, count in report.details.most_common()))
    return 1 if report.faults else 0


def run_again(program: Program, seed: int, number: int, folder: Path) -> int:
    folder.mkdir(parents=True)
    case = run_one(program, folder, seed, number)
    print(f"{case.outcome}: {case.detail}\n{case.seconds:.2f} s, {case.growth_mib:.0f} MiB")
    return 0 if case.outcome in SOUND else 1


if __name__ == "__main__":
    sys.exit(main())
