"""Which jobs a fine-tuned model comes from, and which models share a job."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from jobs.job import Job
from sweep.errors import ManifestError
from sweep.plan.manifest import Cell, Manifest, index_jobs, iter_chain_keys


@dataclass(frozen=True, slots=True)
class ModelChain:
    """One fine-tuned model: a cell and one of its numbers of epochs."""

    cell: Cell
    epochs: int
    finetune: str
    evaluate: str
    keys: tuple[str, ...]
    """Keys of all jobs that it comes from, parents before children, the evaluation last."""


def list_model_chains(manifest: Manifest) -> list[ModelChain]:
    """All fine-tuned models, in the manifest's order. Raises ManifestError if a cell names a job that is not there."""
    jobs = index_jobs(manifest)
    for cell in manifest.cells:
        if missing := [key for key in iter_chain_keys(cell) if key not in jobs]:
            raise ManifestError(f"cell {cell.name} names job {missing[0]}, which the plan lacks; plan the sweep again")
    return [
        ModelChain(cell, chain.epochs, chain.finetune, chain.evaluate, list_ancestors(jobs, chain.evaluate))
        for cell in manifest.cells
        for chain in cell.chains
    ]


def list_ancestors(jobs: Mapping[str, Job], key: str) -> tuple[str, ...]:
    """`key` and all jobs that it builds on, parents before children."""
    return tuple(dict.fromkeys(iter_ancestors(jobs, key)))


def iter_ancestors(jobs: Mapping[str, Job], key: str) -> Iterator[str]:
    """`key` behind its ancestors, depth first; a job that is reached on two ways comes twice."""
    for parent in jobs[key].parents:
        yield from iter_ancestors(jobs, parent)
    yield key


def count_models_by_job(chains: Iterable[ModelChain]) -> Counter[str]:
    """How many models need each job."""
    return Counter(key for chain in chains for key in chain.keys)


def group_cells_by_job(chains: Iterable[ModelChain]) -> dict[str, list[str]]:
    """Names of the cells that need each job, trunk segments included, in the manifest's order."""
    cells: dict[str, dict[str, None]] = {}
    for chain in chains:
        for key in chain.keys:
            cells.setdefault(key, {})[chain.cell.name] = None
    return {key: list(names) for key, names in cells.items()}


def map_jobs_to_model_names(chains: Iterable[ModelChain]) -> dict[str, str]:
    """Each job's language model, by key, as the sweep file calls it; a job serves cells of one model only."""
    return {key: str(chain.cell.axes["model"]) for chain in chains if "model" in chain.cell.axes for key in chain.keys}
