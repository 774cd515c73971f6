"""Which of a site's GPUs a job asks for, and why. Pure.

Ranked: the exact name, the same model and memory, the same model, GPUs without a type.

What cannot be told is asked of the user, in one line that says what to write. An own request among `options` goes
unjudged.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

from jobs.job import Job, Resources
from jobs.slurm.sbatch_options import has_gpu_options, list_requested_kinds
from jobs.slurm.site.gpu_kinds import (
    EXACT,
    MODELS,
    REASONS,
    UNTYPED,
    USABLE,
    GpuKind,
    parse_gpu_kind,
    rank_gpu_kind,
)
from jobs.slurm.site.limits import find_job_partitions
from jobs.slurm.site.site import NodeShape, Partition, Site

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuChoice:
    """What to ask sbatch for."""

    kind: str | None = None
    """The site's own name, empty where its GPUs have none; None: as the plan says, since nothing is known."""
    text: str = ""
    """The choice and its reason, in one line; empty where there is nothing to say."""
    problem: str = ""
    """Why the job may not be sent as it is, with what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOffer:
    """Alike nodes of a partition that have enough GPUs of one kind."""

    partition: str
    shape: NodeShape
    kind: GpuKind
    rank: int | None
    memory_gb: int
    """Of each GPU, by its name or by a feature of the nodes; 0: not known."""


# Why: docs/decisions.md, D120
def choose_gpus(job: Job, site: Site) -> GpuChoice:
    """The site's kind of GPUs for the job. Asked again and again for thousands of jobs: the site keeps the answers."""
    asked = job.resources
    if not asked.gpus_per_node:
        return GpuChoice()
    if has_gpu_options(asked.options):
        return GpuChoice(text=describe_own_request(asked))
    options = tuple(sorted(asked.options.items()))
    shape = (asked.gpu_type, asked.gpus_per_node, asked.nodes, options, job.estimate.gpu_memory_bytes)
    if shape not in site.known_gpu_choices:
        site.known_gpu_choices[shape] = find_choice(job, site)
    return cast(GpuChoice, site.known_gpu_choices[shape])


def find_choice(job: Job, site: Site) -> GpuChoice:
    """The same, worked out."""
    asked, constraint = job.resources, job.resources.options.get("constraint", "")
    partitions = [select_partition_nodes(each, constraint) for each in find_job_partitions(job, site)]
    if not any(each.shapes for each in find_job_partitions(job, site)):
        return GpuChoice()
    wanted = parse_gpu_kind(asked.gpu_type)
    if wanted.shards:
        return choose_shards(wanted, partitions)
    offers = [offer for each in partitions for offer in iter_offers(asked, wanted, each)]
    return choose_among(job, wanted, offers, partitions)


def choose_among(job: Job, wanted: GpuKind, offers: Sequence[GpuOffer], partitions: Sequence[Partition]) -> GpuChoice:
    """The best of the kinds that serve, or why there is none."""
    asked, need_gib = job.resources, job.estimate.gpu_memory_bytes / GIB
    kinds: dict[str, list[GpuOffer]] = {}
    for offer in drop_doubtful_sizes(wanted, offers):
        if offer.rank is not None:
            kinds.setdefault(offer.kind.name, []).append(offer)
    if not kinds:
        return GpuChoice(problem=explain_missing(asked, wanted, partitions))
    large = {
        name: fitting
        for name, found in kinds.items()
        if (fitting := [o for o in found if not is_small(o, wanted, need_gib)])
    }
    if not large:
        return GpuChoice(problem=explain_small(asked, wanted, kinds, need_gib))
    doubtful = {name for name, found in large.items() if has_doubtful_memory(wanted, found, need_gib)}

    def place(name: str) -> tuple[bool, int]:
        return name in doubtful, min(cast(int, offer.rank) for offer in large[name])

    order = sorted(large, key=lambda name: (*place(name), -count_nodes(large[name]), name))
    best = order[0]
    equal = [name for name in order[1:] if place(name) == place(best)]
    if best in doubtful and equal:
        return GpuChoice(
            problem=explain_ambiguity(
                asked, [best, *equal], f"it needs {need_gib:.0f} GiB on each GPU, and no name says which has that"
            )
        )
    others = [offer for offer in offers if offer.kind.name != best and offer not in large[best]]
    problem = find_constraint_problem(wanted, kinds[best], fitting=large[best], others=others, need_gib=need_gib)
    most = max(
        count_nodes([o for o in large[best] if o.partition == each]) for each in {o.partition for o in large[best]}
    )
    if not problem and most < asked.nodes:
        problem = (
            f"{format_partitions(large[best])} has {format_nodes(most)} with {best or 'gpu'}:{asked.gpus_per_node}, "
            f"and a job asks for {asked.nodes}; lower nodes"
        )
    if problem:
        return GpuChoice(problem=problem)
    return GpuChoice(
        kind=best,
        text=describe_choice(asked, wanted, large[best], doubtful=best in doubtful, beside=[n for n in order[1:] if n]),
    )


def describe_own_request(asked: Resources) -> str:
    """That the user's own options ask for another kind than the plan is made for; empty where they do not."""
    wanted = parse_gpu_kind(asked.gpu_type)
    names = [word.partition("=")[0] for word in list_requested_kinds(asked.options).split(",")]
    kinds = [parse_gpu_kind(name) for name in filter(None, names)]
    other = [each for each in kinds if (each.model or each.is_part) and rank_gpu_kind(wanted, each) is None]
    if not other or (wanted.shards and other[0].is_part):
        return ""
    return (
        f"gpu_type {asked.gpu_type}: options ask for {other[0].name}, which is another kind; its hours count as what "
        "it is, and the plan's estimates are wrong: name that kind as gpu_type"
    )


# What there is.


def select_partition_nodes(partition: Partition, constraint: str) -> Partition:
    """The partition with those nodes alone whose features satisfy the constraint."""
    return replace(partition, shapes=tuple(each for each in partition.shapes if is_admitted(each.features, constraint)))


def iter_offers(asked: Resources, wanted: GpuKind, partition: Partition) -> Iterator[GpuOffer]:
    """All kinds of GPUs on nodes that have enough of them together; rank None: they do not serve, or are too few."""
    for shape in partition.shapes:
        if sum(shape.gpus.values()) < asked.gpus_per_node:
            continue
        for name, count in shape.gpus.items():
            kind = parse_gpu_kind(name)
            rank = (None if kind.is_part else EXACT) if not wanted.name else rank_gpu_kind(wanted, kind)
            if not name and (sliced := find_slice_feature(shape)):
                kind, rank = sliced, None
            memory = kind.certain_memory_gb or find_feature_memory(shape, kind.model or wanted.model)
            rank = rank if count >= asked.gpus_per_node else None
            yield GpuOffer(partition=partition.name, shape=shape, kind=kind, rank=rank, memory_gb=memory)


def find_slice_feature(shape: NodeShape) -> GpuKind | None:
    """The slices that a feature names (`mig`, `1g.10gb`); `1g` alone may be a network's."""
    named = (parse_gpu_kind(each) for each in sorted(shape.features))
    return next((each for each in named if each.is_part and (each.slice_gb or "mig" in each.name.lower())), None)


def find_feature_memory(shape: NodeShape, model: str) -> int:
    """GB of each GPU of the model, as a feature says (`a100_80gb`, `gpu80`); 0 where none does, or several do."""
    named = [parse_gpu_kind(each) for each in shape.features if re.search(r"\d", each)]
    sizes = {
        kind.memory_gb
        for kind in named
        if kind.memory_gb in MODELS.get(model, ())
        and (kind.model == model or (not kind.model and re.search("gpu|vram", kind.name.lower())))
    }
    return sizes.pop() if len(sizes) == 1 else 0


def drop_doubtful_sizes(wanted: GpuKind, offers: Sequence[GpuOffer]) -> list[GpuOffer]:
    """Without kinds that may be slices: where a site names slices by memory (`a100_10g`), `a100_40g` may be one too."""
    by_memory = any(o.kind.is_part and not o.kind.slice_units and o.kind.model == wanted.model for o in offers)
    largest = max(MODELS.get(wanted.model, (0,)))
    return [
        offer
        for offer in offers
        if not by_memory or wanted.is_part or offer.rank == EXACT or not 0 < offer.kind.memory_gb < largest
    ]


def is_small(offer: GpuOffer, wanted: GpuKind, need_gib: float) -> bool:
    """Whether the plan's jobs do not fit, as the GPU has less memory than it was planned with."""
    return 0 < offer.memory_gb < wanted.usual_memory_gb and need_gib > offer.memory_gb * USABLE


def has_doubtful_memory(wanted: GpuKind, offers: Iterable[GpuOffer], need_gib: float) -> bool:
    """Whether some GPUs may have less memory than the job needs: their size is not said, and there are small ones."""
    smallest = min(MODELS.get(wanted.model, (0,)))
    planned = wanted.is_part or wanted.memory_gb
    return not planned and need_gib > smallest * USABLE and any(not offer.memory_gb for offer in offers)


def count_nodes(offers: Iterable[GpuOffer]) -> int:
    """Nodes of all the offers."""
    return sum(offer.shape.nodes for offer in offers)


# Nodes between which only a constraint decides.


def find_constraint_problem(
    wanted: GpuKind,
    found: Sequence[GpuOffer],
    *,
    fitting: Sequence[GpuOffer],
    others: Sequence[GpuOffer],
    need_gib: float,
) -> str:
    """Why the request would not keep to the right nodes, and the constraint that would; empty where it does.

    `found`: nodes with GPUs of the chosen name, `fitting`: those with enough memory, `others`: nodes with other GPUs.
    """
    name, where = fitting[0].kind.name or "gpu", format_partitions(found)
    if small := [offer for offer in found if offer not in fitting]:
        sizes = ", ".join(f"{size} GB" for size in sorted({offer.memory_gb for offer in found if offer.memory_gb}))
        return (
            f"{name} of {where} has {sizes} by the nodes' features, and a job needs {need_gib:.0f} GiB on each GPU; "
            f"{describe_remedy(wanted, fitting, small)}"
        )
    if fitting[0].rank != UNTYPED:
        return ""
    # a request without a type is given any GPU that a node has, slices included
    if typed := [offer for offer in others if offer.kind.name]:
        names = ", ".join(sorted({offer.kind.name for offer in typed}))
        return (
            f"some nodes of {where} have GPUs without a type and others {names}, and Slurm would give a job either; "
            f"{describe_remedy(wanted, fitting, typed)}"
        )
    named = [offer for offer in fitting if wanted.model in list_feature_models(offer.shape)]
    foreign = [offer for offer in fitting if offer not in named and list_feature_models(offer.shape)]
    if named and foreign:
        there = ", ".join(sorted({model for offer in fitting for model in list_feature_models(offer.shape)}))
        return (
            f"the GPUs of {where} have no type, and features of its nodes name {there}, so that Slurm would give a job "
            f"any of them; {describe_remedy(wanted, named, foreign)}"
        )
    return ""


def list_feature_models(shape: NodeShape) -> set[str]:
    """Models of GPUs that the nodes' features name."""
    return {model for each in shape.features if (model := parse_gpu_kind(each).model)}


def describe_remedy(wanted: GpuKind, right: Sequence[GpuOffer], wrong: Sequence[GpuOffer]) -> str:
    """What to write so that a job keeps to the right nodes."""
    common = frozenset.intersection(*(offer.shape.features for offer in right))
    telling = common - frozenset().union(*(offer.shape.features for offer in wrong))
    if telling:
        best = min(telling, key=lambda each: (parse_gpu_kind(each).model != wanted.model, len(each), each))
        return f"write constraint: {best}"
    return "choose another partition, or ask for the GPUs by `options`, such as {gres: 'gpu:TYPE:1'}"


def is_admitted(features: frozenset[str], constraint: str) -> bool:
    """Whether a node with the features is one that the constraint admits (sbatch(1)); True where it cannot be read.

    In lists with counts (`[a*2&b*1]`) each node needs one of the features.
    """
    text = constraint.replace(" ", "")
    words = re.findall(r"[A-Za-z0-9._+:=/-]+|[&|()\[\]]", re.sub(r"\*\d+", "", text))
    if not words or "".join(words) != re.sub(r"\*\d+", "", text):
        return True
    if "*" in text:
        return any(word in features for word in words)
    try:
        found, left = read_alternatives(words, lambda word: word in features)
    except IndexError:
        return True
    return found if not left else True


def read_alternatives(words: list[str], holds: Callable[[str], bool]) -> tuple[bool, list[str]]:
    """The truth of `a&b|c`, and the words behind it. IndexError where it breaks off."""
    found, left = read_conjunction(words, holds)
    while left and left[0] == "|":
        other, left = read_conjunction(left[1:], holds)
        found = found or other
    return found, left


def read_conjunction(words: list[str], holds: Callable[[str], bool]) -> tuple[bool, list[str]]:
    """The same of `a&b`, where each may stand in brackets."""
    found = True
    while True:
        if words[0] in {"(", "["}:
            part, left = read_alternatives(words[1:], holds)
            left = left[1:] if left[0] in {")", "]"} else []
        else:
            part, left = holds(words[0]), words[1:]
        found = found and part
        if not left or left[0] != "&":
            return found, left
        words = left[1:]


# Shards.


def choose_shards(wanted: GpuKind, partitions: Sequence[Partition]) -> GpuChoice:
    """Shards of a GPU, if the nodes divide theirs into as many as the plan was priced with."""
    divisions: dict[int, int] = {}
    for shape in (shape for each in partitions for shape in each.shapes):
        gpus = sum(shape.gpus.values())
        kinds = [parse_gpu_kind(name) for name in shape.gpus]
        if shape.shards >= wanted.shards and gpus and all(each.model in {"", wanted.model} for each in kinds):
            divisions[shape.shards // gpus] = divisions.get(shape.shards // gpus, 0) + shape.nodes
    where = ", ".join(each.name for each in partitions)
    if wanted.shards_of in divisions and len(divisions) == 1:
        share = f"{wanted.shards} of the {wanted.shards_of} shards of a GPU"
        return GpuChoice(kind=wanted.name, text=f"gpu_type {wanted.name}: --gres=shard:{wanted.shards} ({share})")
    if not divisions:
        return GpuChoice(
            problem=f"partition {where} has no shards of {wanted.model} (gres/shard); "
            f"write gpu_type: {wanted.model}, or choose another partition"
        )
    counts = " or ".join(str(each) for each in sorted(divisions))
    return GpuChoice(
        problem=f"a GPU of partition {where} has {counts} shards, and gpu_type {wanted.name} is a part of "
        f"{wanted.shards_of}; write gpu_type: {wanted.model}-shard.{wanted.shards}of{min(divisions)}"
    )


# Words.


def describe_choice(
    asked: Resources, wanted: GpuKind, offers: Sequence[GpuOffer], *, doubtful: bool, beside: Sequence[str]
) -> str:
    """`gpu_type a100: --gres=gpu:a100_80gb:8 (same model and memory; 4 nodes of partition main)`, and what to know."""
    best = min(offers, key=lambda offer: cast(int, offer.rank))
    gres = ":".join(filter(None, ("gpu", best.kind.name, str(asked.gpus_per_node))))
    remarks = [REASONS[cast(int, best.rank)], f"{format_nodes(count_nodes(offers))} of {format_partitions(offers)}"]
    if best.rank == UNTYPED:
        named = all(wanted.model in list_feature_models(offer.shape) for offer in offers)
        remarks.append(
            f"features of the nodes name {wanted.model}"
            if named
            else f"nothing there says that they are {asked.gpu_type}"
        )
    if doubtful:
        sizes = " or ".join(f"{size} GB" for size in MODELS[wanted.model])
        remarks.append(f"GPUs of that model have {sizes}, and the plan needs more than the least")
    if beside:
        remarks.append(
            f"{', '.join(beside)} would do too, and is asked for by options: "
            f"{{gres: 'gpu:{beside[0]}:{asked.gpus_per_node}'}}"
        )
    return f"gpu_type {asked.gpu_type or 'any'}: --gres={gres} ({'; '.join(remarks)})"


def format_nodes(number: int) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number} node{'' if number == 1 else 's'}"


def format_partitions(offers: Iterable[GpuOffer]) -> str:
    """`partition main`, `partitions main, long`."""
    names = list(dict.fromkeys(offer.partition for offer in offers))
    return f"partition{'s' if len(names) > 1 else ''} {', '.join(names)}"


def explain_ambiguity(asked: Resources, names: Sequence[str], why: str) -> str:
    """Several kinds are equally good, and the difference matters."""
    requests = " or ".join(f"{{gres: 'gpu:{name}:{asked.gpus_per_node}'}}" for name in names)
    return f"gpu_type {asked.gpu_type} may be {' or '.join(names)} here: {why}; write options: {requests}"


def explain_small(asked: Resources, wanted: GpuKind, kinds: dict[str, list[GpuOffer]], need_gib: float) -> str:
    """All there is has too little memory."""
    sizes = sorted({offer.memory_gb for found in kinds.values() for offer in found})
    there = ", ".join(sorted(name or "gpu" for name in kinds))
    return (
        f"{there} has {' or '.join(map(str, sizes))} GB, and a job planned for {asked.gpu_type} needs {need_gib:.0f} "
        f"GiB on each GPU; write gpu_type: {wanted.model}-{sizes[-1]}, or choose another partition"
    )


def explain_missing(asked: Resources, wanted: GpuKind, partitions: Sequence[Partition]) -> str:
    """The GPUs that are there instead, and what to write to run on them."""
    where = ", ".join(each.name for each in partitions)
    shapes = [shape for each in partitions for shape in each.shapes]
    if not shapes:
        return f"no node of partition {where} satisfies constraint {asked.options.get('constraint', '')}"
    there = sorted({f"{name or 'gpu'}:{count}" for shape in shapes for name, count in shape.gpus.items()})
    has = f"has {', '.join(there)} a node" if there else "has no GPUs"
    found = f"partition {where} {has}, and a job asks for {asked.gpu_type or 'gpu'}:{asked.gpus_per_node}"
    kinds = [parse_gpu_kind(name) for shape in shapes for name in shape.gpus if name]
    slices = list(dict.fromkeys(each for each in kinds if each.is_part and each.model in {"", wanted.model}))
    if slices and not wanted.is_part:
        named = next((each for each in slices if each.slice_units and each.slice_gb), None)
        write = (
            f"gpu_type: {wanted.model}-{named.slice_units}g.{named.slice_gb}gb and gpus_per_node: 1"
            if named
            else f"gpu_type: {wanted.model}-PROFILE (such as {wanted.model}-1g.10gb) and options: "
            f"{{gres: 'gpu:{slices[0].name}:1'}}"
        )
        return f"{found}; a slice is never a whole GPU: to run on slices, write {write}"
    silent = next((each for each in kinds if not each.model and not each.is_part), None)
    if silent:
        return (
            f"{found}; if {silent.name} is that GPU, write options: {{gres: 'gpu:{silent.name}:{asked.gpus_per_node}'}}"
        )
    return f"{found}; write another gpu_type or partition, or lower gpus_per_node"
