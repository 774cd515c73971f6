"""The engine as `sweep plan` sees it: it loads no torch."""

from stages.config import StageConfig, find_engine
from stages.engines.kinds import EngineKind


def find_problem(config: StageConfig, phase: str) -> str:
    """The one argument is a number."""
    engine = find_engine(config)
    unknown = sorted(engine.arguments.keys() - {"by"}) if engine else []
    return f"arguments: {unknown[0]} is unknown to nudge, which takes by in a {phase}" if unknown else ""


NUDGE = EngineKind(phases=("finetune",), run="tiny_lab.engine:open_run", version=3, find_problem=find_problem)
