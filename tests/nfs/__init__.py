"""Two machines that mount one folder as NFS clients do: with caches of seconds, ESTALE, and a server's clock.

`python -m tests.nfs --help` runs the fault campaign on them.
"""

from tests.nfs.machines import Machine, MountError, SharedFolder

__all__ = ["Machine", "MountError", "SharedFolder"]
