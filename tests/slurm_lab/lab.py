"""The cluster as tests see it: up, down, reset between tests, and every fault on purpose."""

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.slurm_lab.accounts import make_database
from tests.slurm_lab.cancelling import cancel_all
from tests.slurm_lab.clients import Clients
from tests.slurm_lab.config import Accounting, Options, Ports, needs_restart
from tests.slurm_lab.daemons import Daemons
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.files import read_settings, saved_ports, write_files, write_slurm_conf
from tests.slurm_lab.layout import Layout
from tests.slurm_lab.nodes import node_states, wait_for_nodes
from tests.slurm_lab.packages import check_installed
from tests.slurm_lab.ports import check_network, free_ports
from tests.slurm_lab.processes import all_processes, send, wait_for

DOWN_SECONDS = 30
NUMBERS_APART = 100_000
"""More jobs than a test submits between two resets; the greatest number is 67 million."""


class Lab:
    """One cluster below one folder. Nothing outside the folder is written, but for a copy of an empty database in /tmp.

    Daemons are called munge, db (MariaDB), dbd (slurmdbd), ctld (slurmctld), n1, n2, ... (a slurmd each).
    """

    def __init__(self, root: Path, options: Options | None = None, *, ports: Ports | None = None) -> None:
        """Starts nothing yet. If no `ports` are given, those of an earlier start in `root` serve, or else free ones."""
        self.options = options or Options()
        self.layout = Layout(root.resolve())
        self.layout.check()
        self.ports = ports or saved_ports(self.layout) or free_ports(self.options.nodes, hint=str(self.layout.root))
        self.submit_user = pwd.getpwuid(os.geteuid()).pw_name
        self.daemons = Daemons(self.layout, self.options, self.ports)
        self._clients = Clients(self.layout)
        self._extra = ""
        self._first_job = 1
        self._controller: int | None = None

    @classmethod
    def open(cls, root: Path) -> Self:
        """The cluster that another process has started below `root`; LabError if there is none."""
        options, ports = read_settings(Layout(root.resolve()))
        return cls(root, options, ports=ports)

    @property
    def env(self) -> dict[str, str]:
        """All that Slurm's programs need to find this cluster."""
        return self._clients.env

    def up(self) -> None:
        """Starts what does not run and returns when every node takes jobs. What an earlier run left is kept."""
        check_installed()
        check_network()
        write_files(self.options, self.layout, self.ports, user=self.submit_user)
        self.daemons.start("munge")
        if self.options.accounting is Accounting.SLURMDBD and not self.layout.database.exists():
            make_database(self.daemons, self._clients, user=self.submit_user)
        for name in self.daemons.names:
            if name in {"db", "dbd"}:
                self.daemons.start(name)
        self.daemons.start("ctld", *self.options.node_names)
        self.wait_ready()
        self._controller = self.daemons.pid("ctld")

    def down(self, *, keep: bool = False) -> None:
        """Ends every process of the cluster and removes its folder; `keep` ends in good order and removes nothing."""
        if keep:
            if self.daemons.pid("ctld") and self.daemons.pid("munge"):
                self._cancel_all()
            for name in reversed(self.daemons.names):
                self.daemons.stop(name)
        wait_for(f"the end of all processes of {self.layout.root}", self._killed_all, seconds=DOWN_SECONDS)
        if not keep:
            shutil.rmtree(self.layout.root, ignore_errors=True)

    def start(self, name: str) -> None:
        """Starts one daemon and returns when it answers; nothing if it runs. The controller may need seconds more to
        hear of its nodes: `wait_ready`."""
        self.daemons.start(self._known(name))

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Ends one daemon with a signal and returns when it is gone; SIGKILL is a crash. Jobs of a slurmd live on."""
        self.daemons.stop(self._known(name), number)

    def conf(self, extra: str) -> None:
        """Lines of slurm.conf that replace or join those of the options, until the next `conf` or `reset`.

        Heeded at once, by the nodes too; MaxArraySize costs seconds, for the controller must be restarted. What names a
        plugin, a port or a node is not heeded.
        """
        numbered = f"FirstJobId={self._first_job}\n{extra}"
        write_slurm_conf(self.options, self.layout, self.ports, user=self.submit_user, extra=numbered)
        if needs_restart(self._extra, extra):
            self.stop("ctld")
            self.start("ctld")
        self._extra = extra
        self.output("scontrol", "reconfigure")
        self.wait_ready()

    def reset(self) -> None:
        """A cluster as new, but for job numbers and sacct's records: no jobs, all daemons up, all nodes idle.

        A controller that crashed gives numbers a second time; after a restart, numbers begin beyond all earlier ones.
        """
        restarted = self.daemons.pid("ctld") != self._controller
        for name in self.daemons.names:
            self.daemons.start(name)
        if restarted:
            self._first_job += NUMBERS_APART
        if restarted or self._extra:
            self.conf("")
        self._controller = self.daemons.pid("ctld")
        self._cancel_all()
        wait_for_nodes(self._clients, self.options.node_names, {"idle"})

    def run(self, *argv: str, seconds: float = 60, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs a program, mostly one of Slurm's, against this cluster. The exit code is the caller's to look at."""
        return self._clients.run(*argv, seconds=seconds, stdin=stdin)

    def output(self, *argv: str) -> str:
        """Like `run`, for what must succeed: stdout without the last line's end; LabError with stderr if it fails."""
        return self._clients.output(*argv)

    def set_node_state(self, node: str, state: str) -> None:
        """As an administrator would: down, drain, resume. A node that is down and answers comes back by itself."""
        self.output("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")

    def node_states(self) -> dict[str, str]:
        """sinfo(1)'s long state of each node, starred if it does not answer; empty while the controller is away."""
        return node_states(self._clients)

    def wait_ready(self) -> None:
        """Returns when every node takes jobs; resumes those that were drained."""
        wait_for_nodes(self._clients, self.options.node_names)

    def job_states(self, job: str) -> list[str]:
        """squeue(1)'s state of a job, or of each element of an array; ended ones too, for `min_job_age` seconds. Empty
        while the controller does not answer."""
        return self.run("squeue", "-h", "-r", "-t", "all", "-o", "%T", "-j", job).stdout.split()

    def wait_job(self, job: str, state: str = "COMPLETED", *, seconds: float = 30) -> None:
        """Returns when the job, or every element of an array, is in this state; LabError after so many seconds."""
        wait_for(f"job {job} to be {state}", lambda: set(self.job_states(job)) == {state}, seconds=seconds, every=0.05)

    def _cancel_all(self) -> None:
        cancel_all(self._clients, list(dict.fromkeys([self.submit_user, *self.options.users])))

    def _killed_all(self) -> bool:
        pids = all_processes(self.layout)
        send(pids, signal.SIGKILL)
        return not pids

    def _known(self, name: str) -> str:
        if name not in self.daemons.names:
            raise LabError(f"{name}: this cluster has {', '.join(self.daemons.names)}")
        return name
