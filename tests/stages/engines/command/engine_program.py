"""A program that keeps to the contract of the `command` engine, or breaks it as `arguments.mode` says.

Knows nothing of ours but docs/add-an-engine.md: it is started as `python engine_program.py REQUEST_JSON`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

STEPS, TOKENS = 4, 512


def main(path: str) -> int:
    request = json.loads(Path(path).read_text())
    folder, mode = Path(request["folder"]), request["arguments"].get("mode", "train")
    (folder / "found.json").write_text(json.dumps({"environment": dict(os.environ), "folder": str(Path.cwd())}))
    if mode == "wait":
        wait_once(folder)
    log(Path(request["metrics"]), "NaN" if mode == "nan" else "2.5")
    if mode in {"nan", "silent"}:
        return 0
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = {"format": 1, "key": request["key"], "steps": STEPS, "tokens": TOKENS, "loss": 2.5, **made(request, mode)}
    unfinished = folder / "answer.tmp"
    unfinished.write_text(json.dumps(answer))
    unfinished.replace(request["answer"])
    return 3 if mode == "late_error" else 0


def wait_once(folder: Path) -> None:
    """At the first start until SIGTERM; then it goes on where it was, which is nowhere."""
    if (folder / "waited").exists():
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    (folder / "waited").touch()
    time.sleep(60)


def log(path: Path, loss: str) -> None:
    lines = [f'{{"step": {step}, "loss": {loss}, "lr": 0.001}}\n' for step in range(1, STEPS + 1)]
    path.write_text("".join(lines) + '{"step": 5, "lo')  # the last one is torn


def made(request: dict[str, Any], mode: str) -> dict[str, Any]:
    if mode == "gives_up":
        return {"failure": {"class": "data", "message": "shard 3 has no text"}}
    if request["stage"] == "evaluate":
        score = {"kind": "text", "metrics": {"acc": 0.5}, "score": 0.5, "chance": 0.25, "n": 8}
        return {"scores": {task["name"]: score for task in request["config"]["text_tasks"]}}
    weights = load_file(Path(request["parents"][0]["checkpoint"]) / "model.safetensors")
    changed = {name: array + 0.5 if name == "norm.weight" else array for name, array in weights.items()}
    if mode == "wrong_model":
        changed.pop("norm.weight")
    file = Path(request["folder"]) / "made.safetensors"
    save_file(changed, file)
    if mode == "torn":
        file.write_bytes(file.read_bytes()[:-7])
    return {"weights": file.name, "position": {"shard": 3}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
