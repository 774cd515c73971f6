"""Keeps Slurm's last answers on disk, so that people who look at a sweep again and again do not burden the controller.

For showing only: nothing is ever decided or sent on an answer from here.
"""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.slurm.rows import AccountRow, Answer, Answers, QueueRow
from jobs.slurm.timeouts import Patience
from jobs.store.paths import replacing

FORMAT = 1
"""Another number on disk is another version's: passed over."""


def keep(path: Path, answers: Answers) -> None:
    """Writes both answers, whole or not at all. A store that refuses the write is no error: one asks again then."""
    content = {
        "format": FORMAT,
        "time": answers.taken_at,
        "queue": _written(answers.queue),
        "accounting": _written(answers.accounting),
    }
    with contextlib.suppress(OSError), replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content))


def fresh(path: Path, now: float, patience: Patience, *, not_before: float = 0.0) -> Answers | None:
    """The kept answers if they are at most patience.cache old, or patience.look_again if one of them failed.

    `not_before`: when something was last sent or cancelled (Unix seconds); older answers do not know of it.
    None also for a file that is absent, torn, or of the future.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != FORMAT:
            return None
        kept = Answers(
            Answer(rows=tuple(map(QueueRow._make, content["queue"]["rows"])), **_state(content["queue"])),
            Answer(rows=tuple(map(AccountRow._make, content["accounting"]["rows"])), **_state(content["accounting"])),
            float(content["time"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    good = kept.queue.ok and (kept.accounting.ok or kept.accounting.absent)
    limit = patience.cache if good else min(patience.cache, patience.look_again)
    return kept if not_before <= kept.taken_at and 0 <= now - kept.taken_at <= limit else None


def _written(answer: Answer[Any]) -> dict[str, Sequence[Any] | str | bool]:
    return {"rows": answer.rows, "problem": answer.problem, "absent": answer.absent}


def _state(content: dict[str, Any]) -> dict[str, Any]:
    return {"problem": str(content["problem"]), "absent": bool(content["absent"])}
