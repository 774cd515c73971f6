"""Training images on their way to the model: from file bytes to pixels, or to features that are at hand already."""

import hashlib
from collections.abc import Callable, Container
from typing import Any

from stages.config import Vision
from stages.data.sample import BadSampleError
from stages.job_file import JobFile
from stages.vision.feature_store import FeatureStore, open_feature_store
from stages.vision.image_input import ImageInput
from stages.vision.specs import EncoderSpec, resolve_encoder_spec
from stages.vision.transforms import BadImageError, ImageTransform


class EncoderImageReader:
    """Decodes and transforms images, unless their features are known. It holds no model: workers have one each."""

    def __init__(
        self, spec: EncoderSpec, transform: ImageTransform, store: FeatureStore | None, known: Container[str] = ()
    ) -> None:
        """`known`: digests of images whose features stay in this process's memory."""
        self._spec, self._transform, self._store, self._known = spec, transform, store, known

    @property
    def image_tokens(self) -> int:
        """Positions that an image takes."""
        return self._spec.image_tokens

    def read(self, where: str, content: Callable[[], bytes]) -> ImageInput:
        """The image of a file's bytes: features if the store has them, neither if they are `known`, else pixels.

        BadSampleError, which names `where`, if it cannot be used.
        """
        data = content()
        digest = hashlib.sha256(data).hexdigest()
        if digest in self._known:
            return ImageInput(digest, None, None)
        if self._store is not None and (features := self._store.get(digest)) is not None:
            return ImageInput(digest, None, features)
        try:
            return ImageInput(digest, self._transform(data), None)
        except BadImageError as error:
            raise BadSampleError(f"{where}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which does not share this one's memory."""
        return {**self.__dict__, "_known": ()}


def open_image_reader(job: JobFile, vision: Vision, known: Container[str] = ()) -> EncoderImageReader:
    """The reader before the encoder of `vision`, with the job's feature store. ConfigError, DataError."""
    spec = resolve_encoder_spec(vision.encoder)
    return EncoderImageReader(
        spec, ImageTransform.from_spec(spec, vision.transform), open_feature_store(job, vision), known
    )
