"""One supervised attempt: `python -m jobs.attempt` claims a run, starts its stage, and records how it ended."""
