"""The training loop, and the one object that holds what must survive a restart."""

import base64
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from stages.checkpoint import Checkpoint, remove_old_checkpoints, save_checkpoint
from stages.data.packing import Batch, MicroBatch, document_mask
from stages.data.progress import Progress
from stages.device import autocast
from stages.errors import DivergedError
from stages.job_file import Settings
from stages.loss import token_loss
from stages.loss_window import LossWindow
from stages.metrics import MetricsLog
from stages.optimizer import AdamW
from stages.stop import StopFlag
from stages.vlm import VLM


class Batches(Protocol):
    """Where batches come from; `state` is all that is needed to go on with the one after the last."""

    @property
    def source_names(self) -> Sequence[str]: ...

    @property
    def progress(self) -> Sequence[Progress]: ...

    def next_batch(self) -> Batch: ...

    def state(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


@dataclass
class TrainState:
    """Model, optimizer, position: nothing else survives a restart."""

    vlm: VLM
    optimizer: AdamW
    batches: Batches
    step: int = 0
    """Finished steps of the schedule."""
    first_step: int = 0
    """Where this job began: above 0 where it continues its parent's schedule."""
    tokens: int = 0
    """Positions since the job's first step, padding included."""
    seconds: float = 0.0
    """Training time of this job that the state is the outcome of."""
    loss: float | None = None
    """Mean of the last logged steps."""
    taken_before: list[dict[str, int]] = field(init=False)
    """What the parent had taken of each source, where this job continues it."""
    window: LossWindow = field(init=False)

    def __post_init__(self) -> None:
        self.window = LossWindow(self.batches.source_names)
        self.taken_before = [progress.totals() for progress in self.batches.progress]

    def begin_here(self) -> None:
        """Makes a restored parent's position this job's beginning: its tokens and seconds are not this job's."""
        self.first_step, self.tokens, self.seconds, self.loss = self.step, 0, 0.0, None
        self.__post_init__()

    def taken(self) -> dict[str, dict[str, int]]:
        """What this job has taken of each source: sequences, samples, tokens, image tokens, images."""
        return {
            name: {unit: total - before[unit] for unit, total in progress.totals().items()}
            for name, progress, before in zip(
                self.batches.source_names, self.batches.progress, self.taken_before, strict=True
            )
        }

    def checkpoint_state(self) -> dict[str, Any]:
        """The JSON side of a checkpoint."""
        return {
            "step": self.step,
            "first_step": self.first_step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "loss": self.loss,
            "window": self.window.state(),
            "taken_before": self.taken_before,
            "data": self.batches.state(),
            "rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on exactly where the checkpoint was written."""
        state = checkpoint.state
        self.vlm.load_weights(checkpoint.weights())
        self.optimizer.restore(checkpoint.moments())
        self.step, self.first_step, self.tokens = state["step"], state["first_step"], state["tokens"]
        self.seconds, self.loss, self.taken_before = state["seconds"], state["loss"], state["taken_before"]
        self.window.restore(state["window"])
        self.batches.restore(state["data"])
        rng = bytearray(base64.b64decode(state["rng"]))
        torch.set_rng_state(torch.frombuffer(rng, dtype=torch.uint8))


@dataclass(kw_only=True)
class Training:
    """One job's training: where it goes, at what rate, and what it leaves on disk."""

    last_step: int
    rate: Callable[[int], float]
    """Learning rate of the update that follows so many finished ones."""
    z_loss: float
    gradient_clip: float
    precision: str
    settings: Settings
    checkpoints: Path
    metrics: MetricsLog
    fixed_state: Mapping[str, Any]
    """What state.json holds besides TrainState: the configurations that a reader of the checkpoint needs."""
    keep_optimizer: bool
    """Whether the final checkpoint holds the optimizer's moments."""
    saved_at: float = field(default_factory=time.monotonic)
    """When the last checkpoint was written, or the attempt began (monotonic seconds)."""
    logged: tuple[int, float] = (0, 0.0)
    """Positions and seconds at the last log line, for the throughput since."""

    def run(self, state: TrainState, stop: StopFlag) -> Path | None:
        """Trains to `last_step` and returns the final checkpoint; None if it was asked to stop, and has saved."""
        state.vlm.train()
        self.metrics.drop_after(state.step)
        self.logged = (state.tokens, state.seconds)
        while state.step < self.last_step and not stop.requested:
            started = time.perf_counter()
            self.train_step(state)
            state.seconds += time.perf_counter() - started
            if state.step % self.settings.log_steps == 0 or state.step == self.last_step:
                self.log(state)
            if self.checkpoint_is_due(state.step):
                self.save(state)
        path = self.save(state)
        return path if state.step == self.last_step else None

    def train_step(self, state: TrainState) -> None:
        """One update of the weights. DivergedError, with the weights as before, if loss or gradient is not finite."""
        batch = state.batches.next_batch()
        rate = self.rate(state.step)
        state.optimizer.zero_grad()
        loss = sum(self.backward(state, micro_batch, batch.targets) for micro_batch in batch.micro_batches)
        norm = torch.nn.utils.clip_grad_norm_(state.optimizer.parameters, self.gradient_clip).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise DivergedError(f"step {state.step + 1}: loss {loss:g}, gradient norm {norm:g}")
        state.window.add(loss, norm, rate)
        state.optimizer.step(rate)
        state.step += 1
        state.tokens += batch.positions

    def backward(self, state: TrainState, batch: MicroBatch, count: int) -> float:
        """Adds the gradients of a part of a batch whose targets are `count` in all; returns its part of the loss."""
        vlm = state.vlm
        device = vlm.lm.output.weight.device
        batch = batch.to(device)
        mask = document_mask(batch.documents) if batch.documents is not None else None
        with autocast(self.precision, device):
            embeddings = vlm.embed(batch.tokens, batch.features, batch.image_positions)
            hidden = vlm.lm.hidden(embeddings, mask=mask).flatten(0, 1)
            if batch.target_positions is not None:
                # the output layer is a good part of a small model: positions without a target are left out
                hidden = hidden.index_select(0, batch.target_positions)
            logits = vlm.lm.logits(hidden)
            loss, entropies = token_loss(logits, batch.targets, count=max(1, count), z_loss=self.z_loss)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        state.window.add_entropies(entropies, batch.sources)
        return loss.item()

    def checkpoint_is_due(self, step: int) -> bool:
        """By number of steps or by minutes; the final one is saved in any case."""
        every_steps, every_minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
        if step == self.last_step:
            return False
        by_time = every_minutes > 0 and time.monotonic() - self.saved_at >= 60 * every_minutes
        return by_time or (every_steps > 0 and step % every_steps == 0)

    def save(self, state: TrainState) -> Path:
        """A checkpoint of `state`; older ones beyond those that are kept go once it is whole.

        DivergedError, and no checkpoint, if a weight is not finite.
        """
        final = state.step == self.last_step
        weights = state.vlm.weights()
        if bad := next((name for name, weight in weights.items() if not weight.isfinite().all()), None):
            raise DivergedError(f"step {state.step}: {bad} is not finite")
        path = save_checkpoint(
            self.checkpoints,
            {**self.fixed_state, **state.checkpoint_state()},
            weights,
            state.optimizer.state() if self.keep_optimizer or not final else None,
        )
        remove_old_checkpoints(self.checkpoints, keep=1 if final else self.settings.keep_checkpoints)
        self.saved_at = time.monotonic()
        return path

    def log(self, state: TrainState) -> None:
        """A line of metrics.jsonl about the steps since the last one."""
        averages = state.window.flush()
        state.loss = averages["loss"]
        tokens, seconds = state.tokens - self.logged[0], state.seconds - self.logged[1]
        self.logged = (state.tokens, state.seconds)
        self.metrics.write(
            {
                "step": state.step,
                "first_step": state.first_step,
                "total_steps": self.last_step,
                "tokens": state.tokens,
                "tokens_per_second": tokens / max(seconds, 1e-9),
                "time": time.time(),
                **averages,
            }
        )
