"""One round of a sweep on Slurm, as `sweep submit`, `sweep tick` and `sweep cancel` make it."""

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jobs.claims.submit_lock import hold_submit_lock
from jobs.counted import format_counted
from jobs.errors import NoSchedulerError, SubmitterBusyError
from jobs.observation import ClusterState
from jobs.processes import read_user_name
from jobs.reconcile.decide import Action, AmountRoom, Submit
from jobs.reconcile.snapshot import SweepSnapshot
from jobs.reconcile.state import JobState
from jobs.slurm.batches import SlurmBatch
from jobs.slurm.client import SlurmClient
from jobs.slurm.code_snapshot import locate_code_snapshot, save_code_snapshot
from jobs.slurm.query import drop_answers, find_cluster, load_batch_history
from jobs.slurm.refusals import Refusal, update_refusals
from jobs.slurm.round import PENDING, RoundReport, SlurmRound, list_delays
from jobs.slurm.sbatch_errors import RefusalKind
from jobs.slurm.script import LaunchSettings, build_sbatch_arguments, find_path_problem, render_batch_script
from jobs.slurm.site.feasibility import FeasibilityChecker
from jobs.slurm.site.limits import describe_limit
from jobs.slurm.site.site_facts import SiteFacts, query_kept_site
from jobs.slurm.timeouts import SlurmTimeouts
from sweep.budget.caps import BudgetWatch, Caps, format_budget_line
from sweep.canary.rule import build_canary, build_held_rows, suggest_release
from sweep.errors import StoreError
from sweep.kept_limits import KeptLimits, compute_priorities, read_limits
from sweep.next_step import NextStep
from sweep.stored_sweep import StoredSweep, read_slurm_timeouts
from sweep.submit.report import count_states, print_action_rows, print_held, print_report, read_stage_program

SUBMIT_LOCK_TIMEOUT_SECONDS = 300.0
CANCEL_POLL_SECONDS = 2.0


def print_wait(line: str) -> None:
    """On stderr, at once."""
    print(f"sweep: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRequest:
    """What the user asks of a round."""

    wanted: Collection[str]
    """Keys that may be sent."""
    kept: KeptLimits | None = None
    """What goes first, and whether one job of a shape does; None: as the store has it."""
    max_queued: int | None = None
    submit_interval_s: float | None = None
    fresh: bool = False
    """Ask the cluster for its configuration and limits again, although the answers of the last day are kept."""
    dry: bool = False
    """Query and decide; change nothing, neither here nor there."""
    scripts: bool = False
    """With `dry`: print what sbatch would be given."""
    held_back: str = ""
    """Why nothing may be sent although Slurm would take it: the rest of the round is done all the same."""
    if_unreachable: str = (
        "nothing was done: see `sweep doctor`, try again later, or run it on this machine with --backend local"
    )
    """What it means for the user that Slurm does not answer."""
    report_wait: Callable[[str], None] = print_wait
    """Told once, and then now and then, for whom the round waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """A round that is over, what it did, and how the budgets stand after it (section `budget` of docs/json.md)."""

    slurm_round: SlurmRound
    report: RoundReport
    budget: Sequence[Mapping[str, Any]] = ()


def submit_round(stored: StoredSweep, request: RoundRequest, caps: Caps, *, as_json: bool) -> int:
    """One round; the exit code is 0 if all went as it can, limits included."""
    if request.dry:
        with open_slurm_round(stored, request) as slurm_round:
            watch = hold_budgets(slurm_round, request, caps)
            actions = slurm_round.decide()
            budget = build_budget_rows(slurm_round, watch)
            return print_actions(slurm_round, actions, stored, budget, scripts=request.scripts, as_json=as_json)
    return print_round_report(run_round(stored, request, caps), as_json=as_json)


def run_round(stored: StoredSweep, request: RoundRequest, caps: Caps) -> RoundOutcome:
    """The round to its end. Nothing is printed but what `request.report_wait` prints."""
    with open_slurm_round(stored, request) as slurm_round:
        watch = hold_budgets(slurm_round, request, caps)
        report = slurm_round.run(slurm_round.decide())
        keep_refusals(slurm_round, report)
        drop_old_facts(slurm_round, report)
        budget = build_budget_rows(slurm_round, watch)
        if line := explain_end_of_budget(slurm_round, budget):
            report = replace(report, problem=report.problem or line)
    return RoundOutcome(slurm_round=slurm_round, report=report, budget=budget)


def hold_budgets(slurm_round: SlurmRound, request: RoundRequest, caps: Caps) -> BudgetWatch:
    """From here on the round sends what the budgets have room for."""
    watch = BudgetWatch(slurm_round.launch.sweep, caps, slurm_round.clock)
    slurm_round.held_back = request.held_back or caps.problem

    def measure_room(snapshot: SweepSnapshot) -> AmountRoom:
        room = watch.measure_room(snapshot, slurm_round.priorities)
        if watch.standing is not None:
            slurm_round.held_back = request.held_back or watch.find_problem(watch.standing)
        return room

    if caps.amounts and not caps.problem:
        slurm_round.measure_room = measure_room
    return watch


def build_budget_rows(slurm_round: SlurmRound, watch: BudgetWatch) -> list[dict[str, Any]]:
    """The budgets as they stand now, with what the round held back."""
    amounts = slurm_round.capacity.amounts
    return watch.build_rows(slurm_round.snapshot, amounts.held if amounts is not None else {})


def explain_end_of_budget(slurm_round: SlurmRound, budget: Sequence[Mapping[str, Any]]) -> str:
    """Why no round sends anything more: a budget holds jobs back, and nothing is in flight whose end could make room.
    Empty if that is not so."""
    ended = [row for row in budget if row["held_back"] and not row["jobs_in_flight"]]
    return f"nothing more is sent: {format_budget_line(ended[0], slurm_round.launch.sweep)}" if ended else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReport:
    """What became of a cancellation, as Slurm's queue shows it afterwards."""

    ended: frozenset[str] = frozenset()
    """Keys of jobs that ran and run no more."""
    left: Mapping[str, str] = field(default_factory=dict)
    """Ids by key of jobs that are in the queue all the same."""
    owners: Mapping[str, int] = field(default_factory=dict)
    """Of those, the number of jobs by the other person whose they are."""
    problem: str = ""
    """Why, or why the queue cannot be seen; one line."""


# Why: docs/decisions.md, D101
def cancel_on_slurm(stored: StoredSweep, keys: Collection[str], grace_seconds: float) -> CancelReport:
    """Takes the jobs out of the queue, has running ones save and stop, ends them after the grace.

    The cancellation is in the ledger already: nobody sends them again meanwhile, and no attempt of them starts.
    """
    # whatever the limits say, or if nobody can read them: a cancellation sends nothing
    request = RoundRequest(wanted=(), kept=KeptLimits(canary="off"), if_unreachable="its queue is as it was")
    try:
        with open_slurm_round(stored, request) as slurm_round:
            running = slurm_round.list_own_ids(keys, {ClusterState.RUNNING})
            refusal = stop_jobs(slurm_round, keys, grace_seconds)
            left = slurm_round.list_remaining(keys)
            problem = slurm_round.problem or (refusal if left else "") or explain_hidden(slurm_round, keys)
            own = slurm_round.select_own_keys(left.keys())
            owners = Counter(slurm_round.find_owner(left[key]) for key in left.keys() - set(own))
    except (NoSchedulerError, SubmitterBusyError) as error:
        return CancelReport(problem=str(error))
    return CancelReport(ended=frozenset(running.keys() - left.keys()), left=left, owners=owners, problem=problem)


def explain_hidden(slurm_round: SlurmRound, keys: Collection[str]) -> str:
    """Why it is not known whether these jobs are out of the queue; empty if it is."""
    seen = (slurm_round.snapshot.observed.get(key) for key in keys)
    owners = sorted({each.hidden_owner for each in seen if each is not None and each.hidden_owner})
    return f"jobs of {' and '.join(owners)} are hidden from you (PrivateData)" if owners else ""


def stop_jobs(slurm_round: SlurmRound, keys: Collection[str], grace_seconds: float) -> str:
    """Cancels, waits for the grace, kills, and queries once more. Returns a problem of scancel or "".

    Where scancel fails nothing is waited for, and nothing is killed that was not asked to save. Jobs of another person
    are asked for apart: Slurm refuses, unless this user is an operator, and this person's own jobs end all the same.
    """
    own = slurm_round.select_own_keys(keys)
    others = set(keys).difference(own)
    problems = [stop_these_jobs(slurm_round, each, grace_seconds) for each in (own, others)]
    return next((problem for problem in problems if problem), "")


def stop_these_jobs(slurm_round: SlurmRound, keys: Collection[str], grace_seconds: float) -> str:
    """As `stop_jobs`, of jobs that can all be ended or can all not."""
    if not slurm_round.list_own_ids(keys, {*PENDING, ClusterState.RUNNING}):
        return ""
    problem = slurm_round.cancel(keys)
    deadline = slurm_round.clock.monotonic() + grace_seconds
    left = slurm_round.list_own_ids(keys, {ClusterState.RUNNING})
    while left and not problem and slurm_round.clock.monotonic() < deadline:
        slurm_round.clock.sleep(min(CANCEL_POLL_SECONDS, grace_seconds))
        slurm_round.query()
        left = slurm_round.list_own_ids(keys, {ClusterState.RUNNING})
        problem = slurm_round.cancel(slurm_round.list_own_ids(keys, PENDING))  # requeued meanwhile
    if not problem:
        problem = slurm_round.kill(left)
    slurm_round.query()
    return problem


def resolve_slurm_timeouts(request: RoundRequest) -> SlurmTimeouts:
    """With the pace of the command line."""
    timeouts = read_slurm_timeouts()
    if request.submit_interval_s is None:
        return timeouts
    return replace(timeouts, submit_interval_s=request.submit_interval_s)


@contextmanager
def open_slurm_round(stored: StoredSweep, request: RoundRequest) -> Iterator[SlurmRound]:
    """A round that has queried Slurm. Unless it is dry, nobody else submits from this store while the block lasts, and
    `sweep status` shows no answer of Slurm's from before its end."""
    if request.dry:
        yield prepare_round(stored, request, lambda: True)
        return
    with hold_submit_lock(
        stored.store.submitters,
        wait_seconds=SUBMIT_LOCK_TIMEOUT_SECONDS,
        report_wait=request.report_wait,
    ) as holds_submit_lock:
        drop_answers(stored.store, stored.manifest.sweep)  # at the end, too: a round may be killed before
        try:
            yield prepare_round(stored, request, holds_submit_lock)
        finally:
            drop_answers(stored.store, stored.manifest.sweep)


def prepare_round(stored: StoredSweep, request: RoundRequest, holds_submit_lock: Callable[[], bool]) -> SlurmRound:
    """Reads the cluster's limits, pins the code, queries Slurm."""
    if problem := find_path_problem(stored.store.root):
        raise StoreError(problem)
    timeouts, user = resolve_slurm_timeouts(request), read_user_name()
    history = load_batch_history(stored.store, stored.manifest.sweep, {job.key for job in stored.manifest.jobs})
    client = SlurmClient(timeouts, cluster=find_cluster(history.batches.values(), timeouts))
    client.kept = facts = SiteFacts(client, stored.store, user, fresh=request.fresh)
    site = query_kept_site(facts, user)
    if site.problem:
        about = f" about cluster {client.cluster} (SLURM_CLUSTERS)" if client.cluster else ""
        raise NoSchedulerError(f"Slurm cannot be asked{about}: {site.problem}; {request.if_unreachable}")
    kept = request.kept or read_limits(stored.paths.limits)
    slurm_round = SlurmRound(
        stored.manifest.jobs,
        wanted=request.wanted,
        launch=build_launch(stored, writes=not request.dry, names=not request.dry or request.scripts),
        client=client,
        site=site,
        ledger=stored.ledger,
        priorities=compute_priorities(stored, kept.first),
        canary=build_canary(stored, kept),
        max_queued=request.max_queued,
        holds_submit_lock=holds_submit_lock,
        dry=request.dry,
    )
    slurm_round.query()
    if not request.dry:
        facts.save()
    return slurm_round


def build_launch(stored: StoredSweep, *, writes: bool, names: bool) -> LaunchSettings:
    """Pins the code in the store (`writes`), or only finds its name (`names`)."""
    find = save_code_snapshot if writes else locate_code_snapshot
    code = find(stored.store) if names else None
    return LaunchSettings(
        store=stored.store,
        sweep=stored.manifest.sweep,
        program=read_stage_program(),
        code=code.path.resolve() if code else stored.store.code,
        revision=code.revision if code else "",
        code_sha256=code.sha256 if code else "",
    )


def print_round_report(done: RoundOutcome, *, as_json: bool) -> int:
    """Report on stdout, remarks on stderr."""
    slurm_round, report = done.slurm_round, done.report
    outcome = build_round_json(done)
    print_report(outcome, as_json=as_json)
    name = outcome["sweep"]
    if not as_json:
        withdrawn = f", took {report.withdrawn} out of the queue" if report.withdrawn else ""
        if report.asked_to_stop:
            told = format_counted(report.asked_to_stop, "cancelled job that runs", "cancelled jobs that run")
            withdrawn += f", told {told} to save and stop"
        print(
            f"sent {format_counted(report.sent, 'job')} in {format_counted(report.calls, 'sbatch call')}{withdrawn}",
            file=sys.stderr,
        )
    for line in report.gpus:
        print(f"sweep: {line}", file=sys.stderr)
    for line in report.limits:
        print(f"sweep: {line}; `sweep tick {name}` sends more as the queue drains", file=sys.stderr)
    print_budget_lines(done.budget, name, report.problem)
    print_refusals(report.invalid, "was not sent", "were not sent")
    print_held(outcome["held"], name)
    for remark in slurm_round.list_remarks():
        print(f"sweep: {remark}", file=sys.stderr)
    if report.problem:
        hint = "" if report.problem == slurm_round.held_back else "; nothing is lost, run it again"
        print(f"sweep: {report.problem}{hint}", file=sys.stderr)
    if not as_json:
        print(suggest_after_round(slurm_round, outcome["states"], outcome["held"]), file=sys.stderr)
    return 1 if report.problem or report.invalid else 0


def suggest_after_round(
    slurm_round: SlurmRound, states: Mapping[str, int], held: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The next command: rounds go on by themselves only where cron has them. `held`: rows of held shapes."""
    step, name = NextStep(slurm_round.launch.store.root), slurm_round.launch.sweep
    if release := suggest_release(step, name, states, held):
        return release
    to_send = sum(states[state.value] for state in (JobState.READY, JobState.WAITING, JobState.INTERRUPTED))
    if states["failed"] or not (to_send or states["queued"] or states["running"]):
        return step.suggest_for_states(name, states, jobs=slurm_round.snapshot.jobs)
    what = "sends the rest and retries" if to_send else "retries what fails and renews tables and report"
    return step.suggest(f"from cron {what}; see docs/slurm.md", "tick", name)


def keep_refusals(slurm_round: SlurmRound, report: RoundReport) -> None:
    """Keeps for `sweep status` and `explain` why jobs were not sent."""
    settled = {JobState.DONE, JobState.QUEUED, JobState.RUNNING}
    update_refusals(
        slurm_round.launch.store,
        slurm_round.launch.sweep,
        report.refused,
        settled={
            *(job.key for job in slurm_round.snapshot.select_in_state(settled)),
            *(slurm_round.select_taken() - report.refused.keys()),
        },
        planned=slurm_round.snapshot.by_key.keys(),
    )


def drop_old_facts(slurm_round: SlurmRound, report: RoundReport) -> None:
    """A refusal may mean that the site's configuration or limits are others than those that are kept."""
    if not (report.refused and isinstance(facts := slurm_round.client.kept, SiteFacts)):
        return
    if any(refusal.kind is RefusalKind.LIMIT for refusal in report.refused.values()):
        facts.drop()  # the limits that are kept had room for it
    else:
        facts.drop_old(next(iter(report.refused.values())).text)


def print_refusals(refused: Mapping[str, Refusal], what: str, what_of_several: str) -> None:
    """One line on stderr for each reason, with the number of its jobs."""
    for reason, jobs in Counter(map(str, refused.values())).items():
        print(f"sweep: {format_counted(jobs, f'job {what}', f'jobs {what_of_several}')}: {reason}", file=sys.stderr)


def print_budget_lines(budget: Sequence[Mapping[str, Any]], name: str, told: str = "") -> None:
    """A line on stderr for each budget, but for one that `told` has."""
    for row in budget:
        line = format_budget_line(row, name)
        if line not in told:
            print(f"sweep: {line}", file=sys.stderr)


def build_round_json(done: RoundOutcome) -> dict[str, Any]:
    """Section `submit` of docs/json.md."""
    slurm_round, report = done.slurm_round, done.report
    counts = count_states(slurm_round.snapshot, slurm_round.wanted)
    return {
        **counts,
        **asdict(report),
        "limits": list(report.limits),
        "refused": {key: str(refusal) for key, refusal in report.invalid.items()},
        "gpus": list(report.gpus),
        "held": build_held_rows(slurm_round.snapshot, slurm_round.held),
        **({"budget": list(done.budget)} if done.budget else {}),
    }


def print_actions(
    slurm_round: SlurmRound,
    actions: Sequence[Action],
    stored: StoredSweep,
    budget: Sequence[Mapping[str, Any]] = (),
    *,
    scripts: bool,
    as_json: bool,
) -> int:
    """`--dry-run`."""
    submits = [action for action in actions if isinstance(action, Submit)]
    batches = slurm_round.plan_batches(submits)
    calls = [build_call_row(batch, slurm_round) for batch in batches] if scripts else None
    if calls is None or as_json:
        print_action_rows(actions, stored, calls, as_json=as_json)
    else:
        print("".join(format_call(number, len(calls), call) for number, call in enumerate(calls, 1)), end="")
    jobs, calls_counted = format_counted(len(submits), "job"), format_counted(len(batches), "sbatch call")
    print(f"{jobs} would be sent in {calls_counted}", file=sys.stderr)
    if asked := describe_questions(slurm_round.checker):
        print(f"sweep: {asked}", file=sys.stderr)
    for line in slurm_round.describe_gpus(action.key for action in submits):
        print(f"sweep: {line}", file=sys.stderr)
    for limit in sorted(slurm_round.capacity.full):
        print(f"sweep: no room for more under {describe_limit(limit)}", file=sys.stderr)
    for line in list_delays(slurm_round.unfit):
        print(f"sweep: {line}", file=sys.stderr)
    print_budget_lines(budget, slurm_round.launch.sweep)
    unfit = {key: each for key, each in slurm_round.unfit.items() if each.kind is RefusalKind.INVALID}
    print_refusals(unfit, "would not be sent", "would not be sent")
    print_held(build_held_rows(slurm_round.snapshot, slurm_round.held), stored.manifest.sweep)
    for remark in slurm_round.site_remarks:
        print(f"sweep: {remark}", file=sys.stderr)
    if problem := slurm_round.problem or slurm_round.held_back:
        print(f"sweep: {problem}", file=sys.stderr)
    return 1 if problem or unfit else 0


# Why: docs/decisions.md, D114
def build_call_row(batch: SlurmBatch, slurm_round: SlurmRound) -> dict[str, Any]:
    """One sbatch call as it would be sent; the name of a batch stands for the id that it does not have yet."""
    parents = {name for name, _ in batch.after_tasks} | ({batch.corresponds_batch} - {""})
    arguments = build_sbatch_arguments(batch, slurm_round.launch, {name: name for name in parents})
    return {
        "name": batch.name,
        "phase": batch.phase,
        "keys": list(batch.tasks.values()),
        "arguments": slurm_round.client.build_submit_words(arguments),
        "script": render_batch_script(batch, slurm_round.launch),
    }


def format_call(number: int, calls: int, call: Mapping[str, Any]) -> str:
    """The arguments as one shell line, then the script."""
    jobs = format_counted(len(call["keys"]), f"{call['phase']} job")
    return (
        f"{'=' * 20} call {number} of {calls}: {jobs}, {call['name']}\n{shlex.join(call['arguments'])}\n"
        f"{'-' * 20} script\n{call['script']}"
    )


def describe_questions(checker: FeasibilityChecker) -> str:
    """What a dry run has asked Slurm; empty if nothing."""
    if checker.silent:
        return f"Slurm did not say what it would take: {checker.silent}"
    kinds = format_counted(checker.shapes, "kind")
    return (
        f"Slurm was asked about {kinds} of request (sbatch --test-only, which sends nothing)" if checker.asked else ""
    )
