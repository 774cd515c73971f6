"""The training loop."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stages.checkpoint.files import CheckpointWriter
from stages.data.collate import Batch, MicroBatch
from stages.distributed import DistributedContext, open_autocast
from stages.errors import DivergedError
from stages.job_file import JobFile
from stages.log_lines import TrainingLines
from stages.models.loss import LossSettings
from stages.schedule import Schedule
from stages.stop import StopFlag
from stages.training.metrics import Meter, SourceSums, TrainingLog
from stages.training.parallel import copy_to_host, select_local_shard
from stages.training.progress import STEP, ProgressReport, locate_progress
from stages.training.state import TrainState
from stages.vision.feature_extractor import FeatureExtractor

# The numbers of one step, summed over its micro-batches and over the ranks on the device.
#
# They leave the device once a step: a GPU that is asked for a number has to finish all work that was queued before.


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What all ranks know of a step, equal on each."""

    loss: float
    """One mean over the whole batch (its targets or its sequences), z-loss included."""
    norm: float
    """Of the whole gradient, before clipping."""
    sources: SourceSums
    stop: bool
    """Whether any rank was asked to stop."""
    checkpoint_due: bool
    """Whether the first rank's clock asks for a checkpoint."""

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class StepTotals:
    """Sums in float64 over a step's micro-batches, on the device."""

    def __init__(self, sources: int, device: torch.device) -> None:
        self._numbers = torch.arange(sources, device=device)[:, None]
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._entropies, self._targets, self._weights, self._weighted = (
            torch.zeros(sources, dtype=torch.float64, device=device) for _ in range(4)
        )

    def add(self, loss: Tensor, entropies: Tensor, sources: Tensor, weights: Tensor | None) -> None:
        """A micro-batch: its part of the loss, and of its targets (M,) the cross entropies, the numbers of their
        sources, and the weights, where they have any."""
        ours = self._numbers == sources  # no bincount, whose sums on a GPU have no fixed order
        self._loss += loss.detach()
        self._entropies += torch.where(ours, entropies.double(), 0.0).sum(dim=1)
        self._targets += ours.sum(dim=1)
        if weights is not None:
            weights = weights.double()
            self._weights += torch.where(ours, weights, 0.0).sum(dim=1)
            self._weighted += torch.where(ours, weights * entropies.double(), 0.0).sum(dim=1)

    def all_reduce(self, norm: Tensor, world: DistributedContext, *, stop: bool, checkpoint_due: bool) -> StepOutcome:
        """The step's outcome over all ranks; waits for the device and for the other ranks. `norm` is equal on all."""
        sources = [self._entropies, self._targets, self._weights, self._weighted]
        # filled on the device: a number that is copied to it would be waited for
        flags = [self._loss.new_full((1,), flag) for flag in (stop, checkpoint_due and world.is_first_rank)]
        # Why: docs/decisions.md, D20
        loss, norm_sum, stops, due, *sums = world.all_reduce_sum(
            torch.cat([self._loss[None], norm.detach().double()[None], *flags, *sources])
        )
        size = len(self._numbers)
        entropies, targets, weights, weighted = (sums[start : start + size] for start in range(0, 4 * size, size))
        if not any(weights):  # each target weighs the same
            weights, weighted = targets, entropies
        return StepOutcome(
            loss=loss,
            norm=norm_sum / world.size,
            sources=SourceSums(
                entropies=entropies,
                targets=[round(count) for count in targets],
                weights=weights,
                weighted_entropies=weighted,
            ),
            stop=stops > 0,
            checkpoint_due=due > 0,
        )


@dataclass(kw_only=True)
class Training:
    """One job's training: where it goes, at what rate, and what it leaves on disk."""

    job: JobFile
    world: DistributedContext
    schedule: Schedule
    last_step: int
    loss: LossSettings
    gradient_clip: float
    precision: str
    log: TrainingLog
    meter: Meter
    checkpoint_metadata: Mapping[str, Any]
    """What state.json holds besides TrainState: the configurations that a reader of the checkpoint needs."""
    keep_optimizer: bool
    """Whether the final checkpoint holds the optimizer's moments."""
    saved_step: int | None
    """Step of the checkpoint that was written last; at first of the job's own one that it begins with, if any."""
    feature_extractor: FeatureExtractor | None
    """None where there are no images."""
    clock: Callable[[], float] = time.monotonic
    """Seconds, for everything that is measured here."""
    saved_at: float = field(init=False)
    """When the last checkpoint was written, or the attempt began (by `clock`)."""
    writer: CheckpointWriter = field(init=False)
    progress: ProgressReport = field(init=False)
    lines: TrainingLines | None = field(init=False)
    """None for a process that logs nothing."""

    def __post_init__(self) -> None:
        settings = self.job.settings
        place = locate_progress(self.job.error) if self.world.is_first_rank else None
        self.progress = ProgressReport(place, 60 * settings.hang_minutes)
        self.lines = TrainingLines(self.last_step, self.clock) if self.world.is_first_rank else None
        self.saved_at = self.clock()
        self.writer = CheckpointWriter(self.job.checkpoints, always=self.job.settings.branch_steps)

    def run(self, state: TrainState, stop: StopFlag) -> bool:
        """Trains to `last_step` and saves; false if it was asked to stop before, and has saved."""
        state.model.vlm.train()
        self.log.begin(state.step)
        if self.lines is not None:
            self.lines.write_begin(state.step, state.first_step)
        self.progress.start(state.step)
        failed = True
        try:
            self.run_steps(state, stop)
            failed = False
        finally:
            self.progress.stop()
            self.writer.close()
            self.log.close()
            # after a failure among several, a thread that waits for a rank which is gone would hold this one up
            if not failed or self.world.size == 1:
                state.batches.close()
        return state.step == self.last_step

    def run_steps(self, state: TrainState, stop: StopFlag) -> None:
        """Steps, log lines and checkpoints, to the last step or until a rank was asked to stop."""
        stopping = self.is_stop_requested(stop)
        while state.step < self.last_step and not stopping:
            outcome = self.train_step(state, stop)
            stopping = outcome.stop
            is_log_due = state.step % self.job.settings.log_steps == 0 or state.step == self.last_step
            if is_log_due and state.window.steps:
                self.write_log(state)
            if self.is_checkpoint_due(state.step, outcome):
                self.save(state)
        if self.saved_step != state.step:
            self.save(state)
        self.writer.wait()

    def is_stop_requested(self, stop: StopFlag) -> bool:
        """Whether any rank was asked to stop; all ranks get the same answer."""
        return self.world.all_reduce_sum([float(stop.requested)])[0] > 0

    def train_step(self, state: TrainState, stop: StopFlag) -> StepOutcome:
        """One update of the weights. DivergedError, with the weights as before, where `check_divergence` raises it."""
        started = self.clock()
        self.progress.note(state.step, "data")
        batch = state.batches.take_batch()
        waited = self.clock() - started
        self.progress.note(state.step, STEP)
        rate = self.schedule.compute_lr(state.step)
        outcome = self.compute_gradients(state, batch, stop)
        if batch.count:  # of a batch of bad samples alone nothing is learned, and no moment decays
            spike = state.spikes.add(outcome.loss)
            self.check_divergence(state, outcome)
            state.optimizer.step(rate)
            state.window.add(outcome.loss, outcome.norm, rate, spike=spike)
            state.window.add_sources(outcome.sources)
        state.step += 1
        state.tokens += batch.positions
        self.writer.check()
        seconds = self.clock() - started
        state.seconds += seconds
        self.meter.add(batch.positions, batch.images, seconds, waited)
        self.progress.add_step(state.step, seconds - waited)
        return outcome

    def compute_gradients(self, state: TrainState, batch: Batch, stop: StopFlag) -> StepOutcome:
        """Leaves the batch's clipped gradient in the parameters. Waits once for the device, and for the other ranks."""
        model = state.model
        state.optimizer.zero_grad()
        totals = StepTotals(len(state.batches.source_names), self.world.device)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            with model.hold_gradient_sync(last=number == len(batch.micro_batches)):
                self.accumulate_gradients(state, micro_batch, batch.count, totals)
        if not batch.images:
            model.clear_image_gradients()
        norm = model.clip(self.gradient_clip)
        return totals.all_reduce(norm, self.world, stop=stop.requested, checkpoint_due=self.is_interval_over())

    def accumulate_gradients(self, state: TrainState, batch: MicroBatch, count: int, totals: StepTotals) -> None:
        """Adds a micro-batch's gradients, and its numbers to `totals`. `count`: `Batch.count`."""
        device = self.world.device
        batch = batch.to(device)
        if batch.image_inputs and self.feature_extractor is not None:
            batch = batch.attach_images(self.feature_extractor.extract_features(batch.image_inputs))
        with open_autocast(self.precision, device):
            loss, entropies = state.model(batch, count=max(1, count), settings=self.loss)
        (loss * state.model.scale).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        totals.add(loss, entropies, batch.sources, batch.weights)

    def check_divergence(self, state: TrainState, outcome: StepOutcome) -> None:
        """DivergedError if loss or gradient is not finite, or there were more spikes in a row than allowed."""
        step, limit = state.step + 1, self.job.settings.loss_spikes_limit
        if not outcome.is_finite:
            raise DivergedError(f"step {step}: loss {outcome.loss:g}, gradient norm {outcome.norm:g}")
        if limit and state.spikes.in_a_row >= limit:
            raise DivergedError(
                f"step {step}: loss {outcome.loss:g}, the {limit}. spike in a row (settings.loss_spikes_limit)"
            )

    def is_interval_over(self) -> bool:
        """Whether this process's clock asks for a checkpoint."""
        minutes = self.job.settings.checkpoint_minutes
        return minutes > 0 and self.clock() - self.saved_at >= 60 * minutes

    def is_checkpoint_due(self, step: int, outcome: StepOutcome) -> bool:
        """By number of steps, by minutes, or as a branch point; the final one is saved in any case."""
        if step == self.last_step:
            return False
        every = self.job.settings.checkpoint_steps
        return outcome.checkpoint_due or (every > 0 and step % every == 0) or step in self.job.settings.branch_steps

    def save(self, state: TrainState) -> None:
        """Copies the state to the CPU's memory, from where it is written while the training goes on.

        Waits for the checkpoint before, and raises its error. DivergedError, and no checkpoint, if a weight is not
        finite. All ranks call it; the first writes.
        """
        self.check_weights_finite(state)
        self.writer.wait()
        final = state.step == self.last_step
        weights = copy_to_host(state.model.vlm.collect_weights(), wanted=self.world.is_first_rank)
        moments = None
        if self.keep_optimizer or not final:
            moments = state.model.gather_moments(state.optimizer.dump_state(), wanted=self.world.is_first_rank)
        if self.world.is_first_rank:
            position = {**self.checkpoint_metadata, **state.dump_state()}
            keep = 1 if final else self.job.settings.keep_checkpoints
            self.writer.begin(position, weights, moments, keep=keep)
        self.saved_step, self.saved_at = state.step, self.clock()

    def check_weights_finite(self, state: TrainState) -> None:
        """DivergedError on all ranks if a weight of any is not finite."""
        weights = state.model.vlm.collect_weights()
        finite = torch.stack([select_local_shard(weight).isfinite().all() for weight in weights.values()]).tolist()
        bad = [name for name, good in zip(weights, finite, strict=True) if not good]
        if self.world.all_reduce_sum([float(len(bad))])[0]:
            raise DivergedError(f"step {state.step}: {bad[0] if bad else 'a weight of another rank'} is not finite")

    def write_log(self, state: TrainState) -> None:
        """A line of metrics.jsonl about the steps since the last one, and one of the attempt's log."""
        averages = state.window.flush()
        state.loss = averages["loss"]
        record = {
            "step": state.step,
            "first_step": state.first_step,
            "total_steps": self.last_step,
            "tokens": state.tokens,
            **self.meter.flush(),
            "time": time.time(),
            **averages,
        }
        self.log.write(record)
        if self.lines is not None:
            self.lines.write_step(record)
