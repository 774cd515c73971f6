"""GPU memory of a process that trains or evaluates, from shapes: for the planner, which refuses what cannot fit.

Torch-free. Every figure is bytes, and follows from what our own code keeps; tests count the same with the real model
(`tests/stages/test_gpu_memory.py`). D stands for the width, F for the feed-forward width, V for the vocabulary. `b` is
2 under bf16 and 4 in fp32: weights and the residual stream stay float32, matrix products and norms are in b. Without
torch.compile, which needs no more.
"""

from dataclasses import dataclass, fields, replace
from math import ceil

from stages.config import LanguageModel, Vision
from stages.flops import count_projector_biases, count_projector_weights
from stages.vision.specs import EncoderSpec, resolve_encoder_spec

GPU_MICRO_BATCH_TOKENS = 16_384
"""Positions that go through the model at once on a GPU, where a job does not say."""
GPU_LOSS_CHUNK_TOKENS = 2_048
"""Positions whose logits are in a GPU's memory at once, where a job does not say."""
ENCODER_IMAGES_AT_ONCE = 64
"""Images that a frozen encoder takes at once on a GPU."""

FLOAT32, BFLOAT16, INT64 = 4, 2, 8
"""Bytes of a number."""

CONTEXT_BYTES = 2 * 2**30
"""C: a process's CUDA context, its kernels, cuBLAS's workspace and NCCL's buffers, beside torch's own allocations."""
FRAGMENTATION = 0.05
"""C: part of the allocations that the caching allocator cannot use, in blocks between those in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """What lies on the GPU at the worst moment of a step, in bytes."""

    weights: int = 0
    """Of the trained model, with what FSDP has gathered and autocast has copied of them."""
    gradients: int = 0
    """With DDP's buckets."""
    moments: int = 0
    """AdamW's two."""
    encoder: int = 0
    """A frozen encoder's weights, and what it computes with where that is the worst moment."""
    activations: int = 0
    """What the forward pass keeps for the backward pass, masks included."""
    workspace: int = 0
    """Logits and their gradients, or what the backward pass of a block computes with; a cache of keys and values."""

    @property
    def counted(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, part.name) for part in fields(self))

    @property
    def needed(self) -> int:
        """With the reserve for the process itself and for what lies between allocations."""
        return round(self.counted * (1 + FRAGMENTATION)) + CONTEXT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPass:
    """What one process sends through the model at once, and how the processes share it."""

    model: LanguageModel
    rows: int
    length: int
    """Positions of a row."""
    passes: int = 1
    """Micro-batches of a step, of one process."""
    vision: Vision | None = None
    images: int = 0
    """Pictures in the micro-batch."""
    trains_encoder: bool = False
    masked: bool = False
    """Whether documents share a row, so that attention takes a mask of booleans."""
    ranks: int = 1
    sharded: bool = False
    """FSDP2, rather than a whole replica on each rank."""
    recompute: bool = False
    """Activation checkpointing."""
    chunk_tokens: int = GPU_LOSS_CHUNK_TOKENS
    """Positions whose logits are there at once; 0: all."""
    precision: str = "bf16"

    @property
    def positions(self) -> int:
        return self.rows * self.length

    @property
    def number_bytes(self) -> int:
        """Of what matrix products take and give."""
        return BFLOAT16 if self.precision == "bf16" else FLOAT32

    @property
    def trained_weights(self) -> int:
        """Numbers that get a gradient."""
        return self.model.weights + self.projector_weights + (self.spec.parameters if self.trained_spec else 0)

    @property
    def projector_weights(self) -> int:
        return count_projector_numbers(self.vision, self.model.d_model)

    @property
    def spec(self) -> EncoderSpec:
        assert self.vision is not None  # noqa: S101 - asked only where there are images
        return resolve_encoder_spec(self.vision.encoder)

    @property
    def trained_spec(self) -> EncoderSpec | None:
        return self.spec if self.vision is not None and self.trains_encoder else None

    @property
    def shards(self) -> int:
        """Parts that weights, gradients and moments are cut into."""
        return self.ranks if self.sharded else 1


# Why: docs/decisions.md, D81
def compute_training_memory(run: TrainingPass) -> GpuMemory:
    """The worst moment of a step, the optimizer's moments being there (from the second step on)."""
    moments = [
        sum_loss_moment(run),
        sum_backward_begin(run),
        sum_backward_end(run),
        sum_encoder_moment(run),
    ]
    return max(moments, key=lambda moment: moment.counted)


# What is there all the time.


def sum_state(run: TrainingPass, *, gradients: bool) -> GpuMemory:
    """Weights, moments, gradients so far, and a frozen encoder's weights.

    12 bytes a weight, in shards under FSDP2. DDP adds buckets of 4 bytes, which the gradients of a single pass are
    views of; the gradients of earlier passes (`gradients`: they are there) lie beside them: 20 bytes together. FSDP2
    keeps those of earlier passes whole, in float32.
    """
    trained = run.trained_weights
    of_gradients = trained * FLOAT32 if gradients else 0
    if not run.sharded and run.ranks > 1:
        of_gradients += trained * FLOAT32
    return GpuMemory(
        weights=ceil(trained * FLOAT32 / run.shards),
        moments=ceil(trained * 2 * FLOAT32 / run.shards),
        gradients=of_gradients,
        encoder=count_encoder_bytes(run.vision) if run.images and not run.trains_encoder else 0,
    )


def count_projector_numbers(vision: Vision | None, d_model: int) -> int:
    """Weights and biases between encoder and language model."""
    if vision is None:
        return 0
    width = resolve_encoder_spec(vision.encoder).feature_width
    weights = count_projector_weights(vision.projector, width, d_model)
    return weights + count_projector_biases(vision.projector, width, d_model)


def count_encoder_bytes(vision: Vision | None) -> int:
    """A frozen encoder's weights, float32 (`stages.vision.encoders`)."""
    return resolve_encoder_spec(vision.encoder).parameters * FLOAT32 if vision is not None else 0


def count_block_weights(model: LanguageModel) -> int:
    """Matrices of one block."""
    return 4 * model.d_model**2 + 3 * model.d_model * model.feed_forward_width


def count_table_weights(model: LanguageModel) -> int:
    """The embedding's, and the output layer's."""
    return model.vocabulary * model.d_model


def count_gathered_bytes(run: TrainingPass, blocks: int) -> int:
    """Whole weights that FSDP2 holds in the middle of a pass: the output layer's, the projector's, and those of so many
    blocks (one, or in the backward pass two, as the next one is gathered ahead). 0 without FSDP2.
    """
    if not run.sharded:
        return 0
    around = count_table_weights(run.model) + run.projector_weights
    return run.number_bytes * (around + blocks * count_block_weights(run.model))


def count_cast_bytes(run: TrainingPass) -> int:
    """Copies of all blocks' weights, and of a trained encoder's, in bfloat16.

    Autocast keeps them to the end of the forward pass, autograd beyond. FSDP2 gathers weights in bfloat16, so that
    nothing is left to cast.
    """
    if run.sharded or run.precision != "bf16":
        return 0
    encoder = run.trained_spec.parameters if run.trained_spec else 0
    return BFLOAT16 * (run.model.layers * count_block_weights(run.model) + encoder)


# What the forward pass keeps.


def count_block_activations(run: TrainingPass) -> int:
    """What a block keeps for its backward pass.

    A position: 10 b D (inputs of the two norms and of in_proj and w12, its output of three, turned queries and keys,
    and attention's output), 4 b F (w12's output of two, silu's, the product), four norms' mean and deviation, and the
    softmax's sum of each head. SDPA keeps its mask as numbers, made anew in each block.
    """
    model, b = run.model, run.number_bytes
    position = 10 * b * model.d_model + 4 * b * model.feed_forward_width + 4 * 2 * FLOAT32 + FLOAT32 * model.heads
    return run.positions * (position + (b * run.length if run.masked else 0))


def count_kept_activations(run: TrainingPass) -> int:
    """What all blocks keep: all of it, or under activation checkpointing their inputs, which are float32."""
    of_block = FLOAT32 * run.positions * run.model.d_model if run.recompute else count_block_activations(run)
    return run.model.layers * of_block


def count_frame_activations(run: TrainingPass) -> int:
    """What is kept around the blocks: the last norm's input and output, the batch, its mask, the images' part."""
    batch = 4 * INT64 * run.positions + (run.positions * run.length if run.masked else 0)
    return 2 * run.number_bytes * run.positions * run.model.d_model + batch + count_image_activations(run)


def count_image_activations(run: TrainingPass) -> int:
    """Features, float32 and as the projector takes them, what its layers keep, and a trained encoder's activations."""
    if run.vision is None or not run.images:
        return 0
    spec, width, b = run.spec, run.model.d_model, run.number_bytes
    hidden = {"linear": 0, "gelu-mlp": 2 * width, "fused-gelu-mlp": 8 * spec.feature_width + 2 * width}
    token = (FLOAT32 + b) * spec.feature_width + b * hidden[run.vision.projector]
    total = run.images * spec.image_tokens * token
    if run.trains_encoder:
        total += run.images * sum(count_image_encoder_activations(part, b) for part in spec.parts or (spec,))
    return total


def count_image_encoder_activations(spec: EncoderSpec, number_bytes: int) -> int:
    """What a ViT keeps of one image for its backward pass, with fused attention.

    A position and layer: 17 b width at four times as wide an MLP (Korthikanti et al. 2022, section 4.1, without the
    attention's matrix), and two norms' inputs in float32, as autocast has them.
    """
    tokens = spec.image_tokens + spec.prefix_tokens
    position = 9 * number_bytes * spec.mlp_width // 4 + 8 * number_bytes * spec.heads * (
        spec.feature_width // max(1, spec.heads)
    )
    return spec.layers * tokens * (position + 2 * FLOAT32 * spec.feature_width)


# The moments of a step that may be the worst one.


def sum_loss_moment(run: TrainingPass) -> GpuMemory:
    """The end of the last pass's forward: all activations, and the logits of a chunk.

    Of a chunk there are logits and gradients of the one before, and new logits in b and in float32: 12 bytes each.
    Without chunks there are 8 bytes a logit to keep, and 12 in the backward pass of the loss.
    """
    model, b, n = run.model, run.number_bytes, run.positions
    state = sum_state(run, gradients=run.passes > 1)
    embeddings = 0 if run.recompute else FLOAT32 * n * model.d_model
    if run.chunk_tokens:
        each = 12 if n > run.chunk_tokens else 10
        table = count_table_weights(model)
        # the weight's gradient in float32, and its copy in b
        logits = (
            each * min(n, run.chunk_tokens) * model.vocabulary
            + (FLOAT32 + (b if not run.sharded and b < FLOAT32 else 0)) * table
        )
    else:
        logits = 20 * n * model.vocabulary
    return replace(
        state,
        weights=state.weights + count_cast_bytes(run) + count_gathered_bytes(run, blocks=1),
        activations=count_kept_activations(run) + count_frame_activations(run) + embeddings,
        workspace=logits + b * n * model.d_model,
    )


def sum_backward_begin(run: TrainingPass) -> GpuMemory:
    """The backward pass of the last block, whose activations are all there (computed again under checkpointing)."""
    state = sum_state(run, gradients=run.passes > 1)
    table = count_table_weights(run.model)
    again = count_block_activations(run) if run.recompute else 0
    return replace(
        state,
        weights=state.weights + count_backward_casts(run) + count_gathered_bytes(run, blocks=2),
        # the output layer's gradient in float32, which FSDP2 turns into b, and the block's own
        gradients=state.gradients
        + (run.number_bytes if run.sharded else FLOAT32) * table
        + run.number_bytes * count_block_weights(run.model),
        activations=count_kept_activations(run) + count_frame_activations(run) + again,
        workspace=count_block_workspace(run),
    )


def count_backward_casts(run: TrainingPass) -> int:
    """Of `count_cast_bytes`: checkpointing drops them, and makes a block's again with its activations."""
    return count_cast_bytes(run) // (run.model.layers if run.recompute else 1)


def sum_backward_end(run: TrainingPass) -> GpuMemory:
    """The backward pass of the first block: all gradients are there, and of the activations only its own.

    Under FSDP2 they are in shards by then, but for the output layer's and the embedding's.
    """
    state = sum_state(run, gradients=not run.sharded and (run.ranks == 1 or run.passes > 1))
    extra = count_block_gradients(run)
    if run.sharded:
        table = count_table_weights(run.model)
        # reduced in float32, from a gradient in b, the embedding's in float32 too
        extra += ceil(run.trained_weights * FLOAT32 / run.shards) + (run.number_bytes + FLOAT32) * table
    return replace(
        state,
        weights=state.weights + count_cast_bytes(run) // run.model.layers + count_gathered_bytes(run, blocks=1),
        gradients=state.gradients + extra,
        activations=count_block_activations(run) + count_frame_activations(run),
        workspace=count_block_workspace(run),
    )


def count_block_gradients(run: TrainingPass) -> int:
    """One block's gradients on their way: in b from the products, and in float32 to be reduced or added."""
    return (run.number_bytes + FLOAT32) * count_block_weights(run.model)


def count_block_workspace(run: TrainingPass) -> int:
    """Gradients of activations in the backward pass of a block: of the feed-forward's four parts, and of the residual
    stream, float32, before and behind it.
    """
    model, b = run.model, run.number_bytes
    return run.positions * (4 * b * model.feed_forward_width + 2 * FLOAT32 * model.d_model)


def sum_encoder_moment(run: TrainingPass) -> GpuMemory:
    """A frozen encoder at work, before the forward pass: its weights in bfloat16 beside those in float32, its widest
    layer, and the features."""
    state = sum_state(run, gradients=run.passes > 1)
    if run.vision is None or not run.images or run.trains_encoder:
        return state
    return replace(state, encoder=state.encoder + count_encoder_workspace(run.vision, run.images))


def count_encoder_workspace(vision: Vision, images: int) -> int:
    """A frozen encoder's forward of so many images, `ENCODER_IMAGES_AT_ONCE` at a time."""
    spec = resolve_encoder_spec(vision.encoder)
    at_once = min(images, ENCODER_IMAGES_AT_ONCE)
    widest = max(
        (part.image_tokens + part.prefix_tokens)
        * (2 * BFLOAT16 * part.mlp_width + (2 * FLOAT32 + 4 * BFLOAT16) * part.feature_width)
        for part in spec.parts or (spec,)
    )
    features = images * spec.image_tokens * spec.feature_width * (FLOAT32 + BFLOAT16)
    return BFLOAT16 * spec.parameters + at_once * (widest + 3 * spec.image_size**2 * (1 + FLOAT32)) + features


# Evaluation: a whole replica on each GPU, without gradients.

QUESTIONS_AT_ONCE = 256
"""Images whose features are there while questions are answered."""
ANSWERS_AT_ONCE = 32
"""Prompts that are answered at once."""
LIKELIHOOD_TOKENS = 16_384
"""Positions at once where continuations are compared."""
LIKELIHOOD_LOGITS = 1 << 25
"""Logits at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPass:
    """What an evaluation asks of a model at once."""

    model: LanguageModel
    vision: Vision | None = None
    answer_length: int = 0
    """Positions of the longest prompt with its answer; 0: no answer is generated."""
    image_answers: bool = False
    """Whether the prompts are about images."""
    likelihood_length: int = 0
    """Positions of the longest text that is compared; 0: none is."""
    precision: str = "bf16"


def compute_evaluation_memory(run: EvaluationPass) -> GpuMemory:
    """The worst of answering and comparing.

    Weights are float32. In inference mode autocast keeps no copies: each product makes its matrix in bfloat16 anew.
    Keys and values of all blocks take 2 b D a position.
    """
    model, b = run.model, BFLOAT16 if run.precision == "bf16" else FLOAT32
    weights = FLOAT32 * (model.weights + count_projector_numbers(run.vision, model.d_model))
    if run.precision == "bf16":
        weights += BFLOAT16 * 2 * model.d_model * model.feed_forward_width
    state = GpuMemory(weights=weights, encoder=count_encoder_bytes(run.vision) if run.image_answers else 0)
    answers = ANSWERS_AT_ONCE * run.answer_length
    answering = replace(
        state,
        activations=count_forward_workspace(model, answers, run.answer_length, b),
        workspace=2 * b * model.d_model * model.layers * answers,
        encoder=state.encoder + (count_question_bytes(run.vision) if run.image_answers and run.vision else 0),
    )
    rows = max(1, LIKELIHOOD_TOKENS // max(1, run.likelihood_length)) if run.likelihood_length else 0
    comparing = replace(
        state,
        activations=count_forward_workspace(model, rows * run.likelihood_length, run.likelihood_length, b),
        # the logits in b and in float32, and their log-softmax
        workspace=(b + 2 * FLOAT32) * LIKELIHOOD_LOGITS if rows else 0,
    )
    return max(answering, comparing, key=lambda moment: moment.counted)


def count_question_bytes(vision: Vision) -> int:
    """The features of the images that are asked about, float32 and stacked to a batch, or the encoder at work."""
    spec = resolve_encoder_spec(vision.encoder)
    features = QUESTIONS_AT_ONCE * spec.image_tokens * spec.feature_width * FLOAT32
    return features + max(features, count_encoder_workspace(vision, ANSWERS_AT_ONCE))


def count_forward_workspace(model: LanguageModel, positions: int, length: int, number_bytes: int) -> int:
    """A block without gradients: the residual stream before and behind it in float32, and the feed-forward's four parts
    or attention's, whichever is more; and the mask, as booleans and as numbers.
    """
    attention, feed_forward = 8 * number_bytes * model.d_model, 4 * number_bytes * model.feed_forward_width
    stream = (2 * FLOAT32 + number_bytes) * model.d_model
    return positions * (stream + max(attention, feed_forward) + length * (1 + number_bytes))


# Memory of a node, beside its GPUs.

PROCESS_BYTES = 3 * 2**30
"""C: a process with torch and CUDA loaded."""
WORKER_BYTES = 2**30
"""C: a process that reads ahead, with its open shards."""


def compute_host_memory(weights: int, *, processes: int, workers: int, feature_cache_gib: float, trains: bool) -> int:
    """Bytes of the node with the first rank: its `processes` of the job's, each with `workers` that read ahead."""
    each = PROCESS_BYTES + workers * WORKER_BYTES + round(feature_cache_gib * 2**30)
    return processes * each + count_certain_host_memory(weights, processes=processes, trains=trains)


def count_certain_host_memory(weights: int, *, processes: int, trains: bool) -> int:
    """Of these what is counted and not assumed: copies of the model.

    At the start every process builds it in float32 before it goes to the GPU. While a checkpoint is written the first
    rank has a copy of weights and moments, 12 bytes a weight (`stages.training.parallel.copy_to_host`).
    """
    return max(processes * FLOAT32 * weights, 3 * FLOAT32 * weights if trains else 0)
