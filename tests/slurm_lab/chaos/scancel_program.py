"""A program that stands before scancel on PATH: the real one, or one that fails as often as not.

It fails while the file `scancel_fails` is there; of its failures, every other one comes after the real `scancel` has
done its work. Copied to a folder of its own, where `settings.json` names both; imports nothing of ours.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

WORDS = "scancel: error: Kill job error on job id 1: Unable to contact slurm controller (connect failure)"


def main() -> int:
    settings = json.loads(Path(__file__).with_name("settings.json").read_text())
    real = [settings["scancel"], *sys.argv[1:]]
    if not Path(settings["scancel_fails"]).exists() or random.random() < 0.5:
        os.execv(real[0], real)  # noqa: S606 - it is a program, and no shell is wanted
    if random.random() < 0.5:
        subprocess.run(real, check=False)
    print(WORDS, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
