"""A program for the `command` engine that "trains" any phase of a chain, in numpy: fast, and the same on each machine.

Each step adds to all weights a number that depends on the step alone: a trunk has the same weights wherever it is cut.
It knows nothing of ours but docs/add-an-engine.md: it is started as `python engine_trunk.py REQUEST_JSON`.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

PROJECTOR = {
    "projector.0.weight": (32, 768), "projector.0.bias": (32,),
    "projector.2.weight": (32, 32), "projector.2.bias": (32,),
}  # fmt: skip
"""Of patches of 16 x 16 pixels to a model 32 wide."""
Weights = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def main(path: str) -> None:
    request = json.loads(Path(path).read_text())
    done = scores(request) if request["stage"] == "evaluate" else train(request)
    answer = {"format": 1, "key": request["key"], **done}
    unfinished = Path(request["folder"]) / "answer.tmp"
    unfinished.write_text(json.dumps(answer))
    unfinished.replace(request["answer"])


def train(request: dict[str, Any]) -> dict[str, Any]:
    """All steps of a job, from the parent's weights or new ones."""
    config = request["config"]
    first, weights = begin(request)
    last = (config["stop_step"] or config["schedule"]["total_steps"]) if request["stage"] == "pretrain" else 3
    with Path(request["metrics"]).open("w") as log:
        for step in range(first + 1, last + 1):
            weights = {name: array + np.float32(1e-3 * math.sin(step)) for name, array in weights.items()}
            log.write(json.dumps({"step": step, "loss": 4.0 - step / 100, "lr": 1e-3, "total_steps": last}) + "\n")
    save_file(weights, Path(request["folder"]) / "made.safetensors")
    steps = last - first
    made = {"weights": "made.safetensors", "position": {"step": last}}
    return {**made, "steps": steps, "tokens": 128 * steps, "loss": 4.0 - last / 100}


def begin(request: dict[str, Any]) -> tuple[int, Weights]:
    """Where the job goes on: in a trunk's next segment where the one before ended, else at its own first step."""
    if not request["parents"]:
        return 0, new_weights(request["config"]["model"])
    checkpoint = Path(request["parents"][0]["checkpoint"])
    state = json.loads((checkpoint / "state.json").read_text())
    same_run = (state.get("trajectory") or {}).get("schedule") == request["config"].get("schedule")
    weights = load_file(checkpoint / "model.safetensors")
    if request["config"].get("vision") and "projector.0.weight" not in weights:
        weights |= filled(PROJECTOR)
    return (state["engine"]["step"] if same_run else 0), weights


def new_weights(model: dict[str, Any]) -> Weights:
    """docs/formats.md: an OpenLM's names and shapes."""
    width, hidden = model["d_model"], 256 * ((8 * model["d_model"] // 3 + 255) // 256)
    block = {
        "attention.in_proj.weight": (3 * width, width), "attention.out_proj.weight": (width, width),
        "attention.q_norm.weight": (width,), "attention.k_norm.weight": (width,),
        "feed_forward.w12.weight": (2 * hidden, width), "feed_forward.w3.weight": (width, hidden),
        "attention_norm.weight": (width,), "ffn_norm.weight": (width,),
    }  # fmt: skip
    shapes = {f"layers.{i}.{name}": shape for i in range(model["layers"]) for name, shape in block.items()}
    ends = {"tok_embeddings.weight": (model["vocabulary"], width), "output.weight": (model["vocabulary"], width)}
    shapes |= {**ends, "norm.weight": (width,)}
    return filled(shapes)


def filled(shapes: Mapping[str, tuple[int, ...]]) -> Weights:
    """Weights of those shapes, all alike."""
    return {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}


def scores(request: dict[str, Any]) -> dict[str, Any]:
    """A score that tells the weights apart."""
    weights = load_file(Path(request["parents"][0]["checkpoint"]) / "model.safetensors")
    score = {"kind": "text", "metrics": {}, "score": float(weights["norm.weight"][0]), "chance": 0.0, "n": 1}
    return {"scores": {task["name"]: score for task in request["config"]["text_tasks"]}}


if __name__ == "__main__":
    main(sys.argv[1])
