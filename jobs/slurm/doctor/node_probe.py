"""Checks the store and the cluster from a node: the program of `sweep doctor --node-test`.

    python node_probe.py FOLDER DISTRIBUTION...

Runs from a copy in the store, with the standard library alone: it is to find out whether more is there. Writes
FOLDER/report.json, whole or not at all.
"""

import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 15


def collect_report(folder: Path, distributions: list[str]) -> dict[str, Any]:
    """What this node sees. Raises OSError where the store cannot be read or written."""
    stamp = folder / "node-clock"
    stamp.write_text("now")
    skew = time.time() - stamp.stat().st_mtime
    return {
        "host": os.uname().nodename,
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
        "mark": (folder / "mark").read_text(),
        "skew": skew,
        "versions": {name: read_version(name) for name in distributions},
        "scontrol": check_controller(os.environ.get("SLURM_JOB_ID", "")),
    }


def read_version(distribution: str) -> str:
    """Empty where it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def check_controller(job_id: str) -> str:
    """Why scontrol does not work here; empty if it does."""
    try:
        asked = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", job_id],  # noqa: S607 - wherever the node has it
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if asked.returncode == 0 else asked.stderr.strip() or f"exit code {asked.returncode}"


def main(arguments: list[str]) -> int:
    """Writes the report."""
    folder = Path(arguments[0])
    unfinished = folder / "report.json.tmp"
    unfinished.write_text(json.dumps(collect_report(folder, arguments[1:])))
    unfinished.replace(folder / "report.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
