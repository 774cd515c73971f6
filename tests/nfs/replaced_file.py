"""A file of the store that one machine replaces again and again, and another reads.

python -m tests.nfs.replaced_file read|write STORE
"""

import json
import sys
import time
from itertools import count
from pathlib import Path

from jobs.errors import STORAGE_ERRORS
from jobs.store.paths import Store, write_json
from jobs.store.records import read_record
from tests.nfs.stage import write_line

EVERY_SECONDS = 0.02


def main() -> int:
    path = Store(Path(sys.argv[2])).root / "replaced.json"
    return write(path) if sys.argv[1] == "write" else read(path)


def write(path: Path) -> int:
    for number in count(int(time.monotonic() * 1_000)):  # greater than any before a crash of this machine
        try:
            write_json(path, {"number": number, "padding": "x" * 2_000})
        except OSError as error:
            if error.errno not in STORAGE_ERRORS:
                raise
        time.sleep(EVERY_SECONDS)
    return 0


def read(path: Path) -> int:
    last, reads = 0, 0
    while True:
        time.sleep(EVERY_SECONDS)
        try:
            content = read_record(path)
        except OSError as error:
            note("refused", f"{error!r}")
            continue
        number = content["number"] if content else 0
        if number < last:
            note("torn", f"{number} after {last}")
        last, reads = number, reads + 1
        if reads % 20 == 0:
            note("read", "", step=20)


def note(event: str, who: str, step: int = 0) -> None:
    write_line(json.dumps({"key": "", "event": event, "step": step, "who": who, "at": time.monotonic()}))


if __name__ == "__main__":
    sys.exit(main())
