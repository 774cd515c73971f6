"""A stage of a few milliseconds: `python -I -S stage.py NOTES JOB_JSON`.

NOTES holds `fail` and `slow` (keys), and takes a line in `completed` for each job that ran to its end.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

NOTES, JOB = Path(sys.argv[1]), Path(sys.argv[2])
SCORE = {"score": 0.5, "stderr": 0.125, "chance": 0.25, "n": 12}
LONGEST_SECONDS = 60.0


def main() -> int:
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stops.append(number))
    job: dict[str, Any] = json.loads(JOB.read_text())
    run, key = JOB.parent, str(job["key"])
    print("works on", key, flush=True)
    if key in (NOTES / "fail").read_text().split():
        write_json(run / job["paths"]["error"], {"class": "data", "message": "no such data", "traceback": ""})
        return 1
    if key in (NOTES / "slow").read_text().split():
        end = time.monotonic() + LONGEST_SECONDS
        while not stops and time.monotonic() < end:
            time.sleep(0.02)
        return 75
    result: dict[str, Any] = {"format": 1, "key": key, "stage": job["stage"], "seconds": 1.0, "files": {}}
    if job["stage"] == "evaluate":
        result["scores"] = {
            "cloze": {"kind": "text", "metrics": {"acc": 0.5}, **SCORE},
            "shapes": {"kind": "vision", "metrics": {"accuracy": 0.5}, **SCORE},
        }
    else:
        line = {"step": 10, "total_steps": 10, "tokens": 2560, "loss": 2.5, "lr": 0.001, "tokens_per_second": 2560.0}
        (run / job["paths"]["metrics"]).write_text(json.dumps({**line, "time": time.time()}) + "\n")
        model = run / "checkpoints" / "step-00000010" / "model.json"
        model.parent.mkdir(parents=True, exist_ok=True)
        model.write_text(key)
        files = {str(model.relative_to(run)): len(key)}
        result |= {"steps": 10, "tokens": 2560, "loss": 2.5, "checkpoint": "checkpoints/step-00000010", "files": files}
    with (NOTES / "completed").open("a") as notes:
        notes.write(f"{key}\n")
    write_json(run / job["paths"]["result"], {**result, "finished_at": time.time(), "versions": {"python": "3.11"}})
    return 0


def write_json(path: Path, content: object) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(content) + "\n")
    unfinished.replace(path)


if __name__ == "__main__":
    sys.exit(main())
