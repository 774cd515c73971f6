"""Kinds of engines that packages register, with what they say of themselves. Torch-free."""

from collections.abc import Callable
from dataclasses import dataclass

from stages.config import BUILT_IN_ENGINES, Engine, StageConfig
from stages.errors import ConfigError
from stages.plugins import ENGINES, Plugin, check_label, find_plugin, render_label


def find_no_problem(config: StageConfig, phase: str) -> str:  # noqa: ARG001 - a form
    """For an engine that takes whatever its phases take."""
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """What an entry point of `sweep.engines` names (docs/add-an-engine.md)."""

    phases: tuple[str, ...]
    """Of trunk, pretrain, finetune and evaluate, those that it can carry out."""
    run: str
    """MODULE:FUNCTION that opens a job (`stages.engines.engine.OpenRun`). Imported in the job alone, so it may load
    torch; the module of this object may not."""
    version: int = 1
    """Raised when the numbers change for an unchanged configuration. It enters the keys of the engine's jobs."""
    find_problem: Callable[[StageConfig, str], str] = find_no_problem
    """Why it cannot carry out a configuration in a phase, and what would do; empty if nothing is known against it."""
    main_file: str = ""
    """The program's main file in its checkout, which is looked for before jobs are sent."""


def find_engine_plugin(kind: str) -> tuple[Plugin, EngineKind]:
    """The plug-in of that kind. PluginError if it is missing, twice there, or broken."""
    plugin = find_plugin(ENGINES, kind, BUILT_IN_ENGINES)
    found = plugin.load()
    if not isinstance(found, EngineKind):
        raise plugin.build_type_error(found, "a stages.engines.kinds.EngineKind")
    return plugin, found


def render_engine_label(kind: str) -> str:
    """What keys hold of a kind besides its name; empty for one that is built in."""
    if kind in BUILT_IN_ENGINES:
        return ""
    plugin, found = find_engine_plugin(kind)
    return render_label(plugin, found.version)


def load_planned_kind(engine: Engine) -> EngineKind:
    """The plug-in that a plan names. PluginError where it is not installed, or not as it was planned."""
    plugin, found = find_engine_plugin(engine.kind)
    check_label(plugin, found.version, engine.plugin)
    return found


def split_run_name(kind: str, name: str) -> tuple[str, str]:
    """Module and function of `EngineKind.run`; ConfigError for another form."""
    module, mark, function = name.partition(":")
    if not (mark and module and function):
        raise ConfigError(f"engine {kind}: its run {name!r} is not MODULE:FUNCTION; tell the authors of its package")
    return module, function
