"""Submission to this machine or to Slurm, and what is said of it."""
