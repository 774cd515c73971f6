"""One supervised attempt: `python -m jobs.attempt` claims a run, starts its stage, watches it and records how it ended."""
