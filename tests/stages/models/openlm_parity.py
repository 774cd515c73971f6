"""Live parity with a checkout of open_lm: 20 steps of `open_lm.main`, then ours on the same batches, equal bit for bit.

    python -m tests.stages.models.openlm_parity CHECKOUT

CHECKOUT is a work tree of mlfoundations/open_lm (or give it as OPEN_LM_CHECKOUT); OPEN_LM_PYTHON names an interpreter
with its packages where this one lacks them. Known to run: branch prismatic_openlm (8ddc185) as it is; main (9bb92ef)
with webdataset==0.2.86 and a module `xformers.ops` with `SwiGLU`, `LowerTriangularMask` and
`memory_efficient_attention` on PYTHONPATH. Not a part of the test suite: it asks for code that is not ours.
"""

import os
import sys
import tempfile
from pathlib import Path

import torch

from stages.checkpoint.openlm import read_weights
from tests.stages.models.make_openlm_golden import CASES
from tests.stages.models.openlm_checkout import Case, logged_losses, options, run_open_lm, write_shard
from tests.stages.models.openlm_reference import initial_model, train


def main() -> int:
    """Prints a line for each case; 1 if a bit differs."""
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPEN_LM_CHECKOUT", "")
    if not given:
        print(__doc__, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    return max(compare(case, Path(given).resolve()) for case in CASES)


def compare(case: Case, checkout: Path) -> int:
    """One case; 1 if a bit differs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shard(folder / "data", case)
        run_open_lm(checkout, options(case, folder))
        run = folder / "logs" / case.name
        theirs, their_losses = read_weights(run / "checkpoints" / "epoch_1.pt"), logged_losses(run)
    vlm = initial_model(case)
    losses = train(case, vlm)
    ours = vlm.collect_weights()
    equal = sum(torch.equal(ours[name], theirs[name]) for name in ours if name in theirs)
    # open_lm prints four digits
    same_losses = all(abs(ours - theirs) < 5.1e-4 for ours, theirs in zip(losses, their_losses, strict=True))
    print(
        f"{case.name}: {equal} of {len(theirs)} weights equal bit for bit after {case.steps} steps; losses "
        f"{their_losses[0]} ... {their_losses[-1]}, all {len(their_losses)} equal to their digits: {same_losses}",
        flush=True,
    )
    return 0 if equal == len(theirs) == len(ours) and same_losses else 1


if __name__ == "__main__":
    sys.exit(main())
