"""Starting and stopping the daemons of one cluster, each by its pid file and mark."""

import os
import signal
import subprocess
from dataclasses import dataclass
from functools import partial

from tests.slurm_lab.config import Accounting, Options, Ports
from tests.slurm_lab.database import server_command
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.layout import Layout
from tests.slurm_lab.packages import SEARCHED, find_program
from tests.slurm_lab.ports import listens
from tests.slurm_lab.processes import MARK, alive, daemon_pid, send, wait_for

START_SECONDS = 30
STOP_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Daemons:
    """munge, db (MariaDB), dbd (slurmdbd), ctld (slurmctld) and a slurmd for each node, by its name."""

    layout: Layout
    options: Options
    ports: Ports

    @property
    def names(self) -> list[str]:
        """In the order of their start."""
        database = ["db", "dbd"] if self.options.accounting is Accounting.SLURMDBD else []
        return ["munge", *database, "ctld", *self.options.node_names]

    def pid(self, name: str) -> int | None:
        """None if it does not run."""
        return daemon_pid(self.layout, name, self._command(name))

    def start(self, *names: str) -> None:
        """Starts those that do not run, side by side, and returns when all answer. They outlive this process."""
        starting = [name for name in names if self.pid(name) is None]
        launchers = {name: self._launch(name) for name in starting}
        for name, launcher in launchers.items():
            if launcher.wait(timeout=START_SECONDS):
                raise LabError(f"{name} did not start (exit {launcher.returncode})\n{self.log_tail(name)}")
        for name in starting:
            wait_for(f"an answer of {name}", partial(self._answers_or_died, name), seconds=START_SECONDS)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends the signal and waits for the end; SIGKILL to one that does not heed it. Nothing if it does not run."""
        pid = self.pid(name)
        if pid is not None:
            send([pid], number)
            try:
                wait_for(f"the end of {name}", lambda: not alive(pid), seconds=STOP_SECONDS)
            except LabError:
                send([pid], signal.SIGKILL)
                wait_for(f"the end of {name} after SIGKILL", lambda: not alive(pid), seconds=STOP_SECONDS)
        self.layout.pid_file(name).unlink(missing_ok=True)

    def log_tail(self, name: str) -> str:
        """The last lines of what a daemon printed and logged, for a message."""
        text = ""
        for path in (self.layout.output(name), self.layout.log_file(name)):
            if path.exists():
                text += f"{path}:\n" + "\n".join(path.read_text(errors="replace").splitlines()[-8:]) + "\n"
        return text

    def _launch(self, name: str) -> subprocess.Popen[bytes]:
        """A process that ends as soon as the daemon is on its own."""
        command = self._command(name)
        if name == "munge":
            _make_munge_key(self.layout)
        self.layout.pid_file(name).unlink(missing_ok=True)
        if (port := self._port(name)) and listens(port):
            raise LabError(f"port {port}, meant for {name}, has been taken by another process")
        with self.layout.output(name).open("ab") as output:
            return subprocess.Popen(
                [find_program("setsid"), "--fork", *command] if name == "db" else command,  # it stays in the foreground
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(),
                cwd="/",
                start_new_session=True,
            )

    def _command(self, name: str) -> list[str]:
        if name == "munge":
            return _munged(self.layout)
        if name == "db":
            return server_command(self.layout)
        program = {"dbd": "slurmdbd", "ctld": "slurmctld"}.get(name)
        return [find_program(program)] if program else [find_program("slurmd"), "-N", name]

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": SEARCHED,
            "LANG": "C",
            "SLURM_CONF": str(self.layout.slurm_conf),  # slurmdbd.conf and gres.conf are looked for beside it
            "MYSQL_UNIX_PORT": str(self.layout.database_socket),  # slurmdbd.conf has no word for a socket
            MARK: str(self.layout.root),
        }

    def _port(self, name: str) -> int | None:
        match name:
            case "munge" | "db":
                return None
            case "ctld":
                return self.ports.ctld
            case "dbd":
                return self.ports.dbd
            case _:
                return self.ports.node(name)

    def _answers_or_died(self, name: str) -> bool:
        """slurmctld leaves its launcher before it has read all of its configuration, and may die of it later."""
        answers = self._answers(name)
        if answers and self.pid(name):
            return True
        file = self.layout.pid_file(name)
        text = file.read_text().strip() if file.exists() else ""
        if text.isdigit() and not alive(int(text)):
            raise LabError(f"{name} stopped right after its start\n{self.log_tail(name)}")
        return False

    def _answers(self, name: str) -> bool:
        port = self._port(name)
        if port is not None:
            return listens(port)
        # both listen before they write their pid file, and log an aborted connection for a probe that hangs up
        return (self.layout.database_socket if name == "db" else self.layout.munge_socket).is_socket()


def _make_munge_key(layout: Layout) -> None:
    if not layout.munge_key.exists():
        layout.munge_key.touch(mode=0o600)
        layout.munge_key.write_bytes(os.urandom(128))


def _munged(layout: Layout) -> list[str]:
    return [
        find_program("munged"),
        "--force",  # or it refuses a socket below /tmp, which others can write to
        f"--key-file={layout.munge_key}",
        f"--socket={layout.munge_socket}",
        f"--pid-file={layout.pid_file('munge')}",
        f"--log-file={layout.log_file('munge')}",
        f"--seed-file={layout.run / 'munge.seed'}",
    ]
