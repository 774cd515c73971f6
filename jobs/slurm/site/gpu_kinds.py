"""What the names of GPUs say: model, memory, and whether the whole device or a part of it is meant. Pure.

A site gives its GPUs any names it likes (gres.conf(5)): `a100`, `A100_40GB`, `nvidia_h100_80gb_hbm3_3g.40gb`,
`1g.10gb`, `full`. What a name does not say stays unknown here, and is never filled in with what is usual.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

# Why: docs/decisions.md, D121
MODELS: Mapping[str, tuple[int, ...]] = {
    "a100": (80, 40, 64),
    "a800": (80, 40),
    "h100": (80, 94, 96, 64),
    "h800": (80,),
    "h20": (96, 141),
    "h200": (141, 140),
    "gh200": (96, 144),
    "b200": (180, 192),
    "gb200": (186, 189, 192),
    "b300": (288, 270),
    "gb300": (288, 279),
    "a2": (16,),
    "a10": (24,),
    "a16": (16,),
    "a30": (24,),
    "a40": (48,),
    "l4": (24,),
    "l40": (48,),
    "l40s": (48,),
    "v100": (32, 16),
    "v100s": (32,),
    "p100": (16, 12),
    "p40": (24,),
    "t4": (16,),
    "k40": (12,),
    "k80": (12, 24),
    "m40": (12, 24),
    "m60": (8,),
    "a4000": (16,),
    "a4500": (20,),
    "a5000": (24,),
    "a6000": (48,),
    "rtx5000": (16,),
    "rtx6000": (24,),
    "rtx6000ada": (48,),
    "rtx8000": (48,),
    "rtx2080": (8,),
    "rtx2080ti": (11, 22),
    "rtx3080": (10, 12),
    "rtx3090": (24,),
    "rtx4090": (24,),
    "rtx5090": (32,),
    "rtxpro6000": (96,),
    "titanrtx": (24,),
    "titanv": (12,),
    "titanx": (12,),
    "titanxp": (12,),
    "mi50": (16, 32),
    "mi60": (32,),
    "mi100": (32,),
    "mi210": (64,),
    "mi250": (64, 128),
    "mi250x": (64, 128),
    "mi300a": (128,),
    "mi300x": (192,),
    "mi325x": (256,),
    "mi355x": (288,),
}
"""Models, with the sizes in GB that they are sold in; what a bare name means comes first. Of an MI250 Slurm counts the
two halves. Source: the makers' datasheets."""

OTHER_NAMES: Mapping[str, tuple[str, int]] = {
    "a100l": ("a100", 80),
    "a100x": ("a100", 80),
    "h100nvl": ("h100", 94),
    "v100l": ("v100", 32),
    "p100l": ("p100", 16),
    "rtxa4000": ("a4000", 0),
    "rtxa4500": ("a4500", 0),
    "rtxa5000": ("a5000", 0),
    "rtxa6000": ("a6000", 0),
    "rtx6000adageneration": ("rtx6000ada", 0),
    "quadrortx6000": ("rtx6000", 0),
    "quadrortx8000": ("rtx8000", 0),
}
"""Names that sites give to a model, with the memory that goes with the name (0: none). Letters after `a100` and `v100`
are those of Mila and of the Digital Research Alliance of Canada."""

SLICE_UNITS: Mapping[str, int] = {"a30": 4, "rtxpro6000": 4}
"""Compute slices of a whole GPU, where they are not the usual 7. Source: NVIDIA Multi-Instance GPU user guide."""
USUAL_SLICE_UNITS = 7

FORM = r"(?:sxm\d?|pcie|nvl|nvlink|hbm\d?e?|x\d)?"
SLICE = re.compile(
    r"(?<![a-z0-9])(?:mig[-_.:]?)?(?:([1-7])c[._-])?([1-7])g(?:[._-]?(\d{1,3})(?:gb?)?)?(?:\+[a-z0-9.]+)?(?![a-z0-9])"
)
"""An NVIDIA profile, `1g.5gb`; sites cut it to `1g`, put `mig` before it, and part it by other signs. Of `1c.3g.20gb`
the compute instance (`1c`) is what a job gets."""
SHARDS = re.compile(r"(?P<model>.+)-shard\.(?P<shards>[1-9]\d{0,3})of(?P<of>[1-9]\d{0,3})")
"""Our own name for some of the shards that a GPU is divided into: `a100-shard.1of4`."""
SHARED = frozenset({"shard", "mps"})
"""Generic resources that are shares of a GPU (gres.html of Slurm's documentation)."""
USABLE = 0.98
"""Of a GPU's GB, what programs find in GiB: an A100 of 80 GB reports 79.2, of 40 GB 39.4."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuKind:
    """What a name says. Empty and 0: it does not."""

    name: str = ""
    model: str = ""
    memory_gb: int = 0
    """Of the whole GPU."""
    is_part: bool = False
    """A MIG slice, a shard or a share by MPS: never the whole GPU."""
    slice_units: int = 0
    """Compute slices of a MIG slice."""
    slice_gb: int = 0
    """Memory of a MIG slice."""
    shards: int = 0
    shards_of: int = 0
    """Shards that the GPU is divided into."""

    @property
    def usual_memory_gb(self) -> int:
        """What the name means where it says nothing of memory."""
        return self.memory_gb or next(iter(MODELS.get(self.model, ())), 0)

    @property
    def share(self) -> float | None:
        """Of the whole GPU's compute; None for a part whose name does not tell."""
        if not self.is_part:
            return 1.0
        if self.shards:
            return self.shards / self.shards_of
        if not self.model or not self.slice_units:
            return None
        return self.slice_units / SLICE_UNITS.get(self.model, USUAL_SLICE_UNITS)

    @property
    def certain_memory_gb(self) -> int:
        """Of the whole GPU, where the name says it or the model has one size alone; else 0."""
        sizes = MODELS.get(self.model, ())
        return self.memory_gb or (sizes[0] if len(sizes) == 1 else 0)


@lru_cache(1024)
def parse_gpu_kind(name: str) -> GpuKind:
    """What a type's name says: of a GRES, of AllocTRES, of a sweep file, or a node feature."""
    text = name.lower()
    if text.partition(":")[0] in SHARED:
        return GpuKind(name=name, model=parse_gpu_kind(name[len(text.partition(":")[0]) + 1 :]).model, is_part=True)
    if (found := SHARDS.fullmatch(text)) and 0 < int(found["shards"]) <= int(found["of"]):
        whole = parse_gpu_kind(found["model"])
        return GpuKind(
            name=name,
            model=whole.model,
            memory_gb=whole.memory_gb,
            is_part=True,
            shards=int(found["shards"]),
            shards_of=int(found["of"]),
        )
    profile = SLICE.search(text)
    rest = f"{text[: profile.start()]} {text[profile.end() :]}" if profile else text
    words = re.findall(r"[a-z0-9]+", rest)
    model, said, left = find_model(words)
    sizes = list(iter_sizes(left, bare=bool(model)))
    memory = said or next((size for size in sizes if size in MODELS.get(model, (size,))), 0)
    if profile:
        units, gigabytes = profile[1] or profile[2], int(profile[3] or 0)
        return GpuKind(
            name=name, model=model, memory_gb=memory, is_part=True, slice_units=int(units), slice_gb=gigabytes
        )
    # less memory than any such GPU has (`a100_10g`, `mig_24gb`): a part, of which nobody says how much compute it has
    smallest = min(MODELS.get(model, (0,)))
    small = next((size for size in sizes if size < smallest), 0)
    if "mig" in words or small:
        return GpuKind(name=name, model=model, memory_gb=memory, is_part=True, slice_gb=small or (sizes or [0])[0])
    return GpuKind(name=name, model=model, memory_gb=memory)


def find_model(words: list[str]) -> tuple[str, int, list[str]]:
    """The model that some neighbouring words name together, the memory that goes with that name, the other words."""
    for length in range(min(4, len(words)), 0, -1):
        for start in range(len(words) - length + 1):
            joined = "".join(words[start : start + length])
            left = words[:start] + words[start + length :]
            if joined in MODELS:
                return joined, 0, left
            if joined in OTHER_NAMES:
                return *OTHER_NAMES[joined], left
    for word in words:  # written together with a size or a form: a10080gb, h100sxm5
        for model in sorted((*MODELS, *OTHER_NAMES), key=len, reverse=True):
            match = re.fullmatch(rf"{model}{FORM}(\d{{2,3}}gb?)?{FORM}", word)
            if match:
                own, memory = OTHER_NAMES.get(model, (model, 0))
                return own, memory, [other for other in words if other != word] + ([match[1]] if match[1] else [])
    return "", 0, words


def iter_sizes(words: list[str], *, bare: bool) -> Iterator[int]:
    """Numbers of GB among the words; `bare`: also without a unit, as in `a100-40`."""
    for word in words:
        match = re.fullmatch(r"(?:gpu|gpumem|gmem|vram|mem)?(\d{2,3})(?:gb?)" + ("?" if bare else ""), word)
        match = match or re.fullmatch(r"(?:gpu|gpumem|gmem|vram)(\d{2,3})", word)
        if match:
            yield int(match[1])


# Whether a site's kind can serve a job that asks for another name.

EXACT, SAME_MEMORY, SIZE_NOT_SAID, MORE_MEMORY, LESS_MEMORY, UNTYPED = range(6)
REASONS: Mapping[int, str] = {
    EXACT: "its exact name",
    SAME_MEMORY: "same model and memory",
    SIZE_NOT_SAID: "same model; its name says nothing of memory",
    MORE_MEMORY: "same model, with more memory than the plan was made for",
    LESS_MEMORY: "same model, with less memory than the plan was made for",
    UNTYPED: "the site gives its GPUs no type",
}


def rank_gpu_kind(asked: GpuKind, offered: GpuKind) -> int | None:
    """How well a site's kind serves for the asked one, 0 best; None: it is another kind.

    A part is never taken for a whole GPU, nor one part for another.
    """
    if not offered.name:
        return None if asked.is_part else UNTYPED
    if offered.name.lower() == asked.name.lower():
        return EXACT
    if asked.is_part or offered.is_part:
        return rank_part(asked, offered) if asked.is_part and offered.is_part else None
    return rank_memory(asked, offered) if asked.model and asked.model == offered.model else None


def rank_memory(asked: GpuKind, offered: GpuKind) -> int | None:
    """The same for whole GPUs of one model. A size that the asked name states is held to."""
    if not offered.memory_gb:
        return SIZE_NOT_SAID
    if offered.memory_gb == asked.usual_memory_gb:
        return SAME_MEMORY
    if asked.memory_gb:
        return None
    return MORE_MEMORY if offered.memory_gb > asked.usual_memory_gb else LESS_MEMORY


def rank_part(asked: GpuKind, offered: GpuKind) -> int | None:
    """The same for MIG slices; of what the site's name leaves out, anything may be meant."""
    pairs = (
        (asked.model, offered.model),
        (asked.slice_units, offered.slice_units),
        (asked.slice_gb, offered.slice_gb),
    )
    if asked.shards or not asked.slice_units or any(theirs and ours != theirs for ours, theirs in pairs):
        return None
    if not offered.slice_units and not (offered.model and offered.slice_gb):
        return None
    return SAME_MEMORY if all(theirs for _, theirs in pairs) else SIZE_NOT_SAID
