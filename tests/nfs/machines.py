"""Machines that share a folder: each has a mount of its own with its own caches, its own host name, boot id and pids.

A machine is a set of Linux namespaces of this host; the folder has the same path on all of them. Needs root.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 30.0
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SETUP = 'mount --bind "$1" {boot_id} && hostname "$2" && echo ready && exec sleep infinity'


class MountError(Exception):
    """This host cannot do what the tests need, or a machine did not start; one line."""


def check_host() -> None:
    """Raises MountError with what is missing. Nothing is skipped: a test that needs the mount fails with this line."""
    if os.geteuid() != 0:
        raise MountError("mounts and namespaces need root: run these tests as root")
    if not Path("/dev/fuse").exists():
        raise MountError(
            "there is no /dev/fuse: load the kernel's module fuse, or give the container --device /dev/fuse"
        )
    for program in ("unshare", "nsenter"):
        if shutil.which(program) is None:
            raise MountError(f"{program} is not installed: apt-get install util-linux")


class SharedFolder:
    """A server's folder, and the machines that mount it at `path`."""

    def __init__(self, base: Path, *, cache_seconds: float, seconds_ahead: int) -> None:
        self.base = base
        self.server = base / "server"
        self.path = base / "mnt"
        self.cache_seconds = cache_seconds
        self.seconds_ahead = seconds_ahead
        self.local_locks = False
        """Of the machines that are booted from now on: locks hold on their own machine alone."""
        self.machines: dict[str, Machine] = {}
        for folder in (self.server, self.path):
            folder.mkdir()

    @classmethod
    @contextmanager
    def make(cls, *, cache_seconds: float = 3.0, seconds_ahead: int = 47) -> Iterator["SharedFolder"]:
        """All machines end with it. The folder itself is short and everybody's to enter."""
        check_host()
        base = Path(tempfile.mkdtemp(prefix="sw-nfs-"))
        shared = cls(base, cache_seconds=cache_seconds, seconds_ahead=seconds_ahead)
        try:
            yield shared
        finally:
            for machine in shared.machines.values():
                machine.crash()
            shutil.rmtree(base)

    def boot(self, name: str) -> "Machine":
        """A machine that runs and has mounted the folder."""
        machine = self.machines.get(name) or self.machines.setdefault(name, Machine(self, name))
        machine.boot()
        return machine


class Machine:
    """One machine. `boot` starts it, `crash` ends all of its processes at once, as a loss of power does."""

    def __init__(self, shared: SharedFolder, name: str) -> None:
        self.shared = shared
        self.name = name
        self.control = shared.base / f"control-{name}"
        self.control.mkdir()
        self._init: subprocess.Popen[str] | None = None
        self._client: subprocess.Popen[str] | None = None
        self._pid = 0

    def boot(self) -> None:
        """Does nothing if it runs."""
        if self._init is not None:
            return
        boot_id = self.control / "boot_id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        unshare = ("unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        script = SETUP.format(boot_id=BOOT_ID)
        self._init = subprocess.Popen(
            [*unshare, "sh", "-c", script, "sh", str(boot_id), self.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._expect(self._init, "ready")
        self._pid = int(Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()[0])
        words = [str(self.shared.server), str(self.shared.path), str(self.control)]
        times = [f"--cache={self.shared.cache_seconds}", f"--ahead={self.shared.seconds_ahead}"]
        if self.shared.local_locks:
            times.append("--local-locks")
        self._client = self.start([sys.executable, "-m", "tests.nfs.client", *words, *times], stdout=subprocess.PIPE)
        self._expect(self._client, "mounted")

    def _expect(self, process: "subprocess.Popen[str]", word: str) -> None:
        line = process.stdout.readline() if process.stdout else ""
        if line.strip() != word:
            raise MountError(f"machine {self.name} does not start: {process.args!r} said {line!r}")

    def crash(self) -> None:
        """Nothing of it runs when this returns; what was written and not flushed is lost."""
        for fault in ("away", "stale"):
            (self.control / fault).unlink(missing_ok=True)
        if self._init is None:
            return
        os.kill(self._pid, signal.SIGKILL)
        for process in filter(None, (self._init, self._client)):
            process.communicate()
        self._init = self._client = None

    def start(
        self, words: Sequence[str], *, env: Mapping[str, str] | None = None, **streams: IO[str] | int
    ) -> "subprocess.Popen[str]":
        """A process on this machine; `streams` as of Popen."""
        namespaces = ("--mount", "--uts", "--pid", f"--wd={ROOT}")
        enter = [shutil.which("nsenter") or "nsenter", f"--target={self._pid}", *namespaces]
        own: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, **(env or {})}, "text": True, **streams}
        return subprocess.Popen([*enter, *words], **own)

    def begin(self, code: str) -> "subprocess.Popen[str]":
        """A few lines of Python on this machine, where `folder` is the shared one; they may read a line from stdin."""
        begin = f"import os, sys, time; from pathlib import Path; folder = Path({str(self.shared.path)!r})\n"
        return self.start(
            [sys.executable, "-c", begin + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def python(self, code: str) -> str:
        """What a few lines of Python printed on this machine; they must succeed."""
        return "\n".join(self.converse(code))

    def converse(self, code: str, act: Callable[[], object] | None = None) -> list[str]:
        """The lines that it printed. With `act`: it is called after the first of them, and then a line is sent."""
        process = self.begin(code)
        first = process.stdout.readline() if act and process.stdout else ""
        if act:
            act()
        out, err = process.communicate("\n", timeout=START_SECONDS)
        if process.returncode:
            raise MountError(f"{self.name}: exit {process.returncode}: {err}")
        return (first + out).splitlines()

    def set_fault(self, name: str, *, on: bool) -> None:
        """`away`: the server does not answer; `stale`: one in seven of its answers is ESTALE."""
        path = self.control / name
        path.touch() if on else path.unlink(missing_ok=True)
