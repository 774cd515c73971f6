"""Free TCP ports and a usable network, both looked for before any daemon starts."""

import fcntl
import os
import socket
import tempfile
import zlib
from pathlib import Path

from tests.slurm_lab.config import Ports
from tests.slurm_lab.errors import LabError

LOWEST, HIGHEST = 20_000, 32_000
"""Below the kernel's range for outgoing connections (from 32,768)."""
BLOCK = 40


def free_ports(nodes: int, *, hint: str) -> Ports:
    """A block of ports that nobody listens on; `hint` (a folder's name) lets clusters begin at different ones."""
    width = -(-Ports.count(nodes) // BLOCK) * BLOCK
    blocks = (HIGHEST - LOWEST) // width
    first = zlib.crc32(hint.encode()) % blocks
    for number in range(blocks):
        ports = Ports(LOWEST + (first + number) % blocks * width)
        if _reserved(ports.base) and all(_free(port) for port in range(ports.base, ports.base + Ports.count(nodes))):
            return ports
    raise LabError(f"no {Ports.count(nodes)} free TCP ports in a row between {LOWEST} and {HIGHEST}")


def listens(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


def check_network() -> None:
    """Refuses a machine on which no Slurm program finds its controller, after 20 s of silence a time.

    Slurm looks addresses up with AI_ADDRCONFIG: without an IPv4 address besides loopback, getaddrinfo(3) finds none.
    """
    try:
        socket.getaddrinfo("127.0.0.1", 0, socket.AF_INET, flags=socket.AI_ADDRCONFIG)
    except socket.gaierror:
        raise LabError(
            "Slurm needs an IPv4 address besides 127.0.0.1, and this machine (a container without a network?) has none;"
            " as root: ip addr add 198.51.100.1/32 dev lo"
        ) from None


def _reserved(base: int) -> bool:
    """Takes the block for this process, so that two clusters that start at once look at different ones.

    The lock lasts as long as the process; from then on the daemons themselves have the ports.
    """
    path = Path(tempfile.gettempdir()) / f"sweep-lab-ports-{base}"
    try:
        descriptor = os.open(path, os.O_RDONLY)  # with O_CREAT another user's file in /tmp is refused
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def _free(port: int) -> bool:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Slurm does: TIME_WAIT is no hindrance
        try:
            server.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
