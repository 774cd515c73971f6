"""Slurm as a cluster: arrays sent once, looked up by name, judged by squeue, sacct and what is on disk."""
