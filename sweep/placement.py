"""Where the jobs of a model and phase run, and on how many processes."""

from dataclasses import replace

from jobs.job import Resources
from sweep.catalog import Catalog, Placement
from sweep.spec.resources import ResourceFields, request


def placed(catalog: Catalog, resources: ResourceFields, name: str, catalog_name: str, phase: str) -> Placement:
    """The catalog's placement of the model, with the sweep file's words over it."""
    entry = catalog.models.get(catalog_name)
    usual = entry.resources[phase] if entry is not None else Placement()
    return replace(usual, **request(resources, name, phase))


def gpu_type(placement: Placement) -> str:
    """A job without GPUs is priced by CPU cores."""
    return placement.gpu_type if placement.gpus_per_node else "cpu"


def processes(resources: Resources, backend: str) -> int:
    """Processes that a cluster starts for the job: one for each GPU, or one on each node; on one machine one."""
    return resources.nodes * max(1, resources.gpus_per_node) if backend == "slurm" else 1
