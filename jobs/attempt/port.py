"""A port of its own for each job of several processes, at which they meet."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

PORT_VARIABLE = "SWEEP_MASTER_PORT"
"""From the supervisor to its ranks: the first of them listens at this port, on this machine."""


# Why: docs/decisions.md, D127
@contextmanager
def hold_port() -> Iterator[int]:
    """A free port of this machine, which no other program gets while the block runs.

    The socket never listens. It is bound without SO_REUSEADDR, which fails at a port that anybody has; with the option
    set afterwards, the rank, which sets it as every server does, can bind the port beside it and listen.
    """
    with _open_socket() as held:
        held.bind(("", 0))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        yield int(held.getsockname()[1])


def _open_socket() -> socket.socket:
    """For both IPv6 and IPv4 where the machine has both."""
    try:
        both = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    except OSError:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return both
