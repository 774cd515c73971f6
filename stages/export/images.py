"""What a model with images needs beside its language model, and what uses it: images to embeddings.

    prefix = ImagePrefix.load(folder, encoders=[Path("siglip")])
    embeddings = prefix([Path("cat.jpg").read_bytes()])      # (1, I, D): before the text's, in `inputs_embeds`

`vision/` holds projector.safetensors, config.json, preprocessor_config.json and, where the encoder was trained,
encoder.safetensors. The weights of a frozen encoder stay where they are: config.json says which they are.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.config import LanguageModel, Vision
from stages.errors import DamagedInputError, DataError
from stages.export.weights import save_tensors, subtract_mean
from stages.files import write_json
from stages.models.vlm import ENCODER_PREFIX, PROJECTOR_PREFIX, build_projector
from stages.tensor_files import TensorFileError, load_tensors
from stages.vision.encoders import build_encoder_module, load_encoder_module, select_transformer_parts
from stages.vision.feature_store import DTYPES
from stages.vision.specs import EncoderSpec, resolve_encoder_spec
from stages.vision.transforms import ImageTransform

FOLDER, CONFIG, PREPROCESSOR = "vision", "config.json", "preprocessor_config.json"
PROJECTOR, ENCODER = "projector.safetensors", "encoder.safetensors"
BICUBIC = 3
"""Pillow's number of the resampling."""


def write_images(
    folder: Path, model: LanguageModel, vision: Vision, weights: Mapping[str, Tensor], start: Sequence[int] = ()
) -> None:
    """Writes `folder`/vision. `weights`: those of a checkpoint that do not belong to the language model; `start`: token
    ids that stand before the image."""
    place = folder / FOLDER
    place.mkdir()
    spec = resolve_encoder_spec(vision.encoder)
    write_json(place / CONFIG, {**build_vision_config(model, vision, spec), "tokens_before_image": list(start)})
    write_json(place / PREPROCESSOR, build_preprocessor_config(vision, spec))
    projector = select_by_prefix(weights, PROJECTOR_PREFIX)
    if not projector:
        raise DamagedInputError("the checkpoint lacks the projector's weights")
    if model.qk_norm:
        projector = centre_output(projector)
    save_tensors(place / PROJECTOR, projector)
    if encoder := select_by_prefix(weights, ENCODER_PREFIX):
        save_tensors(place / ENCODER, encoder)


def select_by_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def centre_output(projector: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The last layer's outputs without their mean, as all that enters the language model (`architecture`)."""
    last = max(int(name.partition(".")[0]) for name in projector)
    return {
        name: subtract_mean(tensor, 0) if name.startswith(f"{last}.") else tensor for name, tensor in projector.items()
    }


def build_vision_config(model: LanguageModel, vision: Vision, spec: EncoderSpec) -> dict[str, Any]:
    """vision/config.json: which encoder, what of it is used, and the projector's shape."""
    parts = [
        {
            "name": part.name,
            "layers_run": part.layers,
            "prefix_tokens_dropped": part.prefix_tokens,
            "mean": part.mean,
            "std": part.std,
        }
        for part in spec.parts or (spec,)
    ]
    return {
        "format": 1,
        "vision": vision.model_dump(mode="json", exclude={"identities"}),
        "image_size": spec.image_size,
        "image_tokens": spec.image_tokens,
        "feature_width": spec.feature_width,
        "feature_dtype": spec.feature_dtype,
        "embedding_width": model.d_model,
        "parts": parts,
    }


def build_preprocessor_config(vision: Vision, spec: EncoderSpec) -> dict[str, Any]:
    """What happens to an image before the first encoder, in the words of transformers' image processors."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": spec.image_size, "width": spec.image_size},
        "resample": BICUBIC,
        "do_pad": vision.transform == "letterbox",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": spec.mean,
        "image_std": spec.std,
    }


def load_part(path: Path) -> dict[str, Tensor]:
    """The tensors of one of the folder's files; DataError if it is not there or not whole."""
    try:
        return load_tensors(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: is not there") from error
    except TensorFileError as error:
        raise DataError(str(error)) from error


def fill_parameters(module: nn.Module, weights: Mapping[str, Tensor], file: str = ENCODER) -> None:
    """Takes over all parameters of a trained module; DataError if one is missing, too many or of another shape."""
    own = dict(module.named_parameters())
    if wrong := own.keys() ^ weights.keys():
        raise DataError(f"{FOLDER}/{file}: {min(wrong)} is missing or not the {Path(file).stem}'s")
    for name, parameter in own.items():
        if parameter.shape != weights[name].shape:
            shapes = f"{list(weights[name].shape)[:8]}; the {Path(file).stem} has {list(parameter.shape)}"
            raise DataError(f"{FOLDER}/{file}: {name} has shape {shapes}")
    module.load_state_dict(weights, strict=False)  # buffers are made, not stored


class ImagePrefix(nn.Module):
    """Encoder and projector of an exported model: image files to embeddings for the language model."""

    def __init__(self, vision: Vision, encoder: nn.Module, projector: nn.Sequential) -> None:
        super().__init__()
        spec = resolve_encoder_spec(vision.encoder)
        self.transform = ImageTransform.from_spec(spec, vision.transform)
        self.encoder, self.projector = encoder, projector
        # as in training, where features of a frozen encoder may have been kept
        self.feature_dtype = DTYPES[spec.feature_dtype] if vision.frozen else torch.float32

    @classmethod
    def load(cls, folder: Path, *, encoders: Sequence[Path] = ()) -> "ImagePrefix":
        """Of an export, on the CPU in float32. DataError if it has no images, ConfigError for another encoder.

        `encoders`: folders of transformers with the frozen encoder's weights, one for each of its parts; none where it
        has none or brings its own, or was trained.
        """
        place = folder / FOLDER
        try:
            config = json.loads((place / CONFIG).read_bytes())
            vision, width = Vision.model_validate(config["vision"]), int(config["embedding_width"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{place / CONFIG}: not the vision part of an export: {error}") from error
        encoder = build_encoder_module(vision)
        if encoder is None:
            encoder = load_encoder_module(vision, encoders, torch.device("cpu"))
        elif select_transformer_parts(resolve_encoder_spec(vision.encoder)):
            fill_parameters(encoder, load_part(place / ENCODER))
        projector = build_projector(vision.projector, resolve_encoder_spec(vision.encoder).feature_width, width)
        fill_parameters(projector, load_part(place / PROJECTOR), PROJECTOR)
        return cls(vision, encoder, projector).eval()

    @torch.no_grad()
    def forward(self, images: Sequence[bytes]) -> Tensor:
        """Embeddings (N, I, D) of N image files' bytes; BadImageError for what is no image."""
        device = self.projector[0].weight.device
        assert isinstance(device, torch.device)  # noqa: S101 - for the type checker
        pixels = torch.stack([self.transform(image) for image in images]).to(device)
        features = self.encoder(pixels).to(self.feature_dtype)
        embeddings: Tensor = self.projector(features.to(self.projector[0].weight.dtype))
        return embeddings
