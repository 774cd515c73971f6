"""How long to wait for Slurm before its silence means something."""

import os
from dataclasses import dataclass, fields

VARIABLE = "SWEEP_SLURM_PATIENCE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """All in seconds."""

    call: float = 30.0
    """Any client command; what has not answered by then is unknown, not failed."""
    submit: float = 60.0
    """sbatch, which waits by itself while the controller is full; it is killed with its process group."""
    doubt: float = 120.0
    """From an intent without an answer to the belief that its sbatch never reached the controller."""
    absent: float = 60.0
    """From sbatch's answer to the belief that a job which neither squeue nor sacct knows is gone."""
    late: float = 300.0
    """From an end of which the controller tells to the belief that sacct will never say how the job ended."""
    look_again: float = 10.0
    """Between two looks that must agree before an absence counts."""
    cache: float = 60.0
    """How old an answer `sweep status` may show."""
    pace: float = 1.0
    """At least this long from one sbatch to the next."""

    @classmethod
    def from_environment(cls) -> "Patience":
        """`SWEEP_SLURM_PATIENCE="call=5 doubt=20"` changes some. Raises ValueError naming the word that is wrong."""
        known = {field.name for field in fields(cls)}
        given: dict[str, float] = {}
        for word in os.environ.get(VARIABLE, "").split():
            name, _, value = word.partition("=")
            try:
                given[name] = float(value)
            except ValueError:
                name = ""
            if name not in known:
                raise ValueError(f"{VARIABLE}: {word!r} is not NAME=SECONDS with a name of {', '.join(sorted(known))}")
        return cls(**given)
