"""Stores of the sizes and states that the report is looked at with, and a program that writes one with its report.

    python -m tests.sweep.page.stores FOLDER --jobs 2710 [--state done|half|failed|empty]

The folder gets the store and report.html. Printed: jobs, size of the page, CPU seconds of the tables and of the page.
"""

import argparse
import json
import os
import time
from pathlib import Path
from unittest.mock import patch

from jobs.store.paths import Store
from jobs.store.records import FailureClass
from sweep.page.write import write_page
from sweep.results.write import write_tables
from sweep.stored_sweep import open_sweep
from tests.sweep import synthetic_store
from tests.sweep.synthetic_store import START, Grid, Written, finish, plan, write_attempt

TEN = tuple(10.0 * step for step in range(1, 11))
GRIDS = {
    3: Grid("small", branches=(0,), shares=(0.5,), epochs=(1,)),
    72: Grid("medium", branches=(0, 50, 100), shares=(0.0, 0.2, 0.5), epochs=(1, 2, 4)),
    2_710: Grid(
        "paper", branches=TEN, shares=(0.0, 0.01, 0.1, 0.2, 0.5, 1.0), seeds=(0, 1, 2, 3, 4), epochs=(1, 2, 3, 4)
    ),
    20_710: Grid(
        "large",
        branches=TEN,
        shares=tuple(step / 10 for step in range(10)),
        seeds=tuple(range(23)),
        epochs=(1, 2, 3, 4),
    ),
}
"""By about how many jobs they have: the largest two as the paper's sweep and as one of 20,000."""
VISION = ("vqav2", "gqa", "vizwiz", "textvqa", "pope", "refcoco")
TEXT = ("arc_easy", "arc_challenge", "boolq", "copa", "hellaswag", "piqa", "winogrande", "lambada", "openbookqa")
LOGGED = 60
"""Losses of each training job."""


def build_store(folder: Path, grid: Grid, state: str = "done") -> Written:
    """`done`; `half`, with a running job, failures that went on, and one that did not; `failed`, the first job of
    all; `empty`, nothing begun."""
    written = plan(Store(folder), grid)
    written.store.locate_sweep(grid.name).source.write_text(
        f"name: {grid.name}\n"
        f"description: When should images enter pre-training? A store of {len(written.jobs):,} jobs.\n"
    )
    keys = list(written.jobs)
    if state == "failed":
        write_attempt(
            written, keys[0], "a1", START, 40.0, failure=FailureClass.CODE, message="ValueError: no such field"
        )
    elif state != "empty":
        done = keys if state == "done" else keys[: len(keys) // 2]
        with (
            patch.object(synthetic_store, "scores_of", list_scores),
            patch.object(synthetic_store, "write_metrics", write_losses),
        ):
            finish(written, done)
        for place, key in enumerate(done):
            move_start(written, key, 40.0 * place)
        if state == "half":
            add_trouble(written, keys[len(keys) // 2 :])
    return written


def list_scores(written: Written, key: str) -> dict[str, object]:
    """Scores of all tasks of the study, spread about those of the toy."""
    toy = synthetic_store_scores(written, key)
    vision, text = toy["shapes_val"], toy["cloze"]
    found: dict[str, object] = {"text_loss": toy["text_loss"]}
    for names, kind, base in ((VISION, "vision", vision), (TEXT, "text", text)):
        for place, name in enumerate(names):
            score = min(max(base["score"] + 0.01 * (place - 3), 0.01), 0.99)
            found[name] = synthetic_store.task(kind, score, base["chance"], 0.012)
    return found


synthetic_store_scores = synthetic_store.scores_of


def write_losses(written: Written, key: str) -> None:
    """A falling curve with a little noise."""
    noise = int(key[:4], 16) / 65_535
    lines = [
        {
            "step": 50 * step,
            "loss": round(2.5 + 4 / (1 + step / 5) + 0.1 * noise + 0.02 * (step * 7919 % 13), 4),
            "tokens": step,
        }
        for step in range(1, LOGGED + 1)
    ]
    written.run(key).metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def move_start(written: Written, key: str, seconds: float) -> None:
    """The attempt so much later, so that jobs follow one another."""
    attempt = written.run(key).locate_attempt("a1")
    for path, names in ((attempt.start, ("started_at",)), (attempt.exit, ("ended_at",))):
        record = json.loads(path.read_text())
        record |= {name: record[name] + seconds for name in names}
        path.write_text(json.dumps(record))


def add_trouble(written: Written, rest: list[str]) -> None:
    """Jobs that failed for good, were preempted and went on, or run out of time."""
    begun = [key for key in rest if all(written.run(parent).result.exists() for parent in written.jobs[key]["parents"])]
    for place, key in enumerate(begun[:6]):
        if place % 2:
            write_attempt(
                written,
                key,
                "a1",
                START + 9_000,
                900.0,
                failure=FailureClass.PREEMPTED,
                message="SIGTERM",
                checkpoint_step=20,
                checkpoint_at=START + 9_600,
            )
            write_attempt(
                written,
                key,
                "a2",
                START + 11_000,
                300.0,
                failure=FailureClass.NODE_FAULT,
                message="CUDA error: uncorrectable ECC error encountered on node n17",
            )
        else:
            write_attempt(
                written, key, "a1", START + 9_000, 60.0, failure=FailureClass.CODE, message="KeyError: 'image'"
            )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path)
    options.add_argument("--jobs", type=int, choices=list(GRIDS), default=2_710)
    options.add_argument("--state", choices=["done", "half", "failed", "empty"], default="done")
    given = options.parse_args()
    with patch.object(os, "fsync", lambda _: None):
        written = build_store(given.folder, GRIDS[given.jobs], given.state)
    stored = open_sweep(given.folder, written.sweep)
    before = time.process_time()
    tables = write_tables(stored)
    between = time.process_time()
    page = write_page(stored, tables, given.folder / "report.html")
    after = time.process_time()
    print(
        f"{len(written.jobs):,} jobs, {page.stat().st_size / 2**20:.2f} MiB; "
        f"tables {between - before:.1f} s, page {after - between:.1f} s of CPU"
    )


if __name__ == "__main__":
    main()
