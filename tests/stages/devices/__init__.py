"""The numbers of the stages on a device, beside those of the CPU."""

import os

DEVICE = os.environ.get("STAGE_DEVICE", "cpu")
"""`python -m benchmarks.gpu_check` sets it to `cuda` where there is a GPU."""
FLEX = ("flex",) if DEVICE != "cpu" else ()
"""Ways to attend whose gradients a GPU alone computes."""
