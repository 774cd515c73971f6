"""Writes the language model's weights: safetensors, in several files with an index where one would be too large."""

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.config import LanguageModel
from stages.errors import DamagedInputError
from stages.export.architecture import Exported, exported_tensors
from stages.files import flush_to_disk, write_json

SHARD_BYTES = 5_000_000_000
"""Largest file of weights, unless a single tensor is larger; no more than that is in memory at once."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Tensors(Protocol):
    """An open safetensors file (`safetensors.safe_open`), of which single tensors are read."""

    def keys(self) -> list[str]: ...

    def get_tensor(self, name: str) -> Tensor: ...


def write_weights(
    source: Tensors, model: LanguageModel, folder: Path, dtype: torch.dtype, *, shard_bytes: int = SHARD_BYTES
) -> int:
    """Writes model.safetensors, or its numbered parts and model.safetensors.index.json; gives the bytes of all tensors.

    `source`: a checkpoint's weights. DamagedInputError if a weight is not there or has
    another shape than the model's.
    """
    tensors = list(exported_tensors(model))
    shards = in_shards(tensors, dtype.itemsize, shard_bytes)
    names = [f"model-{place:05d}-of-{len(shards):05d}.safetensors" for place in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = ["model.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        save_tensors(folder / name, {each.name: exported(source, each, dtype) for each in shard})
    total = sum(prod(each.shape) for each in tensors) * dtype.itemsize
    if len(shards) > 1:
        write_json(folder / "model.safetensors.index.json", shard_index(names, shards, total))
    return total


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A safetensors file, flushed to disk, that whoever may read the folder's other files may read."""
    path.touch()
    mode = path.stat().st_mode
    # transformers wants to know which library's tensors they are
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(mode)  # safetensors makes files for their owner alone
    flush_to_disk(path)


def in_shards(tensors: Iterable[Exported], item_bytes: int, shard_bytes: int) -> list[list[Exported]]:
    """Tensors in their order, cut where the next would make a file too large."""
    shards: list[list[Exported]] = [[]]
    size = 0
    for each in tensors:
        needed = prod(each.shape) * item_bytes
        if shards[-1] and size + needed > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(each)
        size += needed
    return shards


def shard_index(names: Sequence[str], shards: Sequence[Sequence[Exported]], total: int) -> Mapping[str, Any]:
    """model.safetensors.index.json: which file holds which tensor."""
    places = {each.name: name for name, shard in zip(names, shards, strict=True) for each in shard}
    return {"metadata": {"total_size": total}, "weight_map": places}


def exported(source: Tensors, tensor: Exported, dtype: torch.dtype) -> Tensor:
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
        part = centred(part, tensor.centred)
    return part.to(dtype)


def centred(tensor: Tensor, dimension: int) -> Tensor:
    """Without its mean along a dimension, which is taken in float64."""
    exact = tensor.double()
    return (exact - exact.mean(dim=dimension, keepdim=True)).to(tensor.dtype)
