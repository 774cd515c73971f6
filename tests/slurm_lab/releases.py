"""The Slurm tests on the releases of other Debians: `python -m tests.slurm_lab.releases --help`.

Each release gets a root of its own, made of Debian's packages by mmdebstrap(1), and a copy of the sources with an
environment inside. There the tests see their own processes and, but for the setup, a network of their own, so that they
meet no cluster of the machine. Needs root. Exit code 1 if a test fails or a root cannot be made.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.slurm_lab.errors import LabError
from tests.slurm_lab.packages import PACKAGE_OF

SUITES = ("trixie", "unstable")
"""Debian 13 has Slurm 24.11, unstable 26.05 (in November 2026)."""
TESTS = ("tests/jobs/slurm/on_cluster", "tests/slurm_lab", "tests/sweep/submit", "tests/end_to_end")
PACKAGES = (*PACKAGE_OF.values(), "python3", "python3-venv", "make", "git", "procps", "ca-certificates")
SOURCES = Path(__file__).resolve().parents[2]
INSIDE = "/project"
"""Where the copy of the sources lies in a root."""
RESULTS = "slurm-tests.xml"
ADDRESS = "198.51.100.1/32"
"""Of documentation (RFC 5737): Slurm needs any address besides loopback, see `ports.check_network`."""
COUNTED = ("tests", "failures", "errors", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseCounts:
    """What became of one release's tests."""

    suite: str
    release: str
    passed: int
    failed: int
    skipped: int
    minutes: float


def main() -> int:
    chosen = _parse_arguments()
    try:
        check_can_build()
        found = [run_release(chosen.folder.resolve() / suite, chosen.tests) for suite in chosen.suites or SUITES]
    except LabError as error:
        print(f"slurm-releases: {error}", file=sys.stderr)
        return 1
    print(render_table(found))
    return 1 if any(each.failed or not each.passed for each in found) else 0


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.slurm_lab.releases", description="The Slurm tests on the releases of other Debians."
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"Debian's names; default: {' '.join(SUITES)}")
    parser.add_argument("--folder", type=Path, default=Path("build/slurm-releases"), help="default: %(default)s")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="files or folders; default: %(default)s")
    return parser.parse_args()


def check_can_build() -> None:
    """LabError says what is missing."""
    if os.geteuid() != 0:
        raise LabError("only root can make a root of another Debian and enter it")
    if missing := [name for name in ("mmdebstrap", "unshare", "ip", "git") if shutil.which(name) is None]:
        raise LabError(f"{', '.join(missing)}: not installed; try: apt-get install mmdebstrap util-linux iproute2 git")


# Why: docs/decisions.md, D105
def run_release(root: Path, tests: Sequence[str]) -> ReleaseCounts:
    """Makes the root if it is not there yet, brings it up to date with the sources, and runs the tests."""
    if not root.is_dir():
        build_root(root)
    copy_sources(root)
    settings = read_pip_settings()
    enter(root, "make setup", environment=settings, shared=list_local_paths(settings))
    (root / INSIDE.lstrip("/") / RESULTS).unlink(missing_ok=True)
    release = enter(root, "slurmctld -V", captured=True).split()[-1]
    print(f"{root.name}: Slurm {release}, tests", flush=True)
    begun = time.monotonic()
    words = shlex.join([".venv/bin/python", "-m", "pytest", "-q", "-rf", f"--junitxml={RESULTS}", *tests])
    enter(root, words, alone=True, checked=False)
    minutes = (time.monotonic() - begun) / 60
    return read_counts(root / INSIDE.lstrip("/") / RESULTS, root.name, release, minutes)


def build_root(root: Path) -> None:
    """One root, whole or not at all."""
    print(f"{root.name}: builds {root} from Debian's packages", flush=True)
    unfinished = root.with_name(f"{root.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
        '--aptopt=Acquire::Check-Valid-Until "false"',  # a mirror that stands still is as good here
        *(root.name, str(unfinished)),
    ]
    if subprocess.run(command, check=False).returncode:
        raise LabError(f"mmdebstrap made no root of {root.name}; its output says why")
    unfinished.rename(root)


def copy_sources(root: Path) -> None:
    """All files and links that git does not ignore; what was removed from the sources goes from the copy too."""
    target = root / INSIDE.lstrip("/")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=SOURCES,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {name for name in listed.stdout.split("\0") if name and os.path.lexists(SOURCES / name)}
    for known in {name.split("/")[0] for name in names}:
        if (target / known).is_dir():
            shutil.rmtree(target / known)  # the environment beside them stays
    for name in sorted(names):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).unlink(missing_ok=True)
        # links as links; with its time, or `make setup` would install all anew
        shutil.copy2(SOURCES / name, target / name, follow_symlinks=False)


def read_pip_settings() -> dict[str, str]:
    """This machine's settings of pip, from its files and environment, as variables for the pip inside."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False, timeout=600
    )
    return dict(parse_pip_settings(done.stdout))


def parse_pip_settings(text: str) -> Iterator[tuple[str, str]]:
    """`global.index-url='https://...'` as (`PIP_INDEX_URL`, `https://...`)."""
    for line in text.splitlines():
        match = re.fullmatch(r"(?P<where>[\w:-]+)\.(?P<name>[\w-]+)='(?P<value>.*)'", line.strip())
        if match and match["where"] in {"global", "install", ":env:"}:
            yield f"PIP_{match['name'].upper().replace('-', '_')}", match["value"]


def list_local_paths(settings: Mapping[str, str]) -> list[Path]:
    """Files and folders of this machine that pip's settings name: certificates, packages, constraints."""
    words = (word.removeprefix("file://") for value in settings.values() for word in value.split())
    return sorted({Path(word) for word in words if word.startswith("/") and Path(word).exists()})


def enter(
    root: Path,
    words: str,
    *,
    environment: Mapping[str, str] | None = None,
    shared: Sequence[Path] = (),
    alone: bool = False,
    captured: bool = False,
    checked: bool = True,
) -> str:
    """Runs a shell's words in the root's copy of the sources. All of their processes end with them.

    `shared`: paths of this machine that are there too, to be read. `alone`: without this machine's network.
    """
    argv = [
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc"),
        *(["--net"] if alone else []),
        *("sh", "-ec", render_entry(root, words, environment=environment or {}, shared=shared, alone=alone)),
    ]
    done = subprocess.run(argv, check=False, text=True, stdout=subprocess.PIPE if captured else None)
    if checked and done.returncode:
        raise LabError(f"{words} ended with {done.returncode} in {root}")
    return done.stdout or ""


def render_entry(root: Path, words: str, *, environment: Mapping[str, str], shared: Sequence[Path], alone: bool) -> str:
    """The shell script that goes into the root; it starts in namespaces of its own, so its mounts end with it."""
    lines = [f"mount --rbind /dev {root}/dev", f"mount --rbind /sys {root}/sys"]
    if alone:
        lines += ["ip link set lo up", f"ip addr add {ADDRESS} dev lo"]
    for path in [Path("/etc/resolv.conf"), Path("/etc/hosts"), *shared]:
        target = shlex.quote(f"{root}{path}")
        make = "mkdir -p" if path.is_dir() else f"mkdir -p {shlex.quote(f'{root}{path.parent}')} && touch"
        lines.append(f"{make} {target} && mount --bind -o ro {shlex.quote(str(path))} {target}")
    given = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
    variables = shlex.join(f"{name}={value}" for name, value in {**given, **environment}.items())
    inside = shlex.quote(f"cd {INSIDE} && {words}")
    lines.append(f"exec chroot {shlex.quote(str(root))} env -i {variables} sh -ec {inside}")
    return "\n".join(lines)


def read_counts(results: Path, suite: str, release: str, minutes: float) -> ReleaseCounts:
    """From pytest's XML; LabError if there is none, as after a crash of pytest itself."""
    if not results.exists():
        raise LabError(f"{suite}: pytest left no {results}; its output says why")
    suites = list(ET.parse(results).getroot().iter("testsuite"))  # noqa: S314 - our own file
    tests, failures, errors, skipped = (sum(int(each.get(name, "0")) for each in suites) for name in COUNTED)
    failed = failures + errors
    return ReleaseCounts(
        suite=suite,
        release=release,
        passed=tests - failed - skipped,
        failed=failed,
        skipped=skipped,
        minutes=minutes,
    )


def render_table(found: Sequence[ReleaseCounts]) -> str:
    rows = [("Slurm", "Debian", "passed", "failed", "skipped", "minutes")]
    rows += [
        (each.release, each.suite, str(each.passed), str(each.failed), str(each.skipped), f"{each.minutes:.0f}")
        for each in found
    ]
    return "\n".join(f"{a:9} {b:9} {c:>7} {d:>7} {e:>8} {f:>8}" for a, b, c, d, e, f in rows)


if __name__ == "__main__":
    sys.exit(main())
