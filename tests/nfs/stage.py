"""A small stage that publishes as the real ones do (stages/files.py: fence, whole files), and tells a witness of it.

    python -m tests.nfs.stage JOB_JSON

The witness is a file on the host itself, of which no mount knows: $NFS_WITNESS. Its value after a step is a hash over
all steps before, so that equal values mean that no step was lost or repeated.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from stages.files import FENCE_VARIABLE, FencedError, check_fence, write_json
from tests.nfs.guards import Guard

STOPPED = 75
stops: list[int] = []


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: stops.append(received))
    job = Path(sys.argv[1])
    spec: dict[str, Any] = json.loads(job.read_text())
    run = job.parent
    step, value = restore(run)
    note(spec, "begin", step)
    try:
        while step < spec["config"]["steps"] and not stops:
            time.sleep(spec["config"]["step_seconds"])
            step, value = step + 1, compute_value(f"{spec['key']}:{value}:{step + 1}")
            checked = save(run, step, value)
            note(spec, "saved", step, checked)
        if step < spec["config"]["steps"]:
            return STOPPED
        files = {f"checkpoints/step-{step:08d}/model.json": model(run, step).stat().st_size}
        content = {"format": 1, "key": spec["key"], "stage": spec["stage"], "steps": step, "value": value}
        checked = time.monotonic()  # at the earliest: `write_json` looks at the claims
        write_json(run / spec["paths"]["result"], {**content, "seconds": 0.1, "files": files, "finished_at": 0.0})
        note(spec, "completed", step, checked)
    except FencedError:
        note(spec, "fenced", step)
        return 1
    return 0


def model(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}" / "model.json"


def restore(run: Path) -> tuple[int, str]:
    for folder in sorted((run / "checkpoints").glob("step-*"), reverse=True):
        state = json.loads((folder / "model.json").read_text())
        return state["step"], state["value"]
    return 0, compute_value("")


def save(run: Path, step: int, value: str) -> float:
    """As `stages.checkpoint.files` does: under a hidden name, flushed, renamed. When it began to look at the claims."""
    final = model(run, step).parent
    hidden = final.with_name(f".{final.name}.{os.uname().nodename}-{os.getpid()}")
    hidden.mkdir(parents=True)
    try:
        content = json.dumps({"step": step, "value": value})
        (hidden / "model.json").write_text(content)
        (hidden / "record.json").write_text(json.dumps({"files": {"model.json": {"bytes": len(content)}}}))
        checked = time.monotonic()
        if not Guard.FENCE.is_removed:
            check_fence()
        if final.exists():
            shutil.rmtree(final)
        hidden.rename(final)
        return checked
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def note(spec: dict[str, Any], event: str, step: int, checked: float = 0.0) -> None:
    """One line, appended at once. All machines of a host share this clock."""
    who = f"{os.uname().nodename}-{os.getpid()}-{spec['paths']['error'].split('/')[-2]}"
    content = {"key": spec["key"], "who": who, "event": event, "step": step, "at": time.monotonic()}
    claim = int(Path(os.environ[FENCE_VARIABLE]).stem)
    write_line(json.dumps({**content, "checked": checked, "claim": claim}))


def write_line(line: str) -> None:
    descriptor = os.open(os.environ["NFS_WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def compute_value(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compute_expected(key: str, steps: int) -> str:
    value = compute_value("")
    for step in range(1, steps + 1):
        value = compute_value(f"{key}:{value}:{step}")
    return value


if __name__ == "__main__":
    sys.exit(main())
