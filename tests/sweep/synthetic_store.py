"""A small store as planner, supervisor and stages would leave it (docs/formats.md), with scores by a known formula."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobs.store.paths import RunPaths, Store, write_json
from jobs.store.records import AttemptExit, AttemptStart, FailureClass

START = 1_790_000_000.0
"""Unix seconds at which every first attempt begins."""
SECONDS = {"trunk": 720.0, "pretrain": 360.0, "finetune": 180.0, "evaluate": 36.0}
"""Wall time of one attempt of each phase."""
VERSIONS = {"python": "3.11.7", "torch": "2.13.0"}


def key_of(*parts: object) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Grid:
    """The sweep to pretend: a product of axes."""

    name: str = "toy"
    models: tuple[str, ...] = ("2m",)
    branches: tuple[float, ...] = (0, 50, 100)
    shares: tuple[float, ...] = (0.0, 0.1, 0.25, 0.5)
    captions: tuple[str, ...] = ("dense",)
    seeds: tuple[int, ...] = (0,)
    epochs: tuple[int, ...] = (1, 2, 4)


@dataclass
class Written:
    """What was written: manifest records by kind, and where."""

    store: Store
    sweep: str
    cells: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, key: str) -> RunPaths:
        return self.store.locate_run(self.jobs[key]["stage"], key)

    def phase(self, phase: str) -> list[str]:
        return [key for key, job in self.jobs.items() if job["phase"] == phase]


def plan(store: Store, grid: Grid) -> Written:
    """Writes the manifest of `grid`."""
    written = Written(store, grid.name)
    for model, branch, share, captions, seed in itertools.product(
        grid.models, grid.branches, grid.shares, grid.captions, grid.seeds
    ):
        axes = {
            "model": model,
            "branch": branch,
            "image_share": share,
            "instruction_share": 0.0,
            "captions": captions,
            "encoder": "patches",
            "freeze_encoder": True,
            "amount": 1.0,
            "text_multiplier": 1.0,
            "lr_at_branch": "trunk",
            "seed": seed,
        }
        add_cell(written, f"{model}-b{branch:g}-i{100 * share:g}-{captions}-s{seed}", axes, grid)
    write_manifest(written)
    return written


def add_cell(written: Written, name: str, axes: dict[str, Any], grid: Grid) -> None:
    parents: tuple[str, ...] = ()
    for stop in [branch for branch in grid.branches if 0 < branch <= axes["branch"]]:
        parents = (add_job(written, key_of("trunk", axes["model"], stop), "pretrain", "trunk", parents, cell=name),)
    pretrain = add_job(written, key_of("pretrain", *axes.values()), "pretrain", "pretrain", parents, cell=name)
    chains = []
    for epochs in grid.epochs:
        finetune = add_job(written, key_of(pretrain, epochs), "finetune", "finetune", (pretrain,), cell=name)
        evaluate = add_job(written, key_of(finetune, "evaluate"), "evaluate", "evaluate", (finetune,), cell=name)
        chains.append({"epochs": epochs, "finetune": finetune, "evaluate": evaluate})
    written.cells.append({"record": "cell", "name": name, "axes": axes, "pretrain": pretrain, "chains": chains})


def add_job(written: Written, key: str, stage: str, phase: str, parents: tuple[str, ...], *, cell: str) -> str:
    job = written.jobs.setdefault(
        key,
        {
            "record": "job",
            "key": key,
            "stage": stage,
            "version": 1,
            "phase": phase,
            "parents": list(parents),
            "cells": [],
            "config": pretrain_config(phase, len(parents)) if stage == "pretrain" else {},
            "resources": {"cpus": 2, "gpus_per_node": 4, "gpu_type": "h100", "time_minutes": 30},
            "estimate": {"gpu_hours": 0.5, "a100_hours": 1.0, "tokens": 600_000},
        },
    )
    if phase != "trunk" and cell not in job["cells"]:
        job["cells"].append(cell)
    return key


def pretrain_config(phase: str, segment: int) -> dict[str, Any]:
    """256 x 16 = 4,096 tokens a step; a trunk of 60 steps is cut at 30."""
    config: dict[str, Any] = {
        "model": {"d_model": 192, "layers": 4, "heads": 6, "vocabulary": 2048},
        "sources": [{"name": "novels", "kind": "text"}],
        "context": 256,
        "batch_sequences": 16,
        "schedule": {"peak_lr": 0.003, "total_steps": 60 if phase == "trunk" else 30},
    }
    if phase == "trunk":
        config["stop_step"] = 30 * (segment + 1)
    return config


def write_manifest(written: Written) -> None:
    header = {
        "record": "header",
        "format": 1,
        "sweep": written.sweep,
        "cells": len(written.cells),
        "jobs": len(written.jobs),
        "backend": "local",
        "data": {},
    }
    lines = [json.dumps(record) for record in [header, *written.cells, *written.jobs.values()]]
    path = written.store.locate_sweep(written.sweep).manifest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def finish(written: Written, keys: Iterable[str] | None = None, *, gpus: int = 4) -> None:
    """Every job of `keys` (default: all) done in one attempt."""
    for key in list(written.jobs) if keys is None else keys:
        phase = written.jobs[key]["phase"]
        write_attempt(written, key, "a1", START, SECONDS[phase], gpus=gpus)
        write_job_file(written, key)
        if phase != "evaluate":
            write_metrics(written, key)
        write_json(written.run(key).result, result_of(written, key))


def write_attempt(
    written: Written,
    key: str,
    attempt: str,
    started_at: float,
    seconds: float | None,
    *,
    failure: FailureClass | None = None,
    message: str = "",
    checkpoint_step: int = -1,
    checkpoint_at: float = 0.0,
    gpus: int = 4,
    gpu_type: str = "h100",
) -> None:
    """One attempt; `seconds` None leaves it without an exit record."""
    job = written.jobs[key]
    paths = written.run(key).locate_attempt(attempt)
    AttemptStart(
        attempt=attempt,
        key=key,
        stage=job["stage"],
        backend="local",
        host="node7",
        pid=1,
        pid_started=0.0,
        boot_id="gone",
        started_at=started_at,
        cpus=2,
        gpus=gpus,
        gpu_type=gpu_type,
    ).write(paths.start)
    if seconds is not None:
        AttemptExit(
            attempt=attempt,
            key=key,
            ended_at=started_at + seconds,
            returncode=1 if failure else 0,
            failure=failure,
            message=message,
            checkpoint_step=checkpoint_step,
            checkpoint_at=checkpoint_at,
        ).write(paths.exit)


def write_job_file(written: Written, key: str) -> None:
    job = written.jobs[key]
    content = {
        "format": 1,
        "key": key,
        "stage": job["stage"],
        "config": job["config"],
        "settings": {},
        "code": {"revision": "abc123", "versions": VERSIONS},
    }
    write_json(written.run(key).job, content)


def write_metrics(written: Written, key: str) -> None:
    lines = [
        {
            "step": step,
            "tokens": step * 4096,
            "loss": 5 - step / 100,
            "lr": 1e-3,
            "losses": {"text": 4.5},
            "time": START,
        }
        for step in (10, 20, 30)
    ]
    written.run(key).metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def result_of(written: Written, key: str) -> dict[str, Any]:
    job = written.jobs[key]
    return {
        "format": 1,
        "key": key,
        "stage": job["stage"],
        "finished_at": START + SECONDS[job["phase"]],
        "steps": 30,
        "tokens": 122_880,
        "image_tokens": 2_880 if job["phase"] == "pretrain" else 0,
        "images": 180,
        "seconds": SECONDS[job["phase"]] - 1,
        "tokens_per_second": 8000.0,
        "loss": 2.5,
        "checkpoint": "",
        "files": {},
        "bad_samples": 0,
        "scores": scores_of(written, key) if job["stage"] == "evaluate" else {},
        "versions": VERSIONS,
    }


def scores_of(written: Written, key: str) -> dict[str, Any]:
    """Scores of an evaluation: rising with image share and epochs, losses with branch, a little by seed."""
    cell, chain = next((c, ch) for c in written.cells for ch in c["chains"] if ch["evaluate"] == key)
    axes: Mapping[str, Any] = cell["axes"]
    noise = 0.015 * (int(key[:4], 16) / 65_535 - 0.5) + 0.02 * (axes["seed"] - 0.5)
    skill = 0.55 * axes["image_share"] ** 0.5 + 0.03 * chain["epochs"] + 0.0006 * axes["branch"] + noise
    text = 0.08 + 0.0015 * axes["branch"] - 0.05 * axes["image_share"] - 0.012 * chain["epochs"] + noise
    bits = 2.6 - 0.006 * axes["branch"] + 0.3 * axes["image_share"] + 0.3 * chain["epochs"]
    return {
        "shapes_val": task("vision", 0.3 + skill, 0.3, 0.016),
        "count_val": task("vision", 0.25 + 0.7 * skill, 0.25, 0.02),
        "shapes_heldout": task("vision", 0.3 + 0.8 * skill, 0.3, 0.018),
        "cloze": task("text", 0.25 + text, 0.25, 0.02),
        "text_loss": task("loss", bits, None, None),
    }


def task(kind: str, score: float, chance: float | None, stderr: float | None) -> dict[str, Any]:
    return {"kind": kind, "metrics": {"acc": score}, "score": score, "stderr": stderr, "chance": chance, "n": 800}


def toy(folder: Path, grid: Grid | None = None) -> Written:
    """A planned and wholly finished sweep in `folder`."""
    written = plan(Store(folder), grid or Grid())
    finish(written)
    return written
