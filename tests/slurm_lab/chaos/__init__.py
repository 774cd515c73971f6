"""The fault campaign: a real cluster, the real `sweep` command, and faults of every kind on purpose.

`python -m tests.slurm_lab.chaos --help`. A campaign is a row of seasons. In a season a fresh sweep of small real
stages is ticked by processes while faults strike; then all is healed, the sweep is ticked to its end, and its evidence
checked.
"""
