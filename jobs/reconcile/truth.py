"""What is known of a job that was given to a cluster. Each fact is yes, no or unknown, with its reason. Pure.

Nothing is sent, cancelled or counted on an unknown fact. Its reason, and what would settle it, are shown to people.
"""

from dataclasses import dataclass
from enum import StrEnum


class Truth(StrEnum):
    """Three values: what cannot be seen is neither there nor gone."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact. `reason`: what says so, or why nobody can say. `remedy`: what would settle an unknown one."""

    truth: Truth
    reason: str = ""
    remedy: str = ""

    @property
    def known(self) -> bool:
        return self.truth is not Truth.UNKNOWN

    def __bool__(self) -> bool:
        raise TypeError("a fact has three values: compare its truth")


class QueueSight(StrEnum):
    """What the cluster's queue shows of a job."""

    SHOWN = "shown"
    NOT_SHOWN = "not shown"
    """A good answer, without the job."""
    HIDDEN = "hidden"
    """The job is another user's, and the cluster shows the asking user no jobs of others."""
    SILENT = "silent"
    """No answer, or not all of it."""


class RecordSight(StrEnum):
    """What the cluster's accounting has of the newest execution of a job."""

    FINAL = "final"
    PASSING = "passing"
    """This execution is over, and the job may be in the queue again."""
    OPEN = "open"
    NONE = "none"
    """A good answer, without the job. Records come late."""
    HIDDEN = "hidden"
    SILENT = "silent"
    SWITCHED_OFF = "switched off"
    """The cluster keeps no accounting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterEvidence:
    """All that a cluster shows of one job at one moment. Ages are already compared with the times to wait."""

    queue: QueueSight
    record: RecordSight
    record_words: str = ""
    """How the execution of the record ended."""
    record_is_old: bool = False
    """A passing record's end lies so far back that a requeued job would be in the queue again."""
    record_is_due: bool = False
    """The controller remembers an end so recent that its record may still come."""
    cancelled_by_person: bool = False
    """By the record."""
    remembered: str = ""
    """The final state that the controller remembers of a job which left the queue."""
    remembered_in_queue: bool = False
    """The controller remembers that a person cancelled it before it started."""
    forgotten_in_queue: bool = False
    """The controller has no trace of it, and what it has of the same array shows that it was cancelled in the queue."""
    remembered_dependency: bool = False
    """The controller remembers that it cancelled the job itself, as its dependency can never be met."""
    withdrawn: bool = False
    """We took it out of the queue."""
    missed_for_long: bool = False
    """It was sent long enough ago, and two queries in a row did not find it."""
    owner: str = ""
    """Who sent it, where that is not the asking user."""
    problem: str = ""
    """Why the queue or the accounting gave no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What follows from the evidence."""

    in_queue: Fact
    ended: Fact
    cancelled: Fact
    """By a person. No for a job that has not ended, and for one that we or the cluster took out."""
    accounted: Fact
    """Whether its hours are known from the cluster's accounting."""

    @property
    def may_send(self) -> Fact:
        """Whether it may be sent again, as far as the cluster is concerned."""
        if self.in_queue.truth is Truth.YES:
            return Fact(Truth.NO, "it is in the queue")
        for fact in (self.in_queue, self.ended, self.cancelled):
            if not fact.known:
                return fact
        if self.cancelled.truth is Truth.YES:
            return Fact(Truth.NO, self.cancelled.reason)
        return Fact(Truth.YES, self.ended.reason)


NO_WORD = "not in Slurm's queue, and no word of its end yet"
GONE = "Slurm no longer knows it"
NO_ACCOUNTING = "there is no accounting on this cluster"
CANCELLED = "CANCELLED"


# Why: docs/decisions.md, D115
def judge_evidence(seen: ClusterEvidence) -> ClusterFacts:
    """The one place where what a cluster shows becomes facts."""
    if seen.queue is QueueSight.SHOWN:
        in_queue, ended = Fact(Truth.YES, "squeue shows it"), Fact(Truth.NO, "squeue shows it")
        return ClusterFacts(
            in_queue=in_queue, ended=ended, cancelled=Fact(Truth.NO), accounted=_judge_accounted(seen, ended)
        )
    ended = _judge_ended(seen)
    in_queue = Fact(Truth.NO, ended.reason) if ended.truth is Truth.YES else ended
    return ClusterFacts(
        in_queue=in_queue,
        ended=ended,
        cancelled=_judge_cancelled(seen, ended),
        accounted=_judge_accounted(seen, ended),
    )


def _judge_ended(seen: ClusterEvidence) -> Fact:  # noqa: PLR0911 - a table, read downwards
    """Of a job that the queue does not show."""
    if seen.record is RecordSight.FINAL:
        return Fact(Truth.YES, seen.record_words)
    if seen.queue is QueueSight.HIDDEN:
        return Fact(
            Truth.UNKNOWN,
            f"sent by {seen.owner}, whose jobs are hidden from you (PrivateData)",
            f"ask {seen.owner} to run `sweep tick`",
        )
    if seen.queue is QueueSight.SILENT:
        return Fact(Truth.UNKNOWN, f"squeue: {seen.problem}", "the next answer of squeue")
    if seen.record is RecordSight.PASSING:
        if seen.record_is_old:
            return Fact(Truth.YES, seen.record_words)
        return Fact(Truth.UNKNOWN, f"{seen.record_words}; may be in the queue again in a moment", "the next query")
    if seen.withdrawn:
        return Fact(Truth.YES, "taken out of the queue")
    if seen.remembered_in_queue and seen.record_is_due:
        return Fact(Truth.UNKNOWN, "cancelled in the queue; sacct may yet tell by whom", "its record in sacct")
    if seen.remembered and seen.record_is_due:
        return Fact(Truth.UNKNOWN, f"ended ({seen.remembered}); sacct does not tell of it yet", "its record in sacct")
    if _is_remembered_cancellation(seen) or seen.missed_for_long:
        return Fact(Truth.YES, f"ended ({seen.remembered})" if seen.remembered else GONE)
    return Fact(Truth.UNKNOWN, NO_WORD, "the next query")


def _judge_cancelled(seen: ClusterEvidence, ended: Fact) -> Fact:  # noqa: PLR0911 - a table, read downwards
    """Whether a person cancelled it."""
    if ended.truth is not Truth.YES:
        return Fact(Truth.NO) if ended.known else ended
    if seen.record in {RecordSight.FINAL, RecordSight.PASSING}:
        return Fact(Truth.YES if seen.cancelled_by_person else Truth.NO, seen.record_words)
    if seen.withdrawn:
        return Fact(Truth.NO, "taken out of the queue")
    if _is_remembered_cancellation(seen):
        return Fact(Truth.YES, "cancelled with scancel")
    if seen.forgotten_in_queue and not seen.remembered and seen.record is RecordSight.NONE:
        return Fact(Truth.YES, "cancelled in the queue")
    if seen.remembered:
        return Fact(Truth.NO, f"ended ({seen.remembered})")
    if seen.record is RecordSight.SWITCHED_OFF:
        return Fact(Truth.UNKNOWN, f"the controller has forgotten how it ended, and {NO_ACCOUNTING}", "a person's word")
    if seen.record is RecordSight.HIDDEN:
        return Fact(
            Truth.UNKNOWN,
            f"sent by {seen.owner}, whose records are hidden from you (PrivateData of slurmdbd)",
            f"ask {seen.owner} to run `sweep tick`",
        )
    if seen.record is RecordSight.SILENT:
        return Fact(Truth.UNKNOWN, f"sacct does not answer ({seen.problem})", "the next answer of sacct")
    return Fact(Truth.NO, "sacct would have a record of it")


def _is_remembered_cancellation(seen: ClusterEvidence) -> bool:
    """Whether the controller remembers that somebody cancelled it, and no record can contradict that any more."""
    return (
        seen.remembered == CANCELLED
        and not seen.remembered_dependency
        and not seen.withdrawn
        and seen.record not in {RecordSight.FINAL, RecordSight.PASSING}
        and not seen.record_is_due
    )


def _judge_accounted(seen: ClusterEvidence, ended: Fact) -> Fact:
    """Whether the accounting has its hours."""
    if seen.record in {RecordSight.FINAL, RecordSight.PASSING}:
        return Fact(Truth.YES, "sacct has its record")
    if seen.record is RecordSight.SWITCHED_OFF:
        return Fact(Truth.UNKNOWN, NO_ACCOUNTING)
    if seen.record is RecordSight.HIDDEN or (seen.queue is QueueSight.HIDDEN and ended.truth is Truth.UNKNOWN):
        return Fact(
            Truth.UNKNOWN,
            f"records of {seen.owner} are hidden from you (PrivateData)",
            f"ask {seen.owner} to run `sweep tick`",
        )
    if seen.record is RecordSight.SILENT:
        return Fact(Truth.UNKNOWN, "sacct does not answer", "the next answer of sacct")
    if ended.truth is not Truth.YES:
        return Fact(Truth.NO, "it has not ended") if ended.known else Fact(Truth.UNKNOWN, ended.reason, ended.remedy)
    return Fact(Truth.UNKNOWN, "sacct has no record of it", "its record in sacct")
