"""Manifests built by hand from the real estimates: the paper's reference grid, and one on CPU cores."""

from dataclasses import dataclass, field

from jobs.job import Estimate, Job
from stages.config import LanguageModel, Vision
from sweep.catalog import Placement, load_catalog
from sweep.cost.estimate import (
    SourceUse,
    add_startup,
    count_packed_images,
    estimate_evaluate,
    estimate_finetune,
    estimate_pretrain,
    plan_resources,
)
from sweep.cost.speed import Speed, estimate_speed
from sweep.plan.manifest import Cell, FinetuneChain, Manifest

CATALOG = load_catalog()
SIGLIP = Vision(encoder="siglip-so400m-14-384")
BRANCHES = (0, 20, 40, 60, 80, 100)
EPOCHS = (1, 2, 3, 4)


@dataclass
class Builder:
    """Adds cells and the jobs that they need; keys are words that say what the job is."""

    jobs: dict[str, Job] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)

    def job(
        self,
        key: str,
        phase: str,
        *,
        parents: tuple[str, ...],
        cells: tuple[str, ...],
        estimate: Estimate,
        place: Placement,
    ) -> str:
        stage = "pretrain" if phase == "trunk" else phase
        gpu = CATALOG.gpus[place.gpu_type]
        minutes = gpu.find_startup(phase)
        resources = plan_resources(estimate, place, gpu, minutes)
        self.jobs[key] = Job(
            key=key, stage=stage, version=1, phase=phase, parents=parents, config={}, cells=cells,
            estimate=add_startup(estimate, resources, gpu, minutes), resources=resources,
        )  # fmt: skip
        return key

    def manifest(self, sweep: str) -> Manifest:
        return Manifest(sweep=sweep, backend="local", data={}, cells=tuple(self.cells), jobs=tuple(self.jobs.values()))


def paper_plan(branches: tuple[int, ...] = BRANCHES, epochs: tuple[int, ...] = EPOCHS) -> Manifest:
    """The paper's reference grid: 78 cells at 1.4B and 222 at 79M."""
    builder = Builder()
    for branch in branches:
        for mix in range(13):
            add_cell(builder, "1.4b", branch, mix=mix, amount=1, epochs=epochs)
        for mix in range(13):
            for amount in (1, 2, 4) if mix else (1,):
                add_cell(builder, "79m", branch, mix=mix, amount=amount, epochs=epochs)
    return builder.manifest("paper")


def add_cell(builder: Builder, model: str, branch: int, *, mix: int, amount: int, epochs: tuple[int, ...]) -> None:
    """Mix 0 has no images; the others are 1, 5, 10 and 100 % of the tokens, three times each."""
    entry, name = CATALOG.models[model], f"{model}-b{branch}-m{mix}-x{amount}"
    speed = estimate_speed(CATALOG, entry.shape, "a100", name=model)
    share = (0.01, 0.05, 0.1, 1.0)[(mix - 1) % 4] if mix else 0.0
    sources = (SourceUse(share, with_images=True, text_tokens=13), SourceUse(1 - share))
    tokens = 20 * entry.shape.parameters * amount
    images = count_packed_images(tokens, sources, image_tokens=729, context=2_048)
    run = estimate_pretrain(entry.shape, tokens=tokens, context=2_048, speed=speed, vision=SIGLIP, images=images)
    parents = trunk(builder, model, branch, speed)
    pretrain = builder.job(
        f"{name}-p", "pretrain", parents=parents, cells=(name,), estimate=run, place=entry.resources["pretrain"]
    )
    chains = tuple(add_chain(builder, model, name, each, speed) for each in epochs)
    builder.cells.append(Cell(name=name, axes={"model": model, "branch": branch}, pretrain=pretrain, chains=chains))


def trunk(builder: Builder, model: str, branch: int, speed: Speed) -> tuple[str, ...]:
    """The segments up to `branch` percent, each a fifth of 150 Chinchilla budgets."""
    entry = CATALOG.models[model]
    parents: tuple[str, ...] = ()
    for stop in range(20, branch + 1, 20):
        tokens = 30 * 20 * entry.shape.parameters
        cost = estimate_pretrain(entry.shape, tokens=tokens, context=2_048, speed=speed, carries_optimizer=True)
        key = f"{model}-trunk{stop}"
        if key not in builder.jobs:
            builder.job(key, "trunk", parents=parents, cells=(), estimate=cost, place=entry.resources["trunk"])
        parents = (key,)
    return parents


def add_chain(builder: Builder, model: str, cell: str, epochs: int, speed: Speed) -> FinetuneChain:
    entry, tasks = CATALOG.models[model], ("vqav2", "gqa", "textvqa", "refcoco", "ocid_ref", "pope", "vizwiz")
    cost = estimate_finetune(entry.shape, epochs=epochs, examples=625_000, text_tokens=295, vision=SIGLIP, speed=speed)
    finetune = builder.job(
        f"{cell}-f{epochs}",
        "finetune",
        parents=(f"{cell}-p",),
        cells=(cell,),
        estimate=cost,
        place=entry.resources["finetune"],
    )
    cost = estimate_evaluate(
        entry.shape, tasks=tuple(CATALOG.tasks[task] for task in tasks), vision=SIGLIP, speed=speed
    )
    evaluate = builder.job(
        f"{cell}-e{epochs}",
        "evaluate",
        parents=(finetune,),
        cells=(cell,),
        estimate=cost,
        place=entry.resources["evaluate"],
    )
    return FinetuneChain(epochs=epochs, finetune=finetune, evaluate=evaluate)


def cpu_plan() -> Manifest:
    """Two cells on CPU cores after one trunk segment, one fine-tune each."""
    tiny, vision = LanguageModel(d_model=192, layers=4, heads=6, vocabulary=2_048), Vision(encoder="efficientnet-lite0")
    speed = estimate_speed(CATALOG, tiny, "cpu", tokens_per_second=8_000, context=256)
    builder, core = Builder(), Placement(cpus=1)
    text = estimate_pretrain(tiny, tokens=28_800_000, context=256, speed=speed, carries_optimizer=True)
    builder.job("trunk", "trunk", parents=(), cells=(), estimate=text, place=core)
    for share in (0.0, 0.5):
        name = f"tiny-i{share:g}"
        sources = (SourceUse(share, with_images=True, text_tokens=20), SourceUse(1 - share))
        images = count_packed_images(14_400_000, sources, image_tokens=16, context=256)
        run = estimate_pretrain(tiny, tokens=14_400_000, context=256, speed=speed, images=images, vision=vision)
        builder.job(f"{name}-p", "pretrain", parents=("trunk",), cells=(name,), estimate=run, place=core)
        tuned = estimate_finetune(tiny, epochs=1, examples=100_000, text_tokens=20, vision=vision, speed=speed)
        builder.job(f"{name}-f", "finetune", parents=(f"{name}-p",), cells=(name,), estimate=tuned, place=core)
        tasks = (CATALOG.find_task("shapes", with_image=True, limit=800),)
        scored = estimate_evaluate(tiny, tasks=tasks, vision=vision, speed=speed)
        builder.job(f"{name}-e", "evaluate", parents=(f"{name}-f",), cells=(name,), estimate=scored, place=core)
        chain = FinetuneChain(epochs=1, finetune=f"{name}-f", evaluate=f"{name}-e")
        builder.cells.append(Cell(name=name, axes={"model": "tiny"}, pretrain=f"{name}-p", chains=(chain,)))
    return builder.manifest("tiny")
