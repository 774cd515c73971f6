"""The testbed index of a sweep: every model with its place in the grid, scores, tokens, cost, and where it lies.

index.json, index.parquet and README.md in one folder, in which the models' exports may lie too (`export.json` says
whose each is). Built from evidence at every call: a partial sweep gives a partial index.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs.counted import format_counted
from jobs.store.paths import Store, open_replacement, write_json
from jobs.store.records import read_record
from stages.printable import escape_unprintable
from sweep.errors import StoreError
from sweep.results.evidence import JobEvidence, UncountedRuns, find_uncounted_runs, load_job_evidence
from sweep.results.lineage import ModelChain, list_model_chains
from sweep.results.summary import build_row_json
from sweep.results.tables import build_results_table
from sweep.results.write import write_parquet
from sweep.stored_sweep import StoredSweep

FORMAT = 1
GENERATOR = "sweep export --index"
FILES = ("index.json", "index.parquet", "README.md")
MARKER = "export.json"
"""In an export's folder (`stages.export.run`)."""
CHECKPOINT = pa.field(
    "checkpoint",
    pa.string(),
    metadata={"unit": "", "description": "the model's checkpoint in the store; null before it is finished"},
)
EXPORT = pa.field(
    "export",
    pa.string(),
    metadata={"unit": "", "description": "folder of its export, relative to the index; null where there is none"},
)
SHOWN_COLUMNS = (
    "cell",
    "epochs",
    "state",
    "vision_stable_score",
    "text_stable_score",
    "a100_hours",
    "tokens",
    "key",
    "where",
)
"""Columns of README.md."""


@dataclass(frozen=True, slots=True)
class WrittenIndex:
    """How many models the index has, and what could not be read for it."""

    models: int
    finished: int
    exported: int
    uncounted: UncountedRuns


def write_index(stored: StoredSweep, folder: Path) -> WrittenIndex:
    """Writes the three files.

    StoreError if `folder` holds files of these names that no index wrote.
    """
    check_index_folder(folder, stored.manifest.sweep)
    chains = list_model_chains(stored.manifest)
    snapshot = stored.load_snapshot(whole_account=True)
    evidence = load_job_evidence(snapshot)
    table = build_results_table(stored.manifest.sweep, chains, evidence)
    exports = list_exports(folder, stored.manifest.sweep)
    checkpoints = [find_checkpoint(stored.store, chain, evidence) for chain in chains]
    found = [exports.get(chain.finetune) for chain in chains]
    table = table.append_column(CHECKPOINT, pa.array(checkpoints, pa.string())).append_column(
        EXPORT, pa.array(found, pa.string())
    )
    rows = table.to_pylist()
    folder.mkdir(parents=True, exist_ok=True)
    models = [{**build_row_json(row), "axes": dict(chain.cell.axes)} for row, chain in zip(rows, chains, strict=True)]
    header = {"format": FORMAT, "made_by": GENERATOR, "sweep": stored.manifest.sweep}
    write_json(folder / FILES[0], {**header, "models": models})
    write_parquet(folder / FILES[1], table.schema, table.to_batches())
    with open_replacement(folder / FILES[2]) as unfinished:
        unfinished.write_text(format_index(stored.manifest.sweep, rows), encoding="utf-8")
    return WrittenIndex(
        models=len(rows),
        finished=sum(each is not None for each in checkpoints),
        exported=sum(each is not None for each in found),
        uncounted=find_uncounted_runs(snapshot),
    )


def check_index_folder(folder: Path, sweep: str) -> None:
    """StoreError if another's files would be replaced: anything but an index of this sweep."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise StoreError(f"{folder} is a link or a file; give a folder with --out")
    if (folder / MARKER).exists():
        raise StoreError(f"{folder} is the export of one model; give the folder above it with --out")
    there = [name for name in FILES if (folder / name).is_symlink() or (folder / name).exists()]
    made = read_record(folder / FILES[0]) or {}
    if there and made.get("made_by") != GENERATOR:
        raise StoreError(
            f"{folder / there[0]} was not written by `{GENERATOR}` and is kept; give another folder with --out"
        )
    if there and made.get("sweep") != sweep:
        raise StoreError(f"{folder} holds the index of sweep {made.get('sweep')}; give another folder with --out")


def list_exports(folder: Path, sweep: str) -> dict[str, str]:
    """Exports of this sweep's models right below `folder`: key to the folder's name."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob(f"*/{MARKER}")) if folder.is_dir() else []:
        record = read_record(path) or {}
        if record.get("sweep") == sweep and isinstance(record.get("key"), str):
            found.setdefault(record["key"], path.parent.name)
    return found


def find_checkpoint(store: Store, chain: ModelChain, evidence: Mapping[str, JobEvidence]) -> str | None:
    """Where a finished fine-tune's checkpoint lies."""
    found = evidence[chain.finetune]
    if not found.done or found.result is None or not found.result.get("checkpoint"):
        return None
    return str(store.locate_run(found.job.stage, chain.finetune).root.absolute() / str(found.result["checkpoint"]))


def format_index(sweep: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """README.md: a table of the models, in the manifest's order."""
    finished = sum(row["state"] == "done" for row in rows)
    head = [
        f"# Models of the sweep {escape_markdown(sweep)}",
        "",
        f"{format_counted(len(rows), 'model')}, {finished} finished and evaluated. "
        "All columns, with scores by task: index.parquet, index.json. "
        "Scores are stable scores: accuracy above chance. A100-hours: its own and its part of shared jobs.",
        "",
        "| " + " | ".join(SHOWN_COLUMNS) + " |",
        "|" + "---|" * len(SHOWN_COLUMNS),
    ]
    return "\n".join([*head, *("| " + " | ".join(iter_row_cells(row)) + " |" for row in rows)]) + "\n"


def iter_row_cells(row: Mapping[str, Any]) -> Iterator[str]:
    """One model's line."""
    tokens = [row[name] for name in ("text_tokens", "image_tokens", "finetune_tokens")]
    hours = [row[name] for name in ("a100_hours_own", "a100_hours_shared")]
    sums = {"tokens": sum_known(tokens), "a100_hours": sum_known(hours), "where": row["export"] or row["checkpoint"]}
    for name in SHOWN_COLUMNS:
        value = sums[name] if name in sums else row[name]
        if name.endswith("_stable_score"):
            error = row[name.replace("score", "stderr")]
            low, high = (row[name.replace("stable_score", end)] for end in ("low", "high"))
            interval = f" ({low:.4f} to {high:.4f})" if error == 0 and low is not None else ""  # all answers equal
            noise = interval or ("" if error is None else f" ± {error:.4f}")
            yield "" if value is None else f"{value:.4f}{noise}"
        else:
            yield "" if value is None else escape_markdown(f"{value:.4g}" if isinstance(value, float) else str(value))


def sum_known(values: Sequence[Any]) -> Any:
    """Their sum; None if one is not known."""
    return None if None in values else sum(values)


def escape_markdown(text: str) -> str:
    """On one line, and with no meaning in a Markdown table."""
    line = escape_unprintable(" ".join(text.split()))
    for mark in "\\`*<>|[]":
        line = line.replace(mark, "\\" + mark)
    return line
