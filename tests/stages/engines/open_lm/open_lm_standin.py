"""A stand-in for open_lm: it trains nothing, and leaves the files that open_lm leaves, in its order and its words.

Copied to CHECKOUT/open_lm/main.py. It reads options.json as open_lm does, goes on from the newest epoch_N.pt of its
logs, and puts the checkpoints of CHECKOUT/made there one by one. BEHAVIOUR says how it ends.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

BEHAVIOUR = os.environ.get("BEHAVIOUR", "trains")
MADE = Path(os.environ["PYTHONPATH"]) / "made"


def main() -> int:
    given = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
    logs = Path(given["logs"]) / given["name"]
    checkpoints = logs / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    done = max((int(path.stem.removeprefix("epoch_")) for path in checkpoints.glob("epoch_*.pt")), default=0)
    context = json.loads(Path(given["model"]).read_text())["seq_len"]
    samples = given["train_num_samples"] // context
    with (logs / "out.log").open("a", buffering=1) as log:
        log.write(f"resumes after {done} with {os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD')}\n")
        if done == given["epochs"]:
            raise RuntimeError("Loaded a checkpoint which has already seen the desired number of tokens.")
        for epoch in range(done, given["epochs"]):
            loss = "nan" if BEHAVIOUR == "nan" else "2.423"
            log.write(
                f"2026-11-23,08:00:00 | INFO | Train Epoch: {epoch} [{samples:>4}/{samples} (100%)] Loss: {loss} "
                "Data (t): 0.002 Batch (t): 0.020, 44112.8/s, 44112.8/s/gpu LR: 0.003000 \n"
            )
            if BEHAVIOUR == "nan":
                log.write("Training exiting due to NaN value\n")
                return 0
            if BEHAVIOUR == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if BEHAVIOUR == "short_of_data":
                (logs / "checkpoints_failed").mkdir(exist_ok=True)
                shutil.copy(MADE / f"stats_{epoch + 1}.pt", logs / "checkpoints_failed")
                return 1
            for part in ("epoch", "optimizer", "stats"):
                shutil.copy(MADE / f"{part}_{epoch + 1}.pt", checkpoints)
            if BEHAVIOUR == "torn":
                file = checkpoints / f"stats_{epoch + 1}.pt"
                file.write_bytes(file.read_bytes()[:100])
                return 0
            if BEHAVIOUR == "slow":
                time.sleep(60)
    return 0


if __name__ == "__main__":
    sys.exit(main())
