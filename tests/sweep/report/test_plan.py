import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from sweep.cost.figures import Figure
from sweep.phases import PHASES
from sweep.plan.detectable import DetectableEffect
from sweep.plan.manifest import Manifest
from sweep.plan.placements import PhasePlacement
from sweep.plan.speed_report import SpeedComparison
from sweep.report.plan import build_plan_json, format_detectable_effects, format_plan_report
from tests.sweep.report.small_plans import cpu_plan, paper_plan

PAPER_REPORT = """\
paper: 300 cells, 2,710 jobs (10 trunk segments, 300 image-text runs, 1,200 fine-tunes, 1,200 evaluations)

model  phase      jobs  tokens  A100-hours  LM only  encoder  start-up  LM only, each    storage
------------------------------------------------------------------------------------------------
1.4b   trunk         5    4.3T     106,965  106,005        -       960         21,201   80.5 GiB
       pretrain     78    2.2T      56,883   55,173      878       832      707 - 709  420.3 GiB
       finetune    312  499.2B      12,974   11,862      696       416    15.2 - 60.8    1.6 TiB
       evaluate    312   69.9B       2,401    2,198      151      52.0           7.04          -
79m    trunk         5  236.7B       1,213    1,200        -      13.3            240    4.4 GiB
       pretrain    222  804.9B       4,483    4,091      337      55.0    8.00 - 32.3   66.0 GiB
       finetune    888    1.4T       8,910    6,780    1,982       148    3.05 - 12.2  263.9 GiB
       evaluate    888  199.0B       1,826    1,248      430       148           1.41          -
------------------------------------------------------------------------------------------------
total            2,710    9.8T     195,655  188,556    4,475     2,624                   2.5 TiB

shared  2,710 jobs do the work of 3,450; with nothing shared: 4,393,779 A100-hours, 22.5 times as much
done    5 of 2,710 jobs, 1,213 of 195,655 A100-hours
time    at least 71.3 days on 256 GPUs (71.3 days for the longest chain, of 8 jobs); without waits in the queue"""

CPU_REPORT = """\
tiny: 2 cells, 7 jobs (1 trunk segment, 2 image-text runs, 2 fine-tunes, 2 evaluations)

model  phase     jobs  tokens  core-hours  start-up   work, each   storage
--------------------------------------------------------------------------
tiny   trunk        1   28.8M        1.00     0.001         1.00  29.3 MiB
       pretrain     2   28.8M        1.03     0.003  0.50 - 0.52  20.2 MiB
       finetune     2    7.2M        0.26     0.003         0.13  20.2 MiB
       evaluate     2   89.6k       0.007     0.003        0.002         -
--------------------------------------------------------------------------
total               7   64.9M        2.29     0.009               69.7 MiB

shared  7 jobs do the work of 8; with nothing shared: 3.29 core-hours, 1.4 times as much
done    0 of 7 jobs
time    at least 100 min for the longest chain, of 4 jobs; without waits in the queue"""


@pytest.fixture(scope="module")
def paper() -> Manifest:
    return paper_plan()


def small_trunk_keys(paper: Manifest) -> frozenset[str]:
    return frozenset(job.key for job in paper.jobs if job.phase == "trunk" and job.key.startswith("79m"))


def test_the_report_as_a_reader_sees_it(paper: Manifest) -> None:
    assert format_plan_report(paper, small_trunk_keys(paper), gpus=256) == PAPER_REPORT


def test_the_report_of_a_sweep_on_cpu_cores_speaks_of_core_hours() -> None:
    assert format_plan_report(cpu_plan(), frozenset()) == CPU_REPORT


def test_cells_and_jobs_are_counted_by_phase(paper: Manifest) -> None:
    report = build_plan_json(paper, frozenset())
    assert report["cells"] == 300
    assert report["jobs"] == {"total": 2_710, "trunk": 10, "pretrain": 300, "finetune": 1_200, "evaluate": 1_200}


def test_a_trunk_segment_is_charged_once_to_its_own_model(paper: Manifest) -> None:
    models = build_plan_json(paper, frozenset())["models"]
    assert models["1.4b"]["trunk"]["a100_hours"] == pytest.approx(106_000, rel=0.05)
    assert models["79m"]["trunk"]["a100_hours"] == pytest.approx(1_200, rel=0.05)


def test_phases_and_models_add_up_to_the_total(paper: Manifest) -> None:
    report = build_plan_json(paper, frozenset())
    for name, whole in report["total"].items():
        parts = [phase[name] for by_phase in report["models"].values() for phase in by_phase.values()]
        assert sum(parts) == pytest.approx(whole)


def test_with_nothing_shared_every_mix_pays_for_three_trunks(paper: Manifest) -> None:
    report = build_plan_json(paper, frozenset())
    trunks = {name: phases["trunk"]["a100_hours"] for name, phases in report["models"].items()}
    # 0+20+40+60+80+100 %; 13 mixes at 1.4B, 12 x 3 + 1 at 79M
    prefixes = 3.0 * (13 * trunks["1.4b"] + 37 * trunks["79m"])
    apart = report["unshared"]["a100_hours"] - (report["total"]["a100_hours"] - sum(trunks.values()))
    assert apart == pytest.approx(prefixes)
    # 0+1+2+3+4+5 segments
    assert report["unshared"]["jobs"] == 2_700 + 15 * (13 + 37)


def test_what_is_done_is_told_and_shortens_what_is_left(paper: Manifest) -> None:
    done = frozenset(job.key for job in paper.jobs if job.phase == "trunk")
    before, after = build_plan_json(paper, frozenset(), gpus=256), build_plan_json(paper, done, gpus=256)
    assert after["done"]["jobs"] == 10
    assert after["done"]["a100_hours"] - after["done"]["startup_a100_hours"] == pytest.approx(107_200, rel=0.01)
    assert after["time"]["at_least_hours"] < before["time"]["at_least_hours"]
    assert [key.rsplit("-", 1)[1] for key in after["time"]["critical_path"]] == ["p", "f4", "e4"]


def test_a_finished_sweep_takes_no_time(paper: Manifest) -> None:
    everything = frozenset(job.key for job in paper.jobs)
    report = build_plan_json(paper, everything)
    assert report["time"]["critical_path"] == []
    assert report["time"]["at_least_hours"] == 0
    assert "\ntime" not in format_plan_report(paper, everything)
    assert "done    2,710 of 2,710 jobs" in format_plan_report(paper, everything)


def test_the_critical_path_is_the_whole_trunk_and_one_chain(paper: Manifest) -> None:
    path = build_plan_json(paper, frozenset())["time"]["critical_path"]
    assert path[:5] == [f"1.4b-trunk{stop}" for stop in (20, 40, 60, 80, 100)]
    assert [key.split("-")[-1] for key in path[5:]] == ["p", "f4", "e4"]


def test_few_gpus_bound_the_time_by_the_work(paper: Manifest) -> None:
    report = build_plan_json(paper, frozenset(), gpus=64)
    assert report["time"]["at_least_hours"] >= report["total"]["gpu_hours"] / 64
    assert report["time"]["at_least_hours"] == pytest.approx(report["total"]["gpu_hours"] / 64, rel=0.02)


def test_jobs_too_wide_for_the_gpus_are_said(paper: Manifest) -> None:
    assert "83 jobs ask for more than 16 GPUs at once and could not start" in format_plan_report(
        paper, frozenset(), gpus=16
    )
    assert build_plan_json(paper, frozenset(), gpus=256)["time"]["too_wide"] == 0


def test_a_sweep_that_shares_nothing_says_so() -> None:
    assert "shared  nothing: no two cells have a job in common" in format_plan_report(
        paper_plan(branches=(0,)), frozenset()
    )


def test_hours_of_other_gpus_stand_beside_a100_hours(paper: Manifest) -> None:
    jobs = tuple(replace(job, resources=replace(job.resources, gpu_type="h100")) for job in paper.jobs)
    text = format_plan_report(replace(paper, jobs=jobs), frozenset())
    assert "GPU-hours  195,655 on h100" in text


def test_core_hours_beside_gpus_are_not_lost(paper: Manifest) -> None:
    cpu = cpu_plan()
    both = replace(paper, cells=paper.cells + cpu.cells, jobs=paper.jobs + cpu.jobs)
    assert "core-hours  2.29 in jobs without GPUs" in format_plan_report(both, frozenset())


def test_the_summary_is_json(paper: Manifest) -> None:
    report = build_plan_json(paper, frozenset(), gpus=8, cpus=4)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report["models"]["1.4b"]) == set(PHASES)
    assert (report["time"]["gpus"], report["time"]["cpus"]) == (8, 4)


def documented_fields(after: str) -> list[str]:
    """First column of the first table of docs/json.md that follows `after`."""
    text = (Path(__file__).parents[3] / "docs" / "json.md").read_text()
    table = text.split(after, 1)[1].lstrip().split("|---|---|---|", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)


def test_every_field_of_the_summary_is_documented(paper: Manifest) -> None:
    report = build_plan_json(paper, frozenset())
    assert documented_fields("## plan") == list(report)
    assert documented_fields("A cost:") == list(report["models"]["1.4b"]["trunk"])
    assert set(documented_fields("`time`:")) == set(report["time"])
    assert documented_fields("An entry of `speeds`:") == [each.name for each in fields(SpeedComparison)]
    assert documented_fields("An entry of `placements`:") == [each.name for each in fields(PhasePlacement)]
    shown = build_plan_json(paper, frozenset(), figures={GUESS: {("79m", "finetune")}})
    assert documented_fields("An entry of `figures`:") == list(shown["figures"][0])


GUESS = Figure(
    subject="data talks", name="text tokens a sample", value=295.5, origin="assumed", source="C: as in other sets."
)
SLOW = Figure(subject="speed of 1.4b in bf16 on a100", name="FLOP/s", value=9.76e13, origin="assumed", source="catalog")
KNOWN = Figure(subject="data pairs", name="samples", value=3_000, origin="counted", source="manifest.jsonl")


def test_what_rests_on_an_assumed_figure_is_marked_and_the_figure_is_listed(paper: Manifest) -> None:
    figures = {GUESS: {("79m", "finetune")}, SLOW: {("1.4b", "trunk")}, KNOWN: {("79m", "pretrain")}}
    text = format_plan_report(paper, frozenset(), figures=figures)
    rows = text.partition("---\n")[2].partition("\n---")[0].splitlines()
    # hours of one (an encoder's dash is no number); tokens and hours of the other
    assert [row.count("~") for row in rows] == [4, 0, 0, 0, 0, 0, 6, 0]
    assert "~1.4T" in text
    assert " 4.3T" in text
    assert "counted  data pairs" in text
    end = text.partition("\n\n~ rests on")[2].splitlines()[1:]
    assert end == [
        "  speed of 1.4b in bf16 on a100: FLOP/s 9.76e+13. catalog",
        "  data talks: text tokens a sample 295.5. C: as in other sets.",
    ]


def test_without_assumed_figures_nothing_is_marked(paper: Manifest) -> None:
    assert "~" not in format_plan_report(paper, frozenset(), figures={KNOWN: {("79m", "pretrain")}})


def test_an_empty_plan_has_a_report() -> None:
    empty = Manifest(sweep="none", backend="local", data={}, cells=(), jobs=())
    assert format_plan_report(empty, frozenset()).startswith("none: 0 cells, 0 jobs")
    assert build_plan_json(empty, frozenset())["total"]["jobs"] == 0


def test_the_report_says_what_two_models_must_differ_by() -> None:
    def effect(score: str, stderr: float) -> DetectableEffect:
        return DetectableEffect(score=score, tasks=(), stderr=stderr, seed_deviation=0.0063)

    effects = [effect("vision", 0.003), effect("heldout_vision", 0.02), effect("text", 0.02)]
    # 2.80 sqrt(0.003^2 + 2 x 0.0063^2) = 0.0263; of 0.02: 2 x 0.0063^2 / ((0.02 / 2.80)^2 - 0.003^2) = 1.89 seeds
    found = format_detectable_effects(effects)
    assert found[:3] == [
        ("power", "one seed shows a difference of 2.6 points in vision, 6.1 in held-out vision, 6.1 in text"),
        ("", "2 points: 2 seeds of each model in vision; too few questions in held-out vision, text"),
        ("", "1 point: 22 seeds of each model in vision; too few questions in held-out vision, text"),
    ]
    assert [line for _, line in found[3:]] == [
        "shows: found in 80 of 100 such pairs of models, at the 5 % level",
        "assumed: answers of two models correlate by 0.4, about one image by 0.1;",
        "scores of two seeds spread by 0.63 points (docs/results.md)",
    ]
    assert max(len(line) for _, line in found) <= 92  # the label and its space before them: 100 columns
    assert format_detectable_effects([]) == []


def test_counted_tasks_say_what_can_be_detected(paper: Manifest) -> None:
    def counted(task: str, name: str, value: float) -> Figure:
        return Figure(subject=f"task {task}", name=name, value=value, origin="counted", source="the task's files")

    job = next(job for job in paper.jobs if job.phase == "evaluate")
    asked = replace(job, config={**job.config, "vision_tasks": [{"name": "gqa"}], "text_tasks": [{"name": "copa"}]})
    users = {("1.4b", "evaluate")}
    figures = {
        counted("gqa", "documents", 900): users,
        counted("gqa", "images", 100): users,
        counted("copa", "documents", 60): users,
        counted("copa", "requests", 120): users,
    }
    plan = replace(paper, jobs=(*(each for each in paper.jobs if each.phase != "evaluate"), asked))
    effects = build_plan_json(plan, frozenset(), figures=figures)["detectable"]["effects"]
    assert [(each["score"], *each["tasks"]) for each in effects] == [
        ("vision", {"name": "gqa", "questions": 900, "clusters": 100}),
        ("text", {"name": "copa", "questions": 60, "clusters": 60}),
    ]
