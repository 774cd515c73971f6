"""What the command line says and writes today, recorded to hold later versions against it.

    python -m tests.oracle record OUT            # plans, texts, the stored fixture: seconds
    python -m tests.oracle record OUT --full     # besides: sbatch's arguments and scripts, a small sweep run anew
    python -m tests.oracle compare OLD NEW       # exit code 1 if anything differs
    python -m tests.oracle expect                # writes anew what the tests expect of the fixture and of sbatch

Only commands are run and only files are read: nothing of `sweep`, `jobs` or `stages` is imported, so that one recorder
serves versions whose modules have other names. `--tree` names the checkout whose `sweep` is meant.
"""
