"""An attempt as `python -m jobs.attempt` makes it, but for a guard that may be taken out on purpose."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from jobs.attempt.__main__ import main
from jobs.claims import takeover
from jobs.claims.claims import Claim, ClaimOwner, create_claim
from tests.nfs.guards import Guard


def share_claim(folder: Path, holder: ClaimOwner, *, after: Claim | None) -> Claim | None:
    """The next claim, also where another attempt has just made it."""
    made = create_claim(folder, holder, after=after)
    if made is not None:
        return made
    number = after.number + 1 if after else 1
    path = folder / f"{number:06d}.json"
    return Claim(path=path, number=number, owner=replace(holder), heartbeat_at=os.stat(path).st_mtime)  # noqa: PTH116


if __name__ == "__main__":
    if Guard.CLAIM.is_removed:
        patch.object(takeover, "create_claim", share_claim).start()
    sys.exit(main())
