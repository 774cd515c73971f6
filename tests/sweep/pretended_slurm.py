"""A job of a cluster that is not there, for views alone: a ledger that says it was sent, and programs in the place of
squeue and sacct that print a file. What talks to Slurm is tested on the real one."""

import json
import os
import time
from pathlib import Path

from jobs.processes import read_user_name
from jobs.slurm.parsing import SEPARATOR
from jobs.store.paths import Store
from tests.jobs import toy

BATCH, TASK = "sw-0123456789ab-pretrain-toy", "7_0"


def pretend_slurm(folder: Path, store: Store, key: str) -> str:
    """The job runs by squeue's answer, which stands in `folder/squeue`; the PATH with these programs. Each call leaves
    a word in `folder/asked`."""
    now, user = int(time.time()), read_user_name()
    head = {"batch": BATCH, "what": "intent", "time": now - 100, "phase": "pretrain", "tasks": {"0": key}}
    lines = [{**head, "user": user}, {"batch": BATCH, "what": "sent", "time": now - 99, "id": TASK.partition("_")[0]}]
    ledger = store.locate_sweep(toy.SWEEP).ledger
    ledger.mkdir(parents=True)
    (ledger / "w-login-1-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    times = str(now - 99), str(now - 90), "n1", str(now + 9_000)
    row = (TASK, "RUNNING", "None", "(null)", user, "normal", "vision", "gpu", *times, BATCH)
    programs = folder / "programs"
    programs.mkdir()
    for name, printed in (("squeue", SEPARATOR.join(row)), ("sacct", "")):
        (folder / name).write_text(printed + "\n")
        path = programs / name
        path.write_text(f"#!/bin/sh\necho {name} >> {folder}/asked\nexec cat {folder}/{name}\n")
        path.chmod(0o755)
    return f"{programs}:{os.environ['PATH']}"
