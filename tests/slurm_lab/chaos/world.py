"""What faults act on: the cluster, one season's sweep, and the processes that tick it."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
from tests.slurm_lab.chaos import sbatch_program
from tests.slurm_lab.chaos.graph import season_graph
from tests.slurm_lab.packages import find_program

OPTIONS = Options(slurmd_timeout=3, message_timeout=5)
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


class World:
    """One campaign's. `begin` starts a season; all else is about the present one."""

    def __init__(self, lab: Lab, folder: Path, chance: random.Random) -> None:
        self.lab = lab
        self.folder = folder
        self.chance = chance
        self.orders = folder / "orders"
        self._bin = folder / "bin"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ticker: subprocess.Popen[bytes] | None = None
        self._later: list[Later] = []
        self._install_sbatch()

    def _install_sbatch(self) -> None:
        self.orders.mkdir(parents=True, exist_ok=True)
        self._bin.mkdir(exist_ok=True)
        program = self._bin / "sbatch"
        program.write_text(f"#!{sys.executable} -S\n{Path(sbatch_program.__file__).read_text()}")
        program.chmod(0o755)

    def begin(self, number: int, cells: int) -> None:
        """A fresh store with a fresh sweep."""
        self.sweep = f"s{number}"
        self.root = self.folder / self.sweep
        self.store = Store(self.root / "store")
        self.jobs = season_graph(self.chance, cells)
        self.began = time.time()
        self.root.mkdir(parents=True)
        plan(self.store, self.jobs, sweep=self.sweep, backend="slurm")

    @property
    def environment(self) -> Mapping[str, str]:
        """Of every `sweep` process."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {
            **kept,
            **self.lab.env,
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "CHAOS_ORDERS": str(self.orders),
            "CHAOS_SBATCH": find_program("sbatch"),
            TIMEOUTS_VARIABLE: PATIENCE,
            PROGRAM_VARIABLE: " ".join(COUNTING_STAGE),
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

    def run(self, command: str, *more: str, die_at: int = 0) -> "subprocess.CompletedProcess[str]":
        """One command to its end."""
        done = subprocess.run(
            self._argv(self.words(command, *more), die_at),
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        with self.log.open("a") as log:
            log.write(f"--- {time.time():.1f} {command} {' '.join(more)} -> {done.returncode}\n{done.stderr}")
        return done

    def start(self, command: str, *more: str, die_at: int = 0) -> "subprocess.Popen[bytes]":
        """One command, which is not waited for."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self._argv(self.words(command, *more), die_at),
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self._processes.append(process)
        return process

    def _argv(self, words: list[str], die_at: int) -> list[str]:
        if die_at:
            return [sys.executable, "-m", "tests.slurm_lab.chaos.drive", "--die-at", str(die_at), *words]
        return [sys.executable, "-m", "sweep", *words]

    def keep_ticking(self) -> None:
        """A tick after another, as cron would; does what is due, and returns at once."""
        self._processes = [process for process in self._processes if process.poll() is None]
        if self._ticker is None or self._ticker.poll() is not None:
            self._ticker = self.start("tick")
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
        for order in self.orders.iterdir():
            order.unlink(missing_ok=True)
        for name in self.lab.daemons.names:
            self.lab.start(name)
        self.lab.wait_ready()
        for process in self._processes:
            process.wait(timeout=COMMAND_SECONDS)
        self._processes.clear()

    def order(self, name: str, content: str = "", *, seconds: float = 20.0) -> bool:
        """Has the next sbatch go wrong; False if there was none in that time."""
        order = self.orders / name
        hidden = self.orders.parent / f"order-{name}"
        hidden.write_text(content)
        hidden.rename(order)
        until = time.monotonic() + seconds
        while order.exists() and time.monotonic() < until:
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
