"""The checkpoints of a vla_foundry run, by the order in which it writes them: checkpoint_N.pt, then optimizer_N.pt."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from stages.checkpoint.openlm import read_pickle
from stages.config import PretrainConfig
from stages.engines.log import LogFollower, parse_progress
from stages.engines.vla_foundry.limits import compute_window_steps
from stages.errors import ConfigError, DivergedError

PARTS = ("checkpoint", "optimizer")


def build_part_path(folder: Path, name: str, number: int) -> Path:
    """One of the files of checkpoint `number`."""
    return folder / f"{name}_{number}.pt"


def read_state(folder: Path, number: int) -> dict[str, Any] | None:
    """Checkpoint `number`, its tensors read where they are used; None unless both of its files are whole."""
    if not all(build_part_path(folder, name, number).is_file() for name in PARTS):
        return None
    try:
        read_pickle(build_part_path(folder, "optimizer", number), mmap=True)
        return read_pickle(build_part_path(folder, "checkpoint", number), mmap=True)
    except ConfigError:
        return None


def read_weights(folder: Path, number: int) -> dict[str, torch.Tensor]:
    """The weights of a whole checkpoint under vla_foundry's names, in memory of their own."""
    state = read_pickle(build_part_path(folder, "checkpoint", number)).get("state_dict")
    if not isinstance(state, dict):
        raise ConfigError(f"{build_part_path(folder, 'checkpoint', number)}: no state_dict in it")
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, torch.Tensor)}


def find_nan_weight(weights: dict[str, torch.Tensor]) -> str:
    """The name of the first weight that is not finite; empty if all are. vla_foundry trains on with NaN."""
    return next((name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())), "")


def list_checkpoint_numbers(folder: Path) -> list[int]:
    """Of all checkpoints of which there is a file, whole or not, ascending."""
    found = {
        int(match[1])
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"(?:checkpoint|optimizer)_(\d+)\.pt", path.name))
    }
    return sorted(found)


def remove_unusable_checkpoints(folder: Path, steps: int) -> int:
    """Removes checkpoints that were not written to their end, or lie at another step than the end of their window of
    `steps`, or come after a loss that was not a number; the newest's number that is left, 0 for none."""
    for number in reversed(list_checkpoint_numbers(folder)):
        state = read_state(folder, number)
        in_place = state is not None and state.get("global_step") == number * steps
        if in_place and not find_nan_weight(read_weights(folder, number)):
            return number
        remove_checkpoint(folder, number)
    return 0


def remove_checkpoint(folder: Path, number: int) -> None:
    """A checkpoint's files, the one that ends it first."""
    for name in reversed(PARTS):
        build_part_path(folder, name, number).unlink(missing_ok=True)


# vla_foundry's out.log: its lines of progress as lines of metrics.jsonl.


class FoundryLog:
    """Metrics of a run, steps that were done twice included."""

    def __init__(self, path: Path, config: PretrainConfig, *, first_step: int) -> None:
        self._log, self._config, self._first_step = LogFollower(path), config, first_step

    def read_records(self) -> Iterator[dict[str, Any]]:
        """Metrics of the lines that have been ended since the last call.

        `tokens_per_second` is that of the last step alone. DivergedError at a loss that is not a number, in a line
        since this log was opened: vla_foundry itself would train on with it, save, and end as if nothing were wrong.
        """
        for line in self._log.read_new_lines():
            found = parse_progress(line, "Checkpoint", self._config, compute_window_steps(self._config))
            if found is None:
                continue
            if math.isfinite(found.loss):
                samples_per_second = found.per_second
                yield found.build_metrics(
                    self._config,
                    first_step=self._first_step,
                    tokens_per_second=samples_per_second * self._config.context,
                )
            elif line.is_new:
                raise DivergedError(f"vla_foundry's loss is {found.loss} before step {found.step}")
