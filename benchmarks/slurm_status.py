"""CPU time of judging what squeue and sacct say: their text parsed, observed and kept, for sweeps of several sizes.

    python benchmarks/slurm_status.py [--repeat 5]

The text is generated in the programs' own formats: half of the jobs have ended (every tenth after a requeue, so with
two rows in sacct), 400 run, the rest is pending. CPU seconds are the least of the repetitions.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jobs.slurm.batches import KnownBatch  # noqa: E402
from jobs.slurm.observe import reconcile_answers  # noqa: E402
from jobs.slurm.parsing import (  # noqa: E402 - found from the root
    OPTIONAL_ACCOUNT_FIELDS,
    SEPARATOR,
    SlurmAnswers,
    parse_accounting,
    parse_queue,
    select_fields,
)
from jobs.slurm.query import read_fresh_answers, save_answers  # noqa: E402
from jobs.slurm.timeouts import SlurmTimeouts  # noqa: E402

Result = TypeVar("Result")
START = 1_790_000_000
TASKS = 500
FIELDS = select_fields(OPTIONAL_ACCOUNT_FIELDS)
TRES = "billing=8,cpu=8,gres/gpu:a100=4,gres/gpu=4,mem=64G,node=1"


def main() -> None:
    """Prints the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeat", type=int, default=5)
    repeat = options.parse_args().repeat
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'jobs':>8} {'rows':>8} {'parsed':>8} {'observed':>9} {'together':>9} {'kept':>7} {'read back':>10}")
    for jobs in (2_700, 100_000):
        print(row(jobs, repeat), flush=True)


def row(jobs: int, repeat: int) -> str:
    """One line of the table."""
    batches, queue_text, accounting_text = recorded(jobs)
    now = START + 90_000.0
    parsed, (queue, accounting) = least(
        repeat, lambda: (parse_queue(queue_text), parse_accounting(accounting_text, FIELDS))
    )
    observed, seen = least(
        repeat, lambda: reconcile_answers(batches, queue, accounting, now=now, timeouts=SlurmTimeouts())
    )
    assert len(seen.observations) == jobs
    together, _ = least(repeat, lambda: both(batches, queue_text, accounting_text, now))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slurm-answers.json"
        written, _ = least(repeat, lambda: save_answers(path, SlurmAnswers(queue, accounting, now)))
        back, answers = least(repeat, lambda: read_fresh_answers(path, now, SlurmTimeouts()))
    assert answers is not None
    assert answers.queue == queue
    rows = len(queue.rows) + len(accounting.rows)
    return f"{jobs:8,} {rows:8,} {parsed:8.3f} {observed:9.3f} {together:9.3f} {written:7.3f} {back:10.3f}"


def both(batches: list[KnownBatch], queue_text: str, accounting_text: str, now: float) -> object:
    """All that a status costs beside Slurm's own programs and the store."""
    queue, accounting = parse_queue(queue_text), parse_accounting(accounting_text, FIELDS)
    return reconcile_answers(batches, queue, accounting, now=now, timeouts=SlurmTimeouts())


def least(repeat: int, work: Callable[[], Result]) -> tuple[float, Result]:
    """CPU seconds, the least of the repetitions, and the last result."""
    spent = []
    for _ in range(repeat):
        before = time.process_time()
        result = work()
        spent.append(time.process_time() - before)
    return min(spent), result


def recorded(jobs: int) -> tuple[list[KnownBatch], str, str]:
    """Batches as the ledger knows them, and the programs' text about them."""
    batches, queue, accounting = [], [], []
    for number in range(0, jobs, TASKS):
        array = 1_000_000 + number
        name = f"sw-{array:012x}-finetune-paper"
        tasks = {index: f"{number + index:010x}" for index in range(min(TASKS, jobs - number))}
        sent = float(START + number // 10)
        batches.append(
            KnownBatch(
                name=name, phase="finetune", tasks=tasks, user="ann", intended_at=sent, sent_at=sent, id=str(array)
            )
        )
        for index in tasks:
            job = f"{array}_{index}"
            if number + index < jobs // 2:
                accounting += ended(job, name, int(sent), number + index)
            else:
                running = number + index < jobs // 2 + 400
                queue.append(queued(job, name, int(sent), array, running=running))
                accounting += [runs(job, name, int(sent))] if running else []
    return batches, "".join(queue), "".join(accounting)


def queued(job: str, name: str, sent: int, array: int, *, running: bool) -> str:
    """A line of squeue."""
    state = (
        ("RUNNING", "None", "(null)") if running else ("PENDING", "Dependency", f"aftercorr:{array - 7}_*(unfulfilled)")
    )
    moments = (str(sent), str(sent + 60) if running else "N/A", "n1" if running else "")
    ends = str(sent + 90_000) if running else "N/A"
    return SEPARATOR.join((job, *state, "ann", "normal", "vision", "gpu", *moments, ends, name)) + "\n"


def runs(job: str, name: str, sent: int) -> str:
    """sacct's line of a running job."""
    moments = (str(sent), str(sent + 60), "Unknown", "100")
    return SEPARATOR.join((job, "RUNNING", *moments, TRES, "8", "n1", "0:0", "None", "", name)) + "\n"


def ended(job: str, name: str, sent: int, number: int) -> list[str]:
    """One line of sacct, or two with a requeue before it."""
    started, took = sent + number % 600, 3600 + number % 900
    words = [("PREEMPTED", sent)] * (number % 10 == 0) + [("FAILED" if number % 50 == 0 else "COMPLETED", sent + 1)]
    return [
        SEPARATOR.join(
            (
                *(job, word, str(submitted), str(started), str(started + took), str(took)),
                *(TRES, "8", f"n{number % 400}", "1:0" if word == "FAILED" else "0:0", "None", "", name),
            )
        )
        + "\n"
        for word, submitted in words
    ]


if __name__ == "__main__":
    main()
