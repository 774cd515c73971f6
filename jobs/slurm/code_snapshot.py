"""The code of a submission, kept in the store, so that an edit while jobs wait changes nothing that was planned.

One archive STORE/code/DIGEST.zip for each content of the packages that a job needs; Python imports from it
(PYTHONPATH, zipimport). It holds sources, for tracebacks, and beside them their compiled form, so that no job compiles;
zipimport takes `name.pyc` before `name.py`, and passes over one of another Python version. The same sources, Python and
place give the same bytes.
"""

import hashlib
import importlib.util
import io
import logging
import marshal
import subprocess
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.store.job_file import PACKAGE_FOLDER, read_code_revision
from jobs.store.paths import Store, open_replacement

logger = logging.getLogger(__name__)

PACKAGES = ("jobs", "stages")
"""What runs inside a job."""
SUFFIXES = frozenset({".py", ".json", ".yaml", ".txt", ".typed"})
"""Sources and the data that packages read; editors' and compilers' leftovers have others."""
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can hold, for every member: times must not enter the bytes."""
UNCHECKED_HASH = 0b01
"""Flags of a .pyc that is valid whatever its source says (PEP 552)."""
GIT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class CodeSnapshot:
    """Code that jobs import."""

    path: Path
    """The archive, absolute; goes into PYTHONPATH."""
    digest: str
    revision: str
    """Commit, with `+dirty` if the packages differ from it and `+unchecked` where that is not known; of an installed
    package its version."""
    sha256: str = ""
    """Of the archive's bytes; empty where nothing was written."""


# Why: docs/decisions.md, D37
def save_code_snapshot(store: Store, folder: Path = PACKAGE_FOLDER) -> CodeSnapshot:
    """The archive of the packages in `folder`, made if the store has none of that content. Raises OSError where the
    store refuses."""
    sources = read_sources(folder)
    found = _identify(store, folder, sources)
    if not is_whole(found.path, sources):
        with open_replacement(found.path) as unfinished:
            _write_archive(unfinished, found.path, sources)
    found = replace(found, sha256=hashlib.sha256(found.path.read_bytes()).hexdigest())
    logger.info("%s: code of the jobs, revision %s", found.path, found.revision or "unknown")
    return found


# Why: docs/decisions.md, D167
def is_whole(archive: Path, sources: Mapping[str, bytes]) -> bool:
    """Whether an archive is there and holds these sources, and their compiled form, undamaged."""
    compiled = {f"{name}c": importlib.util.source_hash(text) for name, text in sources.items() if name.endswith(".py")}
    try:
        with zipfile.ZipFile(archive) as opened:
            if sorted(opened.namelist()) != sorted([*sources, *compiled]):
                return False
            read = {name: opened.read(name) for name in opened.namelist()}  # compares checksums
    except (FileNotFoundError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False
    head = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH.to_bytes(4, "little")
    return all(read[name] == text for name, text in sources.items()) and all(
        read[name].startswith(head + digest) for name, digest in compiled.items()
    )


def locate_code_snapshot(store: Store, folder: Path = PACKAGE_FOLDER) -> CodeSnapshot:
    """What `save_code_snapshot` would give, byte for byte; nothing is written."""
    sources = read_sources(folder)
    found = _identify(store, folder, sources)
    if is_whole(found.path, sources):
        content = found.path.read_bytes()
    else:
        made = io.BytesIO()
        _write_archive(made, found.path, sources)
        content = made.getvalue()
    return replace(found, sha256=hashlib.sha256(content).hexdigest())


def _identify(store: Store, folder: Path, sources: dict[str, bytes]) -> CodeSnapshot:
    digest = compute_content_digest(sources)
    path = store.locate_code_archive(digest).absolute()
    return CodeSnapshot(path=path, digest=digest, revision=query_revision(folder))


def read_sources(folder: Path) -> dict[str, bytes]:
    """Every file that belongs to the packages, by its path relative to `folder`, sorted."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(_files(folder))}


def compute_content_digest(sources: dict[str, bytes]) -> str:
    """Differs as soon as a path, a byte or the Python version that compiles them does."""
    whole = hashlib.sha256(importlib.util.MAGIC_NUMBER)
    for name, content in sources.items():
        whole.update(f"{name}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()[:24]


def query_revision(folder: Path) -> str:
    """What `CodeSnapshot.revision` says."""
    commit = read_code_revision(folder)
    if not (folder / ".git").exists():
        return commit
    return commit + {True: "+dirty", False: "", None: "+unchecked"}[is_dirty(folder)]


def is_dirty(folder: Path) -> bool | None:
    """Whether the packages of a checkout differ from its commit, new files included; None if git cannot say."""
    command = ["git", "--no-optional-locks", "-C", str(folder), "status", "--porcelain", "--", *PACKAGES]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else bool(done.stdout.strip())


def _files(folder: Path) -> Iterator[Path]:
    for package in PACKAGES:
        for path in (folder / package).rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.suffix in SUFFIXES and not hidden and path.is_file():
                yield path


def _write_archive(unfinished: Path | io.BytesIO, final: Path, sources: dict[str, bytes]) -> None:
    with zipfile.ZipFile(unfinished, "w") as archive:
        for name, content in sources.items():
            _add(archive, name, content)
            if name.endswith(".py"):
                _add(archive, f"{name}c", compile_source(content, f"{final}/{name}"))


def compile_source(source: bytes, shown_path: str) -> bytes:
    """A .pyc's bytes; `shown_path` stands in tracebacks."""
    code = compile(source, shown_path, "exec", dont_inherit=True)
    flags = UNCHECKED_HASH.to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + flags + importlib.util.source_hash(source) + marshal.dumps(code)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    member = zipfile.ZipInfo(name, ZIP_TIME)
    member.compress_type = zipfile.ZIP_DEFLATED
    member.external_attr = 0o644 << 16
    archive.writestr(member, content)
