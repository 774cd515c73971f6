"""The stored fixture: a copy of it as a store on this machine, and all that the reading commands say of it."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.oracle.program import Program, names, write
from tests.oracle.tables import rows_text, schema_text

FIXTURE = Path(__file__).parent.parent / "fixtures" / "store-0.1"
EXPECTED = FIXTURE / "expected"
PATIENCE = "call=20 submit=20 absent=0 look_again=0 cache=0 pace=0"
SILENT = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr")


def unpack(to: Path, fixture: Path = FIXTURE) -> Path:
    """A copy of the store, with the times that its files had (git keeps none)."""
    store = Path(shutil.copytree(fixture / "store", to / "store"))
    for path in store.glob("runs/*/*/attempts/*/start.json"):  # written when it says that the attempt began
        began = json.loads(path.read_text())["started_at"]
        os.utime(path, (began, began))
    for name, seconds in json.loads((fixture / "times.json").read_text()).items():
        nanoseconds = round(seconds * 1000) * 1_000_000
        os.utime(store / name, ns=(nanoseconds, nanoseconds))
    return store


def silent_slurm(folder: Path) -> Path:
    """Slurm's programs as of a cluster that has forgotten every job."""
    folder.mkdir(parents=True)
    for name in SILENT:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def record_stored(program: Program, scratch: Path, out: Path, fixture: Path = FIXTURE) -> None:
    """What is said of each sweep of the fixture, with a store in `scratch`."""
    path = f"{silent_slurm(scratch / 'slurm')}:{os.environ['PATH']}"
    environment = {**program.environment, "PATH": path, "SWEEP_SLURM_PATIENCE": PATIENCE}
    program = replace(program, environment=environment)
    store = unpack(scratch, fixture)
    for folder in sorted((store / "sweeps").iterdir()):
        for file, text in said_of(program, store, folder.name):
            write(out / folder.name / file, text)
        results = folder / "results"
        for table in sorted(results.glob("*.parquet")):
            write(out / folder.name / "tables" / f"{table.stem}.schema.txt", schema_text(table))
            write(out / folder.name / "tables" / f"{table.stem}.jsonl", rows_text(table))
        write(out / folder.name / "tables" / "summary.txt", (results / "summary.txt").read_text())


def said_of(program: Program, store: Path, sweep: str) -> Iterator[tuple[str, str]]:
    """File names of the record, and texts."""

    def said(*words: str) -> str:
        return program.run(*words, store=store).text

    yield "status.json", without_cores(said("status", sweep, "--json"))
    yield "status.txt", without_cores(said("status", sweep, "--all"))
    yield "results.json", said("results", sweep, "--json", "--no-figures")
    yield "results.csv", said("results", sweep, "--csv", "--no-figures")
    cells, failed = cells_of(store, sweep)
    for cell in cells:
        yield f"explain-{names([cell])}.json", said("explain", cell, "--sweep", sweep, "--json")
    yield "explain.txt", said("explain", cells[0], "--sweep", sweep)
    yield "logs.txt", said("logs", sweep)
    yield "log-path.txt", said("logs", sweep, failed, "--path")
    yield "plan-diff.json", said("plan", str(store / "sweeps" / sweep / "sweep.yaml"), "--diff", "--json")
    if sweep == "kept":
        yield "submit-dry.json", said("submit", sweep, "--dry-run", "--json", "--cpus", "2")
        yield "resume-dry.json", said("resume", sweep, "--dry-run", "--json", "--cpus", "2", "--cells", failed)


def without_cores(text: str) -> str:
    """Time left goes by the cores of this machine: neither is recorded, but what it is based on."""
    text = re.sub(r"\d+ cores? of this machine", "$CORES of this machine", text)
    text = re.sub(r'"seconds": [\d.]+,(\s+"basis": "\$CORES)', r'"seconds": "$SECONDS",\1', text)
    return re.sub(r"about [^()\n]+ left \(\$CORES", "about $TIME left ($CORES", text)


def cells_of(store: Path, sweep: str) -> tuple[list[str], str]:
    """All cells, and the key of a job with a failed attempt."""
    lines = [json.loads(line) for line in (store / "sweeps" / sweep / "manifest.jsonl").read_text().splitlines()]
    keys = {line["key"] for line in lines if line["record"] == "job"}
    failed = sorted(path.parts[-4] for path in (store / "runs").rglob("error.json") if path.parts[-4] in keys)
    return [line["name"] for line in lines if line["record"] == "cell"], failed[0]
