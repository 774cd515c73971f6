"""The cluster that a sweep is sent to: chosen by the environment, remembered by its batches, never two."""

import pytest

from jobs.errors import ClusterChoiceError
from jobs.slurm.batches import KnownBatch
from jobs.slurm.site.chosen_cluster import read_chosen_cluster, resolve_cluster


def batch(cluster: str = "", *, refused: bool = False) -> KnownBatch:
    return KnownBatch(
        name="b",
        phase="p",
        tasks={0: "k"},
        user="ann",
        intended_at=1.0,
        cluster=cluster,
        not_submitted_at=2.0 * refused,
    )


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, ""),
        ({"SLURM_CLUSTERS": ""}, ""),
        ({"SLURM_CLUSTERS": "east"}, "east"),
        ({"SBATCH_CLUSTERS": " east "}, "east"),
        ({"SLURM_CLUSTERS": "east", "SBATCH_CLUSTERS": "east"}, "east"),
    ],
)
def test_one_name_is_taken(environment: dict[str, str], name: str) -> None:
    assert read_chosen_cluster(environment) == name


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"SLURM_CLUSTERS": "east,west"}, "SLURM_CLUSTERS=east,west names several clusters"),
        ({"SBATCH_CLUSTERS": "ALL"}, "SBATCH_CLUSTERS=ALL names several clusters"),
        ({"SLURM_CLUSTERS": "east", "SBATCH_CLUSTERS": "west"}, "name different clusters: unset one"),
        ({"SLURM_CLUSTERS": "-x"}, "is not the name of a cluster"),
    ],
)
def test_anything_else_is_refused_with_what_would_do(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ClusterChoiceError, match=words):
        read_chosen_cluster(environment)


def test_a_sweep_stays_on_the_cluster_of_its_batches() -> None:
    def resolve(chosen: str, *batches: KnownBatch) -> str:
        return resolve_cluster(batches, {"SLURM_CLUSTERS": chosen}, lambda: "home")

    assert resolve("") == ""
    assert resolve("east") == "east"
    assert resolve("", batch("east")) == "east"
    assert resolve("east", batch("east")) == "east"
    assert resolve("east", batch(refused=True)) == "east"
    assert resolve("home", batch()) == "home"
    for chosen, used in (("west", "east"), ("west", ""), ("home", "east")):
        with pytest.raises(ClusterChoiceError, match=f"SLURM_CLUSTERS={chosen}, but this sweep's jobs are on"):
            resolve(chosen, batch(used))
