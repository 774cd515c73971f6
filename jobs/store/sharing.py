"""A store that several people write: what they create is the group's to write, or one line says what stands against it.

The store's root folder decides. Where its group may write, every process that works in the store creates files and
folders with the group's bits, whatever umask its user has. Bits of other people stay as the umask says.
"""

import errno
import grp
import os
import pwd
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.store.paths import Store

GROUP_BITS = stat.S_IRWXG
MOST_LISTED = 2_000
"""Folders and files that are looked at for the group's bits: a store may hold a million."""


class UmaskHold:
    """The process's umask without the group's bits, for as long as any thread asks for it.

    A umask belongs to the process: the first to ask changes it, the last to leave puts it back.
    """

    def __init__(self) -> None:
        self._lock, self._holders, self._before = threading.Lock(), 0, 0

    def enter(self) -> None:
        with self._lock:
            if not self._holders:
                self._before = os.umask(0)
                os.umask(self._before & ~GROUP_BITS)
            self._holders += 1

    def exit(self) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                os.umask(self._before)


GROUP_UMASK = UmaskHold()


# Why: docs/decisions.md, D130
@contextmanager
def adopt_group_umask(root: Path) -> Iterator[None]:
    """While the block lasts, this process and those that it starts create what the group may write, if the store's
    root is the group's to write (or the folder above it, while there is none)."""
    if not is_shared(root):
        yield
        return
    GROUP_UMASK.enter()
    try:
        yield
    finally:
        GROUP_UMASK.exit()


def is_shared(root: Path) -> bool:
    """Whether the group may write the store's root. A folder like /tmp, where only owners may remove, is not shared."""
    mode = _find_nearest(root).stat().st_mode
    return bool(mode & stat.S_IWGRP) and not mode & stat.S_ISVTX


def _find_nearest(path: Path) -> Path:
    path = path.absolute()
    for each in (path, *path.parents):
        try:
            if each.is_dir():
                return each
        except PermissionError:
            continue
    return Path("/")


def explain_denial(error: OSError) -> str:
    """Whose a file is that this user may not use, and who can change that how; empty if the reason is another."""
    if error.errno not in {errno.EACCES, errno.EPERM} or not isinstance(error.filename, str):
        return ""
    denied = find_denied(Path(error.filename).absolute())
    if denied is None:
        return ""
    try:
        found = denied.stat()
    except OSError:
        return ""
    owner, group = name_user(found.st_uid), name_group(found.st_gid)
    whose = f"{denied} belongs to {owner} (group {group}, {stat.filemode(found.st_mode)})"
    if found.st_uid == os.geteuid():
        return whose
    if found.st_gid not in {*os.getgroups(), os.getegid()}:
        return f"{whose}, and {name_user(os.geteuid())} is not in that group: ask for it, or take another --store"
    return f"{whose}; to share the store, {owner} runs `{format_sharing_command(find_store_root(denied))}`"


def find_denied(path: Path) -> Path | None:
    """The folder on the way that may not be entered, or what may not be read or written at its end."""
    for folder in reversed(path.parents):
        if not _is_allowed(folder, os.X_OK):
            return folder
    if os.path.lexists(path):
        if not _is_allowed(path, os.R_OK) or not _is_allowed(path, os.W_OK):
            return path
    elif not path.parent.exists():
        return next((each for each in path.parents if each.exists() and not _is_allowed(each, os.W_OK)), None)
    return None if _is_allowed(path.parent, os.W_OK) else path.parent


def _is_allowed(path: Path, how: int) -> bool:
    return os.access(path, how, effective_ids=True)


def find_store_root(path: Path) -> Path:
    """The store that holds the path; the path itself if it is in none."""
    return next((each for each in (path, *path.parents) if Store(each).sweeps.is_dir()), path)


def format_sharing_command(root: Path) -> str:
    """What makes a whole store the group's: folders hand their group on (setgid), and the group may write."""
    return f"chmod -R g+rwX {root} && find {root} -type d -exec chmod g+s {{}} +"


def name_user(uid: int) -> str:
    """The user's name, or the number where the system has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def name_group(gid: int) -> str:
    """The group's name, or the number where the system has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def find_sharing_problem(root: Path) -> tuple[str, str]:
    """(what keeps a second person of the group from writing a store that is shared, what to type); empty if nothing.

    A folder is made in the root to see whose it is. Raises OSError if that fails.
    """
    root_stat = root.stat()
    group = name_group(root_stat.st_gid)
    if root_stat.st_mode & stat.S_IWGRP and root_stat.st_mode & stat.S_ISVTX:
        return f"in {root} only owners may replace files (the sticky bit)", f"chmod -t {root}"
    if not is_shared(root):
        return "", ""
    made = root / f".doctor-{os.getpid()}-{os.urandom(4).hex()}"
    with adopt_group_umask(root):
        made.mkdir()
    try:
        found = made.stat()
    finally:
        made.rmdir()
    if found.st_gid != root_stat.st_gid:
        text = f"group {group} may write {root}, and what is made there gets the group {name_group(found.st_gid)}"
        return text, f"chmod g+s {root}"
    if not found.st_mode & stat.S_IWGRP:
        text = f"group {group} may write {root}, and its default ACL keeps the group from what is made there"
        return text, f"setfacl -d -m g::rwx,m::rwx {root}"
    closed = list(list_closed(root, root_stat.st_gid))
    if not closed:
        return "", ""
    owners = ", ".join(sorted({name_user(each.stat().st_uid) for each in closed}))
    text = f"group {group} may write {root}, and not {len(closed)} files and folders in it, such as {closed[0]}"
    return text, f"{owners}: `{format_sharing_command(root)}`"


def list_closed(root: Path, gid: int) -> Iterator[Path]:
    """What the store's group may not write, of what every writer needs: folders, ledgers, claims, locks."""
    store, seen = Store(root), 0
    for top in (store.submitters, store.sweeps, store.code, store.runs):
        for folder, _, names in os.walk(top):
            here = Path(folder)
            for each in (here, *(here / name for name in names)):
                seen += 1
                if seen > MOST_LISTED:
                    return
                try:
                    found = each.stat()
                except OSError:  # gone meanwhile
                    continue
                if found.st_gid != gid or not found.st_mode & stat.S_IWGRP:
                    yield each
