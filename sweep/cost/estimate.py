"""What a job costs: FLOPs, GPU-hours, A100-hours, bytes of checkpoints, wall-clock. Pure arithmetic on plain arguments.

Each convention and its source: docs/estimates.md. GPU-hours are FLOPs over the speed that `sweep.cost.speed` states
for the model and the GPU type; A100-hours are GPU-hours times the type's factor.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

from jobs.job import Estimate, Resources
from stages.config import LanguageModel, Vision
from stages.flops import ImageCost, compute_image_cost, count_forward_flops, count_training_flops
from sweep.catalog import GpuType, Placement, TaskEntry
from sweep.cost.speed import Speed
from sweep.errors import SweepError

BYTES_OF_WEIGHT = 4  # fp32
BYTES_OF_TRAINING_STATE = 12  # fp32 weight and AdamW's two moments
MIN_TIME_LIMIT_MINUTES = 10
"""Asked for at least: Slurm may signal a job a whole minute before its time is up (sbatch(1), `--signal`)."""
TIME_MARGIN = 1.25  # C: a job asks for a quarter more than its estimate
SAVE_MINUTES = 10  # C: of each attempt, for saving before the limit and for work since the last checkpoint
RESTORE_MINUTES = 5  # C


FEATURE_MEMORY_GIB = 1.0
"""The stages' own default (`stages.job_file.Settings.feature_cache_gib`): features that a process remembers."""
GIB = 2**30

Lengths = tuple[tuple[int, int], ...]
"""(tokens of text, how many samples have so many), counted; empty where only a mean is known."""


@dataclass(frozen=True, slots=True)
class SourceUse:
    """One data set of a mixture: its share, and the text of its samples where they carry an image."""

    share: float
    with_images: bool = False
    text_tokens: float = 0.0
    """In the mean, without the token that ends a text."""
    lengths: Lengths = ()
    image_share: float = 1.0
    """Of the samples, those that have an image."""
    learned_share: float = 1.0
    """Part of the text's tokens that the model learns to predict."""


@dataclass(frozen=True, slots=True)
class SequenceFill:
    """What a packed sequence holds in the mean."""

    samples: float
    tokens: float
    """Padding left out."""


@cache
def fill_sequences(lengths: Lengths, image_tokens: int, context: int, *, packed: bool) -> SequenceFill:
    """The packer's rule (`stages.data.packing`) on samples of these lengths, in an order of chance, which is fixed.

    Whole samples follow each other until one does not fit; that one begins the next sequence. A longer one is cut.
    """
    samples = [min(context, image_tokens + text) for text, number in lengths for _ in range(number)]
    random.Random(0).shuffle(samples)
    if not packed:
        return SequenceFill(1.0, sum(samples) / len(samples))
    sequences, filled = 1, 0
    for length in samples * (1 + 1_000 // len(samples)):  # a short list would leave its last sequence too empty
        if filled + length > context:
            sequences, filled = sequences + 1, 0
        filled += length
    times = 1 + 1_000 // len(samples)
    return SequenceFill(times * len(samples) / sequences, times * sum(samples) / sequences)


def compute_images_by_source(
    tokens: float,
    sources: Iterable[SourceUse],
    *,
    image_tokens: int,
    context: int,
    share_by: str = "tokens",
    packing: str = "packed",
) -> tuple[float, ...]:
    """Images of each source in a run over `tokens` positions, in sequences of `context`.

    As the pre-training stage packs: a sequence holds whole samples of one source, or one of them (`padded`), and
    padding behind them; text fills its sequences. Shares count tokens without padding, or samples, a text sequence
    being one sample. Samples of one source are taken to have one length, their mean.
    """
    images_of_share: list[float] = []  # for one token, or one sample, of the mixture
    sequences_of_share = 0.0
    for use in sources:
        samples, sequences = count_source_samples(
            use, image_tokens=image_tokens, context=context, share_by=share_by, packing=packing
        )
        sequences_of_share += sequences
        images_of_share.append(samples * use.image_share if use.with_images else 0.0)
    return tuple(tokens / context * images / sequences_of_share for images in images_of_share)


def count_source_samples(
    use: SourceUse, *, image_tokens: int, context: int, share_by: str, packing: str
) -> tuple[float, float]:
    """Samples and sequences of a source in one token, or one sample, of its mixture (`compute_images_by_source`)."""
    fill = estimate_fill(use, image_tokens, context, packed=packing != "padded")
    sequences = use.share / (fill.tokens if share_by == "tokens" else fill.samples)
    return sequences * fill.samples, sequences


def estimate_fill(use: SourceUse, image_tokens: int, context: int, *, packed: bool) -> SequenceFill:
    """What the sequences of a source hold: by the counted lengths, else as if all samples had the mean length."""
    if not use.with_images:
        return SequenceFill(1.0, context)
    if use.lengths:
        return fill_sequences(use.lengths, round(image_tokens * use.image_share), context, packed=packed)
    length = min(context, image_tokens * use.image_share + use.text_tokens)
    samples = int(context / length) if packed else 1
    return SequenceFill(samples, samples * length)


@dataclass(frozen=True, slots=True)
class LossShares:
    """What one data set of a mixture is expected to have, of all data sets' together."""

    sequence: float
    target: float
    """Of the positions with a loss."""
    weight: float
    """Of the loss: its sequences' or its targets' share, by `loss_mean`."""


def compute_loss_shares(
    sources: Sequence[SourceUse], *, image_tokens: int, context: int, share_by: str, packing: str, loss_mean: str
) -> tuple[LossShares, ...]:
    """Of each source, in sequences as `compute_images_by_source` takes them.

    A text sequence has `context` targets. A sample with an image has a target for each token that is learned, and one
    for the text's end; on the image there is none.
    """
    sequences, targets = [], []
    for use in sources:
        samples, filled = count_source_samples(
            use, image_tokens=image_tokens, context=context, share_by=share_by, packing=packing
        )
        each = min(context, use.learned_share * use.text_tokens + 1) if use.with_images else context
        sequences.append(filled)
        targets.append(samples * each)
    weights = sequences if loss_mean == "sequences" else targets
    return tuple(
        LossShares(filled / sum(sequences), learned / sum(targets), weight / sum(weights))
        for filled, learned, weight in zip(sequences, targets, weights, strict=True)
    )


# How many images go through a frozen encoder: the stages remember features of up to so many GiB, and no more.


def count_remembered(feature_bytes: int, memory_gib: float) -> int:
    """Images whose features fit into the memory of one process; 0 where nothing is kept."""
    return int(memory_gib * GIB / feature_bytes) if feature_bytes else 0


# Why: docs/decisions.md, D91
def count_encodings(draws: float, *, examples: int, images: int, remembered: int, processes: int = 1) -> float:
    """Images that all processes together encode when samples are drawn `draws` times, epoch after epoch.

    `examples`, `images`: samples of the data set with an image, and different images among them; 0: not known, and
    then no image is drawn twice. `remembered`: images that one process keeps, the first that it meets; what it keeps
    is not encoded again. Each process draws its part of every epoch.
    """
    if not images or not remembered:
        return draws
    own = draws / processes
    met = estimate_different(own, examples=max(examples, images), images=images)
    kept = min(float(remembered), met)
    return processes * (kept + own * (1 - kept / met)) if met else 0.0


def estimate_different(draws: float, *, examples: int, images: int) -> float:
    """Different images among `draws` samples: epochs through all `examples`, in which an image is shown as often."""
    part = min(1.0, draws / examples)
    return images * (1 - math.pow(1 - part, examples / images))


def count_task_encodings(tasks: Sequence[TaskEntry], *, remembered: int, processes: int = 1) -> float:
    """Images that an evaluation encodes: once for all tasks where they are remembered, else once a round of questions.

    The tasks' images come in their order, and what is remembered are the first.
    """
    most, kept, shown, encoded = float(remembered * processes), 0.0, 0.0, 0.0
    for task in tasks:
        images = float(task.images or task.documents)
        if not task.with_image or not images:
            continue
        new = images if task.new_images is None else float(task.new_images)
        kept_of_old = (images - new) * kept / shown if shown else 0.0
        kept_of_new = min(most - kept, new)
        forgotten = 1 - (kept_of_old + kept_of_new) / images
        encoded += kept_of_new + (task.round_images or images) * forgotten
        kept, shown = kept + kept_of_new, shown + new
    return encoded


def count_packed_images(
    tokens: float, sources: Iterable[SourceUse], *, image_tokens: int, context: int, share_by: str = "tokens"
) -> float:
    """Images in a packed run (`compute_images_by_source`), of all sources together."""
    return sum(compute_images_by_source(tokens, sources, image_tokens=image_tokens, context=context, share_by=share_by))


def estimate_pretrain(
    model: LanguageModel,
    *,
    tokens: int,
    context: int,
    speed: Speed,
    images: float = 0.0,
    encoded: float | None = None,
    vision: Vision | None = None,
    carries_optimizer: bool = False,
) -> Estimate:
    """A trunk segment (no `vision`) or an image-text run over `tokens` positions, image tokens and padding included.

    `images` go through the projector (`compute_images_by_source`), and `encoded` of them, or all, through the encoder.
    `carries_optimizer`: a child goes on with AdamW's moments, so the last checkpoint keeps them.
    """
    flops = tokens * count_training_flops(model, context)
    encoder_flops, weights = 0.0, model.weights
    encoded = images if encoded is None else encoded
    if vision is not None:
        image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.d_model)
        flops += images * image.projector_flops
        encoder_flops = encoded * image.encoder_flops
        weights += image.weights
    kept = BYTES_OF_TRAINING_STATE if carries_optimizer else BYTES_OF_WEIGHT
    estimate = build_estimate(tokens, flops, encoder_flops, speed, checkpoint_bytes=kept * weights)
    return replace(estimate, images=round(images), encoded_images=round(encoded))


def estimate_finetune(
    model: LanguageModel,
    *,
    epochs: int,
    examples: int,
    text_tokens: float,
    vision: Vision,
    speed: Speed,
    max_length: int = 2_048,
    lengths: Lengths = (),
    image_share: float = 1.0,
    encoded: float | None = None,
) -> Estimate:
    """`epochs` passes over `examples` conversations with `text_tokens` tokens in the mean, unpadded.

    `lengths`: the same, counted. `image_share` of the examples have an image, and `encoded` images, or each one that
    is passed, go through the encoder. It rests, whether pre-training has trained it or not.
    """
    image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.d_model)
    forward = compute_image_cost(vision.encoder, vision.projector, True, model.d_model).encoder_flops
    image_tokens = image.tokens * image_share
    number = sum(count for _, count in lengths)
    length = (
        sum(count * min(max_length, image_tokens + text) for text, count in lengths) / number
        if number
        else min(max_length, image_tokens + text_tokens)
    )
    passes = epochs * examples
    flops = passes * (length * count_training_flops(model, round(length)) + image_share * image.projector_flops)
    images = passes * image_share
    encoded = images if encoded is None else encoded
    kept = BYTES_OF_WEIGHT * (model.weights + image.weights)
    estimate = build_estimate(round(passes * length), flops, encoded * forward, speed, checkpoint_bytes=kept)
    return replace(estimate, images=round(images), encoded_images=round(encoded))


def estimate_evaluate(
    model: LanguageModel,
    *,
    tasks: tuple[TaskEntry, ...],
    vision: Vision | None,
    speed: Speed,
    memory_gib: float = FEATURE_MEMORY_GIB,
    processes: int = 1,
) -> Estimate:
    """One forward over every request of every task. Nothing is kept on disk.

    An image is encoded once a round of questions, or once in all while its features fit into `memory_gib`
    (`count_task_encodings`); an encoder that pre-training has trained sees the image of each question.
    """
    image = compute_image_cost(vision.encoder, vision.projector, True, model.d_model) if vision is not None else None
    tokens, flops, shown, asked, encoded = 0.0, 0.0, 0.0, 0.0, 0.0
    for task in tasks:
        length, requests = task.text_tokens, task.documents * task.requests
        if task.with_image and image is not None:
            length += image.tokens
            flops += requests * image.projector_flops / 3
            shown += requests
        asked += requests
        tokens += requests * length
        flops += requests * length * count_forward_flops(model, round(length))
    if image is not None and vision is not None:
        remembered = count_remembered(image.feature_bytes, memory_gib)
        encoded = count_task_encodings(tasks, remembered=remembered, processes=processes) if vision.frozen else shown
    encoder_flops = encoded * image.encoder_flops if image is not None else 0.0
    estimate = build_estimate(round(tokens), flops, encoder_flops, speed.scale_for_evaluation(), checkpoint_bytes=0)
    return replace(estimate, images=round(shown), encoded_images=round(encoded), requests=round(asked))


def build_estimate(tokens: int, flops: float, encoder_flops: float, speed: Speed, *, checkpoint_bytes: int) -> Estimate:
    """Hours of FLOPs at `speed`: GPU-hours, or core-hours where the type has no GPU."""
    encoder_hours = encoder_flops / speed.encoder_flops_per_second / 3_600
    hours = flops / speed.flops_per_second / 3_600 + encoder_hours
    if not speed.is_gpu:
        return Estimate(
            tokens=tokens, flops=flops, encoder_flops=encoder_flops, cpu_hours=hours, checkpoint_bytes=checkpoint_bytes
        )
    return Estimate(
        tokens=tokens,
        flops=flops,
        encoder_flops=encoder_flops,
        gpu_hours=hours,
        a100_hours=hours * speed.factor,
        encoder_a100_hours=encoder_hours * speed.factor,
        checkpoint_bytes=checkpoint_bytes,
    )


def add_startup(estimate: Estimate, resources: Resources, gpu: GpuType, startup_minutes: float) -> Estimate:
    """The same job with what its attempts take beside their steps: the devices are allocated meanwhile, and idle."""
    hours = startup_minutes / 60 * (1 + resources.restarts)
    if resources.gpus:
        hours *= resources.gpus
        return replace(
            estimate,
            startup_hours=hours,
            gpu_hours=estimate.gpu_hours + hours,
            a100_hours=estimate.a100_hours + hours * gpu.factor,
        )
    hours *= resources.nodes * resources.cpus
    return replace(estimate, startup_hours=hours, cpu_hours=estimate.cpu_hours + hours)


def discount_kept_features(estimate: Estimate, speed: Speed, image: ImageCost, encoded_images: float) -> Estimate:
    """The same job where only so many images go through the frozen encoder, and the others' features are there."""
    anew = build_estimate(
        estimate.tokens, estimate.flops, encoded_images * image.encoder_flops, speed,
        checkpoint_bytes=estimate.checkpoint_bytes,
    )  # fmt: skip
    feature_bytes = round(encoded_images) * image.feature_bytes
    return replace(anew, images=estimate.images, encoded_images=round(encoded_images), feature_bytes=feature_bytes)


def plan_resources(estimate: Estimate, placement: Placement, gpu: GpuType, startup_minutes: float) -> Resources:
    """What one attempt asks for: its time limit with a margin, restarts as needed under `placement.limit_minutes`.

    `estimate`: of the work alone; `startup_minutes`: what each attempt takes beside it.
    Cores and memory left open are those that go with the GPUs (`GpuType`).

    Raises:
        SweepError: GPUs are asked for, of a type that is none; several parts of GPUs; or no more memory after running
            out of it.
    """
    if placement.gpus_per_node and not gpu.is_gpu:
        raise SweepError(
            f"resources: gpus_per_node is {placement.gpus_per_node}, and gpu_type is {gpu.name!r}; "
            "name the GPU type, or set gpus_per_node: 0"
        )
    # Why: docs/decisions.md, D123
    if gpu.part_of and placement.gpus_per_node > 1:
        raise SweepError(
            f"resources: gpus_per_node is {placement.gpus_per_node}, and gpu_type {gpu.name} is a part of a GPU: a "
            f"process sees one part alone; set gpus_per_node: 1, or gpu_type: {gpu.part_of}"
        )
    gpus = max(1, placement.gpus_per_node)
    memory_gib = placement.memory_gib or gpus * gpu.host_memory_gib
    if 0 < placement.retry_memory_gib <= memory_gib:
        raise SweepError(
            f"resources: retry_memory_gib is {placement.retry_memory_gib:g}, and a job has {memory_gib:g} GiB from the "
            "start; raise it, or set memory_gib"
        )
    if placement.gpus_per_node:
        wall_minutes = 60 * estimate.gpu_hours / (placement.nodes * placement.gpus_per_node)
    else:
        wall_minutes = 60 * estimate.cpu_hours / (placement.nodes * max(1, placement.cpus))
    minutes, restarts = split_into_attempts(wall_minutes, startup_minutes, placement)
    return Resources(
        nodes=placement.nodes,
        gpus_per_node=placement.gpus_per_node,
        gpu_type=placement.gpu_type if placement.gpus_per_node else "",
        cpus=placement.cpus or gpus * gpu.cpus,
        memory_gib=memory_gib,
        time_minutes=minutes,
        restarts=restarts,
        retry_memory_gib=placement.retry_memory_gib,
        options=placement.options,
        setup=placement.setup,
        launcher=placement.launcher,
    )


def split_into_attempts(wall_minutes: float, startup_minutes: float, placement: Placement) -> tuple[int, int]:
    """Time limit of one attempt in whole minutes, and the attempts beyond the first."""
    limit = placement.time_minutes or placement.limit_minutes
    wanted = wall_minutes * TIME_MARGIN
    if startup_minutes + wanted <= limit:
        return placement.time_minutes or min(limit, max(MIN_TIME_LIMIT_MINUTES, math.ceil(startup_minutes + wanted))), 0
    useful = max(1.0, limit - startup_minutes - SAVE_MINUTES - RESTORE_MINUTES)
    return limit, math.ceil(wanted / useful) - 1
