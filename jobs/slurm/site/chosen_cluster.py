"""Which of several clusters a sweep is sent to: the one that SLURM_CLUSTERS names, and then the one that it is on."""

import re
from collections.abc import Callable, Iterable, Mapping

from jobs.errors import ClusterChoiceError
from jobs.slurm.batches import KnownBatch
from jobs.slurm.commands import CLUSTER_VARIABLES

CLUSTER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")


# Why: docs/decisions.md, D113
def read_chosen_cluster(environment: Mapping[str, str]) -> str:
    """The name that the variables give; empty without one. Raises ClusterChoiceError for several."""
    given = {name: environment[name].strip() for name in CLUSTER_VARIABLES if environment.get(name, "").strip()}
    for name, value in given.items():
        if "," in value or value.lower() == "all":
            raise ClusterChoiceError(
                f"{name}={value} names several clusters, whose ids would be mixed up: set it to one, or unset it"
            )
        if not CLUSTER_NAME.fullmatch(value):
            raise ClusterChoiceError(
                f"{name}={value!r} is not the name of a cluster; `sacctmgr show clusters` lists them"
            )
    if len(set(given.values())) > 1:
        words = " and ".join(f"{name}={value}" for name, value in given.items())
        raise ClusterChoiceError(f"{words} name different clusters: unset one of them")
    return next(iter(given.values()), "")


def resolve_cluster(
    batches: Iterable[KnownBatch], environment: Mapping[str, str], read_default_name: Callable[[], str]
) -> str:
    """The cluster to ask: that of the sweep's batches, else the chosen one; empty for the default one.

    `read_default_name`: asks the default cluster for its name. Raises ClusterChoiceError where two would be mixed.
    """
    chosen = read_chosen_cluster(environment)
    sent = {batch.cluster for batch in batches if not batch.not_submitted_at}
    used = next(iter(sorted(sent, reverse=True)), None)
    if used is None or chosen in {"", used}:
        return chosen if used is None else used
    if "" in {chosen, used} and chosen == read_default_name():
        return chosen
    where = f"on cluster {used}" if used else "on the default cluster"
    name = next(name for name in CLUSTER_VARIABLES if environment.get(name, "").strip())
    raise ClusterChoiceError(
        f"{name}={chosen}, but this sweep's jobs are {where}, and ids of two would be mixed up: "
        f"{f'set it to {used}' if used else 'unset it'}, or plan the sweep in another store (--store)"
    )
