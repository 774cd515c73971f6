"""A stand-in for vla_foundry: it trains nothing, and leaves the files that vla_foundry leaves, in its order and words.

Copied to CHECKOUT/vla_foundry/main.py. It reads config.yaml, goes on from the checkpoint that it names, and puts those
of CHECKOUT/made-TYPE (TYPE: the model's) there one by one. BEHAVIOUR says how it ends.
"""

import json
import os
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

BEHAVIOUR = os.environ.get("BEHAVIOUR", "trains")


def main() -> int:
    given = json.loads(Path(sys.argv[sys.argv.index("--config_path") + 1]).read_text())
    model = given["model"]
    made = Path(os.environ["PYTHONPATH"]) / f"made-{model['type']}"
    run = Path(given["save_path"]) / given["name"]
    checkpoints = run / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    windows = given["num_checkpoints"]
    samples = given["total_train_samples"] // windows
    with (run / "out.log").open("a", buffering=1) as log:
        done = begin(model, log.write)
        for window in range(done, windows):
            loss = "nan" if BEHAVIOUR == "nan" else "2.423"
            log.write(
                f"2026-11-23,08:00:00 | INFO | Train Checkpoint: {window} [{samples}/{samples} (100%)] Loss: {loss} "
                "Data (t): 0.002 Batch (t): 0.020, 20.5000/s, 20.5000/s/gpu LR: 0.003000 \n"
            )
            if BEHAVIOUR == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            for part in ("checkpoint", "optimizer"):
                shutil.copy(made / f"{part}_{window + 1}.pt", checkpoints)
            if BEHAVIOUR == "torn":
                file = checkpoints / f"optimizer_{window + 1}.pt"
                file.write_bytes(file.read_bytes()[:100])
                return 0
            if BEHAVIOUR == "short_of_data" and window + 1 == windows:  # as if a sample had been passed over
                shutil.copy(made / "short.pt", checkpoints / f"checkpoint_{window + 1}.pt")
            if BEHAVIOUR == "slow":
                time.sleep(60)
    return 0


def begin(model: dict[str, object], say: Callable[[str], object]) -> int:
    """The checkpoint from which it goes on; it looks for the optimizer's file as vla_foundry does."""
    path = str(model.get("resume_from_checkpoint") or "")
    if not path:
        return 0
    number = 0
    if not model["resume_weights_only"]:
        zipfile.ZipFile(path.replace("checkpoint_", "optimizer_")).close()
        number = int(Path(path).stem.removeprefix("checkpoint_"))
    zipfile.ZipFile(path).close()
    say(f"resumes after {number} from {path}\n")
    return number


if __name__ == "__main__":
    sys.exit(main())
