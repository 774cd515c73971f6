"""The programs that a cluster needs, and how they come onto a Debian machine."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.slurm_lab.errors import LabError

PACKAGE_OF = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
}
"""A program of each Debian package that the cluster needs."""
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
"""Daemons lie where a plain user's PATH does not reach."""
INSTALL = ("install", "--yes", "--no-install-recommends")
APT_SECONDS = 900
"""More than any mirror should need; a prompt that nobody sees must not hold a build for ever."""
POLICY = Path("/usr/sbin/policy-rc.d")
NO_SERVICES = "#!/bin/sh\nexit 101\n"
"""A policy-rc.d that lets no package start a daemon, invoke-rc.d(8)."""


def find_program(name: str) -> str:
    """Its absolute path; LabError if it is not installed."""
    if path := shutil.which(name, path=SEARCHED):
        return path
    raise LabError(f"{name} is not installed")


def check_installed() -> None:
    """LabError says which packages are missing and how to install them."""
    if packages := missing_packages():
        raise LabError(f"A Slurm cluster needs {' '.join(packages)}; as root: {install_line(packages)}")


def missing_packages() -> list[str]:
    """Those whose program is not on this machine."""
    return [package for program, package in PACKAGE_OF.items() if shutil.which(program, path=SEARCHED) is None]


def install_line(packages: list[str]) -> str:
    return f"apt-get install --no-install-recommends {' '.join(packages)}"


def install() -> list[str]:
    """Installs what is missing and returns the packages' names; does nothing, and needs no root, if all is there.

    No daemon of the packages is started, with systemd or without, and none is left behind.
    """
    packages = missing_packages()
    if not packages:
        return []
    if not can_install():
        check_installed()
    install_packages(packages)
    if missing := missing_packages():
        raise LabError(f"apt-get went well, and yet there is no program of {' '.join(missing)}")
    return packages


def can_install() -> bool:
    """Whether this user may install packages here."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def install_packages(packages: list[str]) -> None:
    """Debian's packages, without what they recommend; LabError if apt-get does not install them."""
    with no_services():
        if _apt(*INSTALL, *packages) != 0:  # no lists of packages yet, or stale ones
            _apt("update")
            if status := _apt(*INSTALL, *packages):
                raise LabError(f"apt-get install ended with {status}; its output says why")


@contextlib.contextmanager
def no_services(policy: Path = POLICY) -> Iterator[None]:
    """While it holds, no package starts a daemon when it is installed. A policy that is already there stays."""
    try:
        descriptor = os.open(policy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755)
    except FileExistsError:  # containers have one, which says the same
        yield
        return
    with os.fdopen(descriptor, "w") as file:
        file.write(NO_SERVICES)
    try:
        yield
    finally:
        policy.unlink()


def _apt(*arguments: str) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "--quiet", "--quiet", "--option=DPkg::Lock::Timeout=120", *arguments]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False, timeout=APT_SECONDS)
    return done.returncode
