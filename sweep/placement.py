"""Where the jobs of a model and phase run, and on how many processes."""

from dataclasses import replace

from jobs.job import Resources
from sweep.catalog import Catalog, Placement
from sweep.resources import ResourceFields, request
from sweep.sweep_file import Sweep

ONE_PROCESS = ("evaluate",)
"""Phases whose stages work in one process, and so on one GPU."""


def wished(catalog: Catalog, resources: ResourceFields, name: str, catalog_name: str, phase: str) -> Placement:
    """The catalog's placement of the model, with the sweep file's words over it."""
    entry = catalog.models.get(catalog_name)
    usual = entry.resources[phase] if entry is not None else Placement()
    return replace(usual, **request(resources, name, phase))


def placed(catalog: Catalog, resources: ResourceFields, name: str, catalog_name: str, phase: str) -> Placement:
    """The same, on one GPU of one node where the stage has no use for more."""
    wanted = wished(catalog, resources, name, catalog_name, phase)
    if phase not in ONE_PROCESS:
        return wanted
    return replace(wanted, nodes=1, gpus_per_node=min(1, wanted.gpus_per_node))


def gpu_type(placement: Placement) -> str:
    """A job without GPUs is priced by CPU cores."""
    return placement.gpu_type if placement.gpus_per_node else "cpu"


def processes(resources: Resources, backend: str) -> int:
    """Processes that a cluster starts for the job: one for each GPU, or one on each node; on one machine one."""
    return resources.nodes * max(1, resources.gpus_per_node) if backend == "slurm" else 1


def narrowed(sweep: Sweep, catalog: Catalog) -> list[str]:
    """A remark on jobs that get fewer GPUs or nodes than they were to have."""
    found: dict[str, list[str]] = {}
    for model in sweep.models.values():
        for phase in ONE_PROCESS:
            where = (catalog, sweep.resources, model.name, model.catalog_name, phase)
            wanted = wished(*where)
            if wanted != placed(*where):
                had = (
                    f"{wanted.nodes} x {wanted.gpus_per_node} GPUs" if wanted.gpus_per_node else f"{wanted.nodes} nodes"
                )
                found.setdefault(phase, []).append(f"{model.name} ({had})")
    return [
        f"{phase} works in one process; planned on one {'GPU' if 'GPU' in models[0] else 'node'}: {', '.join(models)}"
        for phase, models in found.items()
    ]
