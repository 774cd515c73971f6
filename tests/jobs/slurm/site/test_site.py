"""What a cluster's own words mean."""

import pytest

from jobs.slurm.site.feasibility import iter_misfits
from jobs.slurm.site.limits import compute_queue_capacity, list_limit_names
from jobs.slurm.site.site import (
    NO_ACCOUNTING,
    NodeShape,
    Qos,
    Site,
    parse_gpus,
    parse_minutes,
    parse_optional_number,
    parse_tres,
    query_site,
)
from tests.jobs.slurm.site_case import NEW, OLD, a_job, rows
from tests.jobs.slurm.site_texts import V22, Told


def test_an_old_clusters_words_are_understood() -> None:
    assert (OLD.version, OLD.cluster, OLD.problem, OLD.remarks) == ("22.05.8", "lab", "", ())
    assert (OLD.array_limit, OLD.max_jobs, OLD.min_job_age_seconds, OLD.kill_wait_seconds) == (5000, 60_000, 300, 3)
    assert (OLD.requeues, OLD.preempts, OLD.sends_user_signal, OLD.enforces_partition_limits) == (
        True,
        True,
        False,
        False,
    )
    assert OLD.accounts_gpus
    assert OLD.default_account == "sub"
    assert OLD.partitions is not None
    main, short = OLD.partitions
    assert (main.is_default, main.max_minutes, main.max_nodes, main.nodes, main.qos) == (True, None, None, 4, "")
    assert (short.is_default, short.max_minutes, short.max_nodes, short.qos) == (False, 1, 2, "part3")
    assert main.shapes == (NodeShape(nodes=4, cpus=64, memory_mib=512_000, gpus={"a100": 8}),)
    assert OLD.qos is not None
    assert OLD.qos["capped"].max_submit_user == 5
    assert OLD.qos["deny"].max_minutes == 1


def test_a_newer_clusters_words_are_understood() -> None:
    assert (NEW.version, NEW.array_limit, NEW.min_job_age_seconds) == ("24.11.3", 1001, 20)
    assert (NEW.requeues, NEW.sends_user_signal, NEW.enforces_partition_limits) == (False, True, True)
    assert NEW.default_memory == "DefMemPerCPU 4000 MiB"
    assert NEW.partitions is not None
    gpu, cpu = NEW.partitions
    assert (gpu.max_minutes, cpu.max_minutes, cpu.state) == (2_880, 7 * 1_440 + 750, "DOWN")
    assert [shape.gpus for shape in gpu.shapes] == [{"nvidia_a100-sxm4-80gb": 4}, {"h100": 8, "1g.10gb": 7}]
    assert NEW.qos is not None
    assert NEW.qos["normal"] == Qos(
        name="normal",
        flags=frozenset({"DenyOnLimit"}),
        max_submit_user=1024,
        max_submit_account=2000,
        max_submit_group=4000,
        max_running={"user": 128},
    )
    assert NEW.qos["long"].max_tres == ({"mem": 1.5 * 2**20, "node": 4.0},)


@pytest.mark.parametrize("none", ["accounting_storage/none", "(null)", ""])
def test_a_cluster_without_accounting_is_asked_no_further_and_has_one_limit(none: str) -> None:
    """24.11 and 26.05 show `(null)`, whatever slurm.conf says."""
    text = V22["config"].replace("accounting_storage/slurmdbd", none).replace("associations,limits,qos", "none")
    client = Told({**V22, "config": text})
    site = query_site(client, "ann")
    assert client.asked == ["config", "partition", "sinfo"]
    assert (site.accounting_answers, site.qos, site.associations, site.remarks) == (None, None, None, ())
    assert site.accounting_type == NO_ACCOUNTING
    assert list_limit_names(a_job(qos="capped"), site, "ann") == ("cluster",)
    assert compute_queue_capacity(site, rows(3), "ann") == {"cluster": 59_996}
    assert list(iter_misfits(a_job(qos="any", account="any"), site)) == []


@pytest.mark.parametrize(("kind", "mode"), [("preempt/none", "OFF"), ("(null)", "OFF"), ("(null)", "GANG,SUSPEND")])
def test_a_cluster_without_preemption_does_not_preempt(kind: str, mode: str) -> None:
    assert not Site(preempt_type=kind, preempt_mode=mode).preempts


def test_a_database_that_does_not_answer_is_a_remark_and_is_not_asked_again() -> None:
    client = Told(V22, {"qos": "Connection refused"})
    site = query_site(client, "ann")
    assert client.asked == ["config", "partition", "sinfo", "qos"]
    assert site.accounting_answers is False
    assert site.remarks == ("QOS: Connection refused",)
    assert list(iter_misfits(a_job(), site)) == []


@pytest.mark.parametrize("part", ["partition", "sinfo", "own", "accounts", "user"])
def test_any_part_may_be_missing(part: str) -> None:
    site = query_site(Told(V22, {part: "no answer"}), "ann")
    assert len(site.remarks) == 1
    assert "no answer" in site.remarks[0]
    assert list(iter_misfits(a_job(account="sub"), site)) == []
    assert compute_queue_capacity(site, (), "ann")["cluster"] == 59_999


def test_a_controller_that_does_not_answer_leaves_slurms_defaults_and_the_reason() -> None:
    site = query_site(Told({}, {"config": "Unable to contact slurm controller"}), "ann")
    assert site == Site(
        user="ann",
        problem="configuration: Unable to contact slurm controller",
        remarks=("configuration: Unable to contact slurm controller",),
    )


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("UNLIMITED", None), ("", None), ("Partition_Limit", None), ("00:01:00", 1), ("1-00:00:00", 1_440), ("30", 30),
        ("2-06", 3_240), ("90:30", 90), ("3-12:15", 5_055), ("INFINITE", None),
    ],
)  # fmt: skip
def test_time_limits_in_all_of_slurms_forms(text: str, minutes: int | None) -> None:
    assert parse_minutes(text) == minutes


def test_gres_and_tres_and_numbers() -> None:
    assert parse_gpus("(null)") == {}
    assert parse_gpus("gpu:8") == {"": 8}
    assert parse_gpus("gpu:a100:no_consume:2,gpu:a100:1(S:0),shard:16") == {"a100": 3}
    assert parse_tres("cpu=64,mem=1000M,gres/gpu:a100=8,bad,x=y") == {"cpu": 64, "mem": 1000, "gres/gpu:a100": 8}
    assert (parse_optional_number("300 sec"), parse_optional_number("UNLIMITED")) == (300, None)
