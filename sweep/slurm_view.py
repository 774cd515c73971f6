"""A sweep on Slurm as the reading commands see it: nothing is noted, sent or taken out."""

import time

from jobs.slurm.answers_cache import fresh, keep
from jobs.slurm.batch_ledger import Notes
from jobs.slurm.client import SlurmClient
from jobs.slurm.query import Look, ask, judged, notes_of
from jobs.slurm.timeouts import Patience
from sweep.slurm_patience import patience_from_environment
from sweep.stored_sweep import StoredSweep


def slurm_look(stored: StoredSweep, *, recent_answers: bool, whole_account: bool) -> Look:
    """What the ledgers and Slurm say now; the options are those of `StoredSweep.picture`."""
    patience = patience_from_environment()
    notes = notes_of(stored.store, stored.manifest.sweep, {job.key for job in stored.manifest.jobs})
    kept = fresh_answers(stored, notes, patience) if recent_answers else None
    if kept is not None:
        return kept
    answers = ask(SlurmClient(patience), notes, settled_too=whole_account)
    if not whole_account:
        keep(stored.paths.slurm_answers, answers)
    return judged(stored.manifest.sweep, notes, answers, patience)


def fresh_answers(stored: StoredSweep, notes: Notes, patience: Patience) -> Look | None:
    """The last answers, where they are recent and nothing was sent since."""
    sent = max((max(batch.intended_at, batch.sent_at) for batch in notes.batches.values()), default=0.0)
    kept = fresh(stored.paths.slurm_answers, time.time(), patience, not_before=sent)
    return None if kept is None else judged(stored.manifest.sweep, notes, kept, patience)
