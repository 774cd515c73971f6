"""`python -m benchmarks.gpu_check.part_process NAME ...`: one part; a JSON object a line for each of its rows.

A row is on disk as soon as it is known: what a part has found before it failed or was ended is not lost.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks.gpu_check.parts import PARTS, Check, Row


def main(arguments: list[str]) -> int:
    """Runs the part; 1 if one of its rows did not pass."""
    parser = argparse.ArgumentParser(description="Run one part of the check.")
    parser.add_argument("name", choices=[part.name for part in PARTS])
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--folder", type=Path, required=True, help="empty, for what it writes")
    parser.add_argument("--rows", type=Path, required=True, help="file for its rows")
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    given = parser.parse_args(arguments)
    part = next(part for part in PARTS if part.name == given.name)
    check = Check(device=given.device, folder=given.folder, variant=part.variant, peak_tflops=given.peak_tflops)
    measure: Callable[[Check], Iterator[Row]] = import_module(f"benchmarks.gpu_check.{part.module}").measure
    passed = True
    with given.rows.open("a") as rows:
        for row in measure(check):
            rows.write(json.dumps(asdict(row)) + "\n")
            rows.flush()
            passed = passed and row.passed
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
