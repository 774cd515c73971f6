"""A small real stage for the tests of execution: counts steps, saves, stops on request, fails as told by its config.

Run as `python -S counting_stage.py JOB_JSON`; keeps to docs/formats.md. Its value after a step is a hash over its
parents' values and all steps before, so that equal values mean that no step was lost or repeated. Beside that it leaves
`executions.jsonl` in the run's folder: what ran when, and whether two ever ran at once (by a lock of its own).
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

JOB = Path(sys.argv[1])
RUN = JOB.parent
SPEC: dict[str, Any] = json.loads(JOB.read_text())
CONFIG: dict[str, Any] = SPEC["config"]
stops: list[int] = []


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: stops.append(received))
    witness = os.open(RUN / "witness.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(witness, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note(event="overlap")
    step, value = restore()
    note(
        event="begin", step=step, threads=os.environ.get("OMP_NUM_THREADS"), gpus=os.environ.get("CUDA_VISIBLE_DEVICES")
    )
    print(f"starts at step {step}")
    if CONFIG.get("leave_behind"):
        note(event="left", child=subprocess.Popen(["sleep", "300"], close_fds=False).pid)
    while step < CONFIG["steps"] and not stops:
        fail_if_told(step)
        wait_at_gate(step)
        if stops:
            break
        step, value = step + 1, digest(f"{SPEC['key']}:{value}:{step + 1}")
        note(event="step", step=step)
        time.sleep(CONFIG.get("step_seconds", 0.0))
        if step % CONFIG.get("save_every", 1) == 0:
            save(step, value)
    save(step, value)
    if step < CONFIG["steps"]:
        note(event="stopped", step=step)
        return 75
    return finish(step, value)


def finish(step: int, value: str) -> int:
    fail_if_told(step)
    model = f"checkpoints/step-{step:08d}/model.json"
    size = (RUN / model).stat().st_size
    seconds = CONFIG["step_seconds"] * step if CONFIG.get("tells_seconds") else 0.5
    result = {"format": 1, "key": SPEC["key"], "stage": SPEC["stage"], "steps": step, "value": value}
    result["seconds"] = seconds
    if CONFIG.get("fail") != "no_result":
        write(RUN / SPEC["paths"]["result"], {**result, "files": {model: size}, "finished_at": time.time()})
    if "last_words" in CONFIG:
        print(CONFIG["last_words"])
    note(event="completed")
    return 0


def restore() -> tuple[int, str]:
    for folder in sorted((RUN / "checkpoints").glob("step-*"), reverse=True):
        try:
            state = json.loads((folder / "model.json").read_text())
        except (ValueError, FileNotFoundError):
            shutil.rmtree(folder)  # torn: the one before serves, and this one is saved anew
            continue
        return state["step"], state["value"]
    return 0, digest("".join(parent_value(parent) for parent in SPEC["parents"]))


def parent_value(parent: dict[str, str]) -> str:
    try:
        result = json.loads((RUN / parent["run"] / "result.json").read_text())
        state = json.loads(
            (RUN / parent["run"] / "checkpoints" / f"step-{result['steps']:08d}" / "model.json").read_text()
        )
    except ValueError as error:
        write_error({"class": "damaged_input", "message": f"parent: {error}", "damaged_key": parent["key"]})
        raise SystemExit(1) from None
    return str(state["value"])


def save(step: int, value: str) -> None:
    folder = RUN / "checkpoints" / f"step-{step:08d}"
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}")
    if folder.exists():
        return
    hidden.mkdir(parents=True)
    content = json.dumps({"step": step, "value": value, "padding": "x" * CONFIG.get("padding", 0)})
    (hidden / "model.json").write_text(content)
    (hidden / "record.json").write_text(
        json.dumps({"files": {"model.json": {"bytes": len(content), "sha256": digest(content)}}})
    )
    hidden.rename(folder)
    line = {"step": step, "total_steps": CONFIG["steps"], "loss": 1.0, "tokens": step, "time": time.time()}
    if "tells_step_seconds" in CONFIG:  # stands in for steps that take so long
        line["time"] = 1e9 + step * CONFIG["tells_step_seconds"]
    with (RUN / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def wait_at_gate(step: int) -> None:
    """At step `gate_at` it stays until the file `gate_open` is there or it is stopped, however slow the machine."""
    while step == CONFIG.get("gate_at") and not stops and not (RUN / "gate_open").exists():
        time.sleep(0.02)


def fail_if_told(step: int) -> None:
    """`fail` at step `fail_at`, the first `fail_times` times that it comes there."""
    kind = CONFIG.get("fail")
    if kind in {None, "no_result"} or step != CONFIG.get("fail_at", 0):
        return
    if events("failing") >= CONFIG.get("fail_times", 1_000):
        return
    note(event="failing", kind=kind)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "exit75":
        raise SystemExit(75)
    elif kind == "raise":
        raise RuntimeError(f"unexpected after {events('failing')} tries")
    elif kind == "hang":
        progress = {"step": step, "limit_seconds": 0.5, "every_seconds": 0.1}
        write((RUN / SPEC["paths"]["error"]).with_name("progress.json"), progress)
        time.sleep(600)
    elif kind == "full":
        raise OSError(28, "No space left on device")
    write_error(
        {"class": kind, "message": f"{kind} at step {step}\nsecond line", "traceback": CONFIG.get("traceback", "")}
    )
    raise SystemExit(1)


def events(kind: str) -> int:
    try:
        return (RUN / "executions.jsonl").read_text().count(f'"event": "{kind}"')
    except FileNotFoundError:
        return 0


def note(**content: Any) -> None:
    line = json.dumps({"pid": os.getpid(), "time": time.time(), **content}) + "\n"
    descriptor = os.open(RUN / "executions.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, line.encode())
    os.close(descriptor)


def write_error(content: dict[str, Any]) -> None:
    write(RUN / SPEC["paths"]["error"], content)


def write(path: Path, content: dict[str, Any]) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(json.dumps(content))
    unfinished.rename(path)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
