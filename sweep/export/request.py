"""What the control plane knows of a model, for its export: the request that `python -m stages.export` reads.

The other side of it: `stages/export/request.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from jobs.job import Job
from jobs.store.paths import Store
from stages.config import CONFIGS
from sweep.errors import SweepError, UsageError
from sweep.plan.manifest import Cell, Chain, Manifest, job_index
from sweep.results.evidence import Cost, JobEvidence, number
from sweep.results.lineage import ancestry, model_chains, models_by_job
from sweep.results.scores import SCORE_FIELDS, score_values, task_scores

TOLD_ELSEWHERE = {"model", "vision", "sources", "conversations", "tokenizer", "tasks"}
"""Parts of a configuration that have a place of their own in the card."""
SOURCE_FIELDS = ("name", "kind", "revision", "share")
"""Of a data set of pre-training."""
MEASURED = ("steps", "tokens", "image_tokens", "images", "seconds", "loss")
"""What a result says of a training."""


def chosen_chain(cell: Cell, epochs: int | None) -> Chain:
    """The cell's fine-tune of so many epochs, or its only one; UsageError with those that it has."""
    fitting = [chain for chain in cell.chains if epochs in (None, chain.epochs)]
    if len(fitting) == 1:
        return fitting[0]
    has = ", ".join(str(chain.epochs) for chain in cell.chains) or "none"
    given = "choose one with --epochs" if epochs is None else f"none of {epochs}"
    raise UsageError(f"cell {cell.name} has fine-tunes of {has} epochs: {given}")


def export_request(
    store: Store,
    manifest: Manifest,
    cell: Cell,
    chain: Chain | None,
    evidence: Mapping[str, JobEvidence],
    *,
    out: str,
    dtype: str,
) -> dict[str, Any]:
    """As JSON. `chain`: the fine-tune to export; None: the pre-trained model. SweepError if the job is not done."""
    key = chain.finetune if chain else cell.pretrain
    job = evidence[key].job
    check_done(manifest.sweep, cell, evidence[key])
    config = full_config(job)
    return {
        "run": str(store.run(job.stage, key).root.absolute()),
        "out": out,
        "dtype": dtype,
        "context": config.get("max_length") or config["context"],
        "tokenizer": tokenizer_path(manifest, cell, config, evidence),
        "facts": facts(manifest, cell, chain, key, evidence),
    }


def check_done(sweep: str, cell: Cell, found: JobEvidence) -> None:
    """SweepError for a job that has no model yet, or none of ours."""
    job = found.job
    if not found.done:
        raise SweepError(
            f"cell {cell.name}: its {job.phase} job {job.key} is {found.state}, so there is no model to export; "
            f"see `sweep status {sweep}`"
        )
    if job.stage not in {"pretrain", "finetune"}:
        raise SweepError(f"cell {cell.name}: job {job.key} is of stage {job.stage}, which leaves no model of ours")


def full_config(job: Job) -> dict[str, Any]:
    """A job's configuration with its defaults; SweepError where it is not one of ours."""
    try:
        return CONFIGS[job.stage].model_validate(dict(job.config)).model_dump(mode="json")
    except (KeyError, ValidationError) as error:
        raise SweepError(f"job {job.key}: its configuration is not of a stage that this version knows") from error


def told_config(job: Job) -> dict[str, Any]:
    """A job's configuration as far as it is known: of another kind of stage what the plan says."""
    try:
        return full_config(job)
    except SweepError:
        return dict(job.config)


def tokenizer_path(
    manifest: Manifest, cell: Cell, config: Mapping[str, Any], evidence: Mapping[str, JobEvidence]
) -> str:
    """Of the model itself, else (text alone) of the fine-tunes of it; empty where none is named or it is no path."""
    own = config.get("tokenizer")
    tuned = [evidence[each.finetune].job.config.get("tokenizer") for each in cell.chains]
    named = next((each for each in (own, *tuned) if isinstance(each, dict)), None)
    location = manifest.data.get(str(named["name"]), "") if named else ""
    return "" if "://" in location or location.startswith("pipe:") else location


def facts(
    manifest: Manifest, cell: Cell, chain: Chain | None, key: str, evidence: Mapping[str, JobEvidence]
) -> dict[str, Any]:
    """What the card tells (`stages.export.request.Facts`)."""
    keys = ancestry(job_index(manifest), key)
    built = [evidence[each] for each in keys]
    evaluated = evidence[chain.evaluate] if chain else None
    done = [*built, evaluated] if evaluated else built
    tasks = task_scores(evaluated.result) if evaluated and evaluated.result else []
    stable = score_values(tasks)
    finished = [found.result for found in built if found.result]
    versions = finished[-1].get("versions") if finished else None
    return {
        "sweep": manifest.sweep,
        "cell": cell.name,
        "stage": evidence[key].job.stage,
        "key": key,
        "epochs": chain.epochs if chain else None,
        "axes": dict(cell.axes),
        "data": unique(data for found in done for data in data_of(found.job)),
        "recipe": [recipe_of(found) for found in done],
        "scores": [{name: getattr(task, name) for name in SCORE_FIELDS} for task in tasks],
        "stable_scores": {name: value for name, value in stable.items() if number(value) is not None},
        "cost": cost_of(manifest, [found.job.key for found in done], evidence, tuned=chain is not None),
        "code_revision": " ".join(dict.fromkeys(found.code_revision for found in built if found.code_revision)),
        "versions": {name: str(value) for name, value in versions.items()} if isinstance(versions, dict) else {},
    }


def unique(found: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each once, in their order: the segments of a trunk have the same data."""
    once: list[dict[str, Any]] = []
    for each in found:
        if each not in once:
            once.append(each)
    return once


def data_of(job: Job) -> Iterator[dict[str, Any]]:
    """The data sets that a job's configuration names, with their revisions."""
    config = told_config(job)
    for source in config.get("sources", ()):
        yield {"stage": job.phase, **{name: source[name] for name in SOURCE_FIELDS if name in source}}
    for part in ("conversations", "tokenizer"):
        if config.get(part):
            yield named(job, part, config[part]["name"], config[part])
    vision = config.get("vision") or {}
    for name in vision.get("weights", ()):
        yield named(job, "encoder", name, vision)
    if config.get("tasks"):
        yield named(job, "tasks", config["tasks"], config)


def named(job: Job, kind: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """One data set; `config` has its revision."""
    return {"stage": job.phase, "kind": kind, "name": name, "revision": config.get("revision", "")}


def recipe_of(found: JobEvidence) -> tuple[str, dict[str, Any]]:
    """A title, and the job's settings with what its result measured."""
    config = {name: value for name, value in told_config(found.job).items() if name not in TOLD_ELSEWHERE}
    measured = {name: found.result.get(name) for name in MEASURED} if found.result else {}
    known = {f"result: {name}": value for name, value in measured.items() if value}
    return f"{found.job.phase}, job {found.job.key}", {**dict(flat(config)), **known}


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings under dotted names; what is not set is left out."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        elif value not in (None, "", []):
            yield prefix + name, value


def cost_of(
    manifest: Manifest, keys: Sequence[str], evidence: Mapping[str, JobEvidence], *, tuned: bool
) -> dict[str, float | None]:
    """Hours of the jobs that a model comes from: of those that it alone needs, and of those that others need too."""
    models = models_by_job(model_chains(manifest))
    own, whole, part = Cost(), Cost(), Cost()
    for key in keys:
        cost = evidence[key].costs.total
        if models[key] <= 1:
            own += cost
        else:
            whole += cost
            part += cost.divided(models[key])
    groups = {"its own": own, "shared with other models": whole, "its equal part of the shared": part}
    if not tuned:  # the models that share its jobs are its own fine-tunes too
        groups = {"all jobs that it comes from": own + whole}
    return {
        f"{unit}, {name}": getattr(cost, field)
        for unit, field in (("A100-hours", "a100_hours"), ("GPU-hours", "gpu_hours"), ("core-hours", "cpu_hours"))
        for name, cost in groups.items()
    }
