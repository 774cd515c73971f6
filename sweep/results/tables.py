"""Rows of results.parquet: every fine-tuned model with its axes, scores, tokens and cost."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from stages.config import PretrainConfig
from sweep.results.columns import AXES
from sweep.results.cost import Cost
from sweep.results.evidence import JobEvidence
from sweep.results.jobs_table import milliseconds
from sweep.results.lineage import ModelChain, models_by_job
from sweep.results.schemas import RESULTS
from sweep.results.scores import score_values, task_scores
from sweep.results.values import number, pairs, whole
from sweep.results.z_scores import z_metrics, z_scores

AXIS_TYPES = {field.name: field.type for field in AXES if field.name not in {"parameters", "epochs", "overrides"}}
"""The axes of a cell's record that have a column of their own."""


def results_table(sweep: str, chains: Sequence[ModelChain], evidence: Mapping[str, JobEvidence]) -> pa.Table:
    """In the manifest's order. Rows of unfinished models have their state and what is known, and nulls."""
    shares = models_by_job(chains)
    configs = pretrain_configs(chains, evidence)
    compared = z_values(chains, evidence)
    rows = [
        {
            "sweep": sweep,
            "parameters": parameters_of(configs.get(chain.cell.pretrain)),
            **axis_values(chain.cell.axes),
            **pretraining_tokens(evidence[chain.cell.pretrain], configs),
            **model_values(chain, [evidence[key] for key in chain.keys]),
            **compared.get(chain.evaluate, {}),
            **cost_values([(evidence[key].costs.total, shares[key]) for key in chain.keys]),
            **planned_values([(evidence[key].job.estimate.a100_hours, shares[key]) for key in chain.keys]),
        }
        for chain in chains
    ]
    return pa.Table.from_pylist(rows, schema=RESULTS)


def axis_values(axes: Mapping[str, Any]) -> dict[str, Any]:
    """Named axes in their columns; all others, dotted overrides for one, in `overrides` as JSON."""
    values = {name: typed(axes.get(name), kind) for name, kind in AXIS_TYPES.items()}
    others = sorted((name, json.dumps(value)) for name, value in axes.items() if name not in AXIS_TYPES)
    return {**values, "overrides": others}


def typed(value: Any, kind: pa.DataType) -> Any:
    """`value` as its column wants it; None where it is of another type."""
    if pa.types.is_floating(kind):
        return number(value)
    if pa.types.is_integer(kind):
        return whole(value)
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    return None if value is None else str(value)


def model_values(chain: ModelChain, jobs: Sequence[JobEvidence]) -> dict[str, Any]:
    """Keys, state, scores and tokens of one model; `jobs` are its chain's."""
    by_key = {found.job.key: found for found in jobs}
    pretrain, finetune, evaluate = (by_key[key] for key in (chain.cell.pretrain, chain.finetune, chain.evaluate))
    finished = [found for found in jobs if found.result is not None]
    return {
        "cell": chain.cell.name,
        "block": chain.cell.block or None,
        "key": chain.finetune,
        "pretrain_key": chain.cell.pretrain,
        "evaluate_key": chain.evaluate,
        "state": chain_state(chain.evaluate, by_key),
        "epochs": chain.epochs,
        **(score_values(task_scores(evaluate.result)) if evaluate.result else {}),
        "pretrain_loss": field(pretrain, "loss"),
        "finetune_loss": field(finetune, "loss"),
        "finetune_tokens": whole(field(finetune, "tokens")),
        "finished_at": milliseconds(evaluate.finished_at) if evaluate.result else None,
        "code_revision": " ".join(dict.fromkeys(found.code_revision for found in jobs if found.code_revision)) or None,
        "versions": pairs(finished[-1].result.get("versions")) if finished and finished[-1].result else None,
    }


def z_values(chains: Sequence[ModelChain], evidence: Mapping[str, JobEvidence]) -> dict[str, dict[str, Any]]:
    """The z-score columns by key of the evaluation; the models of this sweep are what each is compared with."""
    results = {chain.evaluate: evidence[chain.evaluate].result for chain in chains}
    metrics = {key: z_metrics(result) for key, result in results.items() if result}
    scores = z_scores(metrics)
    return {
        key: {"vision_z_score": scores.get(key), "vision_z_metrics": list(found)}
        for key, found in metrics.items()
        if found
    }


def field(found: JobEvidence, name: str) -> float | None:
    """A number of its result; None without one."""
    return number(found.result.get(name)) if found.result else None


def chain_state(key: str, jobs: Mapping[str, JobEvidence]) -> str:
    """`done`, or the state of the job that the evaluation `key` waits for: itself, if its parents are done."""
    found = jobs[key]
    if found.done:
        return found.state
    waits_for = next((parent for parent in found.job.parents if not jobs[parent].done), None)
    return chain_state(waits_for, jobs) if waits_for else found.state


def pretrain_configs(
    chains: Sequence[ModelChain], evidence: Mapping[str, JobEvidence]
) -> dict[str, PretrainConfig | None]:
    """By key. None for a job of another kind than ours: then the plan does not tell its model and tokens."""
    keys = {key for chain in chains for key in chain.keys if evidence[key].job.stage == "pretrain"}
    configs: dict[str, PretrainConfig | None] = dict.fromkeys(keys)
    for key in keys:
        with suppress(ValidationError):
            configs[key] = PretrainConfig.model_validate(dict(evidence[key].job.config))
    return configs


def parameters_of(config: PretrainConfig | None) -> int | None:
    """Of the language model, as the paper's tables count them."""
    return config.model.parameters if config else None


def pretraining_tokens(pretrain: JobEvidence, configs: Mapping[str, PretrainConfig | None]) -> dict[str, Any]:
    """Text and image tokens of trunk and image-text run.

    The trunk's come from the plan: what one segment's result counts depends on where another sweep may have cut it.
    """
    tokens, images = whole(field(pretrain, "tokens")), whole(field(pretrain, "image_tokens"))
    trunks = [configs.get(parent) for parent in pretrain.job.parents]
    if tokens is None or images is None or None in trunks:
        return {}
    before = sum(trunk.last_step * trunk.step_tokens for trunk in trunks if trunk)
    return {"text_tokens": before + tokens - images, "image_tokens": images}


def cost_values(costs: Iterable[tuple[Cost, int]]) -> dict[str, Any]:
    """Own and shared hours of one model from its jobs' costs and the number of models that share each."""
    own, shared = Cost(), Cost()
    for cost, models in costs:
        if models == 1:
            own += cost
        else:
            shared += cost.divided(models)
    return {
        "a100_hours_own": own.a100_hours,
        "a100_hours_shared": shared.a100_hours,
        "gpu_hours_own": own.gpu_hours,
        "gpu_hours_shared": shared.gpu_hours,
        "cpu_hours_own": own.cpu_hours,
        "cpu_hours_shared": shared.cpu_hours,
    }


def planned_values(hours: Iterable[tuple[float, int]]) -> dict[str, float]:
    """The plan's A100-hours of one model, own and shared, from its jobs' estimates."""
    found = list(hours)
    return {
        "planned_a100_hours_own": sum(each for each, models in found if models == 1),
        "planned_a100_hours_shared": sum(each / models for each, models in found if models > 1),
    }
