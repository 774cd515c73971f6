"""Metrics to TensorBoard and Weights & Biases, for those who ask for it; both packages are loaded here alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from stages.errors import ConfigError

BOOKKEEPING = {"step", "first_step", "total_steps", "time"}
"""Figures of a log line that make no curve."""


class Tracker(Protocol):
    """A place that shows curves."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures of a log line, at its step."""
        ...

    def close(self) -> None:
        """Hands on what was held back."""
        ...


def open_trackers(
    names: Sequence[str], run: Path, key: str, configuration: Mapping[str, Any], step: int
) -> list[Tracker]:
    """The trackers of that name, for a job that goes on after `step`; their files lie below `run`.

    ConfigError where a package is missing.
    """
    found: list[Tracker] = []
    for name in names:
        try:
            found.append(TensorBoard(run, step) if name == "tensorboard" else WandB(run, key, configuration))
        except ImportError as error:
            raise ConfigError(
                f"settings.trackers has {name}, whose package is missing ({error}); pip install 'sweep-vlm[track]'"
            ) from error
    return found


class TensorBoard:
    """Event files in `run`/tensorboard: one an attempt. What an attempt does again replaces what was there."""

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=str(run / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            if name not in BOOKKEEPING:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run that is known by the job's key, so that attempts continue it.

    Project, key, mode (offline) and the like come from W&B's own environment variables. W&B keeps the first figures
    that it is given for a step: an attempt that does steps again, with equal results, adds nothing to them.
    """

    def __init__(self, run: Path, key: str, configuration: Mapping[str, Any]) -> None:
        import wandb

        run.mkdir(parents=True, exist_ok=True)
        # below it W&B makes its own folder, `wandb`
        self._run = wandb.init(dir=str(run), id=key, name=key, resume="allow", config=dict(configuration))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({name: value for name, value in figures.items() if name not in BOOKKEEPING}, step=step)

    def close(self) -> None:
        self._run.finish()
