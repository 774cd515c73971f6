"""Tests on a real Slurm cluster, which `tests.slurm.lab` starts on this machine."""
