"""The golden file of keys: what it holds, and how to write it anew.

    python -m tests.sweep.plan.golden_keys

Write it anew when a shipped sweep file was changed on purpose, or when a stage's format version was raised. A key that
moves for another reason is a fault: finished work of every user would be done again.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from stages import config as stage_config
from stages.config import STAGES, StageConfig
from stages.schedule import Schedule
from tests.sweep.small_sweep import MANIFESTS, shipped

GOLDEN = Path(__file__).parent / "golden_keys.json"


@cache
def sweeps() -> dict[str, Any]:
    """Keys of every shipped sweep: trunk segments, then each cell's chain."""
    found: dict[str, Any] = {}
    for path in sorted(MANIFESTS.glob("*.yaml")):
        manifest = shipped(path.stem)
        found[path.stem] = {
            "trunk": [job.key for job in manifest.jobs if job.phase == "trunk"],
            "cells": {
                cell.name: " ".join(
                    [cell.pretrain, *(key for chain in cell.chains for key in (chain.finetune, chain.evaluate))]
                )
                for cell in manifest.cells
            },
        }
    return found


def versions() -> dict[str, int]:
    """Format version of each stage."""
    return {name: stage.version for name, stage in STAGES.items()}


def defaults() -> dict[str, Any]:
    """Every default of the stages' configurations: leaving one out of a key fixes its meaning."""
    kinds: list[type[BaseModel]] = [
        kind for kind in vars(stage_config).values() if isinstance(kind, type) and issubclass(kind, StageConfig)
    ]
    found: dict[str, Any] = {}
    kinds.append(Schedule)
    for kind in kinds:
        found[kind.__name__] = {
            name: json.loads(json.dumps(field.get_default(call_default_factory=True), default=plain))
            for name, field in kind.model_fields.items()
            if not field.is_required()
        }
    return found


def plain(value: object) -> object:
    """A configuration among the defaults as JSON."""
    assert isinstance(value, StageConfig)
    return value.model_dump(mode="json")


def main() -> None:
    """Writes the file."""
    content = {"versions": versions(), "defaults": defaults(), "sweeps": sweeps()}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
