"""An image on its way to the model, and its way between processes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image on its way to the model: what the encoder takes, or what it gave. S pixels wide and high."""

    digest: str
    """SHA-256 of the image file's bytes, in hexadecimal."""
    pixels: "Tensor | None" = None
    """(3, S, S), uint8; None when features are there."""
    features: "Tensor | None" = None
    """(I, F) as the frozen encoder gave them, from a store."""

    def __reduce__(self) -> tuple[object, ...]:
        """Between processes as plain bytes: torch's own way passes a file handle for each tensor."""
        return load_image_input, (self.digest, dump_tensor(self.pixels), dump_tensor(self.features))


TensorDump = tuple[bytes, str, tuple[int, ...]]
"""A tensor's bytes, the name of its type and its shape."""


def dump_tensor(tensor: "Tensor | None") -> TensorDump | None:
    """A CPU tensor as plain data."""
    if tensor is None:
        return None
    import torch

    content = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return content, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)


def load_tensor(dump: TensorDump | None) -> "Tensor | None":
    """What `dump_tensor` was given."""
    if dump is None:
        return None
    import torch

    content, dtype, shape = dump
    return torch.frombuffer(bytearray(content), dtype=getattr(torch, dtype)).view(shape)


def load_image_input(digest: str, pixels: TensorDump | None, features: TensorDump | None) -> ImageInput:
    """The image that `ImageInput.__reduce__` took apart."""
    return ImageInput(digest, load_tensor(pixels), load_tensor(features))
