"""Writes down when the attempts of a finished sweep began and ended, for the tests of time left.

python -m tests.sweep.report.record_run STORE SWEEP CORES
"""

import json
import sys
from pathlib import Path
from typing import Any

from jobs.store.paths import Store
from jobs.store.records import AttemptStart
from jobs.store.results import check_result, list_names
from sweep.plan.manifest import map_jobs_to_models, read_manifest
from sweep.report.time_left import compute_work


def record_run(store: Store, sweep: str, cores: int) -> dict[str, Any]:
    """Every job of the sweep, each of one attempt. Times are seconds after the first began."""
    manifest = read_manifest(store.locate_sweep(sweep).manifest)
    models = map_jobs_to_models(manifest)
    rows = []
    for job in manifest.jobs:
        run = store.locate_run(job.stage, job.key)
        result = check_result(run, job.key).content
        (name,) = list_names(run.attempts)
        start = AttemptStart.read(run.locate_attempt(name).start)
        assert result is not None, job.key
        assert start is not None, job.key
        rows.append(
            {
                "key": job.key[:6], "phase": job.phase, "model": models[job.key],
                "parents": [parent[:6] for parent in job.parents], "precision": job.config.get("precision", "bf16"),
                "work": round(compute_work(job), 3), "began": start.started_at, "ended": result["finished_at"],
                "steps": round(result["seconds"], 2),
            }
        )  # fmt: skip
    first = min(row["began"] for row in rows)
    for row in rows:
        row["began"], row["ended"] = round(row["began"] - first, 2), round(row["ended"] - first, 2)
    return {"sweep": sweep, "cores": cores, "jobs": rows}


if __name__ == "__main__":
    content = record_run(Store(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]))
    lines = ",\n".join(json.dumps(row) for row in content.pop("jobs"))
    print(json.dumps(content)[:-1] + f', "jobs": [\n{lines}\n]}}')
