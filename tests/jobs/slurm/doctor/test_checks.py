"""What is said of a cluster, for better and for worse."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from jobs.job import Resources
from jobs.slurm.commands import ProgramOutput
from jobs.slurm.doctor import checks
from jobs.slurm.doctor.checks import check_client, check_environment, check_plan, check_site
from jobs.slurm.sbatch_errors import UnknownSubmit
from jobs.slurm.site.feasibility import FeasibilityChecker
from jobs.slurm.site.site import Site, query_site
from jobs.store.checks import Check, Severity
from tests.jobs.slurm.site_case import TestedSlurm
from tests.jobs.slurm.site_texts import V22, V24, Told
from tests.jobs.toy import toy_job

OLD = query_site(Told(V22), "ann")
NEW = query_site(Told(V24), "ann")


def told_by(site: Site, **told: Any) -> FeasibilityChecker:
    """A checker whose Slurm takes what it is asked about."""
    return FeasibilityChecker(client=TestedSlurm(**told), site=site)


def named(checks: Sequence[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_a_good_cluster_has_no_problems() -> None:
    told = list(check_site(OLD))
    assert [check.name for check in told] == [
        "controller", "partitions", "arrays", "queue", "partition limits", "memory of jobs", "accounting", "requeue",
        "preemption",
    ]  # fmt: skip
    assert all(check.severity is not Severity.PROBLEM for check in told)
    assert "main (default): 4 nodes, 8 a100, no time limit; short: 4 nodes, 8 a100, 1 min" in told[1].text
    assert "5 under the limit of QOS capped on your jobs" in named(told, "queue").text
    assert "is lost" in named(told, "preemption").advice


def test_what_another_cluster_does_otherwise_is_told() -> None:
    told = list(check_site(NEW))
    assert named(told, "requeue").text == "is off unless asked for (JobRequeue=0)"
    assert "20 s after its end" in named(told, "memory of jobs").text
    assert named(told, "preemption").severity is Severity.OK
    assert "cpu (default): 9 nodes, 10830 min, down" in named(told, "partitions").text
    assert not any(check.name == "partition limits" for check in told)


def test_a_controller_that_is_silent_is_one_problem() -> None:
    told = list(check_site(Site(problem="Unable to contact slurm controller")))
    assert [check.severity for check in told] == [Severity.PROBLEM]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"accounting_type": "accounting_storage/none"}, "there is none"),
        ({"accounting_answers": False}, "does not answer"),
        ({"accounted": ("cpu", "mem")}, "lacks gres/gpu"),
    ],
    ids=["none", "down", "without GPUs"],
)
def test_hours_come_from_elsewhere_where_accounting_lacks(change: dict[str, Any], part: str) -> None:
    check = named(list(check_site(replace(OLD, **change))), "accounting")
    assert check.severity is Severity.NOTE
    assert part in check.text
    assert "what attempts noted themselves" in check.advice


def test_a_cluster_without_partitions_limits_or_preemption() -> None:
    site = replace(OLD, partitions=None, enforced=frozenset(), qos=None, associations=None, preempt_type="preempt/none")
    told = list(check_site(replace(site, remarks=("partitions: no answer",))))
    assert named(told, "not known").text == "partitions: no answer"
    assert named(told, "partitions").severity is Severity.NOTE
    assert "no limit on your jobs" in named(told, "queue").text
    assert named(told, "preemption").text == "there is none"


def test_a_plan_is_held_against_the_cluster() -> None:
    good = toy_job("a", resources=Resources(setup=("module load x",)))
    wide = Resources(nodes=9)
    jobs = [good, *(toy_job(f"w{number}", resources=wide) for number in range(3))]
    told = list(check_plan(OLD, jobs, told_by(OLD), largest_save_bytes=2**34))
    assert named(told, "plan").text.startswith("3 of 4 jobs: it can never run here: partition main has 4 nodes")
    assert named(told, "plan").advice == "lower nodes"
    assert named(told, "setup").severity is Severity.OK
    assert "16.0 GiB, needs 5,461 MiB/s" in named(told, "time to save").text
    assert named(list(check_plan(OLD, [good], told_by(OLD))), "plan").text == (
        "the job can run in main (sbatch --test-only, 1 asked)"
    )


def test_limits_of_other_accounts_and_qos_are_told_apart_from_those_of_the_plan() -> None:
    words = "the plan's jobs have another account and QOS: none of these limits holds for them"
    free = list(check_plan(OLD, [toy_job("a", resources=Resources(options={"account": "other"}))], told_by(OLD)))
    assert named(free, "queue").text == words
    capped = list(check_plan(OLD, [toy_job("a", resources=Resources(options={"qos": "capped"}))], told_by(OLD)))
    assert words not in [each.text for each in capped]


def test_a_plan_that_is_larger_than_a_limit_is_refilled() -> None:
    shared = Resources(options={"qos": "capped"})
    told = list(
        check_plan(
            OLD,
            [toy_job(f"j{number}", resources=shared) for number in range(60)],
            told_by(OLD),
            largest_save_bytes=1,
        )
    )
    assert (
        named(told, "refill").text
        == "60 jobs, of which 5 may be in the queue at once (the limit of QOS capped on your jobs)"
    )
    assert named(told, "time to save").severity is Severity.OK


def test_a_plan_that_slurm_does_not_judge_is_a_note() -> None:
    told = list(check_plan(OLD, [toy_job("a")], told_by(OLD, answer=UnknownSubmit("no answer within 30 s"))))
    assert named(told, "plan").severity is Severity.NOTE
    assert "no answer within 30 s" in named(told, "plan").text


@pytest.mark.parametrize("lines", [("echo 'open",), ("if true",), ("cat <<EOF",)], ids=["quote", "if", "here"])
def test_set_up_lines_that_would_swallow_the_rest_are_a_problem(lines: tuple[str, ...]) -> None:
    told = list(check_plan(OLD, [toy_job("a", resources=Resources(setup=lines))], told_by(OLD)))
    assert named(told, "setup").severity is Severity.PROBLEM


def test_without_bash_the_set_up_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    told = list(check_plan(OLD, [toy_job("a", resources=Resources(setup=("x",)))], told_by(OLD)))
    assert "not looked at" in named(told, "setup").text


class Versions:
    """A client that only knows its version."""

    def __init__(self, text: str, problem: str = "") -> None:
        self.output = ProgramOutput(text=text, problem=problem)

    def run(self, program: str, *arguments: str) -> ProgramOutput:
        assert (program, *arguments) == ("sbatch", "--version")
        return self.output


@pytest.mark.parametrize(
    ("text", "problem", "verdict"),
    [
        ("slurm-wlm 22.05.8", "", "ok"), ("slurm 24.11.0-0rc1", "", "ok"), ("slurm 21.08.5", "", "problem"),
        ("", "no configuration", "problem"), ("something", "", "problem"),
    ],
)  # fmt: skip
def test_clients_older_than_22_05_are_a_problem(
    text: str, problem: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "jobs.slurm.doctor.checks.shutil.which", lambda name: None if name == "sacct" else f"/usr/bin/{name}"
    )
    told = list(check_client(Versions(text, problem), {"SBATCH_QOS": "x", "SLURM_CONF": "/etc/x"}))
    assert told[0].severity.value == verdict
    assert "SBATCH_QOS" in told[-1].text
    assert "SLURM_CONF" not in told[-1].text


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.slurm.doctor.checks.shutil.which", lambda _name: None)
    assert "sbatch, squeue" in next(check_client(Versions(""), {})).text
    assert not checks.has_slurm()


def test_variables_without_effect_are_named_with_the_field_that_serves_instead() -> None:
    told = list(check_environment({"SBATCH_ACCOUNT": "lab", "SQUEUE_FORMAT": "%A", "SLURM_CONF": "/x", "HOME": "/y"}))
    assert [(check.name, check.severity) for check in told] == [("environment", Severity.NOTE)] * 2
    assert told[0].text.startswith("SBATCH_ACCOUNT=lab is not used")
    assert told[0].advice == "write `account` under `resources` of the sweep file"
    assert told[1].text == "SQUEUE_FORMAT set here and kept from Slurm's programs"


def test_the_chosen_cluster_is_named_and_several_are_a_problem() -> None:
    (chosen,) = check_environment({"SLURM_CLUSTERS": "east"})
    assert (chosen.name, chosen.severity) == ("cluster", Severity.OK)
    (several,) = check_environment({"SLURM_CLUSTERS": "east,west"})
    assert (several.name, several.severity) == ("cluster", Severity.PROBLEM)
