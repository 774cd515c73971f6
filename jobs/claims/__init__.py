"""Who may write into a run: claims, heartbeats, takeovers, and the lease on submitting to Slurm."""
