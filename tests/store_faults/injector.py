"""The library that makes a call fail (inject.c), built once, and its functions."""

import ctypes
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("inject.c")
PRELOAD = "LD_PRELOAD"


def build_library(folder: Path) -> Path:
    """The compiled library. Raises CalledProcessError where it cannot be compiled."""
    library = folder / "inject.so"
    command = ["cc", "-O1", "-Wno-nonnull-compare", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def restart_with_library(library: Path, module: str, arguments: list[str]) -> int:
    """Runs the module in a process with the library below it; its exit code."""
    environment = {**os.environ, PRELOAD: str(library)}
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False, env=environment).returncode


@dataclass(frozen=True)
class Struck:
    """What failed, and how many calls the command had made by its end."""

    calls: int
    name: str
    path: str


class Injector:
    """Of this process, and of those that it forks."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[PRELOAD])
        self._library.faults_calls.restype = ctypes.c_long
        self._library.faults_name.restype = ctypes.c_char_p
        self._library.faults_path.restype = ctypes.c_char_p
        self._library.faults_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int]

    def watch(self, folder: Path) -> None:
        self._library.faults_watch(os.fsencode(folder))

    def arm(self, number: int, error: int, *, lasting: bool) -> None:
        """Number 0 counts only; error 0 kills."""
        self._library.faults_arm(number, error, lasting)

    def disarm(self) -> Struck:
        self._library.faults_disarm()
        return Struck(
            self._library.faults_calls(),
            self._library.faults_name().decode(),
            self._library.faults_path().decode(errors="replace"),
        )
