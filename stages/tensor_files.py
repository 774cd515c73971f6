"""Reading safetensors files, whose headers anybody may have written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stages.errors import find_errno

if TYPE_CHECKING:
    from torch import Tensor


class TensorFileError(ValueError):
    """A file that is no whole safetensors file, or holds what torch has not; the message names it."""


# Why: docs/decisions.md, D160
@contextmanager
def convert_tensor_errors(path: Path) -> Iterator[None]:
    """Turns what the library says of a bad file into TensorFileError; errors of the operating system stay."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, KeyError, OverflowError, RuntimeError, TypeError) as error:
        if find_errno(error) is not None:
            raise
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else str(error)
        raise TensorFileError(f"{path}: no whole safetensors file: {' '.join(reason.split())[:300]}") from error


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """All tensors of a file, by name, on the CPU. TensorFileError, or OSError."""
    from safetensors.torch import load_file

    with convert_tensor_errors(path):
        return load_file(path)
