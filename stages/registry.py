"""The stages by name. A stage is a function of (job, stop flag) that lives in a module of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from stages.errors import ConfigError
from stages.job_file import JobFile, find_job_engine
from stages.stop import StopFlag

StageFunction = Callable[[JobFile, StopFlag], bool]
"""Runs a job; true when result.json is written, false when it saved and stopped as the flag asked."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a stage's function lies; the module is imported only when the stage runs."""

    module: str
    function: str = "run"

    def load(self) -> StageFunction:
        function: StageFunction = getattr(import_module(self.module), self.function)
        return function


STAGES: dict[str, Stage] = {
    "pretrain": Stage("stages.training.pretrain"),
    "finetune": Stage("stages.training.finetune"),
    "evaluate": Stage("stages.evaluation.run"),
}


def load_stage(name: str) -> StageFunction:
    """The named stage's function; ConfigError if there is none of that name."""
    if name not in STAGES:
        raise ConfigError(f"stage {name!r} is unknown; stages are {', '.join(STAGES)}")
    return STAGES[name].load()


def load_job_runner(job: JobFile) -> StageFunction:
    """What runs the job: the stage of its name, or another program in its stead."""
    return Stage("stages.engines.run").load() if find_job_engine(job) else load_stage(job.stage)
