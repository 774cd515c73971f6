"""Where the jobs of a plan run: GPUs, rows a GPU, memory needed and there, and the speed that the plan reckons with."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from jobs.job import Job
from stages.config import STAGES, EvaluateConfig, FinetuneConfig, LanguageModel, PretrainConfig
from stages.gpu_memory import GPU_LOSS_CHUNK_TOKENS, GPU_MICRO_BATCH_TOKENS, TrainingPass
from sweep.catalog import TERA, Catalog, GpuType
from sweep.cost.estimate import GIB
from sweep.cost.roofline import predict_utilisation
from sweep.cost.speed import Measured, Speed, estimate_speed
from sweep.phases import PHASES
from sweep.plan.manifest import Manifest, map_jobs_to_models
from sweep.plan.memory import format_run_settings, get_row_length
from sweep.spec.schema import Sweep
from sweep.text_format import format_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePlacement:
    """The jobs of one phase of one model; where they differ, the one that needs most memory."""

    model: str
    phase: str
    gpu_type: str
    gpus: int
    parallel: str
    """`ddp` or `fsdp`; empty for one GPU, and for an evaluation."""
    activation_checkpointing: bool
    micro_batch_tokens: int
    """Positions that go through the model at once, at most; 0 for an evaluation."""
    loss_chunk_tokens: int
    rows: int
    """Sequences of a micro-batch on each GPU; 0 for an evaluation."""
    passes: int
    """Micro-batches of a step on each GPU."""
    gpu_memory_bytes: int
    """Needed on each GPU."""
    gpu_memory_there_bytes: int
    """0 where it is not known."""
    host_memory_bytes: int
    """Needed on a node."""
    host_memory_there_bytes: int
    fits: bool
    """False only under `check_memory: false`."""
    utilisation: float | None
    """That the plan reckons with in training."""
    utilisation_basis: str
    """`given`, `measured`, `published` or `interpolated`, and from what."""
    predicted_eager: float | None
    """What the GPU could reach at most on text, without torch.compile; None for an evaluation."""
    predicted_compiled: float | None

    def convert_to_dict(self) -> dict[str, Any]:
        return asdict(self)


def list_placements(
    manifest: Manifest, sweep: Sweep, catalog: Catalog, measured: Measured
) -> tuple[PhasePlacement, ...]:
    """One for each model and phase whose jobs' memory is known, in the file's and the chain's order."""
    return tuple(iter_placements(manifest, sweep, catalog, measured))


def iter_placements(manifest: Manifest, sweep: Sweep, catalog: Catalog, measured: Measured) -> Iterator[PhasePlacement]:
    """The lines."""
    models = map_jobs_to_models(manifest)
    names = list(dict.fromkeys(models[job.key] for job in manifest.jobs))
    largest: dict[tuple[str, str], Job] = {}
    for job in manifest.jobs:
        where = models[job.key], job.phase
        if job.estimate.gpu_memory_bytes > (largest[where].estimate.gpu_memory_bytes if where in largest else 0):
            largest[where] = job
    for model in names:
        for phase in PHASES:
            if (model, phase) in largest:
                job = largest[model, phase]
                speed = estimate_job_speed(model, job, sweep, catalog, measured)
                yield build_placement(sweep, model, job, catalog.gpus[job.resources.gpu_type], speed)


def build_placement(sweep: Sweep, model: str, job: Job, gpu: GpuType, speed: Speed) -> PhasePlacement:
    """One line."""
    asked, settings, estimate = job.resources, job.settings, job.estimate
    several = sweep.backend == "slurm" and asked.gpus > 1
    run = build_text_pass(sweep.models[model].shape, job, ranks=asked.gpus if several else 1)
    there = round(gpu.memory_gib * GIB)
    return PhasePlacement(
        model=model,
        phase=job.phase,
        gpu_type=gpu.name,
        gpus=asked.gpus,
        parallel=str(settings.get("parallel", "ddp")) if several and run else "",
        activation_checkpointing=bool(settings.get("activation_checkpointing")),
        micro_batch_tokens=read_number(settings, "micro_batch_tokens") or GPU_MICRO_BATCH_TOKENS if run else 0,
        loss_chunk_tokens=run.chunk_tokens if run else 0,
        rows=estimate.gpu_rows,
        passes=estimate.gpu_passes,
        gpu_memory_bytes=estimate.gpu_memory_bytes,
        gpu_memory_there_bytes=there,
        host_memory_bytes=estimate.host_memory_bytes,
        host_memory_there_bytes=round(asked.memory_gib * GIB),
        fits=not there or estimate.gpu_memory_bytes <= there,
        utilisation=speed.flops_per_second / (gpu.peak_tflops * TERA) if gpu.peak_tflops else None,
        utilisation_basis=describe_speed(speed),
        predicted_eager=predict_utilisation(run, gpu, compiled=False) if run else None,
        predicted_compiled=predict_utilisation(run, gpu, compiled=True) if run else None,
    )


def describe_speed(speed: Speed) -> str:
    """Its kind, and where it comes from. The catalog's figures are hours that were published, by model and type."""
    guessed = "interpolated" if speed.basis.startswith(("interpolated", "as ")) else "published"
    kind = {"given": "given", "counted": "measured"}.get(speed.origin, guessed)
    return f"{kind}: {speed.basis}"


def build_text_pass(shape: LanguageModel, job: Job, *, ranks: int) -> TrainingPass | None:
    """What the job sends through the model at once, as if it were all text; None for an evaluation."""
    config = STAGES[job.stage].config.model_validate(job.config)
    if not isinstance(config, PretrainConfig | FinetuneConfig):
        return None
    return TrainingPass(
        model=shape,
        rows=job.estimate.gpu_rows,
        length=get_row_length(config),
        passes=job.estimate.gpu_passes,
        ranks=ranks,
        sharded=ranks > 1 and job.settings.get("parallel") == "fsdp",
        recompute=bool(job.settings.get("activation_checkpointing")),
        chunk_tokens=read_chunk_tokens(job.settings),
    )


def estimate_job_speed(model: str, job: Job, sweep: Sweep, catalog: Catalog, measured: Measured) -> Speed:
    """The speed that the job's price comes from."""
    entry, given = sweep.models[model], sweep.resources.models.get(model)
    config = STAGES[job.stage].config.model_validate(job.config)
    assert isinstance(config, PretrainConfig | FinetuneConfig | EvaluateConfig)  # noqa: S101 - for the type checker
    return estimate_speed(
        catalog,
        entry.shape,
        job.resources.gpu_type,
        name=entry.catalog_name,
        measured=measured,
        tokens_per_second=given.tokens_per_second if given else None,
        context=2_048 if isinstance(config, EvaluateConfig) else get_row_length(config),
        precision=config.precision,
    )


def read_number(settings: Mapping[str, object], name: str) -> int:
    """A whole number of a job's settings, 0 where it is not there."""
    value = settings.get(name, 0)
    return value if isinstance(value, int) else 0


def read_chunk_tokens(settings: Mapping[str, object]) -> int:
    """Positions whose logits are there at once, as the stage resolves it on a GPU."""
    chunk = read_number(settings, "loss_chunk_tokens") if "loss_chunk_tokens" in settings else -1
    return GPU_LOSS_CHUNK_TOKENS if chunk < 0 else chunk


def format_placement_table(placements: tuple[PhasePlacement, ...], width: int | None = None) -> list[str]:
    """A row for each; nothing where no job's memory is known. `width`: of the terminal, to which the table bends."""
    if not placements:
        return []
    heads = ["model", "phase", "GPUs", "rows x passes", "how", "needs", "has", "speed", "predicted"]
    rows = [format_placement_cells(each) for each in placements]
    for above, row in reversed(list(itertools.pairwise(rows))):
        row[0] = "" if above[0] == row[0] else row[0]
    return ["", *format_columns([heads, *rows], left=5, rules=(1,), width=width), "", *explain_table(placements)]


def explain_table(placements: tuple[PhasePlacement, ...]) -> list[str]:
    """What the columns say, and what does not fit."""
    lines = [
        "needs, has: GiB of each GPU at the worst moment. speed: part of the bf16 peak that the hours go by.",
        "predicted: at most, without and with torch.compile, for one GPU on text (docs/estimates.md).",
    ]
    basis: dict[str, list[str]] = {}
    for each in placements:
        if each.model not in basis.setdefault(each.utilisation_basis, []):
            basis[each.utilisation_basis].append(each.model)
    lines += [f"speed of {', '.join(models)}: {words}" for words, models in basis.items()]
    lines += list_speed_warnings(placements)
    over = [f"{each.phase} of {each.model}" for each in placements if not each.fits]
    return [
        *lines,
        *([f"over the GPU's memory, and not refused (check_memory: false): {', '.join(over)}"] if over else []),
    ]


def list_speed_warnings(placements: tuple[PhasePlacement, ...]) -> list[str]:
    """Jobs whose hours go by a speed that the prediction does not reach, or only with torch.compile."""
    beyond: dict[str, list[str]] = {}
    for each in placements:
        speed, name = each.utilisation or 0.0, f"{each.phase} of {each.model}"
        if each.predicted_compiled is not None and speed > each.predicted_compiled:
            beyond.setdefault("speed above what is predicted at all, so expect more hours", []).append(name)
        elif each.predicted_eager is not None and speed > each.predicted_eager:
            beyond.setdefault("speed above what is predicted without torch.compile", []).append(name)
    return [f"{words}: {', '.join(names)}" for words, names in beyond.items()]


def format_placement_cells(placement: PhasePlacement) -> list[str]:
    """One row."""
    there = placement.gpu_memory_there_bytes
    return [
        placement.model,
        placement.phase,
        f"{placement.gpus} {placement.gpu_type}",
        f"{placement.rows} x {placement.passes}" if placement.rows else "-",
        format_way(placement),
        f"{placement.gpu_memory_bytes / GIB:.1f}",
        f"{there / GIB:.1f}" if there else "?",
        format_share(placement.utilisation),
        f"{format_share(placement.predicted_eager)} - {format_share(placement.predicted_compiled)}"
        if placement.predicted_eager
        else "-",
    ]


def format_way(placement: PhasePlacement) -> str:
    """`fsdp, recompute, micro-batch of 8192`."""
    settings: dict[str, Any] = {"activation_checkpointing": placement.activation_checkpointing}
    if placement.micro_batch_tokens != GPU_MICRO_BATCH_TOKENS:
        settings["micro_batch_tokens"] = placement.micro_batch_tokens
    if placement.loss_chunk_tokens not in {0, GPU_LOSS_CHUNK_TOKENS}:
        settings["loss_chunk_tokens"] = placement.loss_chunk_tokens
    return (placement.parallel + format_run_settings(settings)).removeprefix(", ") or "-"


def format_share(share: float | None) -> str:
    """`31 %`."""
    return f"{100 * share:.0f} %" if share is not None else "-"
