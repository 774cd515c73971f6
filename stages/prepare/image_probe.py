"""Looks whether images can be used, without keeping anything of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from stages.data.sample import BadSampleError
from stages.errors import ConfigError
from stages.prepare.check_request import CheckRequest
from stages.prepare.findings import Findings
from stages.vision.image_input import Picture
from stages.vision.specs import UnknownEncoderError, encoder_spec

SAMPLED = 16
"""With `--decode sample`: one image in this many is decoded, the first of each shard among them."""
DEFAULT_ENCODER = "siglip-so400m-14-384"
"""Whose image size is taken where the check is told of no encoder."""


@dataclass(slots=True)
class ImageProbe:
    """In the place of a stage's picture reader: the same transform, and a picture without content."""

    request: CheckRequest
    decode: str
    findings: Findings
    _transform: Callable[[bytes], object] | None = field(default=None, init=False)
    image_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        """ConfigError if there is no such encoder."""
        try:
            self.image_tokens = encoder_spec(self.request.encoder or DEFAULT_ENCODER).image_tokens
        except UnknownEncoderError as error:
            raise ConfigError(str(error)) from error

    def read(self, where: str, content: Callable[[], bytes]) -> Picture:
        """MissingImageError, or, where the image is decoded, BrokenImageError."""
        try:
            data = content()
        except BadSampleError as error:
            raise MissingImageError(str(error)) from error
        number = self.findings.images
        self.findings.images += 1
        if self.decode == "all" or (self.decode == "sample" and number % SAMPLED == 0):
            self.findings.decoded += 1
            self._check(where, data)
        return Picture("")

    def _check(self, where: str, data: bytes) -> None:
        from stages.vision.transforms import BadImageError, ImageTransform, TransformKind

        if self._transform is None:
            spec = encoder_spec(self.request.encoder or DEFAULT_ENCODER)
            self._transform = ImageTransform.of(spec, cast("TransformKind", self.request.transform))
        try:
            self._transform(data)
        except BadImageError as error:
            raise BrokenImageError(f"{where}: {error}") from error


class MissingImageError(BadSampleError):
    """An image that cannot be read."""


class BrokenImageError(BadSampleError):
    """An image that cannot be decoded, or is too large."""
