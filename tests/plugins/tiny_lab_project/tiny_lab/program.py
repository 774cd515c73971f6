"""Fine-tunes by adding a number to the last norm's gains. Knows nothing of sweep but its request."""

import json
import sys
from pathlib import Path

from safetensors.numpy import load_file, save_file

STEPS = 4


def main(path: str) -> None:
    request = json.loads(Path(path).read_text())
    weights = load_file(Path(request["parents"][0]["checkpoint"]) / "model.safetensors")
    weights["norm.weight"] = weights["norm.weight"] + request["arguments"].get("by", 0.0)
    save_file(weights, Path(request["folder"]) / "made.safetensors")
    lines = [{"step": step, "loss": 3.0 - step / 4, "lr": 0.001} for step in range(1, STEPS + 1)]
    Path(request["metrics"]).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    answer = {"format": 1, "key": request["key"], "weights": "made.safetensors", "steps": STEPS, "loss": 2.0}
    unfinished = Path(request["folder"]) / "answer.tmp"
    unfinished.write_text(json.dumps(answer))
    unfinished.replace(request["answer"])


if __name__ == "__main__":
    main(sys.argv[1])
