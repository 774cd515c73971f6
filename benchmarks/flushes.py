"""What flushing folders costs: the files of one attempt, and one sbatch call's lines, with and without it.

    python benchmarks/flushes.py [--folder DIR] [--repeat 50]

Both sides take turns in one run, in the given folder (give one on the file system that the store is on). Wall times, as
a flush waits for the disk; the median of the repetitions.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from unittest.mock import patch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from jobs.job import Resources  # noqa: E402 - found from the root
from jobs.slurm.batch_ledger import BatchLedger  # noqa: E402
from jobs.slurm.batches import SlurmBatch  # noqa: E402
from jobs.store import paths  # noqa: E402
from jobs.store.ledger import Ledger  # noqa: E402
from jobs.store.paths import Store, write_json  # noqa: E402


def write_attempt(store: Store, number: int) -> None:
    """The three records of an attempt, each in its final place."""
    run = store.locate_run("pretrain", f"k{number}")
    attempt = run.locate_attempt("a")
    for path in (attempt.start, run.job, attempt.exit):
        write_json(path, {"attempt": "a", "key": f"k{number}", "text": "x" * 500})


def write_batch(store: Store, number: int) -> None:
    """The first intent and answer of a new writer: a folder, a file, two lines."""
    ledger = BatchLedger(Ledger(store.locate_sweep(f"s{number}").ledger))
    tasks = dict.fromkeys(range(30), "k")
    batch = SlurmBatch(name=f"sw-{number:012x}-pretrain-s", phase="pretrain", tasks=tasks, resources=Resources())
    ledger.write_intent(batch, "me")
    ledger.write_sent(batch.name, "7")


@contextmanager
def skip_folders() -> Iterator[None]:
    """As before: files are flushed, folders are not."""
    with patch.object(paths, "flush_folder", lambda _folder: None):
        yield


def measure(deed: Callable[[Store, int], None], store: Store, number: int) -> float:
    """Wall milliseconds."""
    began = time.perf_counter()
    deed(store, number)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--repeat", type=int, default=50)
    given = parser.parse_args()
    print("| what is written | files flushed, ms | folders too, ms |\n|---|---|---|")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        store = Store(Path(folder) / "store")
        for name, deed in (("an attempt's three records", write_attempt), ("a writer's first batch", write_batch)):
            times: tuple[list[float], list[float]] = ([], [])
            for number in range(given.repeat):
                with skip_folders():
                    times[0].append(measure(deed, store, 2 * number))
                times[1].append(measure(deed, store, 2 * number + 1))
            print(f"| {name} | {median(times[0]):.2f} | {median(times[1]):.2f} |")


if __name__ == "__main__":
    main()
