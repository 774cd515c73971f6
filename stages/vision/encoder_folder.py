"""A folder with an encoder's weights in transformers' format: config.json and safetensors, and nothing that is run.

Torch-free, so that a login node can tell whether it holds the encoder that a sweep names.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.errors import ConfigError, DataError
from stages.job_file import summarize_error
from stages.vision.specs import EncoderSpec

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

# What a configuration may leave out: transformers' own defaults of the fields that decide what is computed. The numbers
# are written here because transformers needs torch.

SIGLIP_DEFAULTS: Mapping[str, object] = {
    "hidden_size": 768,
    "intermediate_size": 3_072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
DINOV2_DEFAULTS: Mapping[str, object] = {
    "hidden_size": 768,
    "mlp_ratio": 4,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "num_register_tokens": 4,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
DINOV2_IMAGE_SIZE = 224


def check_siglip_config(spec: EncoderSpec, folder: Path) -> None:
    """ConfigError if the folder holds an encoder of other sizes, DataError if its configuration cannot be read."""
    given = read_config(folder, ("siglip_vision_model", "siglip"))
    expected = {
        **SIGLIP_DEFAULTS,
        "hidden_size": spec.feature_width,
        "intermediate_size": spec.mlp_width,
        "num_hidden_layers": spec.layers + 1,  # the folder has one block more than are run
        "num_attention_heads": spec.heads,
        "image_size": spec.image_size,
        "patch_size": spec.patch_size,
    }
    check_config(folder, spec.name, given.get("vision_config", given), expected, SIGLIP_DEFAULTS)


def read_dinov2_image_size(spec: EncoderSpec, folder: Path) -> int:
    """The image size at which the folder's positions were learned; the errors of `check_siglip_config`."""
    given = read_config(folder, ("dinov2_with_registers",))
    learned_at = given.get("image_size", DINOV2_IMAGE_SIZE)
    if not isinstance(learned_at, int) or learned_at < spec.patch_size:
        raise ConfigError(f"{folder}: config.json: image_size {learned_at!r}; a number of pixels is expected")
    expected = {
        **DINOV2_DEFAULTS,
        "hidden_size": spec.feature_width,
        "mlp_ratio": spec.mlp_width // spec.feature_width,
        "num_hidden_layers": spec.layers + 1,
        "num_attention_heads": spec.heads,
        "patch_size": spec.patch_size,
        "num_register_tokens": spec.prefix_tokens - 1,
    }
    check_config(folder, spec.name, given, expected, DINOV2_DEFAULTS)
    return learned_at


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
    folder: Path, encoder: str, given: Mapping[str, Any], expected: Mapping[str, Any], defaults: Mapping[str, object]
) -> None:
    """ConfigError names the first field in which a folder's configuration is not the encoder's.

    Such a file may leave out what equals transformers' `defaults`.
    """
    for field, value in expected.items():
        found = given.get(field, defaults[field])
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


# What can be known of the weights without reading them.

PATCH_WEIGHTS = ("embeddings.patch_embedding.weight", "embeddings.patch_embeddings.projection.weight")
"""How the name of the first matrix ends, whose shape holds width and patch size."""
MOST_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""


def check_encoder_folder(spec: EncoderSpec, folder: Path) -> None:
    """ConfigError or DataError as the loading would raise them, by config.json and the weights' headers alone."""
    if spec.architecture == "siglip":
        check_siglip_config(spec, folder)
    else:
        read_dinov2_image_size(spec, folder)
    check_weight_files(folder)
    expected = [spec.feature_width, 3, spec.patch_size, spec.patch_size]
    for path in list_weight_files(folder):
        for name, shape in read_weight_shapes(path).items():
            if name.endswith(PATCH_WEIGHTS) and shape != expected:
                raise DataError(f"{path}: weight {name} has shape {shape}; encoder {spec.name!r} has {expected}")


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


def read_weight_shapes(path: Path) -> dict[str, list[int]]:
    """Each weight's shape from a file's header. DataError if the file is not whole: eight bytes with the length of the
    header, the header as JSON, and as many bytes as its weights take."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > MOST_HEADER_BYTES:
                raise ValueError("its header is no header")
            header = json.loads(file.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length + max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
        if path.stat().st_size != end:
            raise ValueError(f"{path.stat().st_size} bytes, and its header says {end}")
        return {name: [int(size) for size in entry["shape"]] for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: no whole safetensors file: {summarize_error(error)}; copy it again") from error
