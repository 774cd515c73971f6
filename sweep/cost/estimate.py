"""What a job costs: FLOPs, GPU-hours, A100-hours, bytes of checkpoints, wall-clock. Pure arithmetic on plain arguments.

Each convention and its source: docs/estimates.md. GPU-hours are FLOPs over the speed that `sweep.cost.speed` states
for the model and the GPU type; A100-hours are GPU-hours times the type's factor.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from jobs.job import Estimate, Resources
from stages.config import LanguageModel, Vision
from stages.flops import compute_image_cost, count_forward_flops, count_training_flops
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


@dataclass(frozen=True, slots=True)
class SourceUse:
    """One data set of a mixture: its share, whether its samples carry an image, mean text tokens of such a sample."""

    share: float
    with_images: bool = False
    text_tokens: float = 0.0


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
        length = min(context, image_tokens + use.text_tokens) if use.with_images else context
        samples = use.share / length if share_by == "tokens" else use.share
        sequences_of_share += samples / (1 if packing == "padded" else int(context / length))
        images_of_share.append(samples if use.with_images else 0.0)
    return tuple(tokens / context * images / sequences_of_share for images in images_of_share)


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
    vision: Vision | None = None,
    carries_optimizer: bool = False,
) -> Estimate:
    """A trunk segment (no `vision`) or an image-text run over `tokens` positions, image tokens and padding included.

    `images` of them go through the encoder and the projector (`compute_images_by_source`).
    `carries_optimizer`: a child goes on with AdamW's moments, so the last checkpoint keeps them.
    """
    flops = tokens * count_training_flops(model, context)
    encoder_flops, weights = 0.0, model.weights
    if vision is not None:
        image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.d_model)
        flops += images * image.projector_flops
        encoder_flops = images * image.encoder_flops
        weights += image.weights
    kept = BYTES_OF_TRAINING_STATE if carries_optimizer else BYTES_OF_WEIGHT
    return build_estimate(tokens, flops, encoder_flops, speed, checkpoint_bytes=kept * weights)


def estimate_finetune(
    model: LanguageModel,
    *,
    epochs: int,
    examples: int,
    text_tokens: float,
    vision: Vision,
    speed: Speed,
    max_length: int = 2_048,
) -> Estimate:
    """`epochs` passes over `examples` conversations of one image and `text_tokens` tokens in the mean, unpadded."""
    image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.d_model)
    length = min(max_length, round(image.tokens + text_tokens))
    passes = epochs * examples
    flops = passes * (length * count_training_flops(model, length) + image.projector_flops)
    return build_estimate(
        passes * length,
        flops,
        passes * image.encoder_flops,
        speed,
        checkpoint_bytes=BYTES_OF_WEIGHT * (model.weights + image.weights),
    )


def estimate_evaluate(
    model: LanguageModel, *, tasks: tuple[TaskEntry, ...], vision: Vision | None, speed: Speed
) -> Estimate:
    """One forward over every request of every task; an image is encoded once a document. Nothing is kept."""
    image = compute_image_cost(vision.encoder, vision.projector, True, model.d_model) if vision is not None else None
    tokens, flops, encoder_flops = 0.0, 0.0, 0.0
    for task in tasks:
        length = round(task.text_tokens)
        if task.with_image and image is not None:
            length += image.tokens
            encoder_flops += task.documents * image.encoder_flops
            flops += task.documents * image.projector_flops / 3
        task_tokens = task.documents * task.requests * length
        tokens += task_tokens
        flops += task_tokens * count_forward_flops(model, length)
    return build_estimate(round(tokens), flops, encoder_flops, speed.scale_for_evaluation(), checkpoint_bytes=0)


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


def discount_kept_features(estimate: Estimate, speed: Speed, *, encoder_flops: float, feature_bytes: int) -> Estimate:
    """The same job where only some of its images go through the frozen encoder, and the others' features are there."""
    estimate = build_estimate(
        estimate.tokens, estimate.flops, encoder_flops, speed, checkpoint_bytes=estimate.checkpoint_bytes
    )
    return replace(estimate, feature_bytes=feature_bytes)


def plan_resources(estimate: Estimate, placement: Placement, gpu: GpuType) -> Resources:
    """What one attempt asks for: its time limit with a margin, restarts as needed under `placement.limit_minutes`.

    Cores and memory left open are those that go with the GPUs (`GpuType`).

    Raises:
        SweepError: GPUs are asked for, of a type that is none; or no more memory after running out of it.
    """
    if placement.gpus_per_node and not gpu.is_gpu:
        raise SweepError(
            f"resources: gpus_per_node is {placement.gpus_per_node}, and gpu_type is {gpu.name!r}; "
            "name the GPU type, or set gpus_per_node: 0"
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
    minutes, restarts = split_into_attempts(wall_minutes, gpu.startup_minutes, placement)
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
