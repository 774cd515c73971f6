"""Jobs get settings with which they fit their GPUs, or are refused with what would do."""

from dataclasses import replace
from pathlib import Path

import pytest

from jobs.job import Job
from stages.config import LanguageModel, PretrainConfig, Source, Tokenizer, Vision
from stages.data.collate import count_passes
from stages.data.packing import SequenceCounts
from stages.gpu_memory import compute_training_memory
from stages.schedule import Schedule
from sweep.catalog import Placement, load_catalog
from sweep.cost.pricing import Pricer
from sweep.cost.speed import NOTHING_MEASURED
from sweep.errors import SweepFileError
from sweep.plan.grid import expand_grid
from sweep.plan.manifest import Manifest
from sweep.plan.memory import (  # fmt: skip
    MemoryQuestion,
    RunMode,
    build_training_pass,
    compute_training_fit,
    count_most_passes,
)
from sweep.plan.placements import format_placement_table, list_placements
from sweep.plan.planner import Planner, build_manifest
from sweep.spec.reader import load_sweep
from tests.sweep.small_sweep import MANIFESTS, edited, keys, loaded, planned, shipped

GIB = 2**30
PLACES = "resources:\n"
PAIR = (MANIFESTS / "7b-pair.yaml").read_text()
SEEDS = (MANIFESTS / "seeds.yaml").read_text()


def on_gpus(text: str, resources: str = "", settings: str = "") -> str:
    """The sweep file with further resources and settings, each a line of YAML below its key."""
    return edited((PLACES, f"{PLACES}  {resources}\n" if resources else PLACES), text=text) + (
        f"settings:\n  {settings}\n" if settings else ""
    )


def first_jobs(manifest: Manifest) -> dict[str, Job]:
    """The job of each phase that needs most memory."""
    return {job.phase: job for job in sorted(manifest.jobs, key=lambda job: job.estimate.gpu_memory_bytes)}


def modes(manifest: Manifest) -> dict[str, tuple[object, ...]]:
    """Rows, passes, sharding and recomputation of each phase that trains."""
    return {
        phase: (
            job.estimate.gpu_rows, job.estimate.gpu_passes,
            job.settings.get("parallel", "ddp"), bool(job.settings.get("activation_checkpointing")),
        )
        for phase, job in first_jobs(manifest).items() if phase != "evaluate"
    }  # fmt: skip


def test_every_shipped_sweep_fits_the_gpus_of_the_catalog() -> None:
    gpus = load_catalog().gpus
    for path in MANIFESTS.glob("*.yaml"):
        for job in shipped(path.stem).jobs:
            if job.resources.gpus:
                there = gpus[job.resources.gpu_type].memory_gib * GIB
                assert 0 < job.estimate.gpu_memory_bytes <= there
                assert 0 < job.estimate.host_memory_bytes <= job.resources.memory_gib * GIB


def test_the_7b_pair_is_sharded_and_recomputes() -> None:
    assert modes(shipped("7b-pair")) == {
        "trunk": (4, 1, "fsdp", True),
        "pretrain": (8, 1, "fsdp", True),
        "finetune": (8, 1, "fsdp", True),
    }


@pytest.mark.parametrize("kinds", [("text", "captions"), ("text", "conversations"), ("text",)])
@pytest.mark.parametrize(("own", "micro"), [(1, 16_384), (8, 16_384), (8, 4_096), (9, 4_096), (8, 2_048)])
def test_rows_of_two_kinds_share_no_pass_and_memory_counts_on_as_many_as_the_collator_makes(
    kinds: tuple[str, ...], own: int, micro: int
) -> None:
    config = PretrainConfig(
        model=LanguageModel(d_model=512, layers=2, heads=4),
        sources=tuple(Source.model_validate({"name": kind, "kind": kind, "share": 1 / len(kinds)}) for kind in kinds),
        vision=Vision(encoder="siglip-so400m-14-384"),
        tokenizer=Tokenizer(name="neox"),
        schedule=Schedule(total_steps=10, warmup_steps=1, peak_lr=1e-3, final_lr=1e-5),
        batch_sequences=4 * own,
    )
    question = MemoryQuestion(
        phase="pretrain", model="small", shape=config.model, config=config, vision=config.vision,
        placement=Placement(gpus_per_node=4, gpu_type="a100"), given=(),
    )  # fmt: skip
    mode = RunMode(sharded=True, recompute=True, micro_batch_tokens=micro)
    run = build_training_pass(question, mode, 4)
    one, two = (SequenceCounts(samples, 2_048, 0, 0, 14, 0) for samples in (1, 2))
    packed = range(own + 1 if len(kinds) > 1 else 1)
    most = max(count_passes([one] * (own - several) + [two] * several, run.rows) for several in packed)
    assert count_most_passes(config, run) == most
    fit = compute_training_fit(question, mode, 4)
    assert fit.gpu_bytes == compute_training_memory(replace(run, passes=most)).needed


def test_every_gpu_of_the_papers_jobs_has_several_rows() -> None:
    for job in shipped("paper").jobs:
        if job.phase != "evaluate":
            assert job.estimate.gpu_rows >= 4
            assert job.settings.get("parallel", "ddp") == "ddp"


def test_on_40_gb_the_1_4b_is_sharded_with_the_same_keys(tmp_path: Path) -> None:
    small, large = planned(tmp_path, on_gpus(SEEDS, "gpu_type: a100-40")), planned(tmp_path, SEEDS)
    assert modes(large)["finetune"] == (8, 4, "ddp", False)
    assert modes(small)["finetune"] == (4, 8, "fsdp", False)
    assert keys(small) == keys(large)
    assert first_jobs(small)["finetune"].settings["micro_batch_tokens"] == 8_192
    assert all(job.estimate.gpu_memory_bytes <= 39.4 * GIB for job in small.jobs)


def test_a_slice_has_its_own_memory_and_hours_and_moves_no_key(tmp_path: Path) -> None:
    place = "gpu_type: {}, gpus_per_node: 1, nodes: 1"
    part, whole = (
        planned(tmp_path, edited(("backend: local", f"backend: slurm\nresources: {{{place.format(name)}}}")))
        for name in ("a100-1g.10gb", "a100")
    )
    assert keys(part) == keys(whole)
    for small, large in zip(part.jobs, whole.jobs, strict=True):
        assert small.resources.gpu_type == "a100-1g.10gb"
        assert small.estimate.gpu_memory_bytes <= 9 * GIB
        assert small.estimate.gpu_hours >= large.estimate.gpu_hours
        assert small.estimate.a100_hours == pytest.approx(small.estimate.gpu_hours / 7)


def test_runs_that_differ_in_the_mixture_or_the_branch_alone_are_one_question_of_memory() -> None:
    sweep, catalog = load_sweep(MANIFESTS / "paper.yaml", store=Path("/store"), catalog=load_catalog()), load_catalog()
    planner = Planner(sweep, catalog, Pricer(sweep, catalog))
    points = expand_grid(sweep).points
    for point in points:
        planner.record_branch(point, with_steps=False)
    for point in points:
        planner.plan_cell(point, ("branch", "image_share"))
    # two models, each with: trunk, image-text run with and without images, fine-tune, evaluation
    assert planner.memory.cached_fit.cache_info().misses == 10
    assert len({job.estimate.gpu_memory_bytes for job in shipped("paper").jobs if job.phase == "pretrain"}) == 4


def test_what_the_file_says_holds_and_a_job_that_cannot_fit_is_refused_with_what_would_do(tmp_path: Path) -> None:
    text = on_gpus(SEEDS, "gpu_type: a100-40", "models: {1.4b: {parallel: ddp, activation_checkpointing: false}}")
    with pytest.raises(SweepFileError) as raised:
        planned(tmp_path, text)
    (line,) = raised.value.problems
    assert (
        ": blocks.0: cell m1.4b-b20-i1-c0-x1: pretrain of 1.4b: needs 39.6 GiB on each of its GPUs (32 a100-40" in line
    )
    assert "a GPU of that type has 39.4 GiB; what would do: settings parallel: fsdp" in line
    assert "gpu_type: " in line
    assert line.endswith("or check_memory: false, to plan it all the same")


def test_a_remedy_that_is_named_does(tmp_path: Path) -> None:
    text = on_gpus(PAIR, "phases: {trunk: {nodes: 1, gpu_type: a100-40}}")
    with pytest.raises(SweepFileError, match=r"trunk of 7b: needs .*what would do: nodes: 2, or gpu_type: l40s"):
        planned(tmp_path, text)
    fits = planned(tmp_path, edited(("nodes: 1, gpu_type: a100-40", "nodes: 2, gpu_type: a100-40"), text=text))
    assert first_jobs(fits)["trunk"].estimate.gpu_memory_bytes <= 39.4 * GIB


def test_an_evaluation_has_a_whole_replica_and_nothing_to_shrink(tmp_path: Path) -> None:
    text = on_gpus(PAIR, "phases: {evaluate: {gpu_type: a100-40, nodes: 2}}")
    with pytest.raises(SweepFileError, match=r"evaluate of 7b: needs [\d.]+ GiB .*what would do: gpu_type: a100, or"):
        planned(tmp_path, text)


def test_a_refusal_can_be_overridden_and_the_plan_says_so(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, on_gpus(PAIR, "phases: {evaluate: {gpu_type: a100-40, check_memory: false}}"))
    manifest = build_manifest(sweep, expand_grid(sweep), load_catalog())
    placements = list_placements(manifest, sweep, load_catalog(), NOTHING_MEASURED)
    assert [(each.phase, each.fits) for each in placements] == [
        ("trunk", True), ("pretrain", True), ("finetune", True), ("evaluate", False),
    ]  # fmt: skip
    assert format_placement_table(placements)[-1] == (
        "over the GPU's memory, and not refused (check_memory: false): evaluate of 7b"
    )


def test_memory_of_a_node_is_raised_where_it_is_left_open_and_refused_where_it_is_too_little(tmp_path: Path) -> None:
    eight = on_gpus(PAIR, "phases: {trunk: {nodes: 64, memory_gib: 200}}")
    # eight processes a node, each with 6.9e9 float32 weights at the start
    with pytest.raises(SweepFileError, match=r"trunk of 7b: memory_gib 200 is less than the 205.3 GiB that copies"):
        planned(tmp_path, eight)
    planned(tmp_path, edited(("memory_gib: 200", "memory_gib: 200, check_memory: false"), text=eight))
    many = on_gpus(PAIR, "phases: {trunk: {nodes: 16, gpus_per_node: 32, gpu_type: l40s}, evaluate: {}}")
    trunk = first_jobs(planned(tmp_path, many))["trunk"]
    assert trunk.resources.memory_gib >= trunk.estimate.host_memory_bytes / GIB


def test_the_table_says_where_jobs_run_and_what_the_hours_go_by(tmp_path: Path) -> None:
    sweep = loaded(tmp_path, PAIR)
    manifest = build_manifest(sweep, expand_grid(sweep), load_catalog())
    placements = list_placements(manifest, sweep, load_catalog(), NOTHING_MEASURED)
    table = format_placement_table(placements)
    assert table[1].split() == "model phase GPUs rows x passes how needs has speed predicted".split(" ")  # noqa: SIM905 - as it is read
    assert table[3].startswith("7b     trunk     512 a100  4 x 1          fsdp, recompute")
    assert "speed of 7b: published: 7b on a100, catalog" in table
    assert max(map(len, table)) <= 100
    trunk = placements[0]
    assert (trunk.gpus, trunk.rows, trunk.passes, trunk.parallel) == (512, 4, 1, "fsdp")
    assert trunk.utilisation == pytest.approx(0.301)
    assert None not in {trunk.utilisation, trunk.predicted_eager, trunk.predicted_compiled}
    assert (trunk.utilisation or 0) < (trunk.predicted_eager or 0) < (trunk.predicted_compiled or 0)


def test_a_speed_above_the_prediction_is_named(tmp_path: Path) -> None:
    def format_lines(tokens_per_second: float) -> str:
        text = on_gpus(SEEDS, f"models: {{1.4b: {{tokens_per_second: {tokens_per_second}}}}}")
        sweep = loaded(tmp_path, text)
        manifest = build_manifest(sweep, expand_grid(sweep), load_catalog())
        return "\n".join(format_placement_table(list_placements(manifest, sweep, load_catalog(), NOTHING_MEASURED)))

    # 8.6 GFLOP a token: 31, 55 and 69 % of 312 TFLOP/s, where 50 and 58 % are predicted for the trunk
    assert "speed above" not in format_lines(11_000)
    assert "speed above what is predicted without torch.compile: trunk of 1.4b, pretrain" in format_lines(19_500)
    assert "speed above what is predicted at all, so expect more hours: trunk of 1.4b" in format_lines(24_500)
    assert "speed of 1.4b: given: 11000 tokens/s, given" in format_lines(11_000)


def test_jobs_without_gpus_have_no_placement(tmp_path: Path) -> None:
    sweep = loaded(tmp_path)
    manifest = build_manifest(sweep, expand_grid(sweep), load_catalog())
    assert list_placements(manifest, sweep, load_catalog(), NOTHING_MEASURED) == ()
    assert format_placement_table(()) == []


def test_a_model_of_ones_own_on_unknown_terms_is_fitted_like_the_catalogs(tmp_path: Path) -> None:
    text = edited(("model: 7b", "model: mine"), text=PAIR) + (
        "  gpus_per_node: 8\n  gpu_type: h100\nmodels:\n  mine: {d_model: 4096, layers: 32, heads: 32, "
        "trunk: {peak_lr: 3e-4, warmup_steps: 10, batch_sequences: 64}, pretrain: {batch_sequences: 64, "
        "restart_lr: 1e-4, restart_warmup_steps: 10}}\n"
    )
    assert modes(planned(tmp_path, text))["trunk"] == (2, 4, "fsdp", False)
