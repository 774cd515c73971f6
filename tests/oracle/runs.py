"""A small sweep run from nothing: what its jobs compute. Times, hosts and versions are left out."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.oracle.program import Program, write
from tests.oracle.world import make_world, sweep_text

VOLATILE = {
    "seconds", "tokens_per_second", "time", "finished_at", "data_wait", "peak_memory_gib", "mfu", "started_at", "host",
    "pid", "pid_started", "boot_id", "ended_at", "checkpoint_at", "since", "traceback", "traceback_digest", "revision",
    "versions",
}  # fmt: skip


def record_run(program: Program, scratch: Path, out: Path) -> None:
    """Runs the first half of the fixture's sweep; writes the weights' digests and every record of its jobs."""
    store = scratch / "store"
    make_world(store / "data", scratch / "engine")
    places = {**program.places, str(scratch / "engine"): "$ENGINE"}
    program = replace(program, environment={**program.environment, "STAGE_LOG_STEPS": "4"}, places=places)
    file = scratch / "kept.yaml"
    file.write_text(sweep_text(program.python, scratch / "engine", later=False))
    for words in (("plan", str(file)), ("submit", "kept", "--cpus", "2")):
        done = program.run(*words, store=store)
        assert done.code in {0, 1}, done.text
    for path in sorted((store / "runs").rglob("*")):
        name = path.relative_to(store / "runs").as_posix()
        if path.suffix == ".safetensors":
            write(out / f"{name}.sha256", hashlib.sha256(path.read_bytes()).hexdigest())
        elif path.suffix in {".json", ".jsonl"} and path.name not in {"record.json", "seconds.json"}:
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found = [json.dumps(lasting(json.loads(line)), indent=1, sort_keys=True) for line in lines]
            write(out / name, program.cleaned("\n".join(found), store=store))


def lasting(content: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(content, dict):
        return {name: lasting(value) for name, value in content.items() if name not in VOLATILE and not sized(name)}
    return [lasting(each) for each in content] if isinstance(content, list) else content


def sized(name: str) -> bool:
    """Whether `name` stands before the size of a file that holds times."""
    return name.endswith(("state.json", "record.json"))
