"""Vision encoders as the planner sees them: tokens, widths, parameters, FLOPs. Torch-free; the weights load elsewhere.

An encoder's name fixes its image size. The names in `ENCODERS` have their usual size; a name with the size appended
(`patches-16-64`, `dinov2-l-14-reg-224`, `siglip-so400m-14-224`) has the size that it says. The `tiny` ones are for
trying things out; nobody has published weights of them. One FLOP is one addition or one multiplication: a multiply-add
counts two. Norms, activations and softmax are left out (below 1 %).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

# What is known of a vision encoder without its weights. Torch-free.

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


__all__ = ["ENCODERS", "FAMILIES", "LITE0_STAGES", "EncoderSpec", "UnknownEncoderError", "resolve_encoder_spec"]


class UnknownEncoderError(ValueError):
    """No encoder of that name, or one that cannot have that image size."""


def build_vision_transformer(
    name: str,
    architecture: Architecture,
    *,
    image_size: int,
    patch_size: int,
    width: int,
    layers: int,
    heads: int,
    mlp_width: int,
    prefix_tokens: int = 0,
    layer_scale: bool = False,
    mean: Colour = HALF,
    std: Colour = HALF,
) -> EncoderSpec:
    """A pre-norm ViT of which `layers` blocks are run and nothing after them; pixels that fill no patch are cut off."""
    patches = (image_size // patch_size) ** 2
    tokens = patches + prefix_tokens
    pixels = 3 * patch_size**2
    matrices = 4 * width**2 + 2 * width * mlp_width
    vectors = 4 * width + (mlp_width + width) + 4 * width + (2 * width if layer_scale else 0)
    attention = 4 * tokens**2 * width  # scores and weighted sum, each 2 x tokens x tokens x width, both directions
    return EncoderSpec(
        name=name,
        architecture=architecture,
        image_size=image_size,
        patch_size=patch_size,
        image_tokens=patches,
        feature_width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp_width,
        prefix_tokens=prefix_tokens,
        parameters=layers * (matrices + vectors) + (pixels + 1) * width + tokens * width,
        flops=float(layers * (2 * tokens * matrices + attention) + 2 * patches * pixels * width),
        mean=mean,
        std=std,
    )


def build_siglip_spec(name: str, image_size: int) -> EncoderSpec:
    """SigLIP SO400M/14 (Zhai et al. 2023; Alabdulmohsin et al. 2023): 27 blocks, of which 26 are run.

    As Prismatic takes it: the patches after the second to last block, so neither the last block nor the pooling head.
    """
    return build_vision_transformer(
        name, "siglip", image_size=image_size, patch_size=14, width=1_152, layers=26, heads=16, mlp_width=4_304
    )


def build_tiny_siglip(name: str, image_size: int) -> EncoderSpec:
    """The same at a size for tests: 3 blocks, of which 2 are run."""
    return build_vision_transformer(
        name, "siglip", image_size=image_size, patch_size=8, width=32, layers=2, heads=2, mlp_width=80
    )


def build_dinov2_spec(name: str, image_size: int) -> EncoderSpec:
    """DINOv2 ViT-L/14 with four registers (Oquab et al. 2023; Darcet et al. 2023): 24 blocks, of which 23 are run.

    At 384 px the outer 6 pixels fill no patch of 14, so that it gives 27 x 27 tokens as SigLIP does.
    """
    return build_vision_transformer(
        name,
        "dinov2",
        image_size=image_size,
        patch_size=14,
        width=1_024,
        layers=23,
        heads=16,
        mlp_width=4_096,
        prefix_tokens=5,
        layer_scale=True,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


def build_tiny_dinov2(name: str, image_size: int) -> EncoderSpec:
    """The same at a size for tests: 3 blocks, of which 2 are run."""
    tiny = {"patch_size": 8, "width": 48, "layers": 2, "heads": 4, "mlp_width": 192, "prefix_tokens": 5}
    return build_vision_transformer(
        name, "dinov2", image_size=image_size, **tiny, layer_scale=True, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


def build_siglip_dinov2(name: str, image_size: int) -> EncoderSpec:
    """Both encoders on the same image, features concatenated (Prismatic's `dinosiglip`, which has DINOv2's first)."""
    return fuse_specs(
        name, build_siglip_spec("siglip-so400m-14", image_size), build_dinov2_spec("dinov2-l-14-reg", image_size)
    )


def build_tiny_siglip_dinov2(name: str, image_size: int) -> EncoderSpec:
    """The same at a size for tests."""
    return fuse_specs(
        name, build_tiny_siglip("siglip-tiny", image_size), build_tiny_dinov2("dinov2-tiny-reg", image_size)
    )


def fuse_specs(name: str, first: EncoderSpec, second: EncoderSpec) -> EncoderSpec:
    """Two encoders with the same patches as one. A letterbox, drawn once, has the first one's mean colour."""
    return replace(
        first,
        name=name,
        architecture="fused",
        feature_width=first.feature_width + second.feature_width,
        parameters=first.parameters + second.parameters,
        flops=first.flops + second.flops,
        parts=(first, second),
    )


def build_patches_spec(name: str, image_size: int, patch_size: int = 14) -> EncoderSpec:
    """No encoder: the raw pixels of a patch, 3 x patch x patch numbers, go to the projector."""
    side = image_size // patch_size
    return EncoderSpec(
        name=name,
        architecture="patches",
        image_size=image_size,
        patch_size=patch_size,
        image_tokens=side**2,
        feature_width=3 * patch_size**2,
    )


# (repeats, kernel, stride, expansion, channels) of the first five stages: the last of them has stride 16
LITE0_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
LITE0_STEM = 32
LITE0_STRIDE = 16


def build_efficientnet_lite0(name: str, image_size: int) -> EncoderSpec:
    """EfficientNet-Lite0 (Tan and Le 2019; no squeeze-and-excitation) up to stride 16; a token is a 16 x 16 square.

    A token's features: the 112 channels of stride 16, then the 40 channels of the 2 x 2 places of stride 8: 272.
    """
    if image_size % LITE0_STRIDE:
        raise UnknownEncoderError(f"{name}: image size {image_size} must be a multiple of {LITE0_STRIDE}")
    side, channels = image_size // 2, LITE0_STEM
    parameters, macs = 27 * channels + 2 * channels, 27 * channels * side**2
    for repeats, kernel, first_stride, expansion, out in LITE0_STAGES:
        for repeat in range(repeats):
            hidden = channels * expansion
            stride = first_stride if repeat == 0 else 1
            expand = channels * hidden if expansion > 1 else 0
            macs += expand * side**2
            side //= stride
            macs += (kernel**2 * hidden + hidden * out) * side**2
            # two batch-norm vectors after each convolution
            parameters += expand + (2 * hidden if expand else 0) + kernel**2 * hidden + 2 * hidden
            parameters += hidden * out + 2 * out
            channels = out
    return EncoderSpec(
        name=name,
        architecture="efficientnet",
        image_size=image_size,
        patch_size=LITE0_STRIDE,
        image_tokens=(image_size // LITE0_STRIDE) ** 2,
        feature_width=112 + 4 * 40,
        parameters=parameters,
        flops=2.0 * macs,
    )


FAMILIES: dict[str, Callable[[str, int], EncoderSpec]] = {
    "siglip-so400m-14": build_siglip_spec,
    "dinov2-l-14-reg": build_dinov2_spec,
    "siglip+dinov2": build_siglip_dinov2,
    "patches": build_patches_spec,
    "efficientnet-lite0": build_efficientnet_lite0,
    "siglip-tiny": build_tiny_siglip,
    "dinov2-tiny-reg": build_tiny_dinov2,
    "siglip+dinov2-tiny": build_tiny_siglip_dinov2,
}

ENCODERS: dict[str, EncoderSpec] = {
    "siglip-so400m-14-384": build_siglip_spec("siglip-so400m-14-384", 384),
    "dinov2-l-14-reg": build_dinov2_spec("dinov2-l-14-reg", 384),
    "siglip+dinov2": build_siglip_dinov2("siglip+dinov2", 384),
    "patches": build_patches_spec("patches", 384),
    "efficientnet-lite0": build_efficientnet_lite0("efficientnet-lite0", 64),
}
"""The encoders by their usual names: the paper's, and the demo's (`efficientnet-lite0`)."""

SIZED_PATCHES = re.compile(r"patches-([1-9][0-9]{0,2})-([1-9][0-9]{1,3})")
SIZED = re.compile(r"(.+)-([1-9][0-9]{1,3})")


@cache
def resolve_encoder_spec(name: str) -> EncoderSpec:
    """The encoder of that name, with or without a size (`patches-PATCH-SIZE`, `FAMILY-SIZE`); UnknownEncoderError."""
    if name in ENCODERS:
        return ENCODERS[name]
    spec = find_sized_encoder(name)
    if spec is None or spec.image_tokens == 0:
        raise UnknownEncoderError(
            f"encoder {name!r} is unknown; encoders are {', '.join(ENCODERS)}; "
            "another image size is appended: siglip-so400m-14-224, patches-16-64 (patch, size)"
        )
    for usual in ENCODERS.values():
        # two names for one encoder would give two keys to the same work
        if replace(usual, name=name) == spec:
            raise UnknownEncoderError(f"encoder {name!r} goes by the name {usual.name!r}")
    return spec


def find_sized_encoder(name: str) -> EncoderSpec | None:
    """An encoder whose name ends in its image size; None if no family has that name."""
    if found := SIZED_PATCHES.fullmatch(name):
        return build_patches_spec(name, image_size=int(found[2]), patch_size=int(found[1]))
    found = SIZED.fullmatch(name)
    if found is None or found[1] not in FAMILIES or found[1] == "patches":
        return None
    return FAMILIES[found[1]](name, int(found[2]))
