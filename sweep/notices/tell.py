"""One pass at the end of a tick: finds what is new, writes it down, and tells whoever can be told now."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jobs.claims.submit_lock import hold_submit_lock
from jobs.clock import SYSTEM_CLOCK, Clock
from jobs.counted import format_counted
from jobs.errors import JobsError, SubmitterBusyError, describe_storage_error
from jobs.processes import read_user_name
from jobs.reconcile.snapshot import SweepSnapshot
from sweep.budget.caps import BudgetWatch, read_caps
from sweep.canary.rule import build_held_rows, read_held_jobs
from sweep.errors import SweepError
from sweep.kept_limits import find_wanted_keys, read_limits
from sweep.next_step import NextStep
from sweep.notices.deliver import DeliveryError, build_notice_json, deliver
from sweep.notices.events import SweepFacts, compute_signature, find_new_events
from sweep.notices.log import NoticeEvent, NoticeHistory, NoticeLog
from sweep.notices.settings import EVENTS, NoticeSettings, Receiver, locate_user_file
from sweep.report.status import select_refusals
from sweep.report.time_left import read_time_left
from sweep.stored_sweep import StoredSweep

if TYPE_CHECKING:
    from sweep.spec.notices import NoticeFields

PASS_SECONDS = 60.0
"""After that a pass begins no further delivery: the next tick goes on."""
LOCK_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One try. `problem` is empty if the receiver took it."""

    receiver: str
    event: NoticeEvent
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """What one pass did."""

    found: Sequence[NoticeEvent] = ()
    tried: Sequence[Delivery] = ()
    problem: str = ""

    def format_line(self) -> str:
        """For people; empty where nothing happened."""
        told = sum(not each.problem for each in self.tried)
        failed = [each for each in self.tried if each.problem]
        parts = [format_counted(told, "notice") + " told"] if told else []
        parts += [f"{each.receiver} took none: {each.problem}; it is tried again" for each in failed]
        parts += [self.problem] if self.problem else []
        return f"notices: {'; '.join(parts)}" if parts else ""


def load_settings(stored: StoredSweep) -> NoticeSettings:
    """Those of the plan, with the receivers of this user's own file, which are told when this user ticks.

    Raises SweepError for a file that does not hold.
    """
    planned = stored.manifest.notices or NoticeSettings()
    own = read_user_fields()
    if own is None:
        return planned
    user = read_user_name()
    receivers = tuple(replace(each, name=f"{user}/{each.name}") for each in own.build_settings().receivers)
    return replace(own.build_settings() if stored.manifest.notices is None else planned,
                   receivers=(*planned.receivers, *receivers))  # fmt: skip


def read_user_fields() -> "NoticeFields | None":
    """The user's own file as it was checked; None without one."""
    path = locate_user_file()
    if not path.exists():
        return None
    # imported here: hardly anybody has the file, and pydantic takes time to load
    from sweep.spec.notices import read_notice_file

    return read_notice_file(path)


def tell_events(stored: StoredSweep, *, clock: Clock = SYSTEM_CLOCK) -> str:
    """Finds and tells. A line for people, or "". A failure of a receiver, of the store or of the settings never fails
    whoever calls: it is in the line."""
    try:
        settings = load_settings(stored)
        if not settings.receivers:
            return ""
        with hold_submit_lock(stored.paths.notice_tellers, wait_seconds=LOCK_SECONDS, clock=clock) as holds_lock:
            log = NoticeLog(stored.paths.notices)
            facts = load_facts(stored, clock)
            found = record_events(stored, log, settings, facts)
            tried = [] if not holds_lock() else deliver_waiting(log, settings, stored.manifest.sweep, clock, holds_lock)
        return PassReport(found=found, tried=tried).format_line()
    except SubmitterBusyError:
        return ""  # another tick tells
    except (SweepError, JobsError) as error:
        return PassReport(problem=f"none are told: {error}").format_line()
    except OSError as error:
        return PassReport(problem=f"none are told: {describe_storage_error(error)}").format_line()


def load_facts(stored: StoredSweep, clock: Clock) -> SweepFacts:
    """How the sweep stands now."""
    snapshot: SweepSnapshot = stored.load_snapshot(recent_answers=True, trusts_checked=True)
    now = clock.now()
    kept = read_limits(stored.paths.limits)
    caps = read_caps(stored.manifest, kept)
    rows: list[dict[str, Any]] = []
    unpayable: Collection[str] = ()
    if caps.amounts and (kept.backend or stored.manifest.backend) == "slurm":
        watch = BudgetWatch(stored.manifest.sweep, caps, clock)
        room = watch.measure_room(snapshot)
        unpayable = {key for key in snapshot.by_key if room.find_full(key)}
        rows = watch.build_rows(snapshot, wanted=find_wanted_keys(stored, kept))
    return SweepFacts(
        manifest=stored.manifest,
        snapshot=snapshot,
        refusals=select_refusals(snapshot),
        budget=rows,
        held=build_held_rows(snapshot, read_held_jobs(stored, snapshot, kept, unpayable).shapes),
        seconds_left=read_time_left(stored, snapshot, now).seconds,
        now=now,
    )


def record_events(
    stored: StoredSweep, log: NoticeLog, settings: NoticeSettings, facts: SweepFacts
) -> list[NoticeEvent]:
    """Writes down what is new; what it is measured against next time, too."""
    history = log.read()
    step = NextStep(stored.store.root)
    found = find_new_events(facts, settings, history, lambda *words: step.format_command(*words).strip("`"))
    log.append_events(found)
    signature = compute_signature(facts.snapshot)
    if signature != history.seen[0]:
        log.append([{"notice": "seen", "signature": signature, "time": facts.now}])
    slipped = any(event.kind == "slipped" for event in found)
    if facts.seconds_left and (not history.expected_end or slipped):
        log.append([{"notice": "expected", "end": facts.now + facts.seconds_left, "time": facts.now}])
    return found


def deliver_waiting(
    log: NoticeLog, settings: NoticeSettings, sweep: str, clock: Clock, holds_lock: Callable[[], bool]
) -> list[Delivery]:
    """Tells each receiver what waits for it, oldest first. One that fails is left alone until its pause is over."""
    history, began = log.read(), clock.monotonic()
    tried: list[Delivery] = []
    for receiver in settings.receivers:
        for event in list_waiting(history, receiver):
            now = clock.now()
            late = clock.monotonic() - began > PASS_SECONDS
            if late or receiver.is_quiet(now) or now < history.get_receiver(receiver.name).find_next_try():
                break
            if not holds_lock():
                return tried
            tried.append(try_delivery(receiver, event, sweep))
            if tried[-1].problem:
                log.append_failed(event, receiver.name, tried[-1].problem, clock.now())
                break
            log.append_told(event, receiver.name, clock.now())
    return tried


def try_delivery(receiver: Receiver, event: NoticeEvent, sweep: str, *, is_test: bool = False) -> Delivery:
    """One try, of whatever outcome."""
    try:
        deliver(receiver, build_notice_json(event, sweep, is_test=is_test))
    except (DeliveryError, ValueError) as error:  # ValueError: what a damaged log holds and no message can
        return Delivery(receiver=receiver.name, event=event, problem=str(error))
    return Delivery(receiver=receiver.name, event=event)


def list_waiting(history: NoticeHistory, receiver: Receiver) -> list[NoticeEvent]:
    """What a receiver is to hear and has not, oldest first."""
    told = history.receivers[receiver.name].told if receiver.name in history.receivers else set()
    return [event for event in history.events.values() if event.id not in told and receiver.is_told_of(event.kind)]


def build_test_event(sweep: str, now: float) -> NoticeEvent:
    """What `sweep notices NAME --test` sends; no log has it."""
    return NoticeEvent(
        id=f"test-{now:.0f}",
        kind="milestone",
        title=f"{sweep}: a test notice",
        lines=("you will be told of: " + ", ".join(EVENTS),),
        time=now,
    )
