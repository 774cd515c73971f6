"""What is known of a vision encoder without its weights. Torch-free."""

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["patches", "efficientnet", "siglip", "dinov2", "fused"]
Colour = tuple[float, float, float]

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """One frozen or trained image encoder; what it returns has the shape (B, image_tokens, feature_width)."""

    name: str
    architecture: Architecture
    """Which code runs it (`stages.vision.encoders`)."""
    image_size: int
    """Pixels of a side."""
    patch_size: int
    """Pixels of a side that one token stands for."""
    image_tokens: int
    feature_width: int
    """Numbers of a token, as the projector gets them."""
    layers: int = 0
    """Blocks that are run; 0 where there is no transformer."""
    heads: int = 0
    mlp_width: int = 0
    prefix_tokens: int = 0
    """Class and register tokens: computed, not handed on."""
    parameters: int = 0
    """Weights of the part that is run."""
    flops: float = 0.0
    """One forward of one image."""
    mean: Colour = HALF
    """Of red, green, blue in 0..1, as the encoder's normalisation takes them; letterboxes are filled with it."""
    std: Colour = HALF
    parts: tuple["EncoderSpec", ...] = ()
    """The encoders whose features are concatenated, in this order; empty for a single one."""

    @property
    def feature_dtype(self) -> Literal["float32", "bfloat16"]:
        """Of features, wherever they are kept: two bytes a number for the transformers, four for the others."""
        return "bfloat16" if self.architecture in {"siglip", "dinov2", "fused"} else "float32"

    @property
    def feature_bytes(self) -> int:
        """Of one image's features, in memory and in a feature store."""
        return self.image_tokens * self.feature_width * (2 if self.feature_dtype == "bfloat16" else 4)
