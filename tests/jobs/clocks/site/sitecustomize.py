"""Gives each attempt a clock of its own, as if it ran on another node. Python imports this at its start (`site`).

SWEEP_TEST_CLOCKS: seed and largest difference in seconds. The stage's process has the clock of its supervisor.
"""

import os
import random
import sys
import time

seed, _, most = os.environ.get("SWEEP_TEST_CLOCKS", "").partition(" ")
if most:
    words = sys.orig_argv
    if "SWEEP_TEST_OFFSET" not in os.environ and "--attempt" in words:
        name = f"{seed} {words[words.index('--key') + 1]} {words[words.index('--attempt') + 1]}"
        os.environ["SWEEP_TEST_OFFSET"] = repr(random.Random(name).uniform(-float(most), float(most)))
    offset = float(os.environ.get("SWEEP_TEST_OFFSET", "0"))
    system_time = time.time
    time.time = lambda: system_time() + offset
