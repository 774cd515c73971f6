"""Slices and shards are types with factors of their own, and no name makes a part count as a whole GPU."""

from pathlib import Path

import pytest
import yaml

from jobs.slurm.site.gpu_kinds import MODELS, SLICE_UNITS, USUAL_SLICE_UNITS, parse_gpu_kind
from sweep.catalog import FOLDER, GpuType, load_catalog
from sweep.catalog.gpu_parts import GpuTable, find_factor
from sweep.errors import SweepFileError


def list_slices() -> list[GpuType]:
    gpus = load_catalog().gpus
    assert isinstance(gpus, GpuTable)
    names = [
        f"{parse_gpu_kind(name).model}-{profile}" for name, slices in gpus.slices.items() for profile in slices.memory
    ]
    return [gpus[name] for name in names]


def test_every_slice_is_its_share_of_a_whole_gpu() -> None:
    found = list_slices()
    assert len(found) == 42
    for part in found:
        whole = load_catalog().gpus[part.part_of]
        units = int(part.name.partition("-")[2][0])
        assert part.factor == pytest.approx(whole.factor * units / 7)
        assert part.peak_tflops == pytest.approx((whole.peak_tflops or 0) * units / 7)
        assert 0 < part.memory_gib <= whole.memory_gib
        assert part.source.startswith(f"{units} of 7 compute slices")
        assert part.cpus >= 1


def test_profiles_have_the_memory_that_their_name_says() -> None:
    gpus = load_catalog().gpus
    assert (gpus["a100-1g.5gb"].memory_gib, gpus["h200-2g.35gb"].memory_gib) == (4.5, 31.5)
    assert (gpus["a100-1g.5gb"].part_of, gpus["a100-3g.40gb"].part_of) == ("a100-40", "a100")
    assert gpus["a100-7g.80gb"].factor == 1


def test_shards_are_an_equal_part_of_everything() -> None:
    part = load_catalog().gpus["h100-shard.1of4"]
    assert (part.factor, part.cpus, part.host_memory_gib, part.part_of) == (2.9 / 4, 3, 30, "h100")


@pytest.mark.parametrize(
    "name",
    ["a100-1g.7gb", "a100-8g.80gb", "A100-1g.10gb", "1g.10gb", "l40s-1g.10gb", "a100-shard.5of4", "cpu-shard.1of2"],
)
def test_parts_that_are_not_sold_are_no_types(name: str) -> None:
    assert name not in load_catalog().gpus


def test_whole_types_alone_are_listed_and_the_two_tables_of_memory_agree() -> None:
    gpus = load_catalog().gpus
    assert not any(each.part_of for each in gpus.values())
    for name, gpu in gpus.items():
        if gpu.is_gpu:
            kind = parse_gpu_kind(name)
            assert kind.model in MODELS
            assert gpu.memory_gib == pytest.approx(kind.usual_memory_gb, rel=0.08)
    assert isinstance(gpus, GpuTable)
    for name, slices in gpus.slices.items():
        assert slices.units == SLICE_UNITS.get(parse_gpu_kind(name).model, USUAL_SLICE_UNITS)


@pytest.mark.parametrize(
    ("allocated", "asked", "factor"),
    [
        ("", "a100", 1),
        ("", "a100-1g.10gb", 1 / 7),
        ("a100", "a100", 1),
        ("nvidia_a100-sxm4-80gb", "a100", 1),
        ("a100_80gb", "a100-40", 1),
        ("a100_1g.5gb", "a100", 1 / 7),
        ("a100-3g", "a100", 3 / 7),
        ("1g.10gb", "a100", 1 / 7),
        ("h100_1g.12gb", "a100", 2.9 / 7),
        ("h100_7g.80gb", "h100", 2.9),
        ("nvidia_h100_nvl", "a100", 2.9),
        ("a100", "a100-1g.10gb", 1),
        ("1g.10gb", "a100-1g.10gb", 1 / 7),
        ("a100_10g", "a100-1g.10gb", 1 / 7),  # as the job says
        ("a100_40g", "a100-3g.40gb", 3 / 7),
        ("tesla", "a100", 1),  # a name that says nothing
        ("tesla", "a100-1g.10gb", 1 / 7),
        ("shard", "a100-shard.1of4", 1 / 4),
        ("shard:a100", "a100-shard.1of4", 1 / 4),
        ("a100_10g", "a100", None),
        ("mig_24gb", "a100", None),
        ("shard", "a100", None),
        ("mps", "a100", None),
        ("v100", "a100", None),
        ("a30_2g.12gb", "a100", None),
        ("", "v100", None),
    ],
)
def test_what_was_allocated_has_its_own_factor_or_none(allocated: str, asked: str, factor: float | None) -> None:
    found = find_factor(load_catalog().gpus, allocated, asked)
    assert found == (None if factor is None else pytest.approx(factor))


@pytest.mark.parametrize(
    ("slices", "says"),
    [
        ({"x100": {"units": 7, "memory": {"1g.5gb": 0.1}, "source": "s"}}, "slices.x100: there is no GPU type"),
        ({"a100": {"units": 7, "memory": {"1g": 0.1}, "source": "s"}}, "'1g' is no profile such as 1g.10gb"),
        ({"a100": {"units": 7, "memory": {"8g.80gb": 1}, "source": "s"}}, "'8g.80gb' is no profile"),
        ({"a100": {"units": 7, "memory": {"1g.5gb": 2}, "source": "s"}}, "1g.5gb: 2 is not a number above 0"),
    ],
)
def test_a_wrong_slice_in_the_data_is_refused(tmp_path: Path, slices: object, says: str) -> None:
    for path in FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = yaml.safe_load((FOLDER / "gpus.yaml").read_text())
    (tmp_path / "gpus.yaml").write_text(yaml.safe_dump({**content, "slices": slices}))
    with pytest.raises(SweepFileError, match=says.replace("(", r"\(")):
        load_catalog(tmp_path)
