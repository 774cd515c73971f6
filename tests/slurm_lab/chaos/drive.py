"""The `sweep` command, with a process that kills itself at its N-th side effect.

python -m tests.slurm_lab.chaos.drive --die-at N COMMAND...

Prints on stderr at which moment it died, or `moments: N` at its end.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from jobs.claims import submit_lock
from jobs.claims.claims import Claim
from jobs.slurm import round as slurm_round
from jobs.slurm.client import SlurmClient
from jobs.store.ledger import Ledger
from sweep.cli import main as sweep_main
from sweep.submit import slurm

SIDE_EFFECTS: tuple[tuple[Any, str], ...] = (
    (submit_lock, "create_claim"),
    (Claim, "release"),
    (slurm, "save_code_snapshot"),
    (Ledger, "write"),
    (SlurmClient, "submit"),
    (SlurmClient, "cancel"),
    (slurm_round, "set_result_aside"),
)
"""Everything that a round changes on disk or in Slurm. `Ledger.write` includes every intent, answer and ending."""


class Moments:
    """Counts the moments before and after each side effect, and ends the process at one of them."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.passed = 0

    def moment(self, words: str) -> None:
        self.passed += 1
        if self.passed == self.last:
            print(f"died {words}", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str) -> None:
        action: Callable[..., Any] = getattr(owner, name)
        called = f"{getattr(owner, '__name__', owner)}.{name}".removeprefix("jobs.slurm.").removeprefix("sweep.")

        @functools.wraps(action)
        def watched(*arguments: Any, **options: Any) -> Any:
            self.moment(f"before {called}")
            answer = action(*arguments, **options)
            self.moment(f"after {called}")
            return answer

        setattr(owner, name, watched)


def main() -> int:
    _, option, number, *command = sys.argv
    if option != "--die-at":
        raise SystemExit(__doc__)
    moments = Moments(int(number))
    for owner, name in SIDE_EFFECTS:
        moments.watch(owner, name)
    code = sweep_main(command)
    print(f"moments: {moments.passed}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
