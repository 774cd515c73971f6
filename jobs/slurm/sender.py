"""Sends batches: the intent first, then sbatch, then its answer; halves what a limit refuses; paced."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobs.slurm.batch_ledger import BatchLedger
from jobs.slurm.batches import SlurmBatch, build_batch_name
from jobs.slurm.client import RefusalKind, SlurmClient, SubmitRefusal, SubmittedJob, UnknownSubmit
from jobs.slurm.script import LaunchSettings, build_sbatch_arguments, render_batch_script
from jobs.slurm.timeouts import SlurmTimeouts


@dataclass(slots=True)
class SendReport:
    """What came of one round's batches."""

    ids: dict[str, str] = field(default_factory=dict)
    """Batch name to array id."""
    placed: dict[str, str] = field(default_factory=dict)
    """Key to task id."""
    refused: dict[str, str] = field(default_factory=dict)
    """Key to Slurm's reason."""
    calls: int = 0
    """sbatch calls."""
    full: str = ""
    """The limit that Slurm refused more jobs for: an expected end of the round, in one line."""
    problem: str = ""
    """What else ended the round early; empty if nothing did."""
    invalid: bool = False
    """Slurm will refuse some jobs as they are for ever: partition, account, node configuration."""


@dataclass(slots=True, kw_only=True)
class BatchSender:
    """One round of sending. `parents_known_until`: monotonic seconds after which ids of the last look may be stale."""

    client: SlurmClient
    ledger: BatchLedger
    launch: LaunchSettings
    user: str
    timeouts: SlurmTimeouts
    holds_submit_lock: Callable[[], bool]
    """Whether nobody else has taken over the submission of this sweep."""
    parents_known_until: float
    parents_known_for: float
    """Seconds for which an id that sbatch has just given may serve as a dependency (half of MinJobAge)."""
    report: SendReport = field(default_factory=SendReport)
    _sent_at: dict[str, float] = field(default_factory=dict)
    _last_call: float = float("-inf")

    def send(self, batches: Sequence[SlurmBatch]) -> SendReport:
        """All of them, parents before children; what waits for an unsent batch stays unsent too, and is no refusal."""
        self.launch.store.locate_sweep(self.launch.sweep).slurm_logs.mkdir(parents=True, exist_ok=True)
        for batch in batches:
            if self._has_its_parents(batch):
                self._send(batch)
            if self.report.problem or self.report.full:
                break
        return self.report

    def _has_its_parents(self, batch: SlurmBatch) -> bool:
        names = {name for name, _ in batch.after_tasks} | ({batch.corresponds_batch} - {""})
        return all(name in self.report.ids for name in names)

    def _send(self, batch: SlurmBatch) -> None:
        """One batch; after a refusal for want of room its first half, and so on: a limit may be unknown or shared."""
        attempt: SlurmBatch | None = batch
        while attempt is not None and self._may_still_send(attempt):
            answer = self._call(attempt)
            if isinstance(answer, UnknownSubmit):
                self.report.problem = f"sbatch gave no answer ({answer.reason}); looked for by name at the next round"
                return
            if isinstance(answer, SubmittedJob):
                self._note_sent(attempt, answer.id)
                return
            self._note_refused(attempt, batch, answer)
            attempt = halve_batch(attempt) if answer.kind is RefusalKind.LIMIT else None

    def _note_refused(self, attempt: SlurmBatch, batch: SlurmBatch, answer: SubmitRefusal) -> None:
        self.ledger.write_not_submitted(attempt.name, answer.reason)
        self.report.refused |= dict.fromkeys(batch.tasks.values(), answer.reason)
        if answer.kind is RefusalKind.INVALID:
            self.report.invalid = True
        else:  # what is smaller may still fit, and is the last
            self.report.full = f"Slurm takes no more for now: {answer.reason}"

    def _may_still_send(self, batch: SlurmBatch) -> bool:
        pause = self._last_call + self.timeouts.submit_interval_s - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        if not self.holds_submit_lock():
            self.report.problem = "another submission from this store took over"
        elif not self._parents_are_fresh(batch):
            self.report.problem = "the last look at the queue is too old to depend on; the next round goes on"
        return not self.report.problem

    def _parents_are_fresh(self, batch: SlurmBatch) -> bool:
        """An id that Slurm has purged counts as a satisfied dependency: none is used that could be."""
        now = time.monotonic()
        if (batch.after_ids or batch.corresponds_id) and now > self.parents_known_until:
            return False
        names = {name for name, _ in batch.after_tasks} | ({batch.corresponds_batch} - {""})
        return all(now < self._sent_at[name] + self.parents_known_for for name in names)

    def _call(self, batch: SlurmBatch) -> SubmittedJob | SubmitRefusal | UnknownSubmit:
        self.ledger.write_intent(batch, self.user)
        self._last_call = time.monotonic()
        self.report.calls += 1
        arguments = build_sbatch_arguments(batch, self.launch, self.report.ids)
        return self.client.submit(arguments, render_batch_script(batch, self.launch))

    def _note_sent(self, batch: SlurmBatch, job_id: str) -> None:
        self.ledger.write_sent(batch.name, job_id)
        self._sent_at[batch.name] = time.monotonic()
        self.report.ids[batch.name] = job_id
        self.report.placed |= {key: f"{job_id}_{index}" for index, key in batch.tasks.items()}
        for key in batch.tasks.values():
            self.report.refused.pop(key, None)


def halve_batch(batch: SlurmBatch) -> SlurmBatch | None:
    """The first half of its tasks under a new name; None for a single task."""
    if len(batch.tasks) < 2:
        return None
    kept: Mapping[int, str] = dict(list(batch.tasks.items())[: len(batch.tasks) // 2])
    sweep = batch.name.split("-", 3)[3]
    return replace(batch, name=build_batch_name(sweep, batch.phase), tasks=kept)
