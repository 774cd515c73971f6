"""Weights between a checkpoint of ours and prismatic's files."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from stages.checkpoint.openlm import read_pickle, strip_wrapper_prefixes
from stages.config import Vision
from stages.errors import ConfigError
from stages.models.vlm import PROJECTOR_PREFIX
from stages.vision.specs import resolve_encoder_spec

LATEST = "latest-checkpoint.pt"
NAMED = re.compile(r"step-(?P<step>\d+)-epoch-(?P<epoch>\d+)-loss=(?P<loss>.+)\.pt")
FIRST_LAYER = "projector.0.weight"
"""Of the projector, whose inputs are the encoder's features."""
LINEAR = f"{PROJECTOR_PREFIX}0."
"""One layer alone: prismatic leaves out its number."""


def write_parent_weights(
    weights: Mapping[str, Tensor], vision: Vision, *, projector: Path, language_model: Path
) -> None:
    """The two files from which prismatic starts: its own form for the projector, open_lm's for the language model."""
    language = {name: tensor for name, tensor in weights.items() if not name.startswith(PROJECTOR_PREFIX)}
    projecting = {name: tensor for name, tensor in weights.items() if name.startswith(PROJECTOR_PREFIX)}
    torch.save({"state_dict": language}, language_model)
    ordered = reorder_projector(projecting, vision, to_prismatic=True)
    if vision.projector == "linear":
        ordered = {name.replace(LINEAR, PROJECTOR_PREFIX): tensor for name, tensor in ordered.items()}
    torch.save({"model": {"projector": ordered}}, projector)


def read_trained_weights(path: Path, vision: Vision) -> dict[str, Tensor]:
    """The weights of a checkpoint of prismatic's finetune stage, under our names. ConfigError for another file."""
    content = read_pickle(path).get("model")
    parts = content if isinstance(content, dict) else {}
    if parts.keys() != {"projector", "llm_backbone"}:
        raise ConfigError(f"{path}: holds {', '.join(parts) or 'no model'}; projector and llm_backbone are needed")
    projector = parts["projector"]
    if vision.projector == "linear":
        projector = {name.replace(PROJECTOR_PREFIX, LINEAR): tensor for name, tensor in projector.items()}
    projector = reorder_projector(projector, vision, to_prismatic=False)
    return {**{strip_wrapper_prefixes(name): tensor for name, tensor in parts["llm_backbone"].items()}, **projector}


def reorder_projector(projector: Mapping[str, Tensor], vision: Vision, *, to_prismatic: bool) -> dict[str, Tensor]:
    """A projector's weights for the features of two encoders in the other order: prismatic has DINOv2's first."""
    parts = resolve_encoder_spec(vision.encoder).parts
    if not parts:
        return dict(projector)
    widths = [part.feature_width for part in (parts if to_prismatic else parts[::-1])]
    one, other = torch.split(projector[FIRST_LAYER], widths, dim=1)
    return {**projector, FIRST_LAYER: torch.cat((other, one), dim=1)}


def find_final_checkpoint(folder: Path, epochs: int) -> re.Match[str] | None:
    """The name (step, epoch, loss) of the checkpoint after the last of `epochs`, once it and its copy are whole.

    The copy, latest-checkpoint.pt, is written after it and is what counts.
    """
    for path in sorted(folder.glob("step-*.pt")):
        found = NAMED.fullmatch(path.name)
        if found and int(found["epoch"]) == epochs - 1 and is_whole(path) and has_same_size(path, folder / LATEST):
            return found
    return None


def has_same_size(path: Path, copy: Path) -> bool:
    """Whether `copy` is a whole file of torch.save, as long as `path`."""
    return copy.is_file() and copy.stat().st_size == path.stat().st_size and is_whole(copy)


def is_whole(path: Path) -> bool:
    """Whether a file of torch.save has its end, where its table of contents is."""
    try:
        with zipfile.ZipFile(path):
            return True
    except (OSError, zipfile.BadZipFile):
        return False
