"""How long to wait for Slurm before its silence means something."""

import os
from dataclasses import dataclass

TIMEOUTS_VARIABLE = "SWEEP_SLURM_PATIENCE"
VARIABLE_WORDS = {
    "call": "call_s",
    "submit": "submit_s",
    "doubt": "unknown_submit_s",
    "absent": "missing_job_s",
    "late": "accounting_lag_s",
    "look_again": "recheck_s",
    "cache": "cache_s",
    "pace": "submit_interval_s",
    "site": "site_facts_s",
}
"""The words that the environment variable takes, and the fields that they set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmTimeouts:
    """How long to wait for Slurm, in seconds. Tests and slow clusters change single values."""

    call_s: float = 30.0
    """Any client command; what has not answered by then is unknown, not failed."""
    submit_s: float = 60.0
    """sbatch, which waits by itself while the controller is full; it is killed with its process group."""
    unknown_submit_s: float = 120.0
    """From an intent without an answer to the belief that its sbatch never reached the controller."""
    missing_job_s: float = 60.0
    """From sbatch's answer to the belief that a job which neither squeue nor sacct knows is gone."""
    accounting_lag_s: float = 300.0
    """From an end that the controller reports to the belief that sacct will never say how the job ended."""
    recheck_s: float = 10.0
    """Between two queries that must agree before an absence counts."""
    cache_s: float = 60.0
    """How old an answer `sweep status` may show."""
    submit_interval_s: float = 1.0
    """At least this long from one sbatch to the next."""

    site_facts_s: float = 86_400.0
    """How long what a site says of its configuration and limits is kept (`jobs.slurm.site.site_facts`)."""

    @classmethod
    def from_environment(cls) -> "SlurmTimeouts":
        """`SWEEP_SLURM_PATIENCE="call=5 doubt=20"` changes some. Raises ValueError naming the word that is wrong."""
        given: dict[str, float] = {}
        for word in os.environ.get(TIMEOUTS_VARIABLE, "").split():
            name, _, value = word.partition("=")
            try:
                given[VARIABLE_WORDS[name]] = float(value)
            except (KeyError, ValueError):
                known = ", ".join(sorted(VARIABLE_WORDS))
                raise ValueError(f"{TIMEOUTS_VARIABLE}: {word!r} is not NAME=SECONDS with a name of {known}") from None
        return cls(**given)
