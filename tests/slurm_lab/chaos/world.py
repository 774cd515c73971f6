"""What faults act on: the cluster, one season's sweep, the people who tick it and their processes."""

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jobs.claims.takeover import TAKEOVER_VARIABLE
from jobs.processes import is_supervisor_alive
from jobs.slurm.batch_ledger import read_batch_history
from jobs.slurm.batches import parse_sweep_name
from jobs.slurm.timeouts import TIMEOUTS_VARIABLE
from jobs.store.paths import Store
from jobs.store.records import AttemptStart
from sweep.submit.report import PROGRAM_VARIABLE
from tests.jobs.toy import COUNTING_STAGE, ROOT, plan, run_of
from tests.slurm_lab import Lab, Options
from tests.slurm_lab.chaos import sbatch_program, scancel_program
from tests.slurm_lab.chaos.graph import season_graph
from tests.slurm_lab.files import write_slurm_conf
from tests.slurm_lab.group_mates import GROUP_MASK, NAMES, GroupMate, find_group_mates, share
from tests.slurm_lab.packages import find_program

OPTIONS = Options(slurmd_timeout=3, message_timeout=5, users=NAMES)
PATIENCE = "call=6 submit=4 doubt=15 absent=8 late=15 look_again=1 cache=0 pace=0"
"""As the usual one in its proportions: an sbatch is dead long before anybody believes that it sent nothing."""
TAKEOVER_SECONDS = "8"
MOST_QUEUED = 14
"""So that there is something to send at any time."""
COMMAND_SECONDS = 240.0


class Task(NamedTuple):
    """A line of squeue."""

    id: str
    name: str
    state: str
    nodes: str
    qos: str
    key: str
    """Empty if no ledger knows it."""


@dataclass(frozen=True, slots=True)
class Later:
    """Something that a fault has left to be put right."""

    at: float
    """Monotonic seconds."""
    action: Callable[[], object]


TICKS_WITHOUT_SBATCH = 4
"""After so many, nothing is to be sent for a while; some twenty kinds of fault wait for an sbatch."""


class World:
    """One campaign's. `begin` starts a season; all else is about the present one."""

    def __init__(self, lab: Lab, folder: Path, chance: random.Random) -> None:
        self.lab = lab
        self.folder = folder
        self.chance = chance
        self._bin = folder / "bin"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ticker: subprocess.Popen[bytes] | None = None
        self._ticks = 0
        """Begun, of the campaign."""
        self._later: list[Later] = []
        self._conf: dict[str, str] = {}
        self.absent: set[str] = set()
        """Nodes that have left the cluster."""
        self.people: Sequence[GroupMate] = find_group_mates() or (GroupMate(),)
        """Who ticks; the second is another user where the machine allows it."""
        self._turn = 0
        self._install_programs()

    def _install_programs(self) -> None:
        self.folder.chmod(0o755)
        if len(self.people) > 1:
            share(self.folder / "orders-of-all")
        self.orders = self.folder / "orders-of-all" / "orders"
        with group_mask():
            self.orders.mkdir(parents=True, exist_ok=True)
        self._bin.mkdir(exist_ok=True)
        # in a file: Slurm's programs are started with chosen variables only
        real = {name: find_program(name) for name in ("sbatch", "scancel")}
        settings = {"orders": str(self.orders), "scancel_fails": str(self.scancel_fails), **real}
        (self._bin / "settings.json").write_text(json.dumps(settings))
        for name, source in (("sbatch", sbatch_program), ("scancel", scancel_program)):
            program = self._bin / name
            program.write_text(f"#!{self.people[0].python} -S\n{Path(str(source.__file__)).read_text()}")
            program.chmod(0o755)

    @property
    def scancel_fails(self) -> Path:
        """While this file is there, scancel fails as often as not (`scancel_program`)."""
        return self.folder / "scancel-fails"

    def begin(self, number: int, cells: int) -> None:
        """A fresh store with a fresh sweep."""
        self.sweep = f"s{number}"
        self.root = self.folder / self.sweep
        self.store = Store(self.root / "store")
        self.jobs = season_graph(self.chance, cells)
        self.began = time.time()
        if len(self.people) > 1:
            share(self.root)
        with group_mask():
            plan(self.store, self.jobs, sweep=self.sweep, backend="slurm")

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every `sweep` process."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {
            **kept,
            **self.lab.env,
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            TIMEOUTS_VARIABLE: PATIENCE,
            PROGRAM_VARIABLE: " ".join([self.people[0].python, *COUNTING_STAGE[1:]]),
            TAKEOVER_VARIABLE: TAKEOVER_SECONDS,
        }

    @property
    def log(self) -> Path:
        """What all `sweep` processes of the season said on stderr."""
        return self.root / "commands.log"

    @property
    def ledger(self) -> Path:
        return self.store.locate_sweep(self.sweep).ledger

    def words(self, command: str, *more: str) -> list[str]:
        """A `sweep` command about the season's sweep."""
        sending = ["--pace", "0", "--max-queued", str(MOST_QUEUED)] if command in {"submit", "tick", "resume"} else []
        quiet = ["--no-results"] if command == "tick" else []
        return [command, self.sweep, *more, "--store", str(self.store.root), *sending, *quiet]

    def run(
        self, command: str, *more: str, die_at: int = 0, who: int = 0, variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """One command to its end; `who` types it (the first person, unless told)."""
        argv = self._argv(self.words(command, *more), die_at)
        options = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = {**self.environment, **(variables or {})}
        with self.people[who % len(self.people)].start(argv, environment, text=True, **options) as process:
            out, err = process.communicate(timeout=COMMAND_SECONDS)
        with self.log.open("a") as log:
            words = f"{command} {' '.join(more)} of {who} -> {process.returncode}"
            log.write(f"--- {time.time():.1f} {words}\n{err}")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def start(self, command: str, *more: str, die_at: int = 0, who: int = 0) -> "subprocess.Popen[bytes]":
        """One command, which is not waited for."""
        argv = self._argv(self.words(command, *more), die_at)
        with self.log.open("ab") as log:
            process = self.people[who % len(self.people)].start(
                argv, self.environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
            )
        self._processes.append(process)
        return process

    def _argv(self, words: list[str], die_at: int) -> list[str]:
        python = self.people[0].python
        if die_at:
            return [python, "-m", "tests.slurm_lab.chaos.drive", "--die-at", str(die_at), *words]
        return [python, "-m", "sweep", *words]

    def next_person(self) -> int:
        """Number of the person whose turn it is: both have a line in crontab."""
        self._turn += 1
        return self._turn

    def set_conf(self, name: str, lines: str) -> None:
        """Lines of slurm.conf under a name, heeded at once, or by the controller's next start; "" takes them back."""
        self._conf[name] = lines
        self._write_conf()
        self.lab.run("scontrol", "reconfigure")

    def _write_conf(self) -> None:
        extra = "\n".join(self._conf.values())
        layout, ports = self.lab.layout, self.lab.ports
        write_slurm_conf(self.lab.options, layout, ports, user=self.lab.submit_user, extra=extra)
        if self.absent:
            text = layout.slurm_conf.read_text()
            layout.slurm_conf.write_text(ALL_NODES.sub(without_the_first, text))

    def leave(self, node: str) -> None:
        """The first node, on which most jobs run, is taken out of slurm.conf for the rest of the season.

        Only a new start of the controller heeds that.
        """
        self.absent.add(node)
        self.lab.stop("ctld")
        self.lab.stop(node, signal.SIGKILL)
        self._write_conf()
        self.lab.start("ctld")
        self.lab.run("scontrol", "reconfigure")

    def start_node(self, node: str) -> None:
        """Its slurmd, unless the node has left the cluster meanwhile."""
        if node not in self.absent:
            self.lab.start(node)

    def keep_ticking(self) -> None:
        """A tick after another, as cron would; does what is due, and returns at once."""
        self._processes = [process for process in self._processes if process.poll() is None]
        if self._ticker is None or self._ticker.poll() is not None:
            self._ticker = self.start("tick", who=self.next_person())
            self._ticks += 1
        moment = time.monotonic()
        for later in [later for later in self._later if later.at <= moment]:
            self._later.remove(later)
            later.action()

    def rest(self, seconds: float) -> None:
        """Ticks go on meanwhile."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.keep_ticking()
            time.sleep(0.1)

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Has something put right after a while."""
        self._later.append(Later(time.monotonic() + seconds, action))

    def settle(self) -> None:
        """Everything that is to be put right is, all processes of ours have ended, all daemons run."""
        for later in self._later:
            later.action()
        self._later.clear()
        if self.absent:
            self.absent.clear()
            self.lab.stop("ctld")
        self._conf.clear()
        self._write_conf()
        for order in self.orders.iterdir():
            order.unlink(missing_ok=True)
        for name in self.lab.daemons.names:
            self.lab.start(name)
        self.lab.run("scontrol", "reconfigure")
        self.lab.wait_ready()
        for process in self._processes:
            process.wait(timeout=COMMAND_SECONDS)
        self._processes.clear()

    def order(self, name: str, content: str = "", *, seconds: float = 20.0) -> bool:
        """Has the next sbatch go wrong; False if there was none in that time or that many ticks."""
        order = self.orders / name
        hidden = self.orders.parent / f"order-{name}"
        hidden.write_text(content)
        hidden.rename(order)
        until, ticks = time.monotonic() + seconds, self._ticks + TICKS_WITHOUT_SBATCH
        while order.exists() and time.monotonic() < until and self._ticks <= ticks:
            self.rest(0.1)
        if order.exists():
            order.unlink(missing_ok=True)
            return False
        return True

    def tasks(self, state: str) -> list[Task]:
        """The season's jobs in this state, from squeue."""
        done = self.lab.run("squeue", "-h", "-r", "-a", "-t", state, "-o", "%i|%j|%T|%N|%q")
        rows = [line.split("|") for line in done.stdout.splitlines()]
        batches = read_batch_history(self.ledger).batches
        found = []
        for row in rows:
            if len(row) == 5 and parse_sweep_name(row[1]) == self.sweep:
                batch, index = batches.get(row[1]), row[0].partition("_")[2]
                key = batch.tasks.get(int(index), "") if batch and index.isdecimal() else ""
                found.append(Task(row[0], row[1], row[2], row[3], row[4], key))
        return found

    def attempts(self) -> Iterator[tuple[Path, AttemptStart]]:
        """Live attempts with their folders."""
        for path in sorted(self.store.runs.glob("*/*/attempts/*/start.json")):
            start = AttemptStart.read(path)
            if start is not None and not path.with_name("exit.json").exists() and is_supervisor_alive(start):
                yield path.parent, start

    def is_done(self) -> bool:
        return all(run_of(self.store, job).result.exists() for job in self.jobs)


ALL_NODES = re.compile(r"NodeName=n\[1-(\d+)\](.* Port=)\[(\d+)-(\d+)\]")


def without_the_first(line: "re.Match[str]") -> str:
    """The others keep their names and ports."""
    return f"NodeName=n[2-{line[1]}]{line[2]}[{int(line[3]) + 1}-{line[4]}]"


@contextmanager
def group_mask() -> Iterator[None]:
    """What this process makes inside, the group may change."""
    before = os.umask(GROUP_MASK)
    try:
        yield
    finally:
        os.umask(before)
