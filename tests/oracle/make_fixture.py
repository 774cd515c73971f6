"""How the stored fixture was made; what is stored is not made anew, for it must be read for ever after.

    python -m tests.oracle.make_fixture OUT --slurm-conf /tmp/.../slurm.conf

Needs a test cluster whose nodes take jobs (docs/slurm-cluster.md). Afterwards host, boot, people and places in the
files are replaced by plain words.
"""

import argparse
import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.oracle.program import Program, Said, replaced
from tests.oracle.world import SLURM_STAGE, SLURM_SWEEP, make_world, sweep_text

PATIENCE = "call=20 submit=20 doubt=8 absent=4 late=120 look_again=1 cache=0 pace=0"
LEFT_OUT = ("data", "code", "submitters", "local-runner.lock", "sweeps/*/results", "sweeps/*/slurm-answers.json", ".*")
NO_TEXT = {".safetensors"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slurm-conf", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tree = Path(__file__).parent.parent.parent
        environment = {"STAGE_LOG_STEPS": "4", "SLURM_CONF": str(options.slurm_conf), "SWEEP_SLURM_PATIENCE": PATIENCE}
        program = Program(tree=tree, folder=folder, environment=environment)
        store = folder / "store"
        make_world(store / "data", folder / "engine")
        run_here(program, folder, store)
        run_on_slurm(program, folder, store)
        places = {
            str(store): "/shared/store",
            str(folder): "/shared",
            str(tree / ".venv"): "/shared/venv",
            str(tree): "/shared/checkout",
        }
        keep(store, options.out, places)
    return 0


def run_here(program: Program, folder: Path, store: Path) -> None:
    """All that happens to the sweep on one machine."""
    file = folder / "kept.yaml"

    def said(*words: str | Path, code: int = 0) -> None:
        found = program.run(*words, store=store)
        assert found.code == code, found.text

    file.write_text(sweep_text(program.python, folder / "engine", later=False))
    said("plan", file)
    said("submit", "kept", "--cpus", "2", code=1)
    failed = json.loads(program.run("status", "kept", "--json", store=store).out)["trouble"]
    first = min(each["key"] for each in failed if each["phase"] == "evaluate")
    said("resume", "kept", "--cpus", "2", "--cells", first)
    file.write_text(sweep_text(program.python, folder / "engine", later=True))
    said("plan", file)
    said("cancel", "kept", "mtiny-b100-i0-c0-x1-s125")


def run_on_slurm(program: Program, folder: Path, store: Path) -> None:
    """All that happens to the sweep on a cluster."""
    (folder / "kept-slurm.yaml").write_text(SLURM_SWEEP)
    (folder / "slurm_stage.py").write_text(SLURM_STAGE)
    stage = f"{sys.executable} -S {folder / 'slurm_stage.py'}"
    program = replace(program, environment={**program.environment, "SWEEP_STAGE_PROGRAM": stage})

    def said(*words: str | Path) -> Said:
        found = program.run(*words, store=store)
        assert found.code == 0, found.text
        return found

    def ticked() -> dict[str, Any]:
        report: dict[str, Any] = json.loads(
            program.run("tick", "kept-slurm", "--no-results", "--json", store=store).out
        )
        return report

    def evaluating() -> list[str]:
        ticked()
        words = ["squeue", "-h", "-r", "-t", "running", "-o", "%i", f"--user={getpass.getuser()}"]
        lines = slurm(program, *words, "--format=%i %j").splitlines()
        return [line.split()[0] for line in lines if line.endswith("-evaluate-kept-slurm")]

    def at_rest() -> bool:
        report = ticked()
        return not report["sent"] and not slurm(program, "squeue", "-h")

    said("plan", folder / "kept-slurm.yaml")
    said("submit", "kept-slurm")
    wait_for(lambda: bool(evaluating()))
    time.sleep(2)
    slurm(program, "scancel", evaluating()[0])
    wait_for(at_rest)
    said("resume", "kept-slurm")
    wait_for(lambda: bool(evaluating()))
    time.sleep(2)
    slurm(program, "scancel", evaluating()[0])
    wait_for(at_rest)
    said("resume", "kept-slurm")
    wait_for(lambda: bool(ticked()["complete"]))
    said("tick", "kept-slurm", "--no-results")


def slurm(program: Program, *words: str) -> str:
    """Standard output of one of Slurm's programs."""
    return subprocess.run(words, env=program.variables, capture_output=True, text=True, check=True).stdout.strip()


def wait_for(ready: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "the cluster does not get on"
        time.sleep(1)


def keep(store: Path, out: Path, places: dict[str, str]) -> None:
    """The store as a fixture below `out`: files, and times of those whose time is read."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    left_out = {path for pattern in LEFT_OUT for path in store.glob(pattern)}
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    times = {}
    for path in sorted(store.rglob("*")):
        if not path.is_file() or left_out.intersection([path, *path.parents]):
            continue
        name = path.relative_to(store).as_posix().replace(f"w-{os.uname().nodename}-", "w-node-1-")
        kept = out / "store" / name
        kept.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in NO_TEXT:
            kept.write_bytes(path.read_bytes())
        else:
            text = replaced(path.read_text(), {**places, boot: "00000000-0000-4000-8000-000000000000"})
            text = re.sub(rf'("host": ?)"{re.escape(os.uname().nodename)}"', r'\1"node-1"', text)
            kept.write_text(re.sub(rf'("user": ?)"{re.escape(getpass.getuser())}"', r'\1"somebody"', text))
        if path.name in {"start.json", "log.txt", "error.json", "record.json", "result.json"}:
            times[name] = round(path.stat().st_mtime, 3)
    (out / "times.json").write_text(json.dumps(times, indent=0, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
