"""The utilisation that a GPU can reach in training, predicted from counted FLOPs and counted bytes. No measurement.

A ceiling for one GPU: every kernel takes the time of its arithmetic or of its traffic, whichever is longer, and nothing
waits. Left out are the launching of kernels, communication between GPUs, reading of data, checkpoints and the encoder.
docs/estimates.md has the table, and what was published beside it.
"""

from dataclasses import dataclass

from stages.flops import count_training_flops
from stages.gpu_memory import TrainingPass, count_block_weights, count_table_weights
from sweep.catalog import TERA, GpuType

GIGA = 1e9
BANDWIDTH_SHARE = 0.8
"""C: of the memory's bandwidth, for kernels that read and write long rows."""
ATTENTION_SHARE = 0.55
"""C: fused causal attention's speed, over that of a large matrix product."""
ATTENTION_PASSES = 3.5
"""Its FLOPs in training over a forward's: the backward pass computes the scores again (Dao 2023, section 4)."""


@dataclass(frozen=True, slots=True)
class ElementwiseTraffic:
    """Bytes that are read and written beside matrix products, forward and backward, under bf16."""

    width: int
    """A position and block, for each number of the model's width: norms, rotary positions, residual sums, attention."""
    feed_forward: int
    """Likewise of the feed-forward width: SwiGLU."""
    logit: int
    """A position, for each token of the vocabulary: the loss, and its gradient."""


EAGER = ElementwiseTraffic(width=272, feed_forward=36, logit=40)
"""Every operation of `stages.models.openlm` and `stages.models.loss` reads its inputs and writes its output: forward 96
and 10, of which the two rotations take 40; backward 176 and 26."""
COMPILED = ElementwiseTraffic(width=106, feed_forward=16, logit=10)
"""Each chain between two products is one kernel, which reads and writes what goes in and out: forward 44 and 6."""


# Why: docs/decisions.md, D84
def predict_utilisation(run: TrainingPass, gpu: GpuType, *, compiled: bool) -> float | None:
    """Model FLOPs (`stages.flops`) over the peak, of training on text; None for a GPU of unknown bandwidth."""
    if not (gpu.peak_tflops and gpu.bandwidth_gbs and gpu.matmul_share):
        return None
    tokens = run.positions * run.passes
    useful = tokens * count_training_flops(run.model, run.length)
    seconds = compute_step_seconds(run, gpu, COMPILED if compiled else EAGER)
    return useful / (gpu.peak_tflops * TERA * seconds)


def compute_step_seconds(run: TrainingPass, gpu: GpuType, traffic: ElementwiseTraffic) -> float:
    """One optimizer step of one GPU."""
    return run.passes * compute_pass_seconds(run, gpu, traffic) + count_optimizer_bytes(run) / get_bandwidth(gpu)


def compute_pass_seconds(run: TrainingPass, gpu: GpuType, traffic: ElementwiseTraffic) -> float:
    """Forward and backward of a micro-batch; blocks are computed forward twice under recomputation."""
    model, tokens = run.model, run.positions
    width, hidden, layers = model.d_model, model.feed_forward_width, model.layers
    block = sum(
        compute_product_seconds(tokens, rows, columns, gpu)
        for rows, columns in ((width, 3 * width), (width, width), (width, 2 * hidden), (hidden, width))
    )
    again = 4 / 3 if run.recompute else 1.0
    peak = (gpu.peak_tflops or 0.0) * TERA * gpu.matmul_share
    attention = ATTENTION_PASSES * 2 * layers * width * run.length * tokens / (peak * ATTENTION_SHARE)
    elementwise = tokens * layers * (traffic.width * width + traffic.feed_forward * hidden)
    # the forward's third of the elementwise traffic comes again
    seconds = again * (layers * block + elementwise / get_bandwidth(gpu))
    seconds += attention * (4.5 / 3.5 if run.recompute else 1)
    chunks = max(1, -(-tokens // run.chunk_tokens)) if run.chunk_tokens else 1
    output = tokens * traffic.logit * model.vocabulary + 10 * chunks * count_table_weights(model)
    return (
        seconds
        + compute_product_seconds(tokens, width, model.vocabulary, gpu)
        + (output + count_weight_bytes(run)) / get_bandwidth(gpu)
    )


def compute_product_seconds(tokens: int, rows: int, columns: int, gpu: GpuType) -> float:
    """The three products of a layer (tokens x rows by rows x columns, and its two gradients) in bf16."""
    flops = 2.0 * tokens * rows * columns
    moved = 2.0 * (tokens * rows + rows * columns + tokens * columns)
    arithmetic = flops / ((gpu.peak_tflops or 0.0) * TERA * gpu.matmul_share)
    return 3 * max(arithmetic, moved / get_bandwidth(gpu))


def count_weight_bytes(run: TrainingPass) -> int:
    """Of a pass: weights to bfloat16 (6 bytes each), gradients back to float32 (6), and added to those before (12)."""
    weights = run.model.layers * count_block_weights(run.model) + count_table_weights(run.model)
    return (24 if run.passes > 1 else 12) * weights


def count_optimizer_bytes(run: TrainingPass) -> float:
    """Of a step: the gradient's norm (4 bytes a weight), its scaling (8), and AdamW, which reads 16 and writes 12."""
    return 40 * run.trained_weights / run.shards


def get_bandwidth(gpu: GpuType) -> float:
    """Bytes a second."""
    return gpu.bandwidth_gbs * GIGA * BANDWIDTH_SHARE
