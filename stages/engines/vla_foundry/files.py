"""The checkpoints of a vla_foundry run, by the order in which it writes them: checkpoint_N.pt, then optimizer_N.pt."""

import re
from pathlib import Path
from typing import Any

import torch

from stages.errors import ConfigError
from stages.openlm_files import read_pickle

PARTS = ("checkpoint", "optimizer")


def part(folder: Path, name: str, number: int) -> Path:
    """One of the files of checkpoint `number`."""
    return folder / f"{name}_{number}.pt"


def state_of(folder: Path, number: int) -> dict[str, Any] | None:
    """Checkpoint `number`, its tensors read where they are used; None unless both of its files are whole."""
    if not all(part(folder, name, number).is_file() for name in PARTS):
        return None
    try:
        read_pickle(part(folder, "optimizer", number), mmap=True)
        return read_pickle(part(folder, "checkpoint", number), mmap=True)
    except ConfigError:
        return None


def weights_of(folder: Path, number: int) -> dict[str, torch.Tensor]:
    """The weights of a whole checkpoint under vla_foundry's names, in memory of their own."""
    state = read_pickle(part(folder, "checkpoint", number)).get("state_dict")
    if not isinstance(state, dict):
        raise ConfigError(f"{part(folder, 'checkpoint', number)}: no state_dict in it")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def not_a_number(weights: dict[str, torch.Tensor]) -> str:
    """The name of the first weight that is not finite; empty if all are. vla_foundry trains on with NaN."""
    return next((name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), "")


def numbers(folder: Path) -> list[int]:
    """Of all checkpoints of which there is a file, whole or not, ascending."""
    found = {
        int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"(?:checkpoint|optimizer)_(\d+)\.pt", path.name))
    }
    return sorted(found)


def drop_unusable(folder: Path, steps: int) -> int:
    """Removes checkpoints that were not written to their end, or lie at another step than the end of their window of
    `steps`, or come after a loss that was not a number; the newest's number that is left, 0 for none."""
    for number in reversed(numbers(folder)):
        state = state_of(folder, number)
        in_place = state is not None and state.get("global_step") == number * steps
        if in_place and not not_a_number(weights_of(folder, number)):
            return number
        remove(folder, number)
    return 0


def remove(folder: Path, number: int) -> None:
    """A checkpoint's files, the one that ends it first."""
    for name in reversed(PARTS):
        part(folder, name, number).unlink(missing_ok=True)
