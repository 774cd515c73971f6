"""The stage of a job that an engine carries out: start it, watch its files, take over what it made."""

import json
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from stages.config import Engine
from stages.engines.engine import FOLDER, EngineRun, OpenRun, resolve_engine, run_program
from stages.engines.kinds import load_planned_kind, split_run_name
from stages.errors import ConfigError
from stages.files import write_json
from stages.job_file import JobFile
from stages.plugins import PluginError
from stages.result import write_result
from stages.stop import StopFlag
from stages.trackers import build_score_figures, describe_tracked_run, hold_trackers, open_trackers
from stages.training.metrics import MetricsLog, TrainingLog

# The engines by kind. A new one is a module with `open_run`, and its kind in `stages.config.BUILT_IN_ENGINES` and here;
# or it comes from a package of its own (`stages.engines.kinds`).

MODULES: Mapping[str, str] = {
    "command": "stages.engines.command.run",
    "open_lm": "stages.engines.open_lm.run",
    "prismatic": "stages.engines.prismatic.run",
    "vla_foundry": "stages.engines.vla_foundry.run",
}


def load_engine(engine: Engine) -> OpenRun:
    """The function that opens a job for the engine. PluginError for one of a package that is not as it was planned."""
    if not engine.plugin:
        found: OpenRun = import_module(MODULES[engine.kind]).open_run
        return found
    module, function = split_run_name(engine.kind, load_planned_kind(engine).run)
    try:
        found = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise PluginError(
            f"engine {engine.kind}: package {engine.plugin.rpartition(':')[0]} is broken: {module}:{function} "
            f"cannot be loaded ({error}); install a release of it that works"
        ) from error
    return found


POLL_SECONDS = 1.0


def run(job: JobFile, stop: StopFlag) -> bool:
    """Runs the job's engine until its files hold the outcome; then writes our checkpoint and result.json.

    False if it was asked to stop: what the program had saved by itself stays, and the next attempt goes on from it.
    A run that finds everything there starts nothing.
    """
    engine, settings = resolve_engine(job)
    current = load_engine(engine)(job)
    timer = EngineTimer(job.run / FOLDER / "seconds.json")
    with hold_trackers(open_trackers(job.settings.trackers, describe_tracked_run(job))) as trackers:
        if not is_done(current):
            command = current.prepare()
            log = TrainingLog(MetricsLog(job.metrics), lambda _step: trackers)
            log.begin(-1)  # the program's own log has the lines of all attempts
            monitor = EngineMonitor(current, log, timer)
            code = run_program(command, settings, stop, has_all=monitor.poll)
            monitor.copy_metrics()
            timer.save()
            # Why: docs/decisions.md, D56
            if not current.is_finished():
                if stop.requested:
                    return False
                raise current.explain_failure(code)
        result = current.collect_result(timer.seconds)
        for tracker in trackers if result.scores else ():
            tracker.write_scores(build_score_figures(result.scores))
    write_result(job, result)
    current.clean_up()
    return True


def is_done(run: EngineRun) -> bool:
    """Whether an attempt before has left everything; what it left in a wrong state is made again."""
    try:
        return run.is_finished()
    except ConfigError:
        return False


class EngineMonitor:
    """Reads a program's files while it runs."""

    def __init__(self, run: EngineRun, log: TrainingLog, timer: "EngineTimer") -> None:
        self._run, self._log, self._timer = run, log, timer
        self._next = 0.0
        self._step = -1

    def poll(self) -> bool:
        """Hands on new metrics; whether the program has made all that is wanted of it."""
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + POLL_SECONDS
        self.copy_metrics()
        self._timer.save()
        return self._run.is_finished()

    def copy_metrics(self) -> None:
        """New lines of metrics."""
        for record in self._run.read_metrics():
            if record["step"] <= self._step:
                self._log.drop_after(record["step"] - 1)  # the program went back to a checkpoint
            self._step = record["step"]
            self._log.write(record)


class EngineTimer:
    """The time that the program has run, in all attempts together."""

    def __init__(self, path: Path) -> None:
        self._path, self._before, self._started = path, read_seconds(path), time.monotonic()

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def save(self) -> None:
        write_json(self._path, {"seconds": self.seconds})


def read_seconds(path: Path) -> float:
    """0 where nothing readable is kept."""
    try:
        return float(json.loads(path.read_bytes())["seconds"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return 0.0
