"""Sends batches: the intent first, then sbatch, then its answer; halves what a limit refuses; paced."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.slurm.batch_ledger import BatchLedger
from jobs.slurm.batches import SlurmBatch, build_batch_name, build_task_id
from jobs.slurm.client import SlurmClient
from jobs.slurm.refusals import explain_few_nodes
from jobs.slurm.sbatch_errors import RefusalKind, SubmitRefusal, SubmittedJob, UnknownSubmit
from jobs.slurm.sbatch_options import build_sbatch_options
from jobs.slurm.script import LaunchSettings, build_sbatch_arguments, render_batch_script

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class SendReport:
    """What came of one round's batches."""

    ids: dict[str, str] = field(default_factory=dict)
    """Batch name to array id."""
    placed: dict[str, str] = field(default_factory=dict)
    """Key to task id."""
    refused: dict[str, SubmitRefusal] = field(default_factory=dict)
    """Key to Slurm's answer."""
    calls: int = 0
    """sbatch calls."""
    full: str = ""
    """The limit that Slurm refused more jobs for: an expected end of the round, in one line."""
    problem: str = ""
    """What else ended the round early; empty if nothing did."""
    delayed: list[str] = field(default_factory=list)
    """What takes no jobs at present, one line a batch; the others were sent."""


@dataclass(slots=True, kw_only=True)
class BatchSender:
    """One round of sending. Times are monotonic seconds of the clock."""

    client: SlurmClient
    ledger: BatchLedger
    launch: LaunchSettings
    user: str
    holds_submit_lock: Callable[[], bool]
    """False once somebody else has taken over the submission of this sweep."""
    parents_known_until: float
    """After that moment Slurm may have forgotten ids that the last query found."""
    parents_known_for: float
    """Seconds for which an id that sbatch has just given may serve as a dependency (half of MinJobAge)."""
    clock: Clock = SYSTEM_CLOCK
    report: SendReport = field(default_factory=SendReport)
    _sent_at: dict[str, float] = field(default_factory=dict)
    _last_call: float = float("-inf")
    _full_for: set[tuple[str, ...]] = field(default_factory=set)
    """Partition, account and QOS of batches that a limit refused: it may be theirs alone."""
    _takes_none: bool = False
    """The cluster takes no jobs at all at present."""

    def send(self, batches: Sequence[SlurmBatch]) -> SendReport:
        """All of them, parents before children; what waits for an unsent batch stays unsent too, and is no refusal."""
        self.launch.store.locate_sweep(self.launch.sweep).slurm_logs.mkdir(parents=True, exist_ok=True)
        for batch in batches:
            if not self._has_its_parents(batch):
                logger.info("%s is not sent: a batch that it waits for was not", batch.name)
            elif _list_limited_options(batch) in self._full_for:
                logger.info("%s is not sent: a limit of its partition, account and QOS is full", batch.name)
            else:
                self._send_batch(batch)
                if _list_limited_options(batch) in self._full_for and not self._takes_none:
                    logger.info("sends no more of its partition, account and QOS: %s", self.report.full)
            if self.report.problem or self._takes_none:
                logger.info("sends no more: %s", self.report.problem or self.report.full)
                break
        return self.report

    def _has_its_parents(self, batch: SlurmBatch) -> bool:
        return all(name in self.report.ids for name in _list_parents(batch))

    # Why: docs/decisions.md, D125
    def _send_batch(self, batch: SlurmBatch) -> None:
        """After a refusal for want of room its first half, and so on: a limit may be unknown or shared."""
        attempt: SlurmBatch | None = batch
        while attempt is not None and self._may_still_send(attempt):
            answer = self._call_sbatch(attempt)
            if isinstance(answer, UnknownSubmit):
                logger.info("%s: sbatch gave no answer: %s", attempt.name, answer.reason)
                self.report.problem = f"sbatch gave no answer ({answer.reason}); looked for by name at the next round"
                return
            if isinstance(answer, SubmittedJob):
                self._note_sent(attempt, answer.id)
                return
            of_nodes = answer.kind in {RefusalKind.INVALID, RefusalKind.DELAYED} and "node" in answer.reason.lower()
            if of_nodes and attempt.avoid:
                # the nodes that it avoids may be the only ones that can run it
                logger.info("%s: refused without %s: %s", attempt.name, ",".join(attempt.avoid), answer.reason)
                self.ledger.write_not_submitted(attempt.name, answer.reason)
                attempt = replace(attempt, name=rename_batch(attempt), avoid=())
                continue
            if of_nodes and attempt.exclude and self._would_be_taken_anywhere(attempt):
                answer = SubmitRefusal(RefusalKind.DELAYED, explain_few_nodes(attempt.exclude))
            self._note_refused(attempt, batch, answer)
            attempt = halve_batch(attempt) if answer.kind is RefusalKind.LIMIT else None

    def _would_be_taken_anywhere(self, batch: SlurmBatch) -> bool:
        """Whether Slurm has nodes for it if it counts those that are excluded for their faults."""
        options = build_sbatch_options(batch.resources, gpu_type=batch.gpu_type, memory_tracked=batch.memory_tracked)
        return self.client.query_request(options) is None

    def _may_still_send(self, batch: SlurmBatch) -> bool:
        pause = self._last_call + self.client.timeouts.submit_interval_s - self.clock.monotonic()
        if pause > 0:
            logger.debug("waits %.1f s before the next sbatch", pause)
            self.clock.sleep(pause)
        if not self.holds_submit_lock():
            self.report.problem = "another submission from this store took over"
        elif not self._parents_are_known(batch):
            # an ordinary pause: a site with a short MinJobAge, or a slow machine
            self.report.full = "the last answer of squeue is too old to depend on"
            self._takes_none = True
        return not (self.report.problem or self._takes_none)

    def _parents_are_known(self, batch: SlurmBatch) -> bool:
        # Slurm takes a dependency on an id that it has forgotten for satisfied, so no id is used that it may forget.
        now = self.clock.monotonic()
        if (batch.after_ids or batch.corresponds_id) and now > self.parents_known_until:
            return False
        return all(now < self._sent_at[name] + self.parents_known_for for name in _list_parents(batch))

    def _call_sbatch(self, batch: SlurmBatch) -> SubmittedJob | SubmitRefusal | UnknownSubmit:
        # Why: docs/decisions.md, D31
        self.ledger.write_intent(batch, self.user)
        self._last_call = self.clock.monotonic()
        self.report.calls += 1
        arguments = build_sbatch_arguments(batch, self.launch, self.report.ids)
        logger.info("%s: sends %d %s jobs", batch.name, len(batch.tasks), batch.phase)
        logger.debug("%s: %s", batch.name, " ".join(arguments))
        return self.client.submit(arguments, render_batch_script(batch, self.launch))

    def _note_sent(self, batch: SlurmBatch, job_id: str) -> None:
        logger.info("%s: is job %s", batch.name, job_id)
        self.ledger.write_sent(batch.name, job_id)
        self._sent_at[batch.name] = self.clock.monotonic()
        self.report.ids[batch.name] = job_id
        self.report.placed |= {
            key: build_task_id(job_id, index, is_single=batch.is_single) for index, key in batch.tasks.items()
        }
        for key in batch.tasks.values():
            self.report.refused.pop(key, None)

    def _note_refused(self, attempt: SlurmBatch, batch: SlurmBatch, answer: SubmitRefusal) -> None:
        logger.info("%s: refused (%s): %s", attempt.name, answer.kind.name.lower(), answer.reason)
        self.ledger.write_not_submitted(attempt.name, answer.reason)
        self.report.refused |= dict.fromkeys(batch.tasks.values(), answer)
        if answer.kind is RefusalKind.INVALID:
            return
        if answer.kind is RefusalKind.DELAYED:
            self.report.delayed.append(
                f"{format_counted(len(batch.tasks), f'{batch.phase} job')} cannot be queued now: {answer.reason}"
            )
        else:  # what is smaller may still fit, and is the last
            self.report.full = f"Slurm takes no more for now: {answer.reason}"
            self._full_for.add(_list_limited_options(batch))
            self._takes_none |= answer.kind is RefusalKind.FULL


def _list_limited_options(batch: SlurmBatch) -> tuple[str, ...]:
    """What limits on the number of jobs are about."""
    return tuple(batch.resources.options.get(name, "") for name in ("partition", "account", "qos"))


def _list_parents(batch: SlurmBatch) -> set[str]:
    """Names of the batches of this round that it waits for."""
    return {name for name, _ in batch.after_tasks} | ({batch.corresponds_batch} - {""})


def halve_batch(batch: SlurmBatch) -> SlurmBatch | None:
    """The first half of its tasks under a new name; None for a single task."""
    if len(batch.tasks) < 2:
        return None
    kept: Mapping[int, str] = dict(list(batch.tasks.items())[: len(batch.tasks) // 2])
    return replace(batch, name=rename_batch(batch), tasks=kept)


def rename_batch(batch: SlurmBatch) -> str:
    """Another name for what is left of a batch that was refused."""
    return build_batch_name(batch.name.split("-", 3)[3], batch.phase)
