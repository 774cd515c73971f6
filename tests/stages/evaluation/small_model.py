"""A finished run with a tiny untrained model, for tests of what comes after training."""

import json
from pathlib import Path
from typing import Any

import torch

from stages.checkpoint.files import save_checkpoint
from stages.config import LanguageModel, Vision
from stages.demo.text import VOCABULARY
from stages.models.vlm import VLM

SMALL_MODEL = LanguageModel(d_model=32, layers=2, heads=2, vocabulary=VOCABULARY)
PATCHES = Vision(encoder="patches-16-64")


def make_small_run(folder: Path, vision: Vision | None = PATCHES) -> VLM:
    """A run folder with result.json and a checkpoint; returns its model."""
    torch.manual_seed(5)
    vlm = VLM(SMALL_MODEL, vision)
    state = {"step": 3, "model": SMALL_MODEL.model_dump(), "vision": vision.model_dump() if vision else None}
    path = save_checkpoint(folder / "checkpoints", state, vlm.collect_weights(), None)
    (folder / "result.json").write_text(json.dumps({"checkpoint": path.relative_to(folder).as_posix()}))
    return vlm.eval()


def write_job(folder: Path, *, config: dict[str, Any], data: dict[str, Path], parent: Path | None) -> Path:
    """job.json of an evaluation in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    parents = [{"key": "b" * 16, "stage": "finetune", "run": str(parent)}] if parent else []
    job = {
        **{"format": 1, "key": "a" * 16, "stage": "evaluate", "version": 1, "config": config, "parents": parents},
        "data": {name: str(path) for name, path in data.items()},
        "paths": {
            **{"checkpoints": "checkpoints", "metrics": "metrics.jsonl", "result": "result.json"},
            "error": "attempts/1/error.json",
        },
    }
    (folder / "job.json").write_text(json.dumps(job))
    return folder / "job.json"
