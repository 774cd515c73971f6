"""Exports one finished run: reads its checkpoint, writes the folder."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from stages.checkpoint.files import MODEL, Checkpoint, read_result_checkpoint
from stages.config import LanguageModel, Vision
from stages.data.prompts import restore_template
from stages.data.tokenizer import TextTokenizer
from stages.errors import ConfigError, DamagedInputError
from stages.export.card import format_model_card
from stages.export.images import write_images
from stages.export.request import ExportRequest
from stages.export.tokenizer_files import TextSettings, write_text_files
from stages.export.weights import DTYPES, TensorFile, build_transformers_config, write_weights
from stages.files import convert_storage_errors, flush_to_disk, write_json
from stages.models.vlm import ENCODER_PREFIX, PROJECTOR_PREFIX
from stages.tensor_files import TensorFileError, convert_tensor_errors

# A folder that appears whole or not at all, and takes no other's place than that of an earlier one of its kind.
#
# Torch-free: the control plane asks here too.

MARKER = "export.json"
"""What an exported folder says of itself; its presence allows the folder to be replaced."""
FORMAT = 1


def read_marker(folder: Path) -> Mapping[str, Any] | None:
    """export.json of a folder; None where there is none that this version wrote."""
    try:
        content = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    known = isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("files"), list)
    return content if known else None


def check_target_folder(folder: Path) -> None:
    """ConfigError if `folder` is there and is not an export, or has got files that the export did not write."""
    if folder.is_symlink():
        raise ConfigError(f"{folder}: is a link; give the folder that is meant")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is a file; give a folder to make")
    marker = read_marker(folder)
    if marker is None:
        if any(folder.iterdir()):
            raise ConfigError(f"{folder}: is there and was not written by an export; give a new folder")
        return
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if added := sorted(there - {MARKER, *map(str, marker["files"])}):
        raise ConfigError(f"{folder}: {added[0]} was added to this export; move it away, or give a new folder")


@contextmanager
def open_new_folder(folder: Path, about: Mapping[str, Any]) -> Iterator[Path]:
    """Gives a hidden folder beside `folder` to fill; at the end of the block it gets export.json and that name.

    `about` goes into export.json. ConfigError as `check_target_folder`; StorageError if the disk is full.
    If the block raises,
    everything is as before.
    """
    check_target_folder(folder)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with convert_storage_errors(folder):
        try:
            unfinished.mkdir(parents=True)
            yield unfinished
            files = sorted(path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file())
            write_json(unfinished / MARKER, {"format": FORMAT, **about, "files": files})
            flush_to_disk(unfinished)
            rename_into_place(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def rename_into_place(unfinished: Path, folder: Path) -> None:
    """Renames a finished folder into place; an earlier export goes only once the new one can be seen."""
    check_target_folder(folder)  # again: an export takes minutes
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
    if folder.exists():
        folder.rename(old)
    unfinished.rename(folder)
    flush_to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def export_model(request: ExportRequest) -> Path:
    """Writes the folder and returns it.

    DamagedInputError for a checkpoint that does not hold, DataError for a tokenizer that does not fit, ConfigError for
    a folder that is another's, StorageError for a full disk; then everything is as before.
    """
    out = Path(request.out)
    check_target_folder(out)  # before gigabytes are read
    checkpoint = read_result_checkpoint(Path(request.run), request.facts.key)
    model, vision = read_model_shapes(checkpoint, request.facts.key)
    words = load_text_settings(request, checkpoint, model)
    with open_new_folder(out, {**request.facts.build_identity(), "dtype": request.dtype}) as folder:
        with open_weights(checkpoint) as source:
            write_weights(source, model, folder, DTYPES[request.dtype])
        config = build_transformers_config(
            model, context=request.context, end_of_text=words.end_of_text, dtype=request.dtype
        )
        write_json(folder / "config.json", config)
        is_exact = write_text_files(words, folder, context=request.context)
        if vision is not None:
            write_images(folder, model, vision, read_image_weights(checkpoint), words.start)
        card = format_model_card(request.facts, model, vision, words, is_exact)
        (folder / "README.md").write_text(card, encoding="utf-8")
    return out


@contextmanager
def open_weights(checkpoint: Checkpoint) -> Iterator[TensorFile]:
    """The checkpoint's tensors, each read when asked for; DamagedInputError if their file is none."""
    path = checkpoint.path / MODEL
    try:
        with convert_tensor_errors(path), safe_open(path, framework="pt") as source:
            yield source
    except TensorFileError as error:
        raise DamagedInputError(str(error), damaged_key=checkpoint.key) from error


def read_model_shapes(checkpoint: Checkpoint, key: str) -> tuple[LanguageModel, Vision | None]:
    """What the checkpoint holds; DamagedInputError if it does not say it as this version does."""
    state = checkpoint.state
    try:
        vision = Vision.model_validate(state["vision"]) if state["vision"] else None
        return LanguageModel.model_validate(state["model"]), vision
    except (KeyError, ValidationError) as error:
        message = f"{checkpoint.path}: not a model of this version: {' '.join(str(error).split())}"
        raise DamagedInputError(message, damaged_key=key) from error


def load_text_settings(request: ExportRequest, checkpoint: Checkpoint, model: LanguageModel) -> TextSettings:
    """Its tokenizer, and the prompt of a fine-tuned model."""
    tokenizer = TextTokenizer(Path(request.tokenizer), model.vocabulary) if request.tokenizer else None
    tuned = request.facts.stage == "finetune"
    return TextSettings(tokenizer, restore_template(checkpoint.state).dump_state() if tuned else None)


def read_image_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Projector and trained encoder, of all weights of the checkpoint."""
    with open_weights(checkpoint) as source:
        names = [name for name in source.keys() if name.startswith((PROJECTOR_PREFIX, ENCODER_PREFIX))]  # noqa: SIM118
        return {name: source.get_tensor(name) for name in names}
