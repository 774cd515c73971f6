"""Who types commands on the test cluster: the user of the tests, or two others who share a group.

Slurm lets root and its own user see and do everything, so what it hides from one person, and what one may not do to
another's jobs, shows only with users of neither kind.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("sync", "_apt")
"""Two users that every Debian has, with one group (nogroup) that neither needs to be added to."""
GROUP_MASK = 0o002


@dataclass(frozen=True, slots=True)
class GroupMate:
    """Starts processes as one user of the machine; the present one if `name` is empty."""

    name: str = ""
    python: str = sys.executable
    packages: str = ""
    """Folders of installed packages that `python` does not look into by itself."""
    umask: int = GROUP_MASK

    @property
    def options(self) -> dict[str, Any]:
        """Of subprocess.Popen."""
        if not self.name:
            return {}
        entry = pwd.getpwnam(self.name)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "umask": self.umask}

    @property
    def environment(self) -> dict[str, str]:
        """Beside what all processes get."""
        given = {"HOME": "/nonexistent", "USER": self.name, "LOGNAME": self.name} if self.name else {}
        return given | ({"PYTHONPATH": self.packages} if self.packages else {})

    def start(self, words: Sequence[str], environment: Mapping[str, str], **options: Any) -> "subprocess.Popen[Any]":
        """A process of theirs."""
        return subprocess.Popen(words, env={**environment, **self.environment}, **self.options, **options)


def find_group_mates() -> tuple[GroupMate, ...]:
    """Two who share a group. Empty if this machine cannot start processes for them: only root can, and they must be
    able to read a Python and this checkout."""
    if os.geteuid() != 0:
        return ()
    packages = os.pathsep.join(path for path in sys.path if Path(path).name == "site-packages")
    own = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python, more in ((sys.executable, ""), (shutil.which(own, path="/usr/bin"), packages)):
        people = tuple(GroupMate(name, python, more) for name in NAMES) if python else ()
        if people and all(_can_work(person) for person in people):
            return people
    return ()


def _can_work(person: GroupMate) -> bool:
    root = Path(__file__).parent.parent.parent
    words = [person.python, "-c", "import pydantic, yaml, pyarrow, numpy, scipy, matplotlib, sweep.cli"]
    try:
        with person.start(words, {"PATH": os.environ["PATH"]}, cwd=root, stderr=subprocess.DEVNULL) as process:
            return process.wait() == 0
    except (PermissionError, KeyError):
        return False


def share(folder: Path) -> None:
    """A new folder in which both may write, as may everybody of their group in what is made below."""
    folder.mkdir(parents=True)
    os.chown(folder, -1, pwd.getpwnam(NAMES[0]).pw_gid)
    folder.chmod(0o2775)
