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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
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
BUDGET_MINUTES = 8.0
"""For which the parts' own seconds are made."""
LEAST_SECONDS = 10.0
"""With less time left no part is begun."""
MACHINE_SECONDS = 120.0
POLL_SECONDS = 0.1


def main(arguments: Sequence[str]) -> int:
    """Runs the parts; the exit code."""
    given = parse_arguments(arguments)
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    try:
        machine = query_machine()
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"gpu-check: the machine cannot be described: {error}", file=sys.stderr)
        return 1
    gpu = machine["gpu"] if given.device == "auto" else None
    if gpu is not None and given.peak_tflops:
        gpu["peak_tflops"] = given.peak_tflops
    report = CheckReport(
        format=FORMAT, date=started, machine={**machine, "gpu": gpu}, budget_minutes=given.budget_minutes
    )
    runner = PartRunner(out, report, gpu=gpu, program=PART_PROGRAM, began=began)
    chosen = [part for part in PARTS if not given.only or part.name in given.only]
    runner.tell(f"{gpu['name'] if gpu else 'no GPU: the CPU halves'}; {len(chosen)} parts, results in {out}")
    try:
        for parts in group_parts(chosen, on_gpu=gpu is not None):
            runner.run(parts)
    except KeyboardInterrupt:
        print(f"gpu-check: stopped; what was found is in {out}", file=sys.stderr)
        return 130
    print(f"\n{format_summary(report)}\n\n{out / 'gpu-check.json'}, {out / 'gpu-check.md'}", flush=True)
    return 1 if any(outcome.state in {"failed", "timed out"} for outcome in report.parts) else 0


def group_parts(parts: Sequence[Part], *, on_gpu: bool) -> list[list[Part]]:
    """What runs side by side, in order: on a GPU the checks, which wait for a core each most of the time; on a CPU
    nothing, as one part keeps it busy."""
    groups: list[list[Part]] = []
    for part in parts:
        if on_gpu and not part.alone and groups and not groups[-1][-1].alone:
            groups[-1].append(part)
        else:
            groups.append([part])
    return groups


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description="Check and measure everything that needs a GPU; without one the CPU halves.",
        epilog="parts: " + ", ".join(names),
    )
    parser.add_argument(
        "--budget-minutes",
        type=float,
        default=BUDGET_MINUTES,
        help=f"for all parts together (default: {BUDGET_MINUTES:g}); with more, each part may take longer, too",
    )
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


class PartRunner:
    """Runs parts within the minutes that are given for all."""

    def __init__(
        self, out: Path, report: CheckReport, *, gpu: dict[str, Any] | None, program: Sequence[str], began: float
    ) -> None:
        """`out`: folder for results. `gpu`: as in the report's machine; None: the CPU halves.

        `program`: what runs a part; it is given the part's name and options. `began`: when the minutes began.
        """
        self.out, self.report, self.gpu, self.program, self.began = out, report, gpu, tuple(program), began
        self.budget_seconds = 60 * report.budget_minutes

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def tell(self, text: str) -> None:
        """A line with the seconds since the start."""
        print(f"[{self.seconds:4.0f} s] {text}", flush=True)

    def run(self, parts: Sequence[Part]) -> None:
        """Parts that may run side by side, to their ends; what they find goes to the report and to disk at once."""
        running: list[RunningPart] = []
        try:
            for part in parts:
                outcome = self.begin(part)
                self.report.parts.append(outcome)
                if outcome.state == "running":
                    running.append(RunningPart(self, part, len(self.report.parts) - 1, self.choose_limit(part)))
            self.keep()
            while sum(each.poll() for each in running):  # each is asked, in every round
                time.sleep(POLL_SECONDS)
        finally:
            for each in running:
                each.close()

    def begin(self, part: Part) -> Outcome:
        """The outcome of a part that is not run, or of one that begins."""
        outcome = Outcome(name=part.name, about=part.about, table=part.table, device="cuda" if self.gpu else "cpu")
        own, limit = part.gpu_seconds if self.gpu else part.cpu_seconds, self.choose_limit(part)
        if not own:
            return replace(outcome, state="needs a GPU", reason="it has no CPU half")
        if limit < min(own, LEAST_SECONDS):
            self.tell(f"{part.name}: not run, the time is over")
            return replace(outcome, state="skipped", reason=f"the {self.report.budget_minutes:g} minutes were over")
        self.tell(f"{part.name}: {part.about}; at most {limit:.0f} s")
        return replace(outcome, state="running")

    def choose_limit(self, part: Part) -> float:
        """Its own seconds, which grow with the minutes that are given, or what is left of these."""
        own = part.gpu_seconds if self.gpu else part.cpu_seconds
        return min(own * max(1.0, self.report.budget_minutes / BUDGET_MINUTES), self.budget_seconds - self.seconds)

    def keep(self) -> None:
        """Writes what is known."""
        self.report.seconds = self.seconds
        write_files(self.out, self.report)


class RunningPart:
    """The process of one part, and its place in the report. `close` ends it and all that it started in its group."""

    def __init__(self, runner: PartRunner, part: Part, place: int, limit: float) -> None:
        self.runner, self.part, self.place, self.limit = runner, part, place, limit
        self.log = runner.out / f"{part.name}.log"
        self._folder = tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True)
        self._rows = Path(self._folder.name) / "rows.jsonl"
        work = Path(self._folder.name) / "work"
        work.mkdir()
        options = ["--device", self.outcome.device, "--folder", str(work), "--rows", str(self._rows)]
        options += ["--peak-tflops", str(runner.gpu["peak_tflops"] if runner.gpu else 0.0)]
        self.began = time.monotonic()
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*runner.program, part.name, *options],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def outcome(self) -> Outcome:
        return self.runner.report.parts[self.place]

    def poll(self) -> bool:
        """Takes up new rows; ends the part at its limit. Whether it still runs."""
        if self.outcome.state != "running":
            return False
        seconds = time.monotonic() - self.began
        ended, timed_out = self._process.poll() is not None, seconds > self.limit
        if ended or timed_out:
            self.kill()
        rows = read_rows(self._rows)
        new = rows[len(self.outcome.rows) :]
        for row in new:
            self.runner.tell(f"{self.part.name}: {format_row(row)}")
        if new or ended or timed_out:
            outcome = replace(self.outcome, rows=rows, seconds=seconds)
            if ended or timed_out:
                state, reason = self.judge(rows, timed_out=not ended)
                outcome = replace(outcome, state=state, reason=reason)
                self.runner.tell(f"{self.part.name}: {state}, {seconds:.0f} s{f': {reason}' if reason else ''}")
            self.runner.report.parts[self.place] = outcome
            self.runner.keep()
        return not (ended or timed_out)

    def judge(self, rows: Sequence[Row], *, timed_out: bool) -> tuple[str, str]:
        """State and reason of a part that has ended."""
        failed = [row for row in rows if not row.passed]
        code = self._process.returncode
        if timed_out:
            return "timed out", f"ended after {self.limit:.0f} s, with {len(rows)} rows"
        if failed:
            return "failed", "; ".join(f"{row.name}: {row.reason}" for row in failed)[:300]
        if code or not rows:
            return "failed", read_last_line(self.log) or f"exit code {code}, no output"
        return "done", ""

    def kill(self) -> None:
        """Ends what is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self.outcome.state == "running":
            self.kill()
        self._folder.cleanup()


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # parts are processes that must not outlive this one
    sys.exit(main(sys.argv[1:]))
