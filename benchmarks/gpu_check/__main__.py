"""`python -m benchmarks.gpu_check [--budget-minutes 8] [--only PART ...] [--out DIR]`: all parts, one after the other.

Each part is a process of its own with a time limit of its own. A part that fails or takes too long is reported with its
reason, and the next one runs. When the minutes are over, the parts that are left are named and not run. DIR gets
`gpu-check.json` and `gpu-check.md`, written after each part, and a log for each part.

Without a GPU the CPU halves run, on small shapes. Exit code 1 if a part failed or took too long, else 0.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.parts import PARTS, Part, Row
from benchmarks.gpu_check.report import (
    FORMAT,
    CheckReport,
    Outcome,
    format_report,
    format_row,
    format_summary,
)

ROOT = Path(__file__).parents[2]
PART_PROGRAM = (sys.executable, "-m", "benchmarks.gpu_check.part_process")
LEAST_SECONDS = 10.0
"""With less time left no part is begun."""
MACHINE_SECONDS = 120.0
POLL_SECONDS = 0.1


def main(arguments: Sequence[str]) -> int:
    """Runs the parts; the exit code."""
    given = parse_arguments(arguments)
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    runner = PartRunner(out, began=time.monotonic(), budget_seconds=60 * given.budget_minutes, program=PART_PROGRAM)
    try:
        machine = query_machine()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"gpu-check: the machine cannot be described: {error}", file=sys.stderr)
        return 1
    gpu = machine["gpu"] if given.device == "auto" else None
    if gpu is not None and given.peak_tflops:
        gpu["peak_tflops"] = given.peak_tflops
    chosen = [part for part in PARTS if not given.only or part.name in given.only]
    report = CheckReport(
        format=FORMAT,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine={**machine, "gpu": gpu},
        budget_minutes=given.budget_minutes,
    )
    runner.tell(f"{gpu['name'] if gpu else 'no GPU: the CPU halves'}; {len(chosen)} parts, results in {out}")
    for part in chosen:
        report.parts.append(runner.run(part, gpu))
        report.seconds = time.monotonic() - runner.began
        write_files(out, report)
    print(f"\n{format_summary(report)}\n\n{out / 'gpu-check.json'}, {out / 'gpu-check.md'}", flush=True)
    return 1 if any(outcome.state in {"failed", "timed out"} for outcome in report.parts) else 0


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description="Check and measure everything that needs a GPU; without one the CPU halves.",
        epilog="parts: " + ", ".join(names),
    )
    parser.add_argument("--budget-minutes", type=float, default=8.0, help="for all parts together (default: 8)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="PART", help="these parts (default: all)")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder for results (default: gpu-check)")
    parser.add_argument("--device", choices=["auto", "cpu"], default="auto", help="cpu: the CPU halves all the same")
    parser.add_argument(
        "--peak-tflops", type=float, default=0.0, help="bf16 peak of the GPU, where the catalog has another or none"
    )
    given = parser.parse_args(arguments)
    if not given.budget_minutes > 0:
        parser.error(f"--budget-minutes {given.budget_minutes:g}: a number above 0 is expected")
    return given


def query_machine() -> dict[str, Any]:
    """What `benchmarks.gpu_check.machine` prints: a process of its own, so that this one holds no GPU memory."""
    command = [sys.executable, "-m", "benchmarks.gpu_check.machine"]
    printed = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=MACHINE_SECONDS, check=True).stdout
    found: dict[str, Any] = json.loads(printed.splitlines()[-1]) if printed else {}
    if "gpu" not in found:
        raise ValueError("it printed nothing")
    return found


@dataclass(frozen=True, kw_only=True)
class Process:
    """How a part's process ended."""

    returncode: int
    seconds: float
    timed_out: bool


class PartRunner:
    """Runs parts within the minutes that are given for all."""

    def __init__(self, out: Path, *, began: float, budget_seconds: float, program: Sequence[str]) -> None:
        """`program`: what runs a part; it is given the part's name and options."""
        self.out, self.began, self.budget_seconds, self.program = out, began, budget_seconds, tuple(program)

    def tell(self, text: str) -> None:
        """A line with the seconds since the start."""
        print(f"[{time.monotonic() - self.began:4.0f} s] {text}", flush=True)

    def run(self, part: Part, gpu: dict[str, Any] | None) -> Outcome:
        """One part, or why it was not run."""
        outcome = Outcome(name=part.name, about=part.about, table=part.table, device="cuda" if gpu else "cpu")
        limit = part.gpu_seconds if gpu else part.cpu_seconds
        left = self.budget_seconds - (time.monotonic() - self.began)
        if not limit:
            return replace(outcome, state="needs a GPU", reason="it has no CPU half")
        if left < LEAST_SECONDS:
            self.tell(f"{part.name}: not run, the time is over")
            return replace(outcome, state="skipped", reason=f"the {self.budget_seconds / 60:g} minutes were over")
        seconds = min(limit, left)
        self.tell(f"{part.name}: {part.about}; at most {seconds:.0f} s")
        rows: list[Row] = []
        log = self.out / f"{part.name}.log"
        with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as name:
            folder, path = Path(name), Path(name) / "rows.jsonl"
            (folder / "work").mkdir()
            options = ["--device", outcome.device, "--folder", str(folder / "work"), "--rows", str(path)]
            options += ["--peak-tflops", str(gpu["peak_tflops"] if gpu else 0.0)]

            def note() -> None:
                for row in read_rows(path)[len(rows) :]:
                    rows.append(row)
                    self.tell(f"{part.name}: {format_row(row)}")

            process = run_process([*self.program, part.name, *options], log, seconds, note)
        outcome = replace(outcome, **judge(process, rows, log, limit=seconds), seconds=process.seconds, rows=rows)
        self.tell(
            f"{part.name}: {outcome.state}, {process.seconds:.0f} s" + (f": {outcome.reason}" * bool(outcome.reason))
        )
        return outcome


def run_process(command: Sequence[str], log: Path, seconds: float, note: Callable[[], None]) -> Process:
    """Runs a command to its end, or kills it and all that it started in its group. `note` is called now and then."""
    began = time.monotonic()
    timed_out = False
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            while process.poll() is None and not timed_out:
                note()
                time.sleep(POLL_SECONDS)
                timed_out = time.monotonic() - began > seconds
        finally:
            with suppress(ProcessLookupError):  # nothing of it is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    note()
    return Process(returncode=process.returncode, seconds=time.monotonic() - began, timed_out=timed_out)


def judge(process: Process, rows: Sequence[Row], log: Path, *, limit: float) -> dict[str, Any]:
    """State and reason of a part that has ended."""
    failed = [row for row in rows if not row.passed]
    if process.timed_out:
        return {"state": "timed out", "reason": f"ended after {limit:.0f} s, with {len(rows)} rows"}
    if failed:
        return {"state": "failed", "reason": "; ".join(f"{row.name}: {row.reason}" for row in failed)[:300]}
    if process.returncode or not rows:
        return {"state": "failed", "reason": read_last_line(log) or f"exit code {process.returncode}, no output"}
    return {"state": "done", "reason": ""}


def read_rows(path: Path) -> list[Row]:
    """Rows that a part has written; an unfinished last line is left for later."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [Row(**json.loads(line)) for line in lines]


def read_last_line(log: Path) -> str:
    """The last line of a log that holds something: of a traceback the error itself."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def write_files(out: Path, report: CheckReport) -> None:
    """JSON and table; each is whole or as before."""
    for name, content in (
        ("gpu-check.json", json.dumps(asdict(report), indent=1) + "\n"),
        ("gpu-check.md", format_report(report)),
    ):
        unfinished = out / f".{name}.tmp"
        unfinished.write_text(content)
        unfinished.replace(out / name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
