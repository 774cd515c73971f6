"""Several people on one cluster: real users of this machine, made for a test and removed after it. Needs root."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.slurm_lab.errors import LabError
from tests.slurm_lab.packages import find_program
from tests.slurm_lab.processes import wait_for

ROOT = Path(__file__).parent.parent.parent
GROUP = "sw-lab"
TAKEN = "in use by another process|cannot lock|try again later"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command told a person."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """The error, which must be one line."""
        assert self.err.count("\n") == 1, self.err
        return self.err.strip()


@dataclass(frozen=True, slots=True)
class Person:
    """A user of this machine. `umask`: of every process that it starts."""

    name: str
    groups: tuple[str, ...]
    """The first is the user's own."""
    python: str
    """An interpreter that this user may run."""
    umask: int = 0o022
    env: Mapping[str, str] | None = None

    def run(self, *argv: str, seconds: float = 120) -> Answer:
        """A program, as this user."""
        done = subprocess.run(
            argv,
            user=self.name,
            group=self.groups[0],
            extra_groups=self.groups[1:],
            umask=self.umask,
            env=self.env,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def sweep(self, *words: str) -> Answer:
        return self.run(self.python, "-m", "sweep", *words)

    def do(self, *argv: str) -> str:
        """Like `run`, for what must succeed."""
        answer = self.run(*argv)
        if answer.code:
            raise LabError(f"{self.name}: {' '.join(argv)}: {answer.err}")
        return answer.out

    def with_umask(self, umask: int) -> "Person":
        return replace(self, umask=umask)


@contextmanager
def make_people(suffix: str, insiders: Sequence[str], outsiders: Sequence[str]) -> Iterator[dict[str, Person]]:
    """Users of these names with this suffix; the insiders are in one group beside their own."""
    if os.geteuid() != 0:
        raise LabError("two people are two users of this machine, which only root can make: run this test as root")
    group = f"{GROUP}{suffix}"
    made: dict[str, Person] = {}
    _change("groupadd", "--force", group)
    try:
        for name in (*insiders, *outsiders):
            user = f"{name}{suffix}"
            _remove(user)
            groups = ("--groups", group) if name in insiders else ()
            _change("useradd", "--user-group", *groups, "--no-create-home", "--shell", "/bin/sh", user)
            made[name] = Person(user, (user, *groups[1:]), "")
        python = find_python(made[insiders[0]])
        yield {name: replace(person, python=python) for name, person in made.items()}
    finally:
        for person in made.values():
            _remove(person.name)
        _change("groupdel", group)


def _remove(user: str) -> None:
    if subprocess.run(["id", user], capture_output=True, check=False).returncode == 0:
        _change("userdel", user)


def _change(program: str, *words: str) -> None:
    """Another worker may be changing the users at this moment."""
    told = ""

    def done() -> bool:
        nonlocal told
        end = subprocess.run([find_program(program), *words], capture_output=True, text=True, check=False)
        told = end.stderr
        if end.returncode and "lock" not in told:
            raise LabError(f"{program} {' '.join(words)}: {told}")
        return end.returncode == 0

    wait_for(f"{program} {' '.join(words)}", done, every=0.2)


def build_python_path() -> str:
    """Where a process of another interpreter finds our packages and theirs."""
    found = [each for each in sys.path if each.endswith(("site-packages", "dist-packages"))]
    return os.pathsep.join([str(ROOT), *found])


def find_python(person: Person) -> str:
    """An interpreter of this release that the user may run: this one may lie where only root gets to."""
    release = f"{sys.version_info[0]}.{sys.version_info[1]}"
    tried = [sys.executable, f"/usr/local/bin/python{release}", f"/usr/bin/python{release}"]
    env = {"PYTHONPATH": build_python_path(), "PYTHONDONTWRITEBYTECODE": "1"}
    for python in tried:
        try:
            if replace(person, env=env).run(python, "-c", "import yaml, sweep.cli").code == 0:
                return python
        except (PermissionError, FileNotFoundError):
            continue
    raise LabError(f"no Python {release} that another user than root may run with our packages: {', '.join(tried)}")


@contextmanager
def make_open_folder() -> Iterator[Path]:
    """A folder that everybody gets to; pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="sw-people-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
