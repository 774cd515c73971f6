"""A stand-in for the stages that really reads its parents' files: run as `python -S reading_stage.py JOB_JSON`.

It keeps to docs/formats.md: checkpoints with a record of sizes, error.json, result.json. Its weights are a hash over
its key and its parents' weights; an optimizer's state is read where a real stage would read it. What it reads has to be
there and whole, else it ends as a real stage does with a damaged checkpoint. `executions.txt` in the run's folder has a
line for each execution that wrote a result.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

JOB = Path(sys.argv[1])
RUN = JOB.parent
SPEC: dict[str, Any] = json.loads(JOB.read_text())
CONFIG: dict[str, Any] = SPEC["config"]
FOLDER = RUN / "checkpoints" / "step-00000003"
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


def main() -> int:
    carried = SPEC["stage"] == "pretrain" and CONFIG.get("optimizer_state", "carried") == "carried"
    weights = [read_parent(parent, MODEL) for parent in SPEC["parents"]]
    moments = [read_parent(parent, OPTIMIZER) for parent in SPEC["parents"]] if carried else []
    time.sleep(CONFIG.get("seconds", 0.0))
    weights += [read_parent(parent, MODEL) for parent in SPEC["parents"]]  # still there at the end
    value = digest(SPEC["key"], *weights, *moments)
    files: dict[str, int] = {}
    if SPEC["stage"] != "evaluate":
        has_optimizer = SPEC["settings"].get("keep_optimizer", True) and SPEC["stage"] == "pretrain"
        files = save(value, [MODEL, OPTIMIZER] if has_optimizer else [MODEL])
    score = int(value[:4], 16) / 65536
    scores = {"cloze": {"kind": "text", "score": score, "chance": 0.1, "n": 50}} if SPEC["stage"] == "evaluate" else {}
    result = {
        "format": 1,
        "key": SPEC["key"],
        "stage": SPEC["stage"],
        "finished_at": time.time(),
        "files": files,
        "checkpoint": f"checkpoints/{FOLDER.name}" if files else "",
        "loss": 1 + score,
        "scores": scores,
        "value": value,
    }
    write(RUN / SPEC["paths"]["result"], result)
    with (RUN / "executions.txt").open("a") as file:
        file.write(f"{value}\n")
    return 0


def digest(*parts: str) -> str:
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def read_parent(parent: dict[str, str], name: str) -> str:
    """The content of a file of the parent's checkpoint, which its record must hold for."""
    run = RUN / parent["run"]
    try:
        folder = run / json.loads((run / "result.json").read_text())["checkpoint"]
        content = (folder / name).read_text()
        if json.loads((folder / "record.json").read_text())["files"][name]["bytes"] != len(content):
            raise ValueError(f"{folder / name} is not as it was written")
    except (OSError, ValueError, KeyError) as error:
        write(RUN / SPEC["paths"]["error"], {
            "class": "damaged_input", "message": str(error), "damaged_key": parent["key"],
        })  # fmt: skip
        raise SystemExit(1) from None
    return str(content.strip())


def save(value: str, names: list[str]) -> dict[str, int]:
    """The checkpoint; its files by name and size, as a result names them."""
    hidden = FOLDER.with_name(f".{FOLDER.name}.tmp")
    hidden.mkdir(parents=True, exist_ok=True)
    if CONFIG.get("leaves_older"):  # as after a kill between the last checkpoint and the removal of the one before
        (FOLDER.parent / "step-00000001").mkdir(exist_ok=True)
        (FOLDER.parent / "step-00000001" / MODEL).write_text("older")
    for name in names:
        (hidden / name).write_text(digest(value, name) + " " * CONFIG.get("padding", 0))
    sizes = {name: (hidden / name).stat().st_size for name in names}
    write(hidden / "state.json", {"step": 3})
    write(hidden / "record.json", {"files": {name: {"bytes": size} for name, size in sizes.items()}})
    if FOLDER.exists():  # of a former execution, whose result was given up
        FOLDER.rename(FOLDER.with_name(f".{FOLDER.name}.{time.time_ns()}.old.tmp"))
    hidden.rename(FOLDER)
    return {f"checkpoints/{FOLDER.name}/{path.name}": path.stat().st_size for path in FOLDER.iterdir()}


def write(path: Path, content: object) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(json.dumps(content))
    beside.rename(path)


if __name__ == "__main__":
    sys.exit(main())
