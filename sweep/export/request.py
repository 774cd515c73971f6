"""The request that `python -m stages.export` reads: what the plan and the results say of a model.

The other side of it: `stages/export/request.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from jobs.job import Job
from jobs.store.paths import Store
from stages.config import STAGES
from sweep.errors import SweepError, UsageError
from sweep.plan.manifest import Cell, FinetuneChain, Manifest, index_jobs
from sweep.results.evidence import ExecutionHours, JobEvidence, parse_number
from sweep.results.lineage import count_models_by_job, list_ancestors, list_model_chains
from sweep.results.scores import SCORE_FIELDS, build_score_columns, parse_task_scores

NOT_IN_RECIPE = {"model", "vision", "sources", "conversations", "tokenizer", "tasks"}
"""Parts of a configuration that have a place of their own in the card."""
SOURCE_FIELDS = ("name", "kind", "revision", "share")
"""Of a data set of pre-training."""
MEASURED_FIELDS = ("steps", "tokens", "image_tokens", "images", "seconds", "loss")
"""What a result says of a training."""


def select_chain(cell: Cell, epochs: int | None) -> FinetuneChain:
    """The cell's fine-tune of so many epochs, or its only one; UsageError with those that it has."""
    fitting = [chain for chain in cell.chains if epochs in (None, chain.epochs)]
    if len(fitting) == 1:
        return fitting[0]
    has = ", ".join(str(chain.epochs) for chain in cell.chains) or "none"
    given = "choose one with --epochs" if epochs is None else f"there is none of {epochs}"
    raise UsageError(f"cell {cell.name} has fine-tunes of {has} epochs: {given}")


def build_export_request(
    store: Store,
    manifest: Manifest,
    cell: Cell,
    chain: FinetuneChain | None,
    evidence: Mapping[str, JobEvidence],
    *,
    out: str,
    dtype: str,
) -> dict[str, Any]:
    """As JSON. `chain`: the fine-tune to export; None: the pre-trained model. SweepError if the job is not done."""
    key = chain.finetune if chain else cell.pretrain
    job = evidence[key].job
    check_job_done(manifest.sweep, cell, evidence[key])
    config = load_full_config(job)
    return {
        "run": str(store.locate_run(job.stage, key).root.absolute()),
        "out": out,
        "dtype": dtype,
        "context": config.get("max_length") or config["context"],
        "tokenizer": find_tokenizer_path(manifest, cell, config, evidence),
        "facts": build_card_facts(manifest, cell, chain, key, evidence),
    }


def check_job_done(sweep: str, cell: Cell, found: JobEvidence) -> None:
    """SweepError for a job that has no model yet, or none that can be exported."""
    job = found.job
    if not found.done:
        raise SweepError(
            f"cell {cell.name}: its {job.phase} job {job.key} is {found.state}, so there is no model to export; "
            f"see `sweep status {sweep}`"
        )
    if job.stage not in {"pretrain", "finetune"}:
        raise SweepError(
            f"cell {cell.name}: job {job.key} is of stage {job.stage}; only pretrain and finetune can be exported"
        )


def load_full_config(job: Job) -> dict[str, Any]:
    """A job's configuration with its defaults; SweepError where it is not one of ours."""
    try:
        return STAGES[job.stage].config.model_validate(dict(job.config)).model_dump(mode="json")
    except (KeyError, ValidationError) as error:
        raise SweepError(f"job {job.key}: its configuration is not of a stage that this version knows") from error


def load_known_config(job: Job) -> dict[str, Any]:
    """A job's configuration as far as it is known: of another kind of stage what the plan says."""
    try:
        return load_full_config(job)
    except SweepError:
        return dict(job.config)


def find_tokenizer_path(
    manifest: Manifest, cell: Cell, config: Mapping[str, Any], evidence: Mapping[str, JobEvidence]
) -> str:
    """Of the model itself, else (text alone) of the fine-tunes of it; empty where none is named or it is no path."""
    own = config.get("tokenizer")
    tuned = [evidence[each.finetune].job.config.get("tokenizer") for each in cell.chains]
    named = next((each for each in (own, *tuned) if isinstance(each, dict)), None)
    location = manifest.data.get(str(named["name"]), "") if named else ""
    return "" if "://" in location or location.startswith("pipe:") else location


def build_card_facts(
    manifest: Manifest, cell: Cell, chain: FinetuneChain | None, key: str, evidence: Mapping[str, JobEvidence]
) -> dict[str, Any]:
    """What the model card says (`stages.export.request.ModelFacts`)."""
    keys = list_ancestors(index_jobs(manifest), key)
    built = [evidence[each] for each in keys]
    evaluated = evidence[chain.evaluate] if chain else None
    done = [*built, evaluated] if evaluated else built
    tasks = parse_task_scores(evaluated.result) if evaluated and evaluated.result else []
    stable = build_score_columns(tasks)
    finished = [found.result for found in built if found.result]
    versions = finished[-1].get("versions") if finished else None
    return {
        "sweep": manifest.sweep,
        "cell": cell.name,
        "stage": evidence[key].job.stage,
        "key": key,
        "epochs": chain.epochs if chain else None,
        "axes": dict(cell.axes),
        "data": drop_duplicates(data for found in done for data in iter_data_sets(found.job)),
        "recipe": [build_recipe(found) for found in done],
        "scores": [{name: getattr(task, name) for name in SCORE_FIELDS} for task in tasks],
        "stable_scores": {name: value for name, value in stable.items() if parse_number(value) is not None},
        "cost": compute_cost(manifest, [found.job.key for found in done], evidence, tuned=chain is not None),
        "code_revision": " ".join(dict.fromkeys(found.code_revision for found in built if found.code_revision)),
        "versions": {name: str(value) for name, value in versions.items()} if isinstance(versions, dict) else {},
    }


def drop_duplicates(found: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each once, in their order: the segments of a trunk have the same data."""
    once: list[dict[str, Any]] = []
    for each in found:
        if each not in once:
            once.append(each)
    return once


def iter_data_sets(job: Job) -> Iterator[dict[str, Any]]:
    """The data sets that a job's configuration names, with their revisions."""
    config = load_known_config(job)
    for source in config.get("sources", ()):
        yield {"stage": job.phase, **{name: source[name] for name in SOURCE_FIELDS if name in source}}
    for part in ("conversations", "tokenizer"):
        if config.get(part):
            yield describe_data_set(job, part, config[part]["name"], config[part])
    vision = config.get("vision") or {}
    for name in vision.get("weights", ()):
        yield describe_data_set(job, "encoder", name, vision)
    if config.get("tasks"):
        yield describe_data_set(job, "tasks", config["tasks"], config)


def describe_data_set(job: Job, kind: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """One data set; `config` has its revision."""
    return {"stage": job.phase, "kind": kind, "name": name, "revision": config.get("revision", "")}


def build_recipe(found: JobEvidence) -> tuple[str, dict[str, Any]]:
    """A title, and the job's settings with what its result measured."""
    config = {name: value for name, value in load_known_config(found.job).items() if name not in NOT_IN_RECIPE}
    measured = {name: found.result.get(name) for name in MEASURED_FIELDS} if found.result else {}
    known = {f"result: {name}": value for name, value in measured.items() if value}
    return f"{found.job.phase}, job {found.job.key}", {**dict(iter_flat_settings(config)), **known}


def iter_flat_settings(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings under dotted names; what is not set is left out."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from iter_flat_settings(value, f"{prefix}{name}.")
        elif value not in (None, "", []):
            yield prefix + name, value


def compute_cost(
    manifest: Manifest, keys: Sequence[str], evidence: Mapping[str, JobEvidence], *, tuned: bool
) -> dict[str, float | None]:
    """Hours of the jobs that a model comes from: of those that it alone needs, and of those that others need too."""
    models = count_models_by_job(list_model_chains(manifest))
    own, whole, part = ExecutionHours(), ExecutionHours(), ExecutionHours()
    for key in keys:
        cost = evidence[key].costs.total
        if models[key] <= 1:
            own += cost
        else:
            whole += cost
            part += cost.divide_by(models[key])
    groups = {"its own": own, "shared with other models": whole, "its equal part of the shared": part}
    if not tuned:  # the models that share its jobs are its own fine-tunes too
        groups = {"all jobs that it comes from": own + whole}
    return {
        f"{unit}, {name}": getattr(cost, field)
        for unit, field in (("A100-hours", "a100_hours"), ("GPU-hours", "gpu_hours"), ("core-hours", "cpu_hours"))
        for name, cost in groups.items()
    }
