"""The shape of a job: what it has in common with those that would fail as it does.

Stage, model, kinds of data, engine, placement and resources make a shape; seeds, learning rates and amounts of data do
not, so that a sweep of 2,710 jobs has some dozens of shapes.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jobs.job import Job, Resources
from sweep.phases import PHASES
from sweep.plan.manifest import Manifest, map_jobs_to_models

ARCHITECTURE = ("model", "vision")
"""Of a configuration; a fine-tune and an evaluation have those of the run that they build on."""
CONFIG_PARTS = (
    *("context", "max_length", "max_new_tokens", "batch_sequences", "packing", "precision"),
    *("loss_mean", "prompt"),
)
SETTING_PARTS = (
    *("parallel", "activation_checkpointing", "micro_batch_tokens", "loss_chunk_tokens", "compile", "attention"),
    *("cpu_matmul", "data_workers", "prefetch_batches", "feature_cache_gib", "device", "engine"),
)
ENGINE_PARTS = ("kind", "revision", "plugin", "command")
BUILT_IN_STAGES = frozenset(phase.stage for phase in PHASES.values())
DIGEST_LETTERS = 6


# Why: docs/decisions.md, D226
def compute_shapes(plan: Manifest) -> dict[str, str]:
    """The name of each job's shape by key, such as `finetune-1.4b-3fa9c2`: equal names are one shape."""
    models = map_jobs_to_models(plan)
    architectures: dict[str, str] = {}
    shapes: dict[str, str] = {}
    known: dict[tuple[object, ...], str] = {}
    for job in plan.jobs:  # parents before children
        above = next((architectures[parent] for parent in job.parents), "")
        own = {name: job.config[name] for name in ARCHITECTURE if name in job.config}
        architectures[job.key] = architecture = render(own) if own else above
        # jobs of a large sweep share few configurations, settings and resources
        alike = job.stage, id(job.config), id(job.settings), id(job.resources), architecture, models[job.key]
        if alike not in known:
            known[alike] = name_shape(job, architecture, models[job.key])
        shapes[job.key] = known[alike]
    return shapes


def name_shape(job: Job, architecture: str, model: str) -> str:
    """Stage, model, and a digest of all that makes the shape."""
    record = {
        "stage": job.stage,
        "version": job.version,
        "architecture": architecture,
        "data": list_data_kinds(job.config),
        "config": select_config(job),
        "engine": select_parts(job.config.get("engine"), ENGINE_PARTS),
        "settings": select_parts(job.settings, SETTING_PARTS),
        "resources": select_resources(job.resources),
    }
    digest = hashlib.sha256(render(record).encode()).hexdigest()[:DIGEST_LETTERS]
    return "-".join(filter(None, (job.stage, model, digest)))


def render(record: object) -> str:
    """Equal texts for equal records."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), default=str)


def list_data_kinds(config: Mapping[str, Any]) -> list[str]:
    """Kinds of sources, and names of tasks: which words a text has is no shape, which task is asked is one."""
    sources = [*_list_records(config.get("sources")), *_list_records([config.get("conversations")])]
    tasks = [*_list_records(config.get("text_tasks")), *_list_records(config.get("vision_tasks"))]
    return sorted({str(each.get("kind", "")) for each in sources} | {f"task {each.get('name', '')}" for each in tasks})


def _list_records(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list | tuple) else []


def select_config(job: Job) -> dict[str, Any]:
    """Of a stage of ours what decides about memory and program; of another all that is no number, as a number may be
    an amount or a seed."""
    if job.stage in BUILT_IN_STAGES:
        return select_parts(job.config, CONFIG_PARTS)
    return {
        name: value
        for name, value in job.config.items()
        if name != "engine" and (isinstance(value, bool) or not isinstance(value, int | float))
    }


def select_parts(record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The fields of these names that there are."""
    return {name: record[name] for name in names if name in record} if isinstance(record, Mapping) else {}


def select_resources(resources: Resources) -> list[Any]:
    """All but the time, which follows from the amount of data."""
    return [
        *(resources.nodes, resources.gpus_per_node, resources.gpu_type, resources.cpus, resources.memory_gib),
        *(sorted(resources.options.items()), resources.setup, resources.launcher),
    ]
