"""Reading what open_lm wrote, without unpickling code: tensors, plain containers and numpy numbers, nothing else."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.errors import ConfigError

PREFIXES = ("module.", "_orig_mod.", "llm.model.", "model.")
"""Of DDP, of torch.compile, of Prismatic's wrapper, of the Hugging Face wrapper."""
ROTARY_BUFFER = "pos_embed.inv_freq"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of an `epoch_N.pt`, of a `.safetensors` or `.bin` file, or of a Hugging Face style folder.

    Under open_lm's bare names. ConfigError if the file holds code, or no weights of an OpenLM.
    """
    weights: dict[str, Tensor] = {}
    for file in weight_files(path):
        for name, tensor in read_file(file).items():
            bare = bare_name(name)
            if isinstance(tensor, Tensor) and not bare.endswith(ROTARY_BUFFER):
                weights[bare] = tensor
    if "tok_embeddings.weight" not in weights:
        raise ConfigError(f"{path}: no weights of an OpenLM; it has {', '.join(sorted(weights)[:4]) or 'no tensors'}")
    return weights


def weight_files(path: Path) -> list[Path]:
    """The file itself; of a folder its safetensors or, without any, its `pytorch_model*.bin`."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not found:
        raise ConfigError(f"{path}: neither *.safetensors nor pytorch_model*.bin is in this folder")
    return found


def read_file(path: Path) -> dict[str, Any]:
    """The state dictionary of one file."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: not a readable safetensors file: {error}") from error
    content = read_pickle(path)
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: state_dict is {type(state).__name__}; a dictionary of tensors is needed")
    return state


def read_pickle(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """A torch.save file of plain data. ConfigError if it needs anything that could run code.

    `mmap`: its tensors are read from the file when they are used, and not before.
    """
    with torch.serialization.safe_globals(numpy_numbers()):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"{path}: not a file of tensors and plain data: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {type(content).__name__}; a checkpoint of open_lm is a dictionary")
    return content


def numpy_numbers() -> list[Any]:
    """What a numpy float64 in a pickle names: open_lm's cosine schedule leaves learning rates of that type."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]  # numpy._core.multiarray.scalar, or numpy.core... before numpy 2
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, type(np.dtype(np.float64)), *((scalar, name) for name in names)]


def bare_name(name: str) -> str:
    """A weight's name without what wrappers put before it."""
    name = name.replace("_orig_mod.", "")
    while (prefix := next((p for p in PREFIXES if name.startswith(p)), None)) is not None:
        name = name.removeprefix(prefix)
    return name
