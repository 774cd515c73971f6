"""A stage of several ranks: each says who it is and waits for a stop; the first saves nothing and writes the result.

Run as `python -S rendezvous_stage.py JOB_JSON` by jobs.attempt.rank. With `seconds` in its config it waits so long for
a stop.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

JOB = Path(sys.argv[1])
SPEC = json.loads(JOB.read_text())
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "SLURMD_NODENAME")
stops: list[int] = []


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: stops.append(received))
    # one write of one line, as the ranks share the log
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.write(1, (" ".join(["here", *(os.environ.get(name, "-") for name in NAMES), gpus]) + "\n").encode())
    deadline = time.monotonic() + SPEC["config"].get("seconds", 0)
    while time.monotonic() < deadline:
        if stops:
            # the ranks do not end at once: the first is still saving when the others are done
            time.sleep(2 if os.environ["RANK"] == "0" else 0)
            os.write(1, f"saved {os.environ['RANK']}\n".encode())
            for number in (signal.SIGTERM, signal.SIGUSR2):  # Slurm sends the one, the supervisor the other
                signal.signal(number, signal.SIG_IGN)
            return 75
        time.sleep(0.05)
    if os.environ["RANK"] == "0":
        result = {"format": 1, "key": SPEC["key"], "stage": SPEC["stage"], "files": {}}
        (JOB.parent / SPEC["paths"]["result"]).write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
