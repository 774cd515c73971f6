"""A folder with an encoder's weights in transformers' format: config.json and safetensors, and nothing that is run."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from stages.errors import ConfigError, DataError
from stages.job_file import one_line

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")

Model = TypeVar("Model", bound=PreTrainedModel)


def read_config(folder: Path, types: Sequence[str]) -> dict[str, Any]:
    """config.json. DataError if it cannot be read, ConfigError if its model_type is none of `types`."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {one_line(error)}; a folder of transformers is expected") from error
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


def load_model(kind: type[Model], config: PretrainedConfig, folder: Path) -> Model:
    """transformers' model of `config` in float32 with the weights of `folder`, which may hold more than it takes.

    Only safetensors are read, from the folder alone. DataError if weights are missing, damaged, or of other shapes.
    """
    if not any((folder / name).is_file() for name in WEIGHTS):
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        others = f"; {', '.join(pickled)} would be unpickled, which can run code: save it as safetensors" * bool(
            pickled
        )
        raise DataError(f"{folder}: no {WEIGHTS[0]}{others}")
    loaded: Any
    try:
        with quiet_transformers():
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
        raise DataError(f"{folder}: the weights cannot be loaded: {one_line(error)}") from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise DataError(f"{folder}: {len(missing)} weights are missing, {missing[0]} the first")
    if not isinstance(model, kind):
        raise TypeError(f"transformers gave a {type(model).__name__} for {kind.__name__}")
    return model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without its progress bar, and without its list of the weights that are in the folder and not taken."""
    verbosity, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it so
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
