"""Tests on a real Slurm cluster, which `tests.slurm_lab` starts on this machine."""
