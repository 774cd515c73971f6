"""Writes the language model's weights: safetensors, in several files with an index where one would be too large."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.config import LanguageModel
from stages.errors import DamagedInputError
from stages.files import flush_to_disk, keep_usual_mode, write_json
from stages.models.openlm import NORM_EPS, ROTARY_BASE

# Which of transformers' own architectures computes what OpenLM computes, and what becomes of each weight.
#
# Without qk-norm OpenLM is `stablelm`, weight for weight: LayerNorm (its bias zero), rotary positions on the whole
# head, SwiGLU, untied output.
#
# With qk-norm it is `olmoe` with a single expert, whose router gives it all: pre-norm, and query and key normed over
# the full width before the heads are split. Its norms are RMSNorms; LayerNorm(x) = RMSNorm(x - mean(x)), and all that
# a LayerNorm of OpenLM reads is linear in some weights, from which the mean can be taken beforehand: rows of the
# embedding, columns of the layers that write to the residual stream or make query and key (as SliceGPT does it, arXiv
# 2401.15024). This is exact but for rounding.


@dataclass(frozen=True, slots=True)
class ExportedTensor:
    """One tensor of the export."""

    name: str
    shape: tuple[int, ...]
    source: str = ""
    """Its name in our checkpoint; empty for zeros."""
    first_row: int = 0
    """Where it begins in the source, which holds several side by side."""
    centred: int | None = None
    """Dimension along which the mean is taken away."""


def select_architecture(model: LanguageModel) -> str:
    """transformers' `model_type`."""
    # Why: docs/decisions.md, D64
    return "olmoe" if model.qk_norm else "stablelm"


def build_transformers_config(
    model: LanguageModel, *, context: int, end_of_text: int | None, dtype: str
) -> dict[str, Any]:
    """config.json. `context`: positions that the model was trained on; `end_of_text`: that token's id."""
    common = {
        "model_type": select_architecture(model),
        "vocab_size": model.vocabulary,
        "hidden_size": model.d_model,
        "intermediate_size": model.feed_forward_width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.heads,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rope_theta": float(ROTARY_BASE),
        "rope_parameters": build_rope_parameters(model),
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "pad_token_id": end_of_text,
        "dtype": dtype,
    }
    native: dict[str, Any]
    if not model.qk_norm:
        native = {
            "layer_norm_eps": NORM_EPS,
            "partial_rotary_factor": 1.0,
            "use_qkv_bias": False,
            "qk_layernorm": False,
        }
        return {"architectures": ["StableLmForCausalLM"], **common, **native, "use_parallel_residual": False}
    experts = {"num_experts": 1, "num_experts_per_tok": 1, "norm_topk_prob": False, "output_router_logits": False}
    native = {"rms_norm_eps": NORM_EPS, "attention_bias": False, "clip_qkv": None, **experts}
    return {"architectures": ["OlmoeForCausalLM"], **common, **native}


def build_rope_parameters(model: LanguageModel) -> dict[str, Any]:
    """The rotary frequencies. open_lm's bfloat16 ones are the usual ones, each by a factor of its own (`longrope`)."""
    plain = {"rope_theta": float(ROTARY_BASE), "partial_rotary_factor": 1.0}
    if model.rotary_table == "float32":
        return {"rope_type": "default", **plain}
    factors = compute_rounding_factors(model.d_model // model.heads)
    return {
        "rope_type": "longrope",
        **plain,
        "short_factor": factors,
        "long_factor": factors,
        "attention_factor": 1.0,
        "factor": 1.0,
    }


def compute_rounding_factors(head_width: int) -> list[float]:
    """Each frequency of a head by what it is after rounding to bfloat16."""
    frequencies = 1.0 / (ROTARY_BASE ** (torch.arange(0, head_width, 2).float() / head_width))
    factors: list[float] = (frequencies.double() / frequencies.bfloat16().double()).tolist()
    return factors


def iter_exported_tensors(model: LanguageModel) -> Iterator[ExportedTensor]:
    """All tensors of the export, in the order in which they are written."""
    width, vocabulary = model.d_model, model.vocabulary
    stream = 0 if model.qk_norm else None
    yield ExportedTensor(
        "model.embed_tokens.weight",
        (vocabulary, width),
        "tok_embeddings.weight",
        centred=1 if model.qk_norm else None,
    )
    for layer in range(model.layers):
        ours, theirs = f"layers.{layer}.", f"model.layers.{layer}."
        yield from iter_norm_tensors(model, theirs + "input_layernorm", ours + "attention_norm.weight")
        for place, part in enumerate(("q_proj", "k_proj", "v_proj")):
            yield ExportedTensor(
                f"{theirs}self_attn.{part}.weight",
                (width, width),
                ours + "attention.in_proj.weight",
                first_row=place * width,
                centred=None if part == "v_proj" else stream,
            )
        if model.qk_norm:
            for part in ("q_norm", "k_norm"):
                yield ExportedTensor(f"{theirs}self_attn.{part}.weight", (width,), f"{ours}attention.{part}.weight")
        yield ExportedTensor(
            theirs + "self_attn.o_proj.weight", (width, width), ours + "attention.out_proj.weight", centred=stream
        )
        yield from iter_norm_tensors(model, theirs + "post_attention_layernorm", ours + "ffn_norm.weight")
        yield from iter_feed_forward_tensors(model, theirs + "mlp.", ours + "feed_forward.")
    yield from iter_norm_tensors(model, "model.norm", "norm.weight")
    yield ExportedTensor("lm_head.weight", (vocabulary, width), "output.weight")


def iter_norm_tensors(model: LanguageModel, theirs: str, ours: str) -> Iterator[ExportedTensor]:
    """A gain; of a LayerNorm also its bias, which is zero."""
    yield ExportedTensor(theirs + ".weight", (model.d_model,), ours)
    if not model.qk_norm:
        yield ExportedTensor(theirs + ".bias", (model.d_model,))


def iter_feed_forward_tensors(model: LanguageModel, theirs: str, ours: str) -> Iterator[ExportedTensor]:
    """SwiGLU, the only expert where the architecture wants one; its router's weights do not matter."""
    width, hidden = model.d_model, model.feed_forward_width
    if model.qk_norm:
        yield ExportedTensor(theirs + "gate.weight", (1, width))
        theirs += "experts.0."
    yield ExportedTensor(theirs + "gate_proj.weight", (hidden, width), ours + "w12.weight")
    yield ExportedTensor(theirs + "up_proj.weight", (hidden, width), ours + "w12.weight", first_row=hidden)
    yield ExportedTensor(
        theirs + "down_proj.weight", (width, hidden), ours + "w3.weight", centred=0 if model.qk_norm else None
    )


SHARD_BYTES = 5_000_000_000
"""Largest file of weights, unless a single tensor is larger; no more than that is in memory at once."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TensorFile(Protocol):
    """An open safetensors file (`safetensors.safe_open`), of which single tensors are read."""

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> Tensor: ...


def write_weights(
    source: TensorFile, model: LanguageModel, folder: Path, dtype: torch.dtype, *, shard_bytes: int = SHARD_BYTES
) -> int:
    """Writes model.safetensors, or its numbered parts and model.safetensors.index.json; gives the bytes of all tensors.

    `source`: a checkpoint's weights. DamagedInputError if a weight is not there or has
    another shape than the model's.
    """
    tensors = list(iter_exported_tensors(model))
    shards = split_shards(tensors, dtype.itemsize, shard_bytes)
    names = [f"model-{place:05d}-of-{len(shards):05d}.safetensors" for place in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        save_tensors(folder / name, {each.name: read_tensor(source, each, dtype) for each in shard})
    total = sum(prod(each.shape) for each in tensors) * dtype.itemsize
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", build_shard_index(names, shards, total))
    return total


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, flushed to disk, that whoever may read the folder's other files may read."""
    with keep_usual_mode(path):
        # transformers wants to know which library's tensors they are
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    flush_to_disk(path)


def split_shards(tensors: Iterable[ExportedTensor], item_bytes: int, shard_bytes: int) -> list[list[ExportedTensor]]:
    """Tensors in their order, cut where the next would make a file too large."""
    shards: list[list[ExportedTensor]] = [[]]
    size = 0
    for each in tensors:
        needed = prod(each.shape) * item_bytes
        if shards[-1] and size + needed > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(each)
        size += needed
    return shards


def build_shard_index(
    names: Sequence[str], shards: Sequence[Sequence[ExportedTensor]], total: int
) -> Mapping[str, Any]:
    """model.safetensors.index.json: which file holds which tensor."""
    places = {each.name: name for name, shard in zip(names, shards, strict=True) for each in shard}
    return {"metadata": {"total_size": total}, "weight_map": places}


def read_tensor(source: TensorFile, tensor: ExportedTensor, dtype: torch.dtype) -> Tensor:
    """One tensor as transformers takes it."""
    if not tensor.source:
        return torch.zeros(tensor.shape, dtype=dtype)
    if tensor.source not in source.keys():  # noqa: SIM118 - not a mapping
        raise DamagedInputError(f"the checkpoint lacks {tensor.source}")
    whole = source.get_tensor(tensor.source)
    part = whole[tensor.first_row : tensor.first_row + tensor.shape[0]]
    if tuple(part.shape) != tensor.shape:
        raise DamagedInputError(f"{tensor.source} has shape {tuple(whole.shape)}, which is not the model's")
    if tensor.centred is not None:
        part = subtract_mean(part, tensor.centred)
    return part.to(dtype)


def subtract_mean(tensor: Tensor, dimension: int) -> Tensor:
    """Without its mean along a dimension, which is taken in float64."""
    exact = tensor.double()
    return (exact - exact.mean(dim=dimension, keepdim=True)).to(tensor.dtype)
