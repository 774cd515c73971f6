"""Which of a site's GPUs a job asks for, and what it says where that cannot be told."""

from dataclasses import replace
from typing import Any

import pytest

from jobs.job import Estimate, Job
from jobs.slurm.sbatch_options import build_sbatch_options, list_requested_kinds
from jobs.slurm.site.gpu_choice import GpuChoice, choose_gpus, is_admitted
from jobs.slurm.site.site import NodeShape, Partition, Site, parse_node_shapes
from tests.jobs.slurm.site_case import NEW, a_job


def a_site(*nodes: str) -> Site:
    """One partition; each text is a node's GRES and features, `gpu:a100:8|a100_80gb,ib`."""
    pairs = [node.partition("|")[::2] for node in nodes]
    shapes = parse_node_shapes("".join(f"main|1|64|512000|{gres}|idle|{features}\n" for gres, features in pairs))
    return Site(partitions=(Partition(name="main", is_default=True, nodes=len(nodes), shapes=shapes["main"]),))


def choose(site: Site, gpu_type: str, *, need_gib: float = 0, **resources: Any) -> GpuChoice:
    job = a_job(**{"gpu_type": gpu_type, "gpus_per_node": 1, **resources})
    return choose_gpus(with_need(job, need_gib), site)


def with_need(job: Job, need_gib: float) -> Job:
    return replace(job, estimate=Estimate(gpu_memory_bytes=round(need_gib * 2**30)))


@pytest.mark.parametrize(
    ("asked", "need_gib", "nodes", "kind"),
    [
        ("a100", 0, ("gpu:a100:8",), "a100"),
        ("a100", 0, ("gpu:a100_1g.5gb:7", "gpu:a100:8"), "a100"),
        ("a100", 0, ("gpu:a100_3g.20gb:2,gpu:a100:4(S:0-1)",), "a100"),
        ("a100", 0, ("gpu:1g.10gb:7,gpu:nvidia_a100-sxm4-80gb:4(S:0,1)",), "nvidia_a100-sxm4-80gb"),
        ("a100", 0, ("gpu:a100_40gb:8", "gpu:a100_80gb:8"), "a100_80gb"),
        ("a100", 20, ("gpu:a100_40gb:8", "gpu:a100_80gb:8"), "a100_80gb"),
        ("a100-40", 20, ("gpu:a100_40gb:8", "gpu:a100_80gb:8"), "a100_40gb"),
        ("a100", 20, ("gpu:a100_40gb:8",), "a100_40gb"),
        ("a100", 20, ("gpu:a100:8", "gpu:a100l:4"), "a100"),
        ("a100", 60, ("gpu:a100:8", "gpu:a100l:4"), "a100l"),  # of `a100` nobody says that it has 80 GB
        ("a100", 60, ("gpu:a100:8",), "a100"),
        ("a100", 60, ("gpu:a100:8|a100_80",), "a100"),
        ("a100", 0, ("gpu:v100:4", "gpu:a100:4", "gpu:4"), "a100"),
        ("h100", 70, ("gpu:nvidia_h100_nvl:2",), "nvidia_h100_nvl"),
        ("h100", 0, ("gpu:h100_pcie:2", "gpu:nvidia_h100_80gb_hbm3:8"), "nvidia_h100_80gb_hbm3"),
        ("l40s", 0, ("gpu:nvidia_l40s:4", "gpu:l40:4"), "nvidia_l40s"),
        ("a100", 0, ("gpu:8",), ""),
        ("a100", 0, ("gpu:8|a100", "gpu:8|a100,ib"), ""),
        ("a100-1g.10gb", 0, ("gpu:a100:8,gpu:a100_1g.10gb:7",), "a100_1g.10gb"),
        ("a100-3g.40gb", 0, ("gpu:a100-3g:2",), "a100-3g"),
        ("h100-1g.12gb", 0, ("gpu:1g.12gb:7",), "1g.12gb"),
    ],
)
def test_the_best_kind_is_chosen(asked: str, need_gib: float, nodes: tuple[str, ...], kind: str) -> None:
    found = choose(a_site(*nodes), asked, need_gib=need_gib)
    assert (found.kind, found.problem) == (kind, "")
    assert f"gpu_type {asked}: --gres=gpu{f':{kind}' if kind else ''}:1 (" in found.text


@pytest.mark.parametrize(
    ("asked", "need_gib", "nodes", "says", "write"),
    [
        ("a100", 0, ("gpu:a100_1g.5gb:7",), "has a100_1g.5gb:7", "write gpu_type: a100-1g.5gb and gpus_per_node: 1"),
        ("a100", 0, ("gpu:1g.10gb:7",), "a slice is never a whole GPU", "write gpu_type: a100-1g.10gb"),
        ("a100", 0, ("gpu:a100_10g:7",), "a slice is never a whole GPU", "options: {gres: 'gpu:a100_10g:1'}"),
        ("a100", 0, ("gpu:v100:8",), "has v100:8 a node, and a job asks for a100:1", ""),
        ("a100", 0, ("gpu:tesla:8",), "if tesla is that GPU", "write options: {gres: 'gpu:tesla:1'}"),
        ("a100", 0, ("(null)",), "has no GPUs", ""),
        ("a100", 60, ("gpu:a100_40gb:8",), "has 40 GB, and a job planned for a100 needs 60 GiB", "gpu_type: a100-40"),
        ("a100-40", 0, ("gpu:a100_80gb:8",), "has a100_80gb:8", ""),
        ("a100-40", 0, ("gpu:a100_40g:2,gpu:a100_10g:4",), "has a100_10g:4, a100_40g:2", ""),
        (
            "a100",
            60,
            ("gpu:a100_pcie:4", "gpu:a100_sxm4:4"),
            "may be a100_pcie or a100_sxm4 here: it needs 60 GiB",
            "write options: {gres: 'gpu:a100_pcie:1'} or {gres: 'gpu:a100_sxm4:1'}",
        ),
        (
            "a100",
            60,
            ("gpu:a100:8|a100_40,ib", "gpu:a100:8|a100_80,ib"),
            "a100 of partition main has 40 GB, 80 GB by the nodes' features, and a job needs 60 GiB",
            "write constraint: a100_80",
        ),
        (
            "a100",
            60,
            ("gpu:a100:8|a100,gpu40", "gpu:a100:8|a100,gpu80"),
            "has 40 GB, 80 GB by the nodes' features",
            "write constraint: gpu80",
        ),
        (
            "a100",
            0,
            ("gpu:8|a100,ib", "gpu:8|v100,ib"),
            "have no type, and features of its nodes name a100, v100",
            "write constraint: a100",
        ),
        (
            "a100",
            0,
            ("gpu:8|a100", "gpu:1g.10gb:7|mig"),
            "some nodes of partition main have GPUs without a type and others 1g.10gb",
            "write constraint: a100",
        ),
        ("a100", 0, ("gpu:8", "gpu:v100:8"), "GPUs without a type and others v100", "choose another partition"),
        ("a100", 0, ("gpu:7|mig",), "has gpu:7 a node, and a job asks for a100:1", ""),
        ("a100", 0, ("gpu:8|a100", "gpu:7|a100_1g.5gb"), "without a type and others a100_1g.5gb", "constraint: a100"),
        ("a100-1g.10gb", 0, ("gpu:a100_1g.5gb:7",), "has a100_1g.5gb:7", ""),
        ("a100-1g.10gb", 0, ("gpu:8",), "has gpu:8 a node", ""),
        ("a100-shard.1of4", 0, ("gpu:a100:2",), "has no shards of a100 (gres/shard)", "write gpu_type: a100"),
        (
            "a100-shard.1of4",
            0,
            ("gpu:a100:2,shard:a100:16",),
            "a GPU of partition main has 8 shards, and gpu_type a100-shard.1of4 is a part of 4",
            "write gpu_type: a100-shard.1of8",
        ),
    ],
)
def test_what_cannot_be_told_or_is_not_there_is_asked_in_a_line_that_says_what_to_write(
    asked: str, need_gib: float, nodes: tuple[str, ...], says: str, write: str
) -> None:
    found = choose(a_site(*nodes), asked, need_gib=need_gib)
    assert (found.kind, found.text) == (None, "")
    assert says in found.problem
    assert write in found.problem
    assert "\n" not in found.problem


def test_the_reason_and_what_to_know_are_said() -> None:
    both = choose(a_site("gpu:a100_40gb:8", "gpu:a100_80gb:8"), "a100", need_gib=20)
    assert "(same model and memory; 1 node of partition main; a100_40gb would do too" in both.text
    assert "with less memory than the plan was made for" in choose(a_site("gpu:a100_40gb:8"), "a100", need_gib=9).text
    assert "have 80 GB or 40 GB or 64 GB" not in choose(a_site("gpu:a100:8"), "a100", need_gib=9).text
    assert "have 80 GB or 40 GB or 64 GB" in choose(a_site("gpu:a100:8"), "a100", need_gib=60).text
    assert "nothing there says that they are a100" in choose(a_site("gpu:8"), "a100").text
    assert "features of the nodes name a100" in choose(a_site("gpu:8|a100_80gb"), "a100").text


def test_a_constraint_narrows_the_nodes() -> None:
    site = a_site("gpu:8|a100,ib", "gpu:8|v100,ib", "gpu:a100_1g.5gb:7|mig")
    assert choose(site, "a100", options={"constraint": "a100"}).kind == ""
    assert choose(site, "a100", options={"constraint": "a100&ib"}).kind == ""
    sizes = a_site("gpu:a100:8|a100_40", "gpu:a100:8|a100_80")
    assert choose(sizes, "a100", need_gib=60, options={"constraint": "a100_80"}).kind == "a100"
    none = choose(site, "a100", options={"constraint": "h100"})
    assert none.problem == "no node of partition main satisfies constraint h100"


@pytest.mark.parametrize(
    ("constraint", "held"),
    [
        ("", True),
        ("a", True),
        ("c", False),
        ("a&b", True),
        ("a&c", False),
        ("c|a", True),
        ("(c|a)&b", True),
        ("(c|a)&d", False),
        ("[a|c]", True),
        ("c&d|a", True),
        ("[c*2&a*1]", True),
        ("[c*2&d*1]", False),
        ("GPU_SKU:A100_SXM4", True),
        ("a&", True),  # what cannot be read excludes nothing
        ("(a|c", True),
        ("a!c", True),
    ],
)
def test_constraints_are_read_as_sbatch_reads_them(constraint: str, held: bool) -> None:
    assert is_admitted(frozenset({"a", "b", "GPU_SKU:A100_SXM4"}), constraint) is held


def test_the_site_s_own_names_are_found_among_several_partitions() -> None:
    assert choose_gpus(a_job("gpu", gpus_per_node=4, gpu_type="a100"), NEW).kind == "nvidia_a100-sxm4-80gb"
    assert choose_gpus(a_job("gpu", gpus_per_node=8, gpu_type="H100"), NEW).kind == "h100"
    assert choose_gpus(a_job("gpu", gpus_per_node=4, gpu_type="a100-80"), NEW).kind == "nvidia_a100-sxm4-80gb"
    assert choose_gpus(a_job("gpu", gpus_per_node=8, gpu_type="h100-80"), NEW).kind == "h100"
    for missing in ("v100", "a10", "a100-40"):
        assert "a job asks for" in choose_gpus(a_job("gpu", gpus_per_node=4, gpu_type=missing), NEW).problem
    two = replace(NEW, partitions=(*(NEW.partitions or ()), *(a_site("gpu:v100:4").partitions or ())))
    assert choose_gpus(a_job("main,gpu", gpus_per_node=4, gpu_type="a100"), two).kind == "nvidia_a100-sxm4-80gb"


def test_too_few_nodes_or_gpus_are_told() -> None:
    site = a_site("gpu:a100:8", "gpu:a100:4")
    assert choose(site, "a100", gpus_per_node=8, nodes=2).problem == (
        "partition main has 1 node with a100:8, and a job asks for 2; lower nodes"
    )
    assert choose(site, "a100", gpus_per_node=4, nodes=2).kind == "a100"
    assert "has a100:4, a100:8 a node, and a job asks for a100:9" in choose(site, "a100", gpus_per_node=9).problem


def test_a_request_without_a_type_could_be_given_several_kinds_of_one_node() -> None:
    found = choose(a_site("gpu:4", "gpu:k80:2,gpu:v100:2"), "a100", gpus_per_node=4)
    assert "some nodes of partition main have GPUs without a type and others k80, v100" in found.problem
    assert choose(a_site("gpu:4", "gpu:v100:2"), "a100", gpus_per_node=4).kind == ""
    assert choose(a_site("gpu:4|1g,eth"), "a100").kind == ""  # a network of 1 Gbit/s


def test_nodes_that_nobody_could_read_are_no_reason() -> None:
    assert choose(Site(), "a100") == GpuChoice()
    assert choose(Site(partitions=(Partition(name="main", is_default=True),)), "a100") == GpuChoice()
    assert choose(a_site("gpu:v100:8"), "", gpus_per_node=0) == GpuChoice()


def test_an_own_request_is_taken_and_another_kind_is_said() -> None:
    site = a_site("gpu:a100_1g.5gb:7")
    assert choose(site, "a100-1g.5gb", options={"gres": "gpu:a100_1g.5gb:1"}) == GpuChoice()
    assert choose(site, "a100", options={"gpus-per-node": "tesla:1"}) == GpuChoice()
    said = choose(site, "a100", options={"gres": "gpu:a100_1g.5gb:1"})
    assert said.kind is None
    assert not said.problem
    assert "options ask for a100_1g.5gb, which is another kind" in said.text
    assert "options ask for shard, which is another kind" in choose(site, "a100", options={"gres": "shard:2"}).text


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({"gres": "gpu:a100_1g.5gb:2,nvme:1"}, "a100_1g.5gb=2"),
        ({"gres": "gpu:4"}, ""),
        ({"gres": "gpu:a100"}, "a100=1"),
        ({"gres": "shard:3"}, "shard=3"),
        ({"gres": "nvme:1"}, ""),
        ({"gpus-per-node": "a100:2"}, "a100=2"),
        ({"gpus": "4"}, ""),
        ({"tres-per-task": "gres/gpu:a100:1"}, "a100=1"),
        ({}, ""),
    ],
)
def test_types_that_options_ask_for_are_read(options: dict[str, str], kinds: str) -> None:
    assert list_requested_kinds(options) == kinds


def test_shards_are_asked_for_as_shards_and_never_beside_gpus() -> None:
    site = a_site("gpu:a100:2,shard:a100:8")
    found = choose(site, "a100-shard.2of4")
    assert found.text == "gpu_type a100-shard.2of4: --gres=shard:2 (2 of the 4 shards of a GPU)"
    asked = a_job(gpu_type="a100-shard.2of4", gpus_per_node=1).resources
    assert "--gres=shard:2" in build_sbatch_options(asked, gpu_type=found.kind)
    own = a_job(gpu_type="a100", gpus_per_node=1, options={"gres": "shard:2"}).resources
    assert "--gres=shard:2" in build_sbatch_options(own)


def test_shapes_have_their_shards_and_features() -> None:
    (shape,) = parse_node_shapes("main|2|64|512000|gpu:a100:2(S:0-1),shard:a100:8(S:0-1)|idle|a100_80gb,ib\n")["main"]
    assert shape == NodeShape(
        nodes=2,
        cpus=64,
        memory_mib=512_000,
        gpus={"a100": 2},
        shards=8,
        features=frozenset({"a100_80gb", "ib"}),
    )
    assert parse_node_shapes("main|2|64|512000|(null)|idle|(null)\n")["main"][0].features == frozenset()
