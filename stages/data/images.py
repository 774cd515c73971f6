"""Features of training images: encoded once by the frozen encoder, then from memory."""

from collections.abc import Callable

from torch import Tensor

from stages.data.sample import BadSampleError
from stages.vision import BadImageError, Encoder, decode_image


class FeatureCache:
    """Features by (data set, sample number), up to a limit of memory; what does not fit is encoded each time.

    Each image is encoded on its own, so that its features never depend on which others were in a batch: a resumed run
    gets the same bits.
    """

    def __init__(self, encoder: Encoder, limit_gib: float) -> None:
        self._encoder = encoder
        self._free_bytes = int(limit_gib * 2**30)
        self._features: dict[tuple[str, int], Tensor] = {}

    def features(self, data_set: str, index: int, where: str, read: Callable[[], bytes]) -> Tensor:
        """(image tokens, feature width), float32. BadSampleError if the image cannot be used."""
        key = (data_set, index)
        if key in self._features:
            return self._features[key]
        try:
            pixels = decode_image(read(), self._encoder.spec.image_size)
        except BadImageError as error:
            raise BadSampleError(f"{where}: {error}") from error
        features = self._encoder.encode(pixels[None])[0].clone()
        if (size := features.numel() * features.element_size()) <= self._free_bytes:
            self._free_bytes -= size
            self._features[key] = features
        return features
