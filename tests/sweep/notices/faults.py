"""One sweep whose events are told under faults: its receiver fails, its ticks are killed, two come at once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.store.paths import Store
from jobs.store.records import FailureClass
from sweep.notices.log import NoticeLog, read_records
from sweep.notices.settings import NoticeSettings, Receiver
from sweep.plan.manifest import read_manifest, write_manifest
from tests.jobs.toy import ROOT
from tests.sweep import synthetic_store
from tests.sweep.notices.receiver import Inbox, serve
from tests.sweep.synthetic_store import START, Grid, Written

WITHOUT = "SWEEP_TEST_WITHOUT"
"""Variable that says what is taken away, to see that the campaign notices: `retry`."""
VARIABLE = "SWEEP_TEST_WEBHOOK"
SECRET = "a-word-that-stands-nowhere"  # noqa: S105 - of a test
MOST_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultReport:
    """What one campaign came to."""

    problems: Sequence[str]
    events: int
    ticks: int
    killed: int
    failures: int
    """Deliveries that did not succeed, as the log has them."""
    repeated: int
    """Events that reached the receiver twice or more, under one id."""


def run_campaign(dice: random.Random, folder: Path, *, trouble: float = 0.5, steps: int = 8) -> FaultReport:
    """Jobs end step by step, with ticks under faults between; then ticks without faults, until nothing waits."""
    written = synthetic_store.plan(Store(folder / "store"), Grid(branches=(0, 50), shares=(0.0, 0.5), epochs=(1,)))
    path = written.store.locate_sweep("toy").manifest
    receiver = Receiver(name="hook", kind="webhook", url_variable=VARIABLE)
    write_manifest(path, replace(read_manifest(path), notices=NoticeSettings(receivers=(receiver,))))
    inbox = Inbox(dice, trouble)
    order = sort_by_parents(written)
    expected: set[str] = set()
    ticks = killed = 0
    output = b""
    with serve(inbox):
        for step in range(steps):
            part = order[step * len(order) // steps : (step + 1) * len(order) // steps]
            expected |= end_jobs(written, part, dice)
            for _ in range(dice.randint(1, 2)):
                live = [start_tick(written, inbox) for _ in range(dice.choice([1, 1, 2]))]
                ticks += len(live)
                for each in live:
                    if dice.random() < 0.5:
                        time.sleep(dice.uniform(0.2, 1.2))
                        each.send_signal(signal.SIGKILL)
                    output += each.communicate(timeout=MOST_SECONDS)[0]
                    killed += each.returncode == -signal.SIGKILL
        inbox.trouble = 0.0
        for _ in range(3):  # the second has nothing left to tell; the third neither
            last = start_tick(written, inbox)
            output += last.communicate(timeout=MOST_SECONDS)[0]
            ticks += 1
    expected |= list_milestones(written)
    problems = judge(written, inbox, expected)
    problems += find_secret(folder, output)
    lines = [line for file in written.store.locate_sweep("toy").notices.glob("*.jsonl") for line in read_records(file)]
    return FaultReport(
        problems=problems,
        events=sum(line["notice"] == "event" for line in lines),
        ticks=ticks,
        killed=killed,
        failures=sum(line["notice"] == "failed" for line in lines),
        repeated=sum(number > 1 for number in Counter(inbox.ids).values()),
    )


def sort_by_parents(written: Written) -> list[str]:
    """Keys, parents first."""
    order: list[str] = []
    while len(order) < len(written.jobs):
        order += [
            key
            for key, job in written.jobs.items()
            if key not in order and all(each in order for each in job["parents"])
        ]
    return order


def end_jobs(written: Written, keys: Sequence[str], dice: random.Random) -> set[str]:
    """Each ends: well, or an evaluation for good without a result. Identities of the failures."""
    failed = set()
    for key in keys:
        if written.jobs[key]["phase"] == "evaluate" and dice.random() < 0.5:
            synthetic_store.write_attempt(
                written, key, "a1", START, 9.0, failure=FailureClass("code"), message="broken"
            )
            failed.add(f"failed:{key}:a1:0")
        else:
            synthetic_store.finish(written, [key])
    return failed


def list_milestones(written: Written) -> set[str]:
    """Identities of the milestones that were reached for sure: phases that are done at the end."""
    found = set()
    for phase in ("trunk", "pretrain", "finetune", "evaluate"):
        keys = written.phase(phase)
        if all(written.run(key).result.exists() for key in keys):
            found.add(f"phase:{phase}:{len(keys)}")
    return found


def start_tick(written: Written, inbox: Inbox) -> "subprocess.Popen[bytes]":
    words = ["tick", "toy", "--no-results", "--store", str(written.store.root)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.sweep.notices.quick_tick", *words],
        cwd=ROOT,
        env={**os.environ, VARIABLE: f"{inbox.url}/{SECRET}", "XDG_CONFIG_HOME": str(written.store.root / "none")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def judge(written: Written, inbox: Inbox, expected: set[str]) -> list[str]:
    """What is not as it should be, one line each."""
    folder = written.store.locate_sweep("toy").notices
    history = NoticeLog(folder).read()
    lines = [line for file in folder.glob("*.jsonl") for line in read_records(file)]
    ids = Counter(str(line["id"]) for line in lines if line["notice"] == "event")
    told = Counter(str(line["id"]) for line in lines if line["notice"] == "told")
    members = Counter(member for event in history.events.values() for member in event.members)
    problems = [f"{each} is in the log {number} times" for each, number in ids.items() if number != 1]
    problems += [f"{each} is told of by {number} events" for each, number in members.items() if number != 1]
    problems += [f"{each} is recorded as told {number} times" for each, number in told.items() if number != 1]
    problems += [f"{each} was never told" for each in ids.keys() - told.keys()]
    problems += [f"{each} is lost: the receiver never had it" for each in ids.keys() - set(inbox.ids)]
    problems += [f"{each} reached the receiver and is in no log" for each in set(inbox.ids) - ids.keys()]
    problems += [f"{each} happened, and no event tells of it" for each in expected - members.keys()]
    return problems + inbox.bad


def find_secret(folder: Path, output: bytes) -> list[str]:
    """Whether the webhook's address was written or printed anywhere."""
    found = [str(path) for path in folder.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    return [
        f"{path} has the webhook's address" for path in [*found, *(["the output"] if SECRET.encode() in output else [])]
    ]
