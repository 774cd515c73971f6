"""Vision encoders made of transformers' blocks: the network, DINOv2, SigLIP, and the folders with their weights."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that every torch user knows
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    PretrainedConfig,
    PreTrainedModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.utils import logging as transformers_logging

from stages.errors import ConfigError, DataError
from stages.job_file import summarize_error
from stages.vision.specs import EncoderSpec


# Why: docs/decisions.md, D23
class VisionTransformer(nn.Module):
    """Normalisation, patch embedding, positions, blocks: the patches after the last of the blocks, without a norm.

    That is the second to last block of the published network (Prismatic's choice); the rest is left out.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        spec: EncoderSpec,
        patch_embedding: nn.Conv2d,
        positions: Tensor,
        prefix: Tensor | None,
        blocks: Iterable[nn.Module],
    ) -> None:
        """`positions` (I, F) are added to the patches, `prefix` (P, F) stands before them (class and registers)."""
        super().__init__()
        # not in checkpoints: constants of the encoder
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)
        self.patch_embedding = patch_embedding
        self.positions = nn.Parameter(positions.detach().clone())
        self.prefix = nn.Parameter(prefix.detach().clone()) if prefix is not None else None
        self.blocks = nn.ModuleList(blocks)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (N, 3, S, S), uint8, to features (N, I, F); pixels that fill no patch are cut off."""
        x = (pixels.float() / 255 - self.mean) / self.std
        x = self.patch_embedding(x).flatten(2).transpose(1, 2) + self.positions
        if self.prefix is not None:
            x = torch.cat((self.prefix.expand(len(x), -1, -1), x), dim=1)
        for block in self.blocks:
            x = block(x, None)  # no mask
        return x[:, len(self.prefix) :] if self.prefix is not None else x


# DINOv2 with registers (Oquab et al. 2023; Darcet et al. 2023), as transformers has it.

DINOV2_FIELDS = (
    "hidden_size",
    "mlp_ratio",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "num_register_tokens",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
    "qkv_bias",
    "use_swiglu_ffn",
)
"""Of the folder's configuration: those that decide what is computed."""


def load_dinov2(spec: EncoderSpec, folder: Path) -> VisionTransformer:
    """The network with the weights of a folder; its positions, learned at another image size, are resampled.

    ConfigError if the folder holds an encoder of other sizes, DataError if it is not whole.
    """
    return wrap_dinov2(spec, load_model(Dinov2WithRegistersModel, resolve_dinov2_config(spec, folder), folder))


def resolve_dinov2_config(spec: EncoderSpec, folder: Path) -> Dinov2WithRegistersConfig:
    """The part of the folder's network that is run. ConfigError if the folder holds an encoder of other sizes."""
    given = read_config(folder, ("dinov2_with_registers",))
    learned_at = given.get("image_size", Dinov2WithRegistersConfig().image_size)
    if not isinstance(learned_at, int) or learned_at < spec.patch_size:
        raise ConfigError(f"{folder}: config.json: image_size {learned_at!r}; a number of pixels is expected")
    config = build_dinov2_config(spec, learned_at)
    # the folder has one block more than are run
    expected = {**{field: getattr(config, field) for field in DINOV2_FIELDS}, "num_hidden_layers": spec.layers + 1}
    check_config(folder, spec.name, given, expected, Dinov2WithRegistersConfig())
    return config


def build_empty_dinov2(spec: EncoderSpec) -> VisionTransformer:
    """The network with uninitialized weights."""
    with torch.device("meta"):
        model = Dinov2WithRegistersModel(build_dinov2_config(spec, spec.image_size))
    return wrap_dinov2(spec, model.to_empty(device="cpu"))


def build_dinov2_config(spec: EncoderSpec, image_size: int) -> Dinov2WithRegistersConfig:
    """For transformers: the part that is run, without the last block; `image_size` is that of the positions."""
    settings: dict[str, Any] = {
        "hidden_size": spec.feature_width,
        "mlp_ratio": spec.mlp_width // spec.feature_width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "image_size": image_size,
        "patch_size": spec.patch_size,
        "num_register_tokens": spec.prefix_tokens - 1,
    }
    return Dinov2WithRegistersConfig(**settings)


def wrap_dinov2(spec: EncoderSpec, model: Dinov2WithRegistersModel) -> VisionTransformer:
    """The parts of transformers' model that are run. Of the prefix, the class token alone has a position."""
    embeddings = model.embeddings
    positions = embeddings.position_embeddings[0]
    class_token = embeddings.cls_token[0] + positions[:1]
    prefix = torch.cat((class_token, embeddings.register_tokens[0]))
    side = spec.image_size // spec.patch_size
    return VisionTransformer(
        spec,
        embeddings.patch_embeddings.projection,
        resample_positions(positions[1:], side),
        prefix,
        model.encoder.layer,
    )


def resample_positions(positions: Tensor, side: int) -> Tensor:
    """Positions (n x n, F) for side x side patches: bicubic and antialiased, as transformers and timm do it."""
    learned = round(len(positions) ** 0.5)
    if learned == side:
        return positions
    grid = positions.detach().float().view(1, learned, learned, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return grid[0].permute(1, 2, 0).reshape(side * side, -1)


# SigLIP's vision tower (Zhai et al. 2023), as transformers has it.

SIGLIP_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "num_channels",
    "hidden_act",
    "layer_norm_eps",
)
"""Of the folder's configuration: those that decide what is computed."""


def load_siglip(spec: EncoderSpec, folder: Path) -> VisionTransformer:
    """The tower with the weights of a folder that holds it, alone or beside the text tower.

    ConfigError if the folder holds an encoder of other sizes, DataError if it is not whole.
    """
    return wrap_siglip(spec, load_model(SiglipVisionModel, resolve_siglip_config(spec, folder), folder))


def resolve_siglip_config(spec: EncoderSpec, folder: Path) -> SiglipVisionConfig:
    """The part of the folder's network that is run. ConfigError if the folder holds an encoder of other sizes."""
    config = build_siglip_config(spec)
    given = read_config(folder, ("siglip_vision_model", "siglip"))
    given = given.get("vision_config", given)
    # the folder has one block more than are run
    check_config(folder, spec.name, given, build_published_config(spec), SiglipVisionConfig())
    return config


def build_empty_siglip(spec: EncoderSpec) -> VisionTransformer:
    """The tower with uninitialized weights."""
    with torch.device("meta"):
        model = SiglipVisionModel(build_siglip_config(spec))
    return wrap_siglip(spec, model.to_empty(device="cpu"))


def build_siglip_config(spec: EncoderSpec) -> SiglipVisionConfig:
    """For transformers: the part that is run, without the last block and the pooling head."""
    return SiglipVisionConfig(
        hidden_size=spec.feature_width,
        intermediate_size=spec.mlp_width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        image_size=spec.image_size,
        patch_size=spec.patch_size,
        vision_use_head=False,
    )


def build_published_config(spec: EncoderSpec) -> dict[str, Any]:
    """What the folder's configuration must say."""
    config = build_siglip_config(spec)
    return {**{field: getattr(config, field) for field in SIGLIP_FIELDS}, "num_hidden_layers": spec.layers + 1}


def wrap_siglip(spec: EncoderSpec, model: SiglipVisionModel) -> VisionTransformer:
    """The parts of transformers' model that are run."""
    embeddings = model.embeddings
    positions = embeddings.position_embedding.weight
    return VisionTransformer(spec, embeddings.patch_embedding, positions, None, model.encoder.layers)


# A folder with an encoder's weights in transformers' format: config.json and safetensors, and nothing that is run.

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

Model = TypeVar("Model", bound=PreTrainedModel)


def read_config(folder: Path, types: Sequence[str]) -> dict[str, Any]:
    """config.json. DataError if it cannot be read, ConfigError if its model_type is none of `types`."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be read: {summarize_error(error)}; a folder of transformers is expected"
        ) from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind not in types or not isinstance(content.get("vision_config", {}), dict):
        raise ConfigError(f"{path}: model_type is {kind!r}; expected {' or '.join(types)}")
    return dict(content)


def check_config(
    folder: Path, encoder: str, given: Mapping[str, Any], expected: Mapping[str, Any], defaults: PretrainedConfig
) -> None:
    """ConfigError names the first field in which a folder's configuration is not the encoder's.

    Such a file may leave out what equals transformers' `defaults`.
    """
    for field, value in expected.items():
        found = given.get(field, getattr(defaults, field))
        if found != value:
            raise ConfigError(f"{folder / 'config.json'}: {field} is {found!r}; encoder {encoder!r} has {value!r}")


def check_weight_files(folder: Path) -> None:
    """DataError if the folder has no safetensors."""
    if not any((folder / name).is_file() for name in WEIGHTS):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        others = f"; {', '.join(pickled)} would be unpickled, which can run code: save it as safetensors" * bool(
            pickled
        )
        raise DataError(f"{folder}: no {WEIGHTS[0]}{others}")


def load_model(kind: type[Model], config: PretrainedConfig, folder: Path) -> Model:
    """transformers' model of `config` in float32 with the weights of `folder`, which may hold more.

    Only safetensors are read, from the folder alone. DataError if weights are missing, damaged, or of other shapes.
    """
    check_weight_files(folder)
    loaded: Any
    try:
        with silence_transformers():
            loaded = kind.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder}: the weights cannot be loaded: {summarize_error(error)}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise DataError(f"{folder}: {len(missing)} weights are missing, {missing[0]} the first")
    if not isinstance(model, kind):
        raise TypeError(f"transformers gave a {type(model).__name__} for {kind.__name__}")
    return model


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Hides its progress bar, and its list of the weights that are in the folder and not used."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it so
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


# The same questions without reading the weights: what can be known of a folder before a job needs it.

PREFIXES = ("vision_model.", "dinov2_with_registers.")
"""Before a weight's name where the network was saved as a part of another."""


def check_encoder_folder(spec: EncoderSpec, folder: Path) -> None:
    """ConfigError or DataError as the loading would raise them, by config.json and the weights' headers alone."""
    with torch.device("meta"):
        model: PreTrainedModel = (
            SiglipVisionModel(resolve_siglip_config(spec, folder))
            if spec.architecture == "siglip"
            else Dinov2WithRegistersModel(resolve_dinov2_config(spec, folder))
        )
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    check_weight_files(folder)
    found = read_weight_shapes(folder)
    if len(found) < len(expected):
        raise DataError(f"{folder}: {len(found)} weights; encoder {spec.name!r} has {len(expected)}; copy it again")
    # transformers translates names that earlier versions wrote: those that are the same today are compared
    for name in expected.keys() & found.keys():
        if found[name] != expected[name]:
            given, wanted = found[name], expected[name]
            raise DataError(f"{folder}: weight {name} has shape {given}; encoder {spec.name!r} has {wanted}")


def read_weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Each weight's shape, by its name without `PREFIXES`, from the files' headers. DataError if one is not whole."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in list_weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    shapes[remove_prefix(name)] = tuple(file.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: no whole safetensors file: {summarize_error(error)}; copy it again") from error
    return shapes


def list_weight_files(folder: Path) -> list[Path]:
    """The one file, or those that the index names. DataError for an index that cannot be read."""
    single, index = (folder / name for name in WEIGHTS)
    if single.is_file():
        return [single]
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        return [folder / Path(name).name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{index}: no index of weights: {summarize_error(error)}; copy it again") from error


def remove_prefix(name: str) -> str:
    """A weight's name as the network by itself has it."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name
