"""Whether a job that Slurm starts is still wanted. Slurm restarts jobs for reasons of its own, and knows no ledger."""

from jobs.attempt.options import AttemptOptions
from jobs.claims.claims import refresh_folder
from jobs.reconcile.attempts import read_attempts
from jobs.reconcile.failures import POLICIES
from jobs.reconcile.retries import RetryDecision, decide_retry
from jobs.store.ledger import collect_user_requests, is_withdrawn, read_events
from jobs.store.paths import RunPaths, Store


# Why: docs/decisions.md, D101
def find_start_refusal(store: Store, run: RunPaths, options: AttemptOptions, *, restarts: int) -> str:
    """Why the stage must not start, in one line; empty if it may.

    By the ledger (a person cancelled the job, or we took this batch's copy out of the queue) or by the job's own
    history, if the last end is one that no accounting can explain away. `restarts`: the attempts beyond the first that
    the plan counts on.
    """
    ledger = store.locate_sweep(options.sweep).ledger
    refresh_folder(ledger)  # the cancellation may have been written on another machine a moment ago
    requests = collect_user_requests(read_events(ledger))
    if options.key in requests.cancelled:
        return f"it is cancelled; `sweep resume {options.sweep}` puts it back"
    if is_withdrawn(ledger, options.batch, options.key):
        return "this copy of it was taken out of the queue; `sweep tick` sends the job again if it is still to run"
    attempts = read_attempts(run, live=False)
    resumed_at = requests.resumed_at.get(options.key, 0.0)
    if decide_retry(attempts, counted_from=resumed_at, restarts=restarts) is not RetryDecision.STOP:
        return ""
    last = attempts[-1]
    # What was killed or preempted may be the fault of a node: only Slurm's accounting says so, and no attempt asks it.
    if last.end is None or last.failure is None or POLICIES[last.failure].refined_by_slurm:
        return ""
    return f"it has failed for good ({last.failure}: {last.end.message}); `sweep resume {options.sweep}` tries it again"
