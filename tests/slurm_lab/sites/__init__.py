"""Whole campaigns on clusters as they are out there: one for each site's settings, from plan to table.

`python -m tests.slurm_lab.sites` runs them all and prints what each came to (docs/slurm-cluster.md).
"""
