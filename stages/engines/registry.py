"""The engines by kind. A new one is a module with `open_run`, and its kind in `stages.config.Engine` and here."""

from collections.abc import Mapping
from importlib import import_module

from stages.engines.engine import OpenRun

MODULES: Mapping[str, str] = {
    "command": "stages.engines.command.run",
    "open_lm": "stages.engines.open_lm.run",
    "prismatic": "stages.engines.prismatic.run",
    "vla_foundry": "stages.engines.vla_foundry.run",
}


def load_engine(kind: str) -> OpenRun:
    """The function that opens a job for an engine of that kind."""
    found: OpenRun = import_module(MODULES[kind]).open_run
    return found
