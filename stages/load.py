"""From a stage's name to the function that runs its jobs."""

from collections.abc import Callable
from importlib import import_module

from stages.config import STAGES, find_engine
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.stop import StopFlag

StageFunction = Callable[[JobFile, StopFlag], bool]
"""Runs a job; true when result.json is written, false when it saved and stopped as the flag asked."""


def load_stage(name: str) -> StageFunction:
    """The named stage's function; ConfigError if there is none of that name."""
    if name not in STAGES:
        raise ConfigError(f"stage {name!r} is unknown; stages are {', '.join(STAGES)}")
    return load_run_function(STAGES[name].module)


def load_job_runner(job: JobFile) -> StageFunction:
    """What runs the job: the stage of its name, or another program in its stead."""
    return load_run_function("stages.engines.run") if find_engine(job.config) else load_stage(job.stage)


def load_run_function(module: str) -> StageFunction:
    """The function `run` of a module."""
    function: StageFunction = import_module(module).run
    return function
