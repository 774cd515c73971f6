"""Slurm: arrays are sent once, found again by name, and judged by squeue, sacct and what is on disk."""
