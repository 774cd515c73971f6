"""SigLIP and DINOv2 from folders of transformers; their sizes at full scale on the meta device."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2WithRegistersModel, SiglipVisionModel

from stages.config import LanguageModel, Vision
from stages.errors import ConfigError, DataError
from stages.models.vlm import VLM
from stages.vision import transformers_encoders
from stages.vision.encoders import build_encoder_module, load_encoder_module
from stages.vision.feature_extractor import FeatureExtractor
from stages.vision.image_input import ImageInput
from stages.vision.specs import IMAGENET_MEAN, IMAGENET_STD, EncoderSpec, resolve_encoder_spec
from tests.stages.vision.encoder_case import DINOV2, FUSED, SIGLIP, dinov2_model, save, siglip_model, siglip_with_text

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(siglip_model(), tmp_path_factory.mktemp("siglip"))


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(dinov2_model(), tmp_path_factory.mktemp("dinov2"))


def load(encoder: str, *folders: Path, frozen: bool = True) -> nn.Module:
    return load_encoder_module(Vision(encoder=encoder, frozen=frozen), folders, CPU)


def some_pixels(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (pixels.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@torch.no_grad()
def test_siglips_features_are_the_patches_before_the_last_block(siglip_folder: Path, tmp_path: Path) -> None:
    pixels = some_pixels()
    for folder, model in (
        (siglip_folder, siglip_model()),
        (save(published := siglip_with_text(), tmp_path), published.vision_model),
    ):
        encoder = load(SIGLIP, folder)
        output = model(pixel_values=normalised(pixels, (0.5,) * 3, (0.5,) * 3), output_hidden_states=True)
        assert len(output.hidden_states) == 4  # before the first block, and after each of the three
        assert torch.equal(encoder(pixels), output.hidden_states[-2])
        assert encoder(pixels).shape == (2, 16, 32)


@torch.no_grad()
def test_dinov2s_features_are_its_patches_without_class_and_registers(dinov2_folder: Path) -> None:
    """Its positions are those of 56 pixels: transformers resamples 7 x 7 to 4 x 4 in each forward pass."""
    pixels, model = some_pixels(), dinov2_model()
    output = model(pixel_values=normalised(pixels, IMAGENET_MEAN, IMAGENET_STD), output_hidden_states=True)
    assert output.hidden_states[-2].shape == (2, 1 + 4 + 16, 48)
    assert torch.equal(load(DINOV2, dinov2_folder)(pixels), output.hidden_states[-2][:, 5:])


@torch.no_grad()
def test_fused_features_stand_side_by_side(siglip_folder: Path, dinov2_folder: Path) -> None:
    pixels = some_pixels()
    expected = torch.cat((load(SIGLIP, siglip_folder)(pixels), load(DINOV2, dinov2_folder)(pixels)), dim=-1)
    assert torch.equal(load(FUSED, siglip_folder, dinov2_folder)(pixels), expected)
    with pytest.raises(ConfigError, match="1 folders of weights; it takes one of siglip-tiny, one of dinov2-tiny-reg"):
        load(FUSED, siglip_folder)


def true_siglip(spec: EncoderSpec) -> nn.Module:
    return transformers_encoders.wrap_siglip(spec, SiglipVisionModel(transformers_encoders.build_siglip_config(spec)))


def true_dinov2(spec: EncoderSpec) -> nn.Module:
    return transformers_encoders.wrap_dinov2(
        spec, Dinov2WithRegistersModel(transformers_encoders.build_dinov2_config(spec, 518))
    )


@pytest.mark.parametrize(("name", "build"), [("siglip-so400m-14-384", true_siglip), ("dinov2-l-14-reg", true_dinov2)])
def test_the_planners_sizes_are_those_of_the_network(name: str, build: Callable[[EncoderSpec], nn.Module]) -> None:
    spec = resolve_encoder_spec(name)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder = build(spec)
        features = encoder(torch.empty(1, 3, 384, 384, dtype=torch.uint8))
    assert features.shape == (1, 729, spec.feature_width)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == spec.parameters
    assert counter.get_total_flops() == spec.flops


def test_a_trained_encoder_learns_all_its_weights_and_a_frozen_one_none(
    siglip_folder: Path, dinov2_folder: Path
) -> None:
    vision = Vision(encoder=FUSED, frozen=False, projector="fused-gelu-mlp")
    encoder = load_encoder_module(vision, (siglip_folder, dinov2_folder), CPU)
    vlm = VLM(LanguageModel(d_model=32, layers=1, heads=2, vocabulary=20), vision, encoder)
    embeddings = vlm.embed(torch.zeros(1, 20, dtype=torch.long), some_pixels(1), torch.arange(16)[None])
    embeddings.square().sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    trained = dict(vlm.iter_named_weights())
    assert sum(name.startswith("encoder.parts.0.") for name in trained) == 3 + 2 * 16
    assert sum(name.startswith("encoder.parts.1.") for name in trained) == 4 + 2 * 18
    for name, weight in trained.items():
        if name.startswith("encoder."):
            assert weight.dtype == torch.float32
            assert weight.grad is not None, name
            assert weight.grad.abs().sum() > 0 or name.endswith("k_proj.bias"), name  # which softmax cancels out
    assert not any(parameter.requires_grad for parameter in load(SIGLIP, siglip_folder).parameters())


def test_a_trained_encoder_is_built_from_a_checkpoint_alone(siglip_folder: Path, dinov2_folder: Path) -> None:
    vision = Vision(encoder=FUSED, frozen=False)
    loaded, empty = load_encoder_module(vision, (siglip_folder, dinov2_folder), CPU), build_encoder_module(vision)
    assert empty is not None
    assert all(parameter.isnan().all() for parameter in empty.parameters())
    empty.load_state_dict(loaded.state_dict())
    assert torch.equal(empty(some_pixels()), loaded(some_pixels()))
    assert build_encoder_module(Vision(encoder=FUSED)) is None


def test_kept_features_equal_fresh_ones_to_the_bit(siglip_folder: Path) -> None:
    pictures = [ImageInput(f"{number:064x}", pixels) for number, pixels in enumerate(some_pixels(3))]
    encoder = load(SIGLIP, siglip_folder)
    forgetful = FeatureExtractor(encoder, CPU, feature_dtype=torch.bfloat16)
    remembering = FeatureExtractor(encoder, CPU, feature_dtype=torch.bfloat16, memory_gib=1)
    fresh = forgetful.extract_features(pictures)
    remembering.extract_features(pictures[::-1])
    assert torch.equal(remembering.extract_features([ImageInput(picture.digest) for picture in pictures]), fresh)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # whatever the precision of the model that asks
        assert torch.equal(
            FeatureExtractor(encoder, CPU, feature_dtype=torch.bfloat16).extract_features(pictures[1:]), fresh[1:]
        )
    assert fresh.dtype == torch.float32
    assert torch.equal(fresh, fresh.bfloat16().float())
    with torch.no_grad():
        torch.testing.assert_close(fresh, encoder(some_pixels(3)), atol=0.02, rtol=0.01)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 64}, "hidden_size is 64; encoder 'siglip-tiny-32' has 32"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2; encoder 'siglip-tiny-32' has 3"),
        ({"image_size": 40}, "image_size is 40; encoder 'siglip-tiny-32' has 32"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; encoder 'siglip-tiny-32' has 'gelu_pytorch_tanh'"),
        ({"model_type": "clip"}, "model_type is 'clip'; expected siglip_vision_model or siglip"),
    ],
)
def test_a_folder_of_another_encoder_is_refused_by_its_field(
    siglip_folder: Path, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    folder = altered(siglip_folder, tmp_path, **changes)
    with pytest.raises(ConfigError, match=f"config.json: {reason}"):
        load(SIGLIP, folder)


def altered(folder: Path, target: Path, **changes: object) -> Path:
    """A copy of an encoder's folder with another configuration."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def test_what_a_configuration_leaves_out_is_transformers_default(siglip_folder: Path, tmp_path: Path) -> None:
    folder = altered(siglip_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    kept = ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    small = {name: config[name] for name in (*kept, "image_size", "patch_size")}
    (folder / "config.json").write_text(json.dumps(small))
    with torch.no_grad():
        assert torch.equal(load(SIGLIP, folder)(some_pixels()), load(SIGLIP, siglip_folder)(some_pixels()))


def test_dinov2s_other_sizes_are_refused(dinov2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_register_tokens is 0; encoder 'dinov2-tiny-reg-32' has 4"):
        load(DINOV2, altered(dinov2_folder, tmp_path / "a", num_register_tokens=0))
    with pytest.raises(ConfigError, match=r"image_size \[56, 56\]; a number of pixels is expected"):
        load(DINOV2, altered(dinov2_folder, tmp_path / "b", image_size=[56, 56]))
    with pytest.raises(DataError, match="the weights cannot be loaded"):
        load(DINOV2, altered(dinov2_folder, tmp_path / "c", image_size=48))


def test_a_folder_that_is_not_whole_is_refused(siglip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config.json: cannot be read: .*a folder of transformers is expected"):
        load(SIGLIP, tmp_path / "missing")
    folder = altered(siglip_folder, tmp_path / "weights")
    weights = load_file(folder / "model.safetensors")
    lacking = {name: weight for name, weight in weights.items() if "layers.1.mlp.fc1" not in name}
    save_file(lacking, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"2 weights are missing, .*layers\.1\.mlp\.fc1\.bias the first"):
        load(SIGLIP, folder)
    (folder / "model.safetensors").write_bytes((siglip_folder / "model.safetensors").read_bytes()[:5_000])
    with pytest.raises(DataError, match="the weights cannot be loaded"):
        load(SIGLIP, folder)


def test_pickled_weights_are_not_opened(siglip_folder: Path, tmp_path: Path) -> None:
    folder = altered(siglip_folder, tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save(siglip_model().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"no model.safetensors; pytorch_model.bin would be unpickled"):
        load(SIGLIP, folder)


def test_nothing_of_a_folders_configuration_is_run(siglip_folder: Path, tmp_path: Path) -> None:
    """Code beside the weights, a kernel from a hub, a quantisation: only the sizes are read."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').close()\nfrom transformers import SiglipVisionModel as Evil\n"
    folder = altered(
        siglip_folder,
        tmp_path / "weights",
        auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"},
        attn_implementation="kernels-community/evil",
        _attn_implementation="kernels-community/evil",
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
        torch_dtype="float16",
    )
    (folder / "evil.py").write_text(code)
    encoder = load(SIGLIP, folder)
    assert not mark.exists()
    with torch.no_grad():
        assert torch.equal(encoder(some_pixels()), load(SIGLIP, siglip_folder)(some_pixels()))
