"""FLOPs, GPU-hours, A100-hours and bytes of jobs."""
