"""What Slurm is asked about a plan's requests, how its answers are read, and what it would keep pending for ever."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from jobs.job import Job, Resources
from jobs.slurm.commands import ProgramOutput
from jobs.slurm.refusals import Refusal
from jobs.slurm.sbatch_errors import RefusalKind, SubmitRefusal, UnknownSubmit, parse_test_answer
from jobs.slurm.site.feasibility import OF_TODAY, FeasibilityChecker, iter_misfits
from jobs.slurm.site.site import Association, NodeShape, Site
from tests.jobs.slurm.site_case import NEW, OLD, Answer, TestedSlurm, a_job
from tests.jobs.toy import toy_job

NO_NODES = SubmitRefusal(RefusalKind.INVALID, "Requested node configuration is not available")
TOO_LONG = SubmitRefusal(RefusalKind.INVALID, "Requested time limit is invalid (missing or exceeds some limit)")


def ask(jobs: Sequence[Job], site: Site = OLD, **told: Any) -> tuple[dict[str, Refusal], TestedSlurm]:
    slurm = TestedSlurm(**told)
    return FeasibilityChecker(client=slurm, site=site).find_refusals(jobs), slurm


def misfit(job: Job, site: Site) -> str:
    """The first reason, with what would do; empty if there is none."""
    return next((f"{each.text}; {each.advice}" for each in iter_misfits(job, site)), "")


def test_each_distinct_request_is_asked_about_once() -> None:
    small, large = Resources(cpus=2), Resources(cpus=2, options={"partition": "main"})
    jobs = [toy_job(f"a{number}", resources=replace(small)) for number in range(50)]
    jobs += [toy_job(f"b{number}", resources=replace(large, time_minutes=number + 1)) for number in range(50)]
    slurm = TestedSlurm()
    checker = FeasibilityChecker(client=slurm, site=OLD)
    assert checker.find_refusals(jobs) == {}
    assert checker.find_refusals(jobs) == {}
    assert len(slurm.asked) == checker.asked == checker.shapes == 2
    assert "--time=50" in slurm.asked[1]  # what takes the longest settles the others
    assert checker.select_taken(jobs) == {job.key for job in jobs}


def test_jobs_that_are_refused_for_one_reason_have_equal_refusals() -> None:
    jobs = [toy_job(f"a{number}", resources=Resources(nodes=9)) for number in range(3)]
    refused, _ = ask(jobs)
    assert len(refused) == 3
    assert len(set(refused.values())) == 1


def test_the_longest_time_that_slurm_takes_is_found() -> None:
    def judge(options: Sequence[str]) -> Answer:
        minutes = next(int(word.partition("=")[2]) for word in options if word.startswith("--time="))
        return TOO_LONG if minutes > 33 else None

    jobs = [toy_job(f"b{number}", resources=Resources(time_minutes=number)) for number in range(1, 51)]
    refused, slurm = ask(jobs, judge=judge)
    assert refused.keys() == {f"b{number}" for number in range(34, 51)}
    assert len(slurm.asked) <= 7


def test_a_refusal_is_in_plain_english_with_slurms_own_words_and_what_to_change() -> None:
    answer = SubmitRefusal(RefusalKind.INVALID, "Invalid qos specification")
    refused, _ = ask([a_job(qos="nope")], answer=answer)
    assert refused["a"].text == (
        "Slurm refuses it: the QOS does not exist or is not open to its account (Invalid qos specification)"
    )
    assert refused["a"].advice == "correct qos: yours: capped, deny, gpucap, high, normal, over"


def test_slurms_refusal_has_our_numbers_where_they_say_the_same() -> None:
    refused, _ = ask([a_job("gpu", time_minutes=3_000)], NEW, answer=TOO_LONG)
    assert str(refused["a"]) == (
        "Slurm refuses it: partition gpu allows a job 2880 min, and it asks for 3000 (Requested time limit is invalid "
        "(missing or exceeds some limit)); lower time_minutes, or set limit_minutes: 2880 so that longer jobs are "
        "planned with restarts"
    )


def test_a_refusal_for_another_reason_keeps_slurms_words() -> None:
    no_qos = SubmitRefusal(RefusalKind.INVALID, "Invalid qos specification")
    refused, _ = ask([a_job("gpu", "nope", time_minutes=3_000)], all_qos(NEW), answer=no_qos)
    assert "the QOS does not exist" in refused["a"].text


@pytest.mark.parametrize(
    ("job", "spared", "what"),
    [
        (a_job(cpus=8), "--cpus-per-task=1", "8 CPUs on a node"),
        (a_job(memory_gib=300), "--mem=1M", "300 GiB on a node"),
        (a_job(nodes=3), "--nodes=1", "3 nodes"),
        (a_job(gpus_per_node=8, gpu_type="a100"), "", "8 GPUs a100 on a node"),
    ],
    ids=["CPUs", "memory", "nodes", "GPUs"],
)
def test_the_resource_that_is_too_much_is_found_by_asking_for_less(job: Job, spared: str, what: str) -> None:
    def judge(options: Sequence[str]) -> Answer:
        fits = spared in options if spared else not any(word.startswith("--gres") for word in options)
        return None if fits else NO_NODES

    refused, _ = ask([job], judge=judge)
    assert f"partition main does not give a job {what} (Requested node" in refused["a"].text


def with_nodes_out(site: Site) -> Site:
    return replace(site, partitions=tuple(replace(each, nodes_out=1) for each in site.partitions or ()))


def test_what_nodes_have_that_are_down_today_is_no_refusal() -> None:
    assert ask([a_job(nodes=4)], with_nodes_out(OLD), answer=NO_NODES)[0] == {}
    refused, _ = ask([a_job(cpus=65)], with_nodes_out(OLD), answer=NO_NODES)
    assert "partition main has not 1 node with 65 CPUs and 4 GiB" in refused["a"].text
    assert "its nodes have 64 CPUs, 500 GiB, 8 a100" in refused["a"].advice


def test_memory_of_a_retry_is_asked_about_too() -> None:
    _, slurm = ask([a_job(memory_gib=10, retry_memory_gib=20)])
    assert "--mem=20480M" in slurm.asked[0]


@pytest.mark.parametrize("kind", [RefusalKind.LIMIT, RefusalKind.FULL, RefusalKind.DELAYED])
def test_a_full_queue_or_a_busy_cluster_is_left_to_sbatch(kind: RefusalKind) -> None:
    assert ask([a_job()], answer=SubmitRefusal(kind, "Requested nodes are busy"))[0] == {}


def test_a_partition_that_is_closed_today_is_a_delay() -> None:
    answer = SubmitRefusal(RefusalKind.DELAYED, "Required partition not available (inactive or drain)")
    refused, _ = ask([a_job("short", time_minutes=1)], answer=answer)
    assert refused["a"].kind is RefusalKind.DELAYED
    assert refused["a"].text.startswith("partition short takes no jobs at present")


def test_a_slurm_that_does_not_answer_is_asked_no_more_and_refuses_nothing() -> None:
    jobs = [toy_job(f"a{number}", resources=Resources(cpus=number)) for number in range(1, 6)]
    slurm = TestedSlurm(answer=UnknownSubmit("no answer"))
    checker = FeasibilityChecker(client=slurm, site=OLD)
    assert checker.find_refusals(jobs) == {}
    assert (len(slurm.asked), checker.silent, checker.select_taken(jobs)) == (2, "no answer", set())


def test_too_few_nodes_beside_excluded_ones_is_a_delay() -> None:
    slurm = TestedSlurm(judge=lambda options: NO_NODES if "--exclude=n1" in options else None)
    refused = FeasibilityChecker(client=slurm, site=OLD, exclude=("n1",)).find_refusals([a_job(nodes=4)])
    assert refused["a"].kind is RefusalKind.DELAYED
    assert "excluded for their faults: n1" in refused["a"].text
    assert refused["a"].kind is RefusalKind.DELAYED


def test_a_node_that_the_user_names_and_that_is_excluded_is_a_delay() -> None:
    unknown = SubmitRefusal(RefusalKind.INVALID, "Invalid node name specified")
    slurm = TestedSlurm(judge=lambda options: unknown if "--exclude=n1" in options else None)
    refused = FeasibilityChecker(client=slurm, site=OLD, exclude=("n1",)).find_refusals(
        [a_job(options={"nodelist": "n1"})]
    )
    assert (refused["a"].kind, refused["a"].text[:3]) == (RefusalKind.DELAYED, "too")
    assert (
        FeasibilityChecker(client=TestedSlurm(answer=unknown), site=OLD, exclude=("n1",))
        .find_refusals([a_job(options={"nodelist": "n1"})])["a"]
        .text.startswith("Slurm refuses it: it names a node that is not there")
    )


@pytest.mark.parametrize("words", OF_TODAY[1:])
def test_sizes_that_no_node_has_are_refused_in_the_words_of_26_05_too(words: str) -> None:
    """Its sbatch takes such a job, which would wait for ever."""
    answer = parse_test_answer(
        ProgramOutput(errors=f"allocation failure: {words}\n", problem=words, returncode=1, started=True)
    )
    assert isinstance(answer, SubmitRefusal)
    refused, _ = ask([a_job(cpus=4_000)], answer=answer)
    assert refused["a"].kind is RefusalKind.INVALID
    assert "has not 1 node with 4000 CPUs" in refused["a"].text
    refused, slurm = ask([a_job()], answer=answer)  # it fits: sbatch decides
    assert (refused, len(slurm.asked)) == ({}, 1)


MISFITS: list[tuple[str, Job, str]] = [
    (
        "time",
        a_job("short", time_minutes=5),
        "partition short allows a job 1 min, and it asks for 5; lower time_minutes",
    ),
    ("time of the QOS", a_job(qos="deny", time_minutes=2), "QOS deny allows a job 1 min"),
    ("nodes of the cluster", a_job(nodes=5), "partition main has 4 nodes, and a job asks for 5"),
    ("nodes of a job", a_job("short", nodes=3, time_minutes=1), "gives a job 2 nodes, not 3"),
    ("GPUs of the QOS", a_job(qos="gpucap", nodes=2, gpus_per_node=8, gpu_type="a100"), "at most gres/gpu=8"),
]


@pytest.mark.parametrize(("job", "part"), [case[1:] for case in MISFITS], ids=[case[0] for case in MISFITS])
def test_what_slurm_would_keep_pending_for_ever_is_told_in_one_line(job: Job, part: str) -> None:
    refused, slurm = ask([job])
    assert part in str(refused["a"])
    assert "\n" not in str(refused["a"])
    assert slurm.asked == []


def test_what_slurm_refuses_itself_is_not_judged_here() -> None:
    """NEW enforces its partitions' limits; its partition cpu is DOWN today."""
    for job in (a_job(), a_job("gpu"), a_job("gpu", time_minutes=3_000), a_job("cpu", "long"), a_job("gpu", nodes=9)):
        assert misfit(job, NEW) == ""


def all_qos(site: Site) -> Site:
    return replace(site, partitions=tuple(replace(each, allowed_qos=()) for each in site.partitions or ()))


def lenient(site: Site) -> Site:
    return replace(site, enforces_partition_limits=False)


def test_closed_partitions_are_told_where_slurm_takes_the_job() -> None:
    own = Association(account="guest", user="ann", qos=("normal",))
    guest = replace(lenient(NEW), associations=(*(NEW.associations or ()), own))
    assert "closed to QOS long" in misfit(a_job("cpu", "Long"), lenient(NEW))
    assert "closed to account guest" in misfit(a_job("cpu", account="guest"), guest)
    assert "closed to account guest; it is open to phys, chem" in misfit(a_job("gpu", account="Guest"), guest)


def test_flags_of_a_qos_lift_a_partitions_limits() -> None:
    assert misfit(a_job("gpu", "long", time_minutes=5_000), lenient(NEW)) == ""  # PartitionTimeLimit
    assert "QOS long allows a job 10080 min" in misfit(a_job("gpu", "long", time_minutes=10_081), NEW)
    assert "partition gpu allows a job 2880 min" in misfit(a_job("gpu", time_minutes=3_000), lenient(NEW))
    assert "gres/gpu=16" in misfit(a_job("gpu", nodes=5, gpus_per_node=4, gpu_type="a100"), NEW)


def test_one_of_several_partitions_is_enough() -> None:
    assert misfit(a_job("short,main", time_minutes=5), OLD) == ""


def test_limits_that_are_not_enforced_do_not_hold() -> None:
    free = replace(OLD, enforced=frozenset())
    assert misfit(a_job(qos="deny", time_minutes=2), free) == ""
    assert misfit(a_job(qos="gpucap", nodes=2, gpus_per_node=8, gpu_type="a100"), free) == ""


def test_memory_above_the_limit_of_a_node_is_told() -> None:
    limited = replace(OLD, max_memory_mib=1024)
    assert "gives a job 1 GiB on a node (MaxMemPerNode), and memory_gib is 2" in misfit(a_job(memory_gib=2), limited)
    assert "and retry_memory_gib is 2; lower retry_memory_gib" in misfit(
        a_job(memory_gib=1, retry_memory_gib=2), limited
    )
    own = replace(limited, partitions=tuple(replace(each, max_memory_mib=4096) for each in OLD.partitions or ()))
    assert misfit(a_job(memory_gib=2), own) == ""


def test_memory_is_left_out_where_no_node_has_any() -> None:
    shapes = (NodeShape(nodes=4, cpus=64, memory_mib=1),)
    bare = replace(OLD, partitions=tuple(replace(each, shapes=shapes) for each in OLD.partitions or ()))
    _, slurm = ask([a_job(memory_gib=2)], bare)
    assert not any(word.startswith("--mem") for word in slurm.asked[0])
