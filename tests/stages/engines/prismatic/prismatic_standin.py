"""A stand-in for prismatic under torchrun: it trains nothing, and leaves the files that scripts/pretrain.py leaves.

Copied to CHECKOUT/torch/distributed/run.py, so that `python -m torch.distributed.run` finds it and no GPU is needed.
It reads the configuration as prismatic does, writes its log in its words, and puts CHECKOUT/made.pt where the last
checkpoint belongs. BEHAVIOUR says how it ends.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

BEHAVIOUR = os.environ.get("BEHAVIOUR", "trains")
MADE = Path(__file__).parents[2] / "made.pt"
STEPS = 6


def main() -> int:
    given = json.loads(Path(sys.argv[sys.argv.index("--config_path") + 1]).read_text())
    os.environ[given["hf_token"]]  # prismatic fails without one
    run = Path(given["run_root_dir"]) / given["run_id"]
    checkpoints = run / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    with (run / f"{given['run_id']}.jsonl").open("a") as log:
        for step in range(1, STEPS + 1):
            loss = float("nan") if BEHAVIOUR == "nan" and step == 3 else 3.0 - step / 10
            line = {
                "Finetune/Learning Rate": 1e-4 * step, "Finetune/Loss": loss, "Finetune/Loss (Raw)": loss,
                "Finetune/Step": step, "Finetune/Step Time": 0.5,
            }  # fmt: skip
            log.write(json.dumps(line) + "\n")
    if BEHAVIOUR == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if BEHAVIOUR == "nothing":
        return 0
    loss_name = "nan" if BEHAVIOUR == "nan" else "2.4000"
    final = checkpoints / f"step-{STEPS:06d}-epoch-{given['model']['finetune_epochs'] - 1:02d}-loss={loss_name}.pt"
    shutil.copy(MADE, final)
    shutil.copy(final, checkpoints / "latest-checkpoint.pt")
    if BEHAVIOUR == "torn":
        os.truncate(checkpoints / "latest-checkpoint.pt", 1000)
    return 1 if BEHAVIOUR == "late_error" else 0


if __name__ == "__main__":
    sys.exit(main())
