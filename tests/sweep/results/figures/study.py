"""A small study in which every axis varies, as tables: two sizes, and every figure has its data."""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sweep.catalog.chance import load_chances
from sweep.results.figures.gallery import FigureData
from sweep.results.schemas import CONTRASTS, METRICS
from tests.sweep.results.score_rows import row

BRANCHES = (0.0, 20.0, 80.0, 100.0)
SHARES = (0.0, 0.01, 0.1, 0.5)
SIZES = {"79m": 78_914_048, "1.4b": 1_439_795_200}
STEPS = 100
"""Steps of a trunk and of an image-text run, one logged line each."""


def iter_settings() -> Iterator[dict[str, Any]]:
    """A full grid of branch points, shares and epochs for each size, and the other axes around one of its points."""
    for model, branch, share, epochs in product(SIZES, BRANCHES, SHARES, (1, 2)):
        yield {"model": model, "branch": branch, "image_share": share, "epochs": epochs}
    base = {"model": "1.4b", "branch": 80.0, "image_share": 0.1, "epochs": 2}
    for name, values in {
        "instruction_share": (0.2, 1.0),
        "captions": ("short-and-noisy-alt-texts",),
        "encoder": ("siglip+dinov2", "patches"),
        "freeze_encoder": (False,),
        "amount": (2.0, 4.0),
        "seed": (7, 365),
    }.items():
        for value in values:
            yield {**base, name: value}
    yield {**base, "branch": 100.0, "lr_at_branch": "matched"}


def build_rows() -> list[dict[str, Any]]:
    """Rows of results.parquet; scores rise smoothly, so that points of different lines lie close together."""
    rows = []
    for settings in iter_settings():
        base = row(
            encoder="siglip-so400m-14-384",
            parameters=SIZES[settings["model"]],
            heldout_vision_stable_score=None,
            bits_per_byte=None,
            a100_hours_shared=100.0,
            cpu_hours_own=0.0,
            cpu_hours_shared=0.0,
        )
        model = base | settings
        vision = 0.2 + 0.001 * model["branch"] + 0.1 * model["image_share"] ** 0.5 + 0.02 * model["epochs"]
        vision += {"79m": 0.0, "1.4b": 0.1}[model["model"]] + 0.0001 * model["seed"]
        name = "-".join(
            str(model[axis]) for axis in ("model", "branch", "image_share", "amount", "seed", "lr_at_branch")
        )
        model |= {
            "cell": name,
            "pretrain_key": name,
            "pretrain_loss": 2.0,
            "vision_stable_score": vision,
            "vision_stable_stderr": 0.004,
            "vision_chance": 0.1667,
            "text_stable_score": 0.1 + 0.001 * model["branch"] - 0.02 * model["image_share"],
            "text_stable_stderr": 0.006,
            "text_chance": 0.32,
            "a100_hours_own": 10.0 * model["epochs"] * model["parameters"] / 1e9,
        }
        rows.append(model | {"scores": list(build_task_scores(model))})
    return rows


def build_task_scores(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The study's tasks, each as far above its chance level as the model's score."""
    for task in load_chances().tasks.values():
        gain = model["vision_stable_score" if task.kind == "vision" else "text_stable_score"]
        score = min(1.0, (task.chance or 0.0) + gain)
        yield {"task": task.name, "kind": task.kind, "score": score, "stderr": 0.01, "chance": task.chance, "n": 500}


def build_jobs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Trunk segments that end at the branch points, and the image-text runs behind them."""
    jobs = []
    for model in SIZES:
        parents: list[str] = []
        for branch in BRANCHES[1:]:
            key = f"{model}-trunk-{branch:g}"
            jobs.append({"key": key, "parents": parents})
            parents = [key]
    for each in {each["pretrain_key"]: each for each in rows}.values():
        trunk = [f"{each['model']}-trunk-{each['branch']:g}"] if each["branch"] else []
        jobs.append({"key": each["pretrain_key"], "parents": trunk})
    return jobs


def iter_metrics(jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the runs logged; the trunk's learning rate at step s of 100 is 1 - s / 100."""
    for job in jobs:
        _, trunk, branch = job["key"].partition("-trunk-")
        before = BRANCHES[BRANCHES.index(float(branch)) - 1] if trunk else 0
        for step in range(int(before) + 1, int(float(branch) if trunk else STEPS) + 1):
            values = {"lr": 1 - step / 100, "loss": 2 + math.exp(-step / 20), "grad_norm": 1.0}
            if not trunk:
                values |= {"losses.text": 2.5, "losses.captions": 1.5 + math.exp(-step / 10)}
            for name, value in values.items():
                yield {"key": job["key"], "step": step, "tokens": 100 * step, "name": name, "value": value}


def iter_contrasts() -> Iterator[dict[str, Any]]:
    """Branch points against 100 % and image shares against 0, and the pairs of cells at 80 and 100 %.

    The difference of images from B minus images from 100 % is (B - 90) / 1000 at both levels, with an interval of 0.006
    to both sides.
    """
    for model in SIZES:
        for branch in BRANCHES[:-1]:
            yield build_contrast(model, "average", "branch", (f"{branch:g}", "100"), (90 - branch) / 1000)
        for share in SHARES[1:]:
            yield build_contrast(model, "average", "image_share", ("0", f"{share:g}"), share / 10)
        for share in SHARES:
            yield build_contrast(model, "cell", "branch", ("80", "100"), 0.01, image_share=share)


def build_contrast(
    model: str, level: str, axis: str, values: tuple[str, str], difference: float, **at: Any
) -> dict[str, Any]:
    """A row of contrasts.parquet with the fields that figures need."""
    fixed = row() if level == "cell" else {}
    axes = ("instruction_share", "captions", "encoder", "freeze_encoder", "amount", "lr_at_branch", "overrides")
    return {
        **{name: fixed.get(name) for name in axes},
        "level": level,
        "model": model,
        "axis": axis,
        "first": values[0],
        "second": values[1],
        "image_share": at.get("image_share"),
        "score": "vision",
        "is_task": False,
        "difference": difference,
        "low": difference - 0.006,
        "high": difference + 0.006,
        "p_holm": 0.01 if abs(difference) > 0.02 else 0.2,
        "noise": "questions",
        "shared_draws": ["trunk", "pretrain", "finetune"],
        "note": None,
    }


def build_study(folder: Path) -> FigureData:
    """The study; metrics.parquet and contrasts.parquet are written to `folder`."""
    rows = build_rows()
    jobs = build_jobs(rows)
    metrics, contrasts = folder / "metrics.parquet", folder / "contrasts.parquet"
    pq.write_table(pa.Table.from_pylist(list(iter_metrics(jobs)), schema=METRICS), metrics)
    pq.write_table(pa.Table.from_pylist(list(iter_contrasts()), schema=CONTRASTS), contrasts)
    return FigureData(sweep="study", rows=rows, jobs=jobs, metrics=metrics, contrasts=contrasts)
