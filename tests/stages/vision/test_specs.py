import pytest

from stages.vision.specs import ENCODERS, UnknownEncoderError, resolve_encoder_spec


@pytest.mark.parametrize(
    ("name", "tokens", "width"),
    [
        ("siglip-so400m-14-384", 729, 1_152),
        ("dinov2-l-14-reg", 729, 1_024),
        ("siglip+dinov2", 729, 1_152 + 1_024),
        ("patches", 729, 3 * 14 * 14),
        ("efficientnet-lite0", 16, 272),
        ("siglip-so400m-14-224", 256, 1_152),
        ("siglip+dinov2-224", 256, 2_176),
        ("dinov2-l-14-reg-224", 256, 1_024),
        ("patches-16-64", 16, 768),
        ("patches-8-64", 64, 192),
        ("efficientnet-lite0-96", 36, 272),
        ("siglip-tiny-32", 16, 32),
        ("dinov2-tiny-reg-32", 16, 48),
        ("siglip+dinov2-tiny-64", 64, 80),
    ],
)
def test_a_name_fixes_tokens_and_width(name: str, tokens: int, width: int) -> None:
    spec = resolve_encoder_spec(name)
    assert (spec.name, spec.image_tokens, spec.feature_width) == (name, tokens, width)


def test_siglip_is_counted_block_by_block() -> None:
    spec = ENCODERS["siglip-so400m-14-384"]
    tokens, width, hidden = 729, 1_152, 4_304
    matrices = 4 * width**2 + 2 * width * hidden
    assert spec.layers == 26
    assert spec.flops == 26 * (2 * tokens * matrices + 4 * tokens**2 * width) + 2 * tokens * 588 * width
    # Google's so400m vision tower: 27 blocks, 428M with pooling head; the 26 blocks and the embedding are 398M
    assert spec.parameters == pytest.approx(398e6, rel=0.002)


def test_dinov2_is_vit_large_less_its_last_block() -> None:
    spec = ENCODERS["dinov2-l-14-reg"]
    # a ViT-L block has 12.6M weights, the whole ViT-L/14 304.4M at 37 x 37 patches
    assert (spec.layers, spec.prefix_tokens) == (23, 5)
    assert spec.parameters == pytest.approx(304.4e6 - 12.6e6 - (37**2 - 729) * 1_024, rel=0.002)


def test_fused_features_are_both_encoders_side_by_side() -> None:
    fused = ENCODERS["siglip+dinov2"]
    assert fused.feature_width == sum(part.feature_width for part in fused.parts)
    assert fused.flops == sum(part.flops for part in fused.parts)
    assert {part.image_tokens for part in fused.parts} == {fused.image_tokens}


def test_efficientnet_has_the_sizes_of_its_published_weights() -> None:
    # counted over the modules of the shipped network and by torch's FLOP counter on a 64 x 64 image
    assert ENCODERS["efficientnet-lite0"].parameters == 700_768
    assert ENCODERS["efficientnet-lite0"].flops == 39_717_376


def test_patches_cost_nothing() -> None:
    assert (ENCODERS["patches"].parameters, ENCODERS["patches"].flops) == (0, 0.0)


@pytest.mark.parametrize("name", ["clip", "siglip-so400m-14", "patches-64", "siglip-so400m-14-10", "patches-16-08", ""])
def test_an_unknown_name_is_refused_with_the_choices(name: str) -> None:
    with pytest.raises(UnknownEncoderError, match=r"encoders are siglip-so400m-14-384, .*patches-16-64"):
        resolve_encoder_spec(name)


@pytest.mark.parametrize(
    ("second", "usual"), [("patches-14-384", "patches"), ("dinov2-l-14-reg-384", "dinov2-l-14-reg")]
)
def test_no_encoder_has_two_names(second: str, usual: str) -> None:
    with pytest.raises(UnknownEncoderError, match=f"goes by the name '{usual}'"):
        resolve_encoder_spec(second)


def test_a_size_that_leaves_no_whole_square_is_refused() -> None:
    with pytest.raises(UnknownEncoderError, match="must be a multiple of 16"):
        resolve_encoder_spec("efficientnet-lite0-70")


@pytest.mark.parametrize(
    ("name", "size"), [("siglip-so400m-14-384", 729 * 1_152 * 2), ("efficientnet-lite0", 16 * 272 * 4)]
)
def test_features_of_transformers_take_two_bytes_a_number(name: str, size: int) -> None:
    assert resolve_encoder_spec(name).feature_bytes == size
