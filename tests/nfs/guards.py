"""What keeps a job from running twice, and what happens to a campaign from which one of these is taken out on purpose.

A campaign that finds no violation says something only if it finds some without each of them.
"""

import os
from collections.abc import Sequence
from enum import StrEnum

REMOVED_VARIABLE = "NFS_WITHOUT"


class Guard(StrEnum):
    """One of them; processes of the campaign read in $NFS_WITHOUT which is missing."""

    CLAIM = "claim"
    """Of two attempts that claim a run at once, one gets it."""
    FENCE = "fence"
    """Who was taken for dead and lives publishes nothing more."""
    SUBMIT_LOCK = "submit-lock"
    """One submission at a time."""

    @property
    def is_removed(self) -> bool:
        """For this process."""
        return os.environ.get(REMOVED_VARIABLE) == self.value

    @property
    def prevents(self) -> Sequence[str]:
        """Names of the faults (`tests.nfs.campaign`) against which it is there."""
        return PREVENTED[self]


PREVENTED = {
    Guard.CLAIM: ["a key starts on both machines at once"],
    Guard.FENCE: [
        "machine cut off, its key sent once more",
        "processes suspended, their key sent once more",
        "supervisor killed, its stage suspended, restarted elsewhere",
    ],
    Guard.SUBMIT_LOCK: ["two submitters at once"],
}
