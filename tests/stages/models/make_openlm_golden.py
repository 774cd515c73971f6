"""Makes openlm_golden.json: figures of real open_lm, to which test_openlm_golden.py holds ours.

    python -m tests.stages.models.make_openlm_golden CHECKOUT COMMIT

CHECKOUT is a work tree of mlfoundations/open_lm, branch prismatic_openlm (COMMIT 8ddc185 made the file). It runs
`open_lm.main` for 20 steps on a shard written here and reads its log and checkpoint; the initial logits come from
`open_lm.model.create_model` after open_lm's own seeding. Needs open_lm's packages (pandas, webdataset, braceexpand,
huggingface_hub, transformers) in this interpreter, or in the one that OPEN_LM_PYTHON names.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.stages.models.openlm_checkout import (
    SEED,
    Case,
    logged_losses,
    open_lm_python,
    options,
    run_open_lm,
    write_shard,
)
from tests.stages.models.openlm_reference import machine, sha256

CASES = (
    Case("qk-norm", d_model=64, layers=2, heads=4, vocabulary=512, context=64, batch=4, steps=20),
    Case(
        "no-qk-norm", d_model=96, layers=3, heads=2, vocabulary=1_000, context=128, batch=2, steps=20, qk_norm=False,
        z_loss=0.0, weight_decay=0.1, peak_lr=1e-2, warmup=8,
    ),
)  # fmt: skip
FILE = Path(__file__).with_name("openlm_golden.json")

PROBE = """
import json, sys, torch
from open_lm.main import random_seed
from open_lm.model import create_model
from open_lm.params import parse_args
seed, tokens, target, *arguments = sys.argv[1:]
args = parse_args(arguments)
random_seed(int(seed), 0)
model = create_model(args)
with torch.no_grad():
    logits = model(torch.tensor(json.loads(tokens)))[0]
torch.save(logits, target)
"""


ROTARY_PROBE = """
import sys, torch
from open_lm.positional_embedding.rotary import RotaryWithCast
rotary = RotaryWithCast(64, 2048)
x = torch.zeros(1, 2048, 1, 64, dtype=torch.bfloat16)
with torch.autocast("cpu", dtype=torch.bfloat16):
    rotary(x, x, x)
torch.save((rotary._cos_cached[0, :, 0], rotary._sin_cached[0, :, 0]), sys.argv[1])
"""
ROTARY_ROWS = (1, 100, 255, 256, 257, 1_000, 2_047)


def main() -> None:
    checkout, commit = Path(sys.argv[1]).resolve(), sys.argv[2]
    content = {
        "made": "python -m tests.stages.models.make_openlm_golden CHECKOUT COMMIT",
        "open_lm": commit,
        "machine": machine(),
        "rotary_bfloat16": rotary_figures(checkout),
        "cases": [figures(case, checkout) for case in CASES],
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n")


def figures(case: Case, checkout: Path) -> dict[str, Any]:
    """What is kept of one case."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder / "data", case)
        given = options(case, folder)
        logits = initial_logits(case, checkout, folder, given)
        run_open_lm(checkout, given)
        run = folder / "logs" / case.name
        state = torch.load(run / "checkpoints" / "epoch_1.pt", map_location="cpu", weights_only=True)["state_dict"]
        weights = {key.removeprefix("module."): tensor for key, tensor in state.items() if "inv_freq" not in key}
        return {
            "case": case.render_json(),
            "initial_logits": {"sha256": sha256(logits), "first": logits[0, -1, :8].tolist()},
            "losses": logged_losses(run),
            "weights": {
                key: {"sha256": sha256(tensor), "norm": tensor.norm().item()} for key, tensor in weights.items()
            },
        }


def rotary_figures(checkout: Path) -> dict[str, Any]:
    """Of the table that open_lm builds under bf16 autocast, head width 64: some rows' first 8 cosines and sines."""
    with tempfile.TemporaryDirectory() as name:
        target = Path(name) / "table.pt"
        done = open_lm_python(checkout, "-c", ROTARY_PROBE, str(target))
        if done.returncode:
            raise RuntimeError(done.stderr[-2_000:])
        cos, sin = torch.load(target, weights_only=True)
    return {
        "sha256": [sha256(table.float()) for table in (cos, sin)],
        "rows": {str(row): [cos[row, :8].tolist(), sin[row, :8].tolist()] for row in ROTARY_ROWS},
    }


def initial_logits(case: Case, checkout: Path, folder: Path, given: dict[str, object]) -> Tensor:
    """(1, T, V) of the first sequence, before any step."""
    arguments = [
        part for key, value in given.items() for part in (f"--{key}", *([] if value is True else [str(value)]))
    ]
    tokens, target = json.dumps([case.row(0)[:-1]]), folder / "logits.pt"
    done = open_lm_python(checkout, "-c", PROBE, str(SEED), tokens, str(target), *arguments)
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    logits: Tensor = torch.load(target, weights_only=True)
    return logits


if __name__ == "__main__":
    main()
