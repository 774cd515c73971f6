"""The command line of the recorder: see the package's docstring."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.oracle import compare, plans, runs, stored, submissions
from tests.oracle.program import Program

ROOT = Path(__file__).parent.parent.parent


def main() -> int:
    chosen = parser().parse_args()
    if chosen.verb == "compare":
        found = compare.differences(chosen.old, chosen.new, only_new_parts=chosen.parts)
        print("\n".join(found) or "nothing differs")
        return 1 if found else 0
    with tempfile.TemporaryDirectory(prefix="oracle-") as name:
        scratch = Path(name)
        if chosen.verb == "expect":
            expect(program_of(ROOT, scratch), scratch)
        else:
            record(program_of(chosen.tree.resolve(), scratch), scratch, chosen.out, full=chosen.full)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m tests.oracle", description="Records what the command line says.")
    verbs = made.add_subparsers(dest="verb", required=True)
    recorder = verbs.add_parser("record", help="write a record into a new folder")
    recorder.add_argument("out", type=Path)
    recorder.add_argument("--tree", type=Path, default=ROOT, help="the checkout (default: this one)")
    recorder.add_argument("--full", action="store_true", help="also what goes to sbatch, and a sweep run anew")
    comparer = verbs.add_parser("compare", help="hold one record against another")
    comparer.add_argument("old", type=Path)
    comparer.add_argument("new", type=Path)
    comparer.add_argument("--parts", action="store_true", help="the new one may lack whole parts")
    verbs.add_parser("expect", help="write anew what the tests expect")
    return made


def program_of(tree: Path, scratch: Path) -> Program:
    """The `sweep` of a checkout, with that checkout's interpreter where it has one."""
    own = tree / ".venv" / "bin" / "python"
    folder = scratch / "here"
    folder.mkdir()
    return Program(tree=tree, python=own if own.exists() else Path(sys.executable), folder=folder)


def record(program: Program, scratch: Path, out: Path, *, full: bool) -> None:
    """A folder for each part."""
    shutil.rmtree(out, ignore_errors=True)
    manifests = program.tree / "manifests"
    plans.record_words(program, manifests, out / "words")
    plans.record_plans(program, manifests, out / "plans")
    stored.record_stored(program, scratch / "stored", out / "stored")
    if full:
        submissions.record_submissions(program, manifests, scratch / "sent", out / "sent")
        runs.record_run(program, scratch / "run", out / "run")


def expect(program: Program, scratch: Path) -> None:
    """What tests expect of the stored fixture, and of the sbatch calls for a sweep with every option."""
    shutil.rmtree(stored.EXPECTED, ignore_errors=True)
    stored.record_stored(program, scratch / "stored", stored.EXPECTED)
    shutil.rmtree(submissions.EXPECTED, ignore_errors=True)
    with submissions.watched_cluster(scratch / "sent") as watch:
        submissions.record_options(program, watch, scratch / "sent", submissions.EXPECTED, questions=False)


if __name__ == "__main__":
    sys.exit(main())
