"""Features of images from memory, else from the feature store, else from the frozen encoder."""

from collections.abc import Container, Sequence

import torch
from torch import Tensor, nn

from stages.config import Vision
from stages.gpu_memory import ENCODER_IMAGES_AT_ONCE
from stages.job_file import JobFile
from stages.vision.encoders import load_encoder_module, resolve_encoder_paths
from stages.vision.feature_store import DTYPES, FeatureStore, open_feature_store
from stages.vision.image_input import ImageInput
from stages.vision.specs import resolve_encoder_spec


class FeatureCache:
    """Features by image digest, up to a limit. What is in it stays; what does not fit is not taken up."""

    def __init__(self, limit_gib: float) -> None:
        self._free_bytes = int(limit_gib * 2**30)
        self._features: dict[str, Tensor] = {}

    @property
    def digests(self) -> Container[str]:
        """Of the images in memory; a view, which grows with it."""
        return self._features.keys()

    def get(self, digest: str) -> Tensor | None:
        """Features (I, F) on the CPU."""
        return self._features.get(digest)

    def add(self, digest: str, features: Tensor) -> None:
        """Keeps a copy on the CPU if there is room."""
        size = features.numel() * features.element_size()
        if size <= self._free_bytes and digest not in self._features:
            self._free_bytes -= size
            self._features[digest] = features.cpu().clone()


class FeatureExtractor:
    """What the model sees of images: features of a frozen encoder, or the pixels for one that is trained."""

    def __init__(
        self,
        encoder: nn.Module | None,
        device: torch.device,
        *,
        feature_dtype: torch.dtype = torch.float32,
        memory_gib: float = 0.0,
        store: FeatureStore | None = None,
    ) -> None:
        """`encoder`: pixels (N, 3, S, S), uint8, to features (N, I, F); None: the model has it, and gets pixels.

        `feature_dtype`: to which features are rounded, so that those that were kept equal fresh ones.
        """
        self._encoder, self._device, self._dtype = encoder, device, feature_dtype
        self._memory, self._store = FeatureCache(memory_gib), store
        self.encoded_images = 0
        """Images that went through the encoder so far, in this process."""

    @property
    def cached_digests(self) -> Container[str]:
        """Digests of the images in memory; it grows, and never shrinks."""
        return self._memory.digests

    def extract_features(self, images: Sequence[ImageInput]) -> Tensor:
        """Features (N, I, F), float32, or pixels (N, 3, S, S), uint8, of N >= 1 images, on the compute device."""
        if self._encoder is None:
            return torch.stack([require_pixels(image) for image in images]).to(self._device, non_blocking=True)
        kept: dict[str, Tensor] = {}
        unseen: dict[str, ImageInput] = {}
        for image in images:
            features = image.features if image.features is not None else self._find_features(image.digest)
            if features is None:
                unseen[image.digest] = image
            else:
                kept[image.digest] = features
        kept |= self._encode(list(unseen.values()))
        stacked = [kept[image.digest].to(self._device, non_blocking=True) for image in images]
        return torch.stack(stacked).float()

    def _find_features(self, digest: str) -> Tensor | None:
        """Features from memory, or from the store, where they may be since the image was read."""
        features = self._memory.get(digest)
        if features is None and self._store is not None:
            features = self._store.get(digest)
        return features

    def _encode(self, images: Sequence[ImageInput]) -> dict[str, Tensor]:
        """Features (I, F) by digest, of images that are in no memory yet; they are kept in memory.

        On a CPU one image at a time: its bits depend neither on the batch nor on what was in memory before.
        """
        at_once = 1 if self._device.type == "cpu" else ENCODER_IMAGES_AT_ONCE
        encoded: dict[str, Tensor] = {}
        for start in range(0, len(images), at_once):
            part = images[start : start + at_once]
            pixels = torch.stack([require_pixels(image) for image in part]).to(self._device, non_blocking=True)
            self.encoded_images += len(part)
            for image, features in zip(part, self._run(pixels), strict=True):
                encoded[image.digest] = features
                self._memory.add(image.digest, features)
                if self._store is not None:
                    self._store.add(image.digest, features.cpu())
        return encoded

    def _run(self, pixels: Tensor) -> Tensor:
        """The encoder without gradients, in the precision that the device is fast in, whatever the job's."""
        assert self._encoder is not None  # noqa: S101 - extract_features() returns before
        # not inference_mode: the projector's backward pass needs the features
        enabled = self._device.type != "cpu"  # and not whatever the caller's autocast says
        with torch.no_grad(), torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled):
            features: Tensor = self._encoder(pixels)
        # Why: docs/decisions.md, D24
        return features.to(self._dtype)


def require_pixels(image: ImageInput) -> Tensor:
    """(3, S, S), uint8."""
    if image.pixels is None:
        raise ValueError(f"image {image.digest} has neither pixels nor features, and is not in memory")
    return image.pixels


def load_feature_extractor(job: JobFile, vision: Vision, device: torch.device) -> FeatureExtractor:
    """The extractor for the encoder of `vision`. ConfigError, DataError: the encoder cannot be loaded."""
    if not vision.frozen:
        return FeatureExtractor(None, device)
    return FeatureExtractor(
        load_encoder_module(vision, resolve_encoder_paths(job, vision), device),
        device,
        feature_dtype=DTYPES[resolve_encoder_spec(vision.encoder).feature_dtype],
        memory_gib=job.settings.feature_cache_gib,
        store=open_feature_store(job, vision),
    )
