"""Names that sites give to their GPUs, and what each says. Collected from public job scripts, configurations and
documentation of clusters, and from NVIDIA's list of MIG profiles."""

import pytest

from jobs.slurm.site.gpu_kinds import (
    EXACT,
    LESS_MEMORY,
    MORE_MEMORY,
    SAME_MEMORY,
    SIZE_NOT_SAID,
    UNTYPED,
    GpuKind,
    parse_gpu_kind,
    rank_gpu_kind,
)

WHOLE = [
    ("a100", "a100", 0),
    ("A100", "a100", 0),
    ("NVIDIA_A100", "a100", 0),
    ("A100_40GB", "a100", 40),
    ("a100_80g", "a100", 80),
    ("a100-40", "a100", 40),
    ("a100_80", "a100", 80),
    ("a100l", "a100", 80),
    ("a10080gb", "a100", 80),
    ("a100-sxm4-40gb", "a100", 40),
    ("nvidia_a100-sxm4-80gb", "a100", 80),
    ("a100_80gb_pcie", "a100", 80),
    ("a100-pcie", "a100", 0),
    ("gpuA100x4", "", 0),
    ("h100_80gb", "h100", 80),
    ("nvidia_h100_80gb_hbm3", "h100", 80),
    ("h100_pcie", "h100", 0),
    ("nvidia_h100_nvl", "h100", 94),
    ("h100-96", "h100", 96),
    ("H800", "h800", 0),
    ("nvidia_h200_nvl", "h200", 0),
    ("nvidia_gh200_480gb", "gh200", 0),  # the processor's memory
    ("gb200", "gb200", 0),
    ("b200", "b200", 0),
    ("l4", "l4", 0),
    ("nvidia_l40s", "l40s", 0),
    ("L40", "l40", 0),
    ("nvidia_a10g", "", 0),
    ("nvidia_a30", "a30", 0),
    ("tesla_v100-sxm2-32gb", "v100", 32),
    ("v100-16", "v100", 16),
    ("v100l", "v100", 32),
    ("tesla_t4", "t4", 0),
    ("k80", "k80", 0),
    ("mi250x", "mi250x", 0),
    ("MI250", "mi250", 0),
    ("mi300a", "mi300a", 0),
    ("amd_instinct_mi300x", "mi300x", 0),
    ("rtx_a6000", "a6000", 0),
    ("nvidia_rtx_a6000", "a6000", 0),
    ("nvidia_rtx_6000_ada_generation", "rtx6000ada", 0),
    ("nvidia_geforce_rtx_2080_ti", "rtx2080ti", 0),
    ("rtx3090", "rtx3090", 0),
    ("quadro_rtx_8000", "rtx8000", 0),
    ("nvidia_rtx_pro_6000_blackwell_server_edition", "rtxpro6000", 0),
    ("tesla", "", 0),
    ("ampere", "", 0),
    ("full", "", 0),
    ("GPU_SKU:A100_SXM4", "a100", 0),
    ("GPU_MEM:80GB", "", 80),
    ("gpu80", "", 80),
]
"""Name, model, memory in GB."""
SLICES = [
    ("a100_1g.5gb", "a100", 1, 5),
    ("A100_1g.10gb", "a100", 1, 10),
    ("a100-3g", "a100", 3, 0),
    ("a100_3g.20gb", "a100", 3, 20),
    ("a100l.2g.20gb", "a100", 2, 20),
    ("a100-mig-3g.20gb", "a100", 3, 20),
    ("a100_80gb_pcie_2g.20gb", "a100", 2, 20),
    ("nvidia_a100_1g.5gb", "a100", 1, 5),
    ("nvidia_h100_80gb_hbm3_3g.40gb", "h100", 3, 40),
    ("nvidia_h100_nvl_1g.24gb", "h100", 1, 24),
    ("h100_1g.12gb", "h100", 1, 12),
    ("h100_pcie_2g.20gb", "h100", 2, 20),
    ("h100_7g.80gb", "h100", 7, 80),
    ("nvidia_h200_2g.35gb", "h200", 2, 35),
    ("1g.10gb", "", 1, 10),
    ("1g.10gb+me", "", 1, 10),
    ("mig-1g.5gb", "", 1, 5),
    ("mig3g20gb", "", 3, 20),
    ("1c.3g.20gb", "", 1, 20),
    ("a30_2g.12gb", "a30", 2, 12),
    ("a100_10g", "a100", 0, 10),
    ("a100_20gb", "a100", 0, 20),
    ("mig_24gb", "", 0, 24),
]
"""Name, model, compute slices, memory in GB; 0 where the name does not say."""


@pytest.mark.parametrize(("name", "model", "memory"), WHOLE)
def test_a_whole_gpu_s_name_says_model_and_memory(name: str, model: str, memory: int) -> None:
    found = parse_gpu_kind(name)
    assert (found.model, found.memory_gb, found.is_part, found.share) == (model, memory, False, 1.0)


@pytest.mark.parametrize(("name", "model", "units", "memory"), SLICES)
def test_a_slice_s_name_is_never_that_of_a_whole_gpu(name: str, model: str, units: int, memory: int) -> None:
    found = parse_gpu_kind(name)
    assert (found.model, found.is_part, found.slice_units, found.slice_gb) == (model, True, units, memory)
    for whole in ("a100", "a100-40", "h100", "h200", "a30", "tesla"):
        assert rank_gpu_kind(parse_gpu_kind(whole), found) is None
        assert rank_gpu_kind(found, parse_gpu_kind(whole)) is None


def test_a_part_has_the_share_that_its_name_tells_and_else_none() -> None:
    shares = {"a100_1g.5gb": 1 / 7, "h100_7g.80gb": 1, "a30_2g.12gb": 0.5, "a100-shard.3of4": 0.75}
    assert {name: parse_gpu_kind(name).share for name in shares} == shares
    for silent in ("1g.10gb", "a100_10g", "mig_24gb", "shard", "shard:a100", "mps"):
        assert parse_gpu_kind(silent).share is None
    assert parse_gpu_kind("a100-shard.5of4") == GpuKind(name="a100-shard.5of4", model="a100")


@pytest.mark.parametrize(
    ("asked", "offered", "rank"),
    [
        ("a100", "a100", EXACT),
        ("a100", "A100", EXACT),
        ("a100", "a100l", SAME_MEMORY),
        ("a100", "nvidia_a100-sxm4-80gb", SAME_MEMORY),
        ("a100", "a100_pcie", SIZE_NOT_SAID),
        ("a100", "a100-sxm4-40gb", LESS_MEMORY),
        ("a100", "", UNTYPED),
        ("a100", "a10", None),
        ("a100", "tesla", None),
        ("a100-40", "A100_40GB", SAME_MEMORY),
        ("a100-40", "a100", SIZE_NOT_SAID),
        ("a100-40", "a100_80gb", None),
        ("h100", "nvidia_h100_nvl", MORE_MEMORY),
        ("h100", "h100-96", MORE_MEMORY),
        ("h100", "h200", None),
        ("l40s", "l40", None),
        ("v100", "v100-16", LESS_MEMORY),
        ("v100-16", "tesla_v100-sxm2-32gb", None),
        ("mi250x", "mi250", None),
        ("tesla", "TESLA", EXACT),
        ("a100-1g.10gb", "a100_1g.10gb", SAME_MEMORY),
        ("a100-1g.10gb", "1g.10gb", SIZE_NOT_SAID),
        ("a100-1g.10gb", "a100-1g", SIZE_NOT_SAID),
        ("a100-1g.10gb", "a100_10g", SIZE_NOT_SAID),
        ("a100-1g.10gb", "mig_24gb", None),
        ("a100-1g.10gb", "a100_1g.5gb", None),
        ("a100-1g.10gb", "h100_1g.10gb", None),
        ("a100-1g.10gb", "a100_2g.10gb", None),
        ("a100-1g.10gb", "", None),
    ],
)
def test_a_site_s_kind_serves_for_the_asked_one_by_rank(asked: str, offered: str, rank: int | None) -> None:
    assert rank_gpu_kind(parse_gpu_kind(asked), parse_gpu_kind(offered)) == rank
