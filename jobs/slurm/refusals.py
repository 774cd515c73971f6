"""Slurm's last answer for each job of a sweep that it would not take: what `sweep status` and `explain` show.

STORE/sweeps/NAME/refusals.json. For people to read: nothing is decided by it, and each round asks Slurm anew.
"""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from jobs.slurm.sbatch_errors import RefusalKind
from jobs.store.paths import Store, write_json
from jobs.store.records import read_record

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why Slurm did not take a job when a round last offered it."""

    text: str
    """One line: what Slurm would not take, in plain English with Slurm's own words."""
    advice: str = ""
    """What would do, as an order to the reader; empty if there is nothing to do but wait."""
    when: float
    """Unix seconds of the answer."""
    kind: RefusalKind
    """INVALID: never as the job is. The others pass by themselves."""


def read_refusals(store: Store, sweep: str) -> dict[str, Refusal]:
    """The last refusal by key, of the jobs that were not sent since; empty without any, and for a damaged file.

    A job may have gone on by other means since (another sweep of the store, `resume` on one machine): readers show only
    those of jobs that are ready, waiting or interrupted.
    """
    content = read_record(store.locate_sweep(sweep).refusals) or {}
    if content.get("format") != FORMAT:
        return {}
    found: dict[str, Refusal] = {}
    with contextlib.suppress(KeyError, TypeError, ValueError):
        for each in content["answers"]:
            refusal = Refusal(
                text=str(each["text"]),
                advice=str(each["advice"]),
                when=float(each["when"]),
                kind=RefusalKind(each["kind"]),
            )
            found |= dict.fromkeys(map(str, each["keys"]), refusal)
    return found


def update_refusals(
    store: Store, sweep: str, new: Mapping[str, Refusal], *, settled: Collection[str], planned: Collection[str]
) -> None:
    """Keeps a round's answers, over those of earlier rounds.

    `settled`: keys that need no answer any more (sent, queued, done). `planned`: keys of the plan; others are dropped.
    A store that refuses the write is no error.
    """
    known = {**read_refusals(store, sweep), **new}
    kept = {key: known[key] for key in sorted(known) if key in planned and key not in settled}
    path = store.locate_sweep(sweep).refusals
    with contextlib.suppress(OSError):
        if not kept:
            path.unlink(missing_ok=True)
            return
        keys: dict[Refusal, list[str]] = {}
        for key, refusal in kept.items():
            keys.setdefault(refusal, []).append(key)
        answers = [
            {"text": each.text, "advice": each.advice, "when": each.when, "kind": each.kind.value, "keys": names}
            for each, names in keys.items()
        ]
        write_json(path, {"format": FORMAT, "answers": answers})
