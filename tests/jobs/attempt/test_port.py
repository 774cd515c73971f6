"""The port at which a job's processes meet is its own."""

import socket

from jobs.attempt.port import hold_port


def can_listen(port: int, *, reuse: bool) -> bool:
    """Whether a server gets the port; torch's sets the option."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        try:
            server.bind(("", port))
            server.listen()
        except OSError:
            return False
        return True


def test_the_job_can_listen_at_its_port_and_nobody_else_gets_it() -> None:
    with hold_port() as port:
        assert not can_listen(port, reuse=False)
        assert can_listen(port, reuse=True)
        with socket.socket() as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.bind(("", port))
            ours.listen()
            assert not can_listen(port, reuse=True)


def test_two_jobs_never_have_one_port() -> None:
    with hold_port() as first, hold_port() as second:
        assert first != second
