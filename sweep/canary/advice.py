"""What to change where the first job of a shape ran out of memory: the memory to ask for, or the settings that need
less, by the plan's own estimate."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import ceil
from typing import Any

from jobs.job import Job
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.snapshot import RunStatus
from sweep.canary.shapes import ARCHITECTURE

GIB = 1 << 30
GPU_WORDS = re.compile(r"cuda|\bgpu|hip ", re.IGNORECASE)
"""In the message of an attempt that ran out of a GPU's memory, and not of the node's."""
HOST_STEP, HOST_RESERVE = 1.5, 1.25
"""The next memory to ask for: so much more than before, or than the estimate."""
LESS = 0.8
"""Of the estimate that did not hold: settings that need no more than this are worth a try."""
MOST_WAYS = 3


def suggest_memory(jobs: Mapping[str, Job], job: Job, evidence: RunStatus) -> str:
    """One line; empty where the job did not run out of memory. `jobs`: of the plan by key."""
    last = evidence.last
    if evidence.done or last is None or last.failure is None or not POLICIES[last.failure].more_memory:
        return ""
    if job.resources.gpus and GPU_WORDS.search(evidence.message):
        return suggest_gpu_memory(jobs, job, on_slurm=bool(last.start.job_id))
    return suggest_host_memory(job)


def suggest_host_memory(job: Job) -> str:
    """How much to ask for."""
    asked, planned = job.resources.memory_gib, job.estimate.host_memory_bytes / GIB
    raised = ceil(max(HOST_STEP * asked, HOST_RESERVE * planned))
    estimate = f", and {planned:.1f} are estimated" if planned else ""
    return f"it asked for {asked:g} GiB a node{estimate}: set `resources: {{memory_gib: {raised}}}` and plan again"


def suggest_gpu_memory(jobs: Mapping[str, Job], job: Job, *, on_slurm: bool) -> str:
    """Which settings need less of each GPU."""
    planned = job.estimate.gpu_memory_bytes / GIB
    ways = list(iter_smaller_ways(jobs, job, on_slurm=on_slurm))[:MOST_WAYS]
    if not ways and job.stage == "evaluate":
        return "no setting of an evaluation needs less: take GPUs with more memory (`gpu_type`)"
    if not ways:
        return "it needs less of each GPU with a smaller `settings: {micro_batch_tokens: N}`, or on more or larger GPUs"
    before = f"{planned:.1f} GiB of each GPU were estimated" if planned else "what it needs was not estimated"
    return f"{before}; what needs less: {', or '.join(ways)}; plan again"


def iter_smaller_ways(jobs: Mapping[str, Job], job: Job, *, on_slurm: bool) -> Iterator[str]:
    """Changes of the settings with the memory that they are estimated to take, each alone, those that cost least
    first."""
    # imported here: hardly any report has a shape that ran out of memory
    from pydantic import ValidationError

    from stages.config import STAGES, FinetuneConfig, LanguageModel, PretrainConfig, Vision
    from stages.gpu_memory import GPU_MICRO_BATCH_TOKENS
    from sweep.catalog.entries import Placement
    from sweep.plan.memory import (
        MemoryQuestion,
        compute_training_fit,
        get_row_length,
        iter_run_modes,
        select_memory_settings,
    )

    architecture = find_architecture(jobs, job)
    try:
        config = STAGES[job.stage].config.model_validate(job.config)
        shape = LanguageModel.model_validate(architecture.get("model"))
        vision = Vision.model_validate(architecture["vision"]) if "vision" in architecture else None
    except (ValidationError, KeyError):  # of a stage that no formula is for, or of a later version
        return
    if not isinstance(config, PretrainConfig | FinetuneConfig) or config.engine is not None:
        return
    resources, given = job.resources, dict(select_memory_settings(job.settings))
    question = MemoryQuestion(
        phase=job.phase,
        model="",
        shape=shape,
        config=config,
        vision=vision,
        placement=Placement(nodes=resources.nodes, gpus_per_node=resources.gpus_per_node, gpu_type=resources.gpu_type),
        given=tuple(given.items()),
    )
    ranks = question.ranks if on_slurm else 1
    now = next(iter_run_modes(question, ranks))
    used = compute_training_fit(question, now, ranks).gpu_bytes
    free = replace(question, given=())
    micro, length = now.micro_batch_tokens or GPU_MICRO_BATCH_TOKENS, get_row_length(config)
    smaller = [("micro_batch_tokens", size) for size in (micro // 2, micro // 4, length) if length <= size < micro]
    ways: list[tuple[str, Any]] = [*smaller, *([] if now.sharded or ranks == 1 else [("parallel", "fsdp")])]
    ways += [] if now.recompute else [("activation_checkpointing", True)]
    seen: set[str] = set()
    for name, value in ways:
        changed = {**given, name: value}
        mode = next(iter_run_modes(replace(free, given=tuple(changed.items())), ranks))
        needs = compute_training_fit(replace(free, given=tuple(changed.items())), mode, ranks).gpu_bytes
        if needs <= LESS * used and name not in seen:
            seen.add(name)
            yield f"`settings: {{{name}: {str(value).lower()}}}` ({needs / GIB:.1f} GiB)"


def find_architecture(jobs: Mapping[str, Job], job: Job) -> Mapping[str, Any]:
    """Model and vision of the job's configuration, else of the run that it builds on."""
    each: Job | None = job
    while each is not None:
        if own := {name: each.config[name] for name in ARCHITECTURE if name in each.config}:
            return own
        each = jobs[each.parents[0]] if each.parents else None
    return {}
