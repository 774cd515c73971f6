"""GPUs of many names on a real cluster: the right ones are asked for, and hours are sacct's times the right factor."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.job import Estimate, Job, Resources
from jobs.reconcile.state import JobState
from sweep.results.write import write_tables
from sweep.stored_sweep import open_sweep
from tests.jobs import toy
from tests.slurm_lab import Lab, Options
from tests.slurm_lab.processes import wait_for
from tests.slurm_lab.slurm_toy import ToySweep

NODES = {
    "mig": [("gpu:a100_1g.5gb:7", "mig")],
    "mixed": [("gpu:a100:2,gpu:a100_1g.5gb:4", "")],
    "sizes": [("gpu:a100_40gb:2", ""), ("gpu:a100_80gb:2", "")],
    "sized": [("gpu:a100:2", "a100_40,ib"), ("gpu:a100:2", "a100_80,ib")],
    "features": [("gpu:2", "a100,ib"), ("gpu:2", "v100,ib")],
    "untyped": [("gpu:2", "")],
    "shards": [("gpu:a100:2,shard:8", "")],
}
"""The nodes of each partition: GRES and features."""
RISKY = ("untyped", "mig")
"""Partitions whose nodes make one more, `risky`, in which a request without a type may be given a slice."""


@pytest.fixture(scope="module")
def kinds_lab(make_lab: Callable[[str, Options], Lab]) -> Lab:
    nodes = [node for own in NODES.values() for node in own]
    names = iter(f"n{number}" for number in range(1, len(nodes) + 1))
    own = {partition: [next(names) for _ in found] for partition, found in NODES.items()}
    own["risky"] = [name for partition in RISKY for name in own[partition]]
    extra = "\n".join(f"PartitionName={name} Nodes={','.join(found)}" for name, found in own.items())
    options = Options(
        nodes=len(nodes),
        node_gres=tuple(gres for gres, _ in nodes),
        node_features=tuple(f for _, f in nodes),
        extra=extra,
    )
    return make_lab("kinds", options)


@pytest.fixture
def lab(kinds_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    kinds_lab.reset()
    for variable, value in kinds_lab.env.items():
        monkeypatch.setenv(variable, value)
    return kinds_lab


def a_job(key: str, gpu_type: str, partition: str, need_gib: float = 0, **options: str) -> Job:
    asked = Resources(
        gpus_per_node=1,
        gpu_type=gpu_type,
        memory_gib=0.25,
        time_minutes=10,
        options={"partition": partition, **options},
    )
    job = toy.toy_job(key, cells=[key], resources=asked)
    return replace(job, estimate=Estimate(gpu_memory_bytes=round(need_gib * 2**30), a100_hours=1))


SENT: dict[str, tuple[Job, str, float | None]] = {
    job.key: (job, allocated, factor)
    for job, allocated, factor in [
        (a_job("whole-mixed", "a100", "mixed"), "gres/gpu:a100=1", 1),
        (a_job("slice-mixed", "a100-1g.5gb", "mixed"), "gres/gpu:a100_1g.5gb=1", 1 / 7),
        (a_job("slice-mig", "a100-1g.5gb", "mig"), "gres/gpu:a100_1g.5gb=1", 1 / 7),
        (a_job("slice-own-words", "a100", "mig", gres="gpu:a100_1g.5gb:1"), "gres/gpu:a100_1g.5gb=1", 1 / 7),
        (a_job("large", "a100", "sizes", 60), "gres/gpu:a100_80gb=1", 1),
        (a_job("as-planned", "a100", "sizes", 20), "gres/gpu:a100_80gb=1", 1),
        (a_job("small", "a100-40", "sizes", 20), "gres/gpu:a100_40gb=1", 1),
        (a_job("large-by-feature", "a100", "sized", 60, constraint="a100_80"), "gres/gpu:a100=1", 1),
        (a_job("any-size", "a100", "sized", 20), "gres/gpu:a100=1", 1),
        (a_job("by-feature", "a100", "features", constraint="a100"), "gres/gpu=1", 1),
        (a_job("untyped", "a100", "untyped"), "gres/gpu=1", 1),
        (a_job("shards", "a100-shard.2of4", "shards"), "gres/shard=2", 0.5),
        (a_job("shard-own-words", "a100", "shards", gres="shard:1"), "gres/shard=1", None),
        (a_job("whole-beside-shards", "a100", "shards"), "gres/gpu:a100=1", 1),
    ]
}
"""Jobs with what Slurm must allocate, and the A100-hours of one hour of it; None: nobody knows."""
REFUSED: dict[str, tuple[Job, str]] = {
    job.key: (job, line)
    for job, line in [
        (
            a_job("on-slices-alone", "a100", "mig"),
            "partition mig has a100_1g.5gb:7 a node, and a job asks for a100:1; a slice is never a whole GPU: to run "
            "on slices, write gpu_type: a100-1g.5gb and gpus_per_node: 1",
        ),
        (
            a_job("large-or-small", "a100", "sized", 60),
            "a100 of partition sized has 40 GB, 80 GB by the nodes' features, and a job needs 60 GiB on each GPU; "
            "write constraint: a100_80",
        ),
        (
            a_job("a100-or-v100", "a100", "features"),
            "the GPUs of partition features have no type, and features of its nodes name a100, v100, so that Slurm "
            "would give a job any of them; write constraint: a100",
        ),
        (
            a_job("gpu-or-slice", "a100", "risky"),
            "some nodes of partition risky have GPUs without a type and others a100_1g.5gb, and Slurm would give a job "
            "either; choose another partition",
        ),
        (
            a_job("other-shards", "a100-shard.1of8", "shards"),
            "a GPU of partition shards has 4 shards, and gpu_type a100-shard.1of8 is a part of 8; write gpu_type: "
            "a100-shard.1of4",
        ),
    ]
}
"""Jobs that are not sent, with the line that says why and what to write."""


def allocations(lab: Lab, ids: list[str]) -> tuple[int, str]:
    """Seconds and AllocTRES of a job's one execution, by nothing but the text of sacct."""
    text = lab.output("sacct", "-n", "-P", "-D", "-X", "-j", ",".join(ids), "-o", "ElapsedRaw,AllocTRES")
    ((seconds, resources),) = [line.split("|") for line in text.splitlines()]
    return int(seconds), resources


def test_each_job_gets_the_gpus_that_it_was_planned_for_and_its_hours_are_theirs(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [*(job for job, *_ in SENT.values()), *(job for job, _ in REFUSED.values())]
    toys = ToySweep(lab, tmp_path, jobs, monkeypatch)
    told = toys.sweep("submit", "--dry-run")
    assert f"{len(SENT)} jobs would be sent" in told.err
    told = toys.sweep("submit")
    assert told.code == 1
    for line in (
        "gpu_type a100: --gres=gpu:a100:1 (its exact name; 1 node of partition mixed)",
        "gpu_type a100-1g.5gb: --gres=gpu:a100_1g.5gb:1 (same model and memory; 1 node of partition mig)",
        "gpu_type a100: --gres=gpu:a100_80gb:1 (same model and memory; 1 node of partition sizes; a100_40gb would",
        "gpu_type a100: --gres=gpu:1 (the site gives its GPUs no type; 1 node of partition features; features of the "
        "nodes name a100)",
        "nothing there says that they are a100)",
        "gpu_type a100-shard.2of4: --gres=shard:2 (2 of the 4 shards of a GPU)",
        "gpu_type a100: options ask for a100_1g.5gb, which is another kind",
    ):
        assert f"sweep: {line}" in told.err or line in told.err
    for _, line in REFUSED.values():
        assert f"1 job was not sent: it cannot be sent as it is: {line}" in told.err or line in told.err

    toys.ticks_until(lambda report: report["states"]["done"] == len(SENT), seconds=120)
    assert {key for key, state in toys.states().items() if state is not JobState.DONE} == REFUSED.keys()
    ids = toys.ids()
    assert not any(ids[key] for key in REFUSED)

    def accounted() -> bool:
        sent = [job_id for key in SENT for job_id in ids[key]]
        rows = lab.output("sacct", "-n", "-P", "-D", "-X", "-j", ",".join(sent), "-o", "AllocTRES").splitlines()
        return len(rows) == len(sent) and all("node=" in row for row in rows)

    wait_for("sacct to have heard of every end", accounted, seconds=30)
    toys.tick()
    tables = write_tables(open_sweep(toys.store.root, toy.SWEEP))
    rows: dict[str, dict[str, Any]] = {row["key"]: row for row in tables.jobs.to_pylist()}
    for key, (_, expected, factor) in SENT.items():
        seconds, resources = allocations(lab, ids[key])
        assert expected in resources.split(","), key
        row = rows[key]
        assert (row["hours_source"], round(3600 * (row["used_gpu_hours"] + row["wasted_gpu_hours"]), 6)) == (
            "slurm",
            seconds,
        ), key
        if factor is None:
            assert row["used_a100_hours"] is None, key
        else:
            hours = row["used_a100_hours"] + row["wasted_a100_hours"]
            assert round(3600 * hours, 6) == pytest.approx(seconds * factor), key
    assert rows["slice-mig"]["gpu_kinds"] == "a100_1g.5gb=1"
    assert rows["shards"]["gpu_kinds"] == "shard=2"
    assert rows["untyped"]["gpu_kinds"] is None

    told = toys.sweep("tick", "--no-results", "--budget-a100-hours", "1000")
    assert "nothing was sent: the A100-hours of 1 job are not known, as there is no factor for shard=1" in told.err


def test_doctor_says_which_gpus_and_which_cannot_be_told(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toys = ToySweep(lab, tmp_path, [SENT["large"][0], REFUSED["on-slices-alone"][0]], monkeypatch)
    lines = toys.sweep("doctor").out.splitlines()
    assert any("GPUs" in line and "--gres=gpu:a100_80gb:1 (same model and memory" in line for line in lines)
    assert any(
        "1 of 2 jobs: it cannot be sent as it is: partition mig has a100_1g.5gb:7 a node" in line for line in lines
    )
    assert any("shards: 1 node, 2 a100 in 8 shards" in line for line in lines)
