"""`python -m tests.stages.training.fixed_order JOB_JSON`: `python -m stages` with sums of a fixed order.

On a GPU such kernels are slower than the usual ones, and have equal bits from run to run. Where torch has none the job
fails, and its error names the operation.
"""

import os
import sys

from stages.__main__ import main

if __name__ == "__main__":  # and not in the processes that read data
    import torch

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS's own condition for it
    torch.use_deterministic_algorithms(True)
    sys.exit(main(sys.argv[1:]))
