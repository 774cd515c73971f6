"""Parts of GPUs as types of their own, and what one hour of an allocated kind counts (`slices` of gpus.yaml).

A part is never a whole GPU: a MIG slice has the share of its compute slices, shards have theirs, and what a name does
not tell has no factor at all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from jobs.slurm.site.gpu_kinds import GpuKind, parse_gpu_kind, rank_gpu_kind
from sweep.catalog.entries import GpuType

SLICE_USABLE = 0.9
"""C: of a profile's GB, what programs find in GiB; the driver keeps more of a slice than of a whole GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceProfiles:
    """The MIG slices of one GPU type."""

    name: str
    """The whole type's."""
    units: int
    """Compute slices of the whole GPU."""
    memory: Mapping[str, float]
    """Profile (`1g.10gb`) to its share of the GPU's memory."""
    source: str


@dataclass(frozen=True, slots=True)
class GpuTable(Mapping[str, GpuType]):
    """GPU types by name. Listed are whole ones; `a100-1g.10gb` and `a100-shard.1of4` are found as well."""

    whole: Mapping[str, GpuType]
    slices: Mapping[str, SliceProfiles]

    def __getitem__(self, name: str) -> GpuType:
        found = self.whole.get(name) or self.find_part(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole)

    def __len__(self) -> int:
        return len(self.whole)

    def find_part(self, name: str) -> GpuType | None:
        """The type of a slice or of shards; None where the name is none of them."""
        kind = parse_gpu_kind(name)
        if kind.shards:
            whole = self.whole.get(name.rpartition("-shard.")[0])
            return build_shards(whole, kind) if whole is not None and whole.is_gpu else None
        profile = f"{kind.slice_units}g.{kind.slice_gb}gb"
        if not kind.slice_units or name != f"{kind.model}-{profile}":
            return None
        for type_name, slices in self.slices.items():
            if parse_gpu_kind(type_name).model == kind.model and profile in slices.memory:
                return build_slice(self.whole[type_name], slices, kind)
        return None


# Why: docs/decisions.md, D122
def find_allocated_type(gpus: Mapping[str, GpuType], allocated: str, asked: str) -> tuple[GpuType, float] | None:
    """The type of what a cluster allocated, by its own name, to a job that asked for a type of ours, and which share of
    one of it that is.

    None: nobody knows. A name that says nothing (`tesla`) counts as what was asked for.
    """
    wanted, kind = parse_gpu_kind(asked), parse_gpu_kind(allocated)
    own = gpus.get(asked)
    if is_as_asked(kind, wanted):
        return (own, 1.0) if own is not None else None
    share = kind.share if kind.model else replace(kind, model=wanted.model).share
    model = kind.model or wanted.model
    whole = next((each for name, each in gpus.items() if parse_gpu_kind(name).model == model), None)
    return (whole, share) if model and whole is not None and share is not None else None


def find_factor(gpus: Mapping[str, GpuType], allocated: str, asked: str) -> float | None:
    """A100-hours of one hour of what was allocated, as `find_allocated_type` has it; None: nobody knows."""
    found = find_allocated_type(gpus, allocated, asked)
    return found[0].factor * found[1] if found is not None else None


def is_as_asked(kind: GpuKind, wanted: GpuKind) -> bool:
    """Whether the allocated kind may be the very one that the job asked for."""
    if wanted.shards:
        return kind.is_part and not kind.slice_units and not kind.slice_gb
    says_nothing = not kind.model and not kind.is_part
    # a site's `a100_40g` may be its name of the slice 3g.40gb, where the job says that it asks for one
    by_memory = 0 < wanted.slice_gb == kind.memory_gb and not kind.is_part and kind.model == wanted.model
    return says_nothing or by_memory or rank_gpu_kind(wanted, kind) is not None


# Why: docs/decisions.md, D123
def build_slice(whole: GpuType, slices: SliceProfiles, kind: GpuKind) -> GpuType:
    """A MIG slice of the type."""
    memory = slices.memory[f"{kind.slice_units}g.{kind.slice_gb}gb"]
    part = scale_type(whole, kind.slice_units / slices.units, memory)
    return replace(
        part,
        name=kind.name,
        memory_gib=min(kind.slice_gb * SLICE_USABLE, whole.memory_gib),
        source=f"{kind.slice_units} of {slices.units} compute slices and {memory:g} of the memory of {whole.name}: "
        f"{slices.source}",
    )


def build_shards(whole: GpuType, kind: GpuKind) -> GpuType:
    """Shards of the type, as if each took an equal part of everything."""
    share = kind.shards / kind.shards_of
    source = f"{kind.shards} of the {kind.shards_of} shards into which the site divides one {whole.name}"
    return replace(scale_type(whole, share, share), name=kind.name, source=source)


def scale_type(whole: GpuType, compute: float, memory: float) -> GpuType:
    """A type with these shares of another one's compute and memory."""
    return replace(
        whole,
        part_of=whole.name,
        factor=whole.factor * compute,
        cpus=max(1, round(whole.cpus * compute)),
        host_memory_gib=round(whole.host_memory_gib * memory, 1),
        peak_tflops=(whole.peak_tflops or 0.0) * compute,
        memory_gib=whole.memory_gib * memory,
        bandwidth_gbs=whole.bandwidth_gbs * memory,
    )
