"""A study of one cell on the smallest data, which needs an engine, a task and a tracker of the package tiny-lab."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.stages.training.training_case import COLOURS, MODEL, make_world

PROJECT = Path(__file__).with_name("tiny_lab_project")


def install_package(target: Path, *, name: str = "tiny-lab", edit: dict[str, tuple[str, str]] | None = None) -> Path:
    """Builds the package with pip and installs it into a folder; `edit`: file to what is replaced in it."""
    source = target.with_name(f"{target.name}-source")
    shutil.copytree(PROJECT, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace('name = "tiny-lab"', f'name = "{name}"'))
    for file, (before, after) in (edit or {}).items():
        text = (source / file).read_text()
        assert before in text
        (source / file).write_text(text.replace(before, after))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True, text=True)
    return target


def write_study(root: Path, *, trackers: tuple[str, ...] = ("notebook",)) -> dict[str, Any]:
    """Data below `root`, and the sweep file as a mapping: four jobs."""
    data = make_world(root).data
    exams = data / "exams"
    exams.mkdir()
    (exams / "tally.json").write_text(
        json.dumps({"format": 1, "family": "tally", "questions": "tally-questions.json", "images": "pictures"})
    )
    entries = [
        {"number": place, "picture": f"{colour}.png", "question": "How many?", "count": place}
        for place, colour in enumerate(COLOURS)
    ]
    (exams / "tally-questions.json").write_text(json.dumps(entries))
    shutil.copytree(data / "conversations" / "images", exams / "pictures")
    training = {"context": 32, "batch_sequences": 4, "precision": "fp32"}
    return {
        "name": "plugged",
        "backend": "local",
        "data": {
            "text": {"kind": "text", "path": data / "text"},
            "captions": {"kind": "captions", "path": data / "captions"},
            "talks": {"kind": "conversations", "path": data / "conversations"},
            "tokenizer": {"kind": "tokenizer", "path": data / "tokenizer.json"},
            "exams": {"kind": "tasks", "path": exams},
        },
        "models": {"tiny": MODEL},
        "engines": {"lab": {"kind": "nudge", "python": sys.executable, "arguments": {"by": 0.5}}},
        "defaults": {
            "model": "tiny",
            "encoder": "patches-16-32",
            "trunk": {**training, "unit_tokens": 1024, "peak_lr": 3e-3, "warmup_steps": 2},
            "pretrain": {**training, "unit_tokens": 768, "restart_lr": 2e-3, "restart_warmup_steps": 2},
            "finetune": {"engine": "lab", "batch_sequences": 4, "max_length": 32, "precision": "fp32"},
            "evaluate": {"vision_tasks": ["tally"], "max_new_tokens": 2, "precision": "fp32"},
        },
        "blocks": [{"axes": {"branch": [50], "image_share": [0.5]}}],
        "epochs": [1],
        "settings": {"log_steps": 2, "trackers": list(trackers)},
    }
