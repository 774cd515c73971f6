"""A small stage for planned sweeps: some steps with checkpoints, a stop on request, and a result with scores.

Run as `python -S planned_stage.py SETTINGS JOB_JSON`; keeps to docs/formats.md. The settings are a JSON file: `steps`,
`step_seconds`, and `raises_once`, a list of the stages that raise in their first execution. It leaves executions.jsonl
in the run's folder, by which a test counts what ran.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
JOB = Path(sys.argv[2])
RUN = JOB.parent
SPEC: dict[str, Any] = json.loads(JOB.read_text())
stops: list[int] = []


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: stops.append(received))
    witness = os.open(RUN / "witness.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(event="overlap")
    begun = events("begin")
    note(event="begin", gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
    for parent in SPEC["parents"]:
        json.loads((RUN / parent["run"] / "result.json").read_text())
    if SPEC["stage"] in SETTINGS["raises_once"] and not begun:
        raise RuntimeError("raised in its first execution")
    steps = sorted(int(folder.name.removeprefix("step-")) for folder in (RUN / "checkpoints").glob("step-*"))
    step = steps[-1] if steps else 0
    while step < SETTINGS["steps"] and not stops:
        step += 1
        note(event="step", step=step)
        time.sleep(SETTINGS["step_seconds"])
        save(step)
    if step < SETTINGS["steps"]:
        return 75
    finish(step)
    return 0


def save(step: int) -> None:
    folder = RUN / "checkpoints" / f"step-{step:08d}"
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}")
    hidden.mkdir(parents=True)
    content = json.dumps({"step": step})
    (hidden / "model.json").write_text(content)
    (hidden / "record.json").write_text(json.dumps({"files": {"model.json": {"bytes": len(content)}}}))
    hidden.rename(folder)
    line = {"step": step, "total_steps": SETTINGS["steps"], "loss": 1.0, "tokens": step, "time": time.time()}
    with (RUN / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def finish(step: int) -> None:
    model = f"checkpoints/step-{step:08d}/model.json"
    content = {"format": 1, "key": SPEC["key"], "stage": SPEC["stage"], "steps": step, "seconds": 0.5, "loss": 1.0}
    content |= {"tokens": 100, "image_tokens": 10, "images": 2, "files": {model: (RUN / model).stat().st_size}}
    if SPEC["stage"] == "evaluate":
        content["scores"] = {"cloze": score("text", 0.5), "shapes": score("vision", 0.6)}
    result = RUN / SPEC["paths"]["result"]
    unfinished = result.with_name(f".{result.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({**content, "finished_at": time.time()}))
    unfinished.rename(result)
    note(event="completed")


def score(kind: str, value: float) -> dict[str, Any]:
    return {"kind": kind, "metrics": {"acc": value}, "score": value, "stderr": 0.01, "chance": 0.25, "n": 100}


def events(kind: str) -> int:
    try:
        return (RUN / "executions.jsonl").read_text().count(f'"event": "{kind}"')
    except FileNotFoundError:
        return 0


def note(**content: Any) -> None:
    line = json.dumps({"pid": os.getpid(), "time": time.time(), **content}) + "\n"
    descriptor = os.open(RUN / "executions.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, line.encode())
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
