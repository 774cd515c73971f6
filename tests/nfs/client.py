"""One NFS client: what it remembers of a server's folder, for how long, and when it asks again.

    python -m tests.nfs.client SERVER_FOLDER MOUNT_POINT CONTROL_FOLDER --cache SECONDS --ahead SECONDS

It mounts SERVER_FOLDER at MOUNT_POINT and behaves like Linux's client of NFS version 3 (nfs(5), fs/nfs/dir.c):

- Attributes are believed for `--cache` seconds. The names in a folder, present and absent ones, are believed as long as
  the folder's own remembered attributes do not change.
- Opening a file or a folder asks the server for its attributes (close-to-open); the name that led to it may be old.
- What is written reaches the server when the file is closed or flushed.
- A file that was removed on another machine, and is open here, is ESTALE. One that is removed here while it is open
  gets a name `.nfs...` until it is closed.
- Modification times are the server's, whose clock is `--ahead` of this machine's.

With `--local-locks` a lock holds on its own machine alone (mount options `nolock`, `local_lock=all`).

Files in CONTROL_FOLDER are faults: `away` (nothing is answered while it is there), `stale` (one in
seven answers is ESTALE).
"""

import argparse
import errno
import fcntl
import os
import random
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.nfs.fuse import (
    ATTRIBUTES_ANSWER,
    DIRECT_IO,
    ENTRY,
    OPENED,
    Request,
    mount,
    pack_attributes,
    pack_directory,
    pack_init,
    serve,
)

CACHED_BYTES = 4 << 20
"""Larger files are read from the server each time."""
STALE_SHARE = 0.15
STALE_OPCODES = {1, 3, 14, 15, 27}
"""LOOKUP, GETATTR, OPEN, READ, OPENDIR."""
SIZE, MODE, OWNER, GROUP, MTIME, MTIME_NOW = 8, 1, 2, 4, 32, 256
UNLOCK, WRITE_LOCK = 2, 1


@dataclass(slots=True, eq=False)
class Node:
    """A file or folder that this client knows."""

    number: int
    descriptor: int
    """O_PATH: as long as it is held, no other file gets its inode number."""
    attributes: os.stat_result
    asked_at: float
    lookups: int = 0
    opened: int = 0
    children: dict[str, "Node | None"] = field(default_factory=dict)
    """Names that were looked up; None: there was none."""
    listing: list[tuple[str, int, int]] | None = None
    content: bytes | None = None
    """What was read, as of `attributes`."""

    @property
    def path(self) -> str:
        return f"/proc/self/fd/{self.descriptor}"


@dataclass(slots=True, eq=False)
class Handle:
    """An open file."""

    node: Node
    descriptor: int
    writable: bool
    appends: bool
    dirty: list[tuple[int, bytes]] = field(default_factory=list)


def read_attributes(descriptor: int) -> os.stat_result:
    """The server's, of a file that is held."""
    return os.stat(descriptor)


def changes(found: os.stat_result) -> tuple[int, int, int]:
    """What tells a client that something has changed."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size


class NfsClient:
    """Handlers of the kernel's messages, by opcode."""

    def __init__(
        self, server: Path, control: Path, *, cache_seconds: float, seconds_ahead: int, local_locks: bool
    ) -> None:
        descriptor = os.open(server, os.O_PATH)
        self.cache_seconds = cache_seconds
        self.ahead = seconds_ahead
        self.away, self.stale = control / "away", control / "stale"
        self.chance = random.Random(os.getpid())
        root = Node(1, descriptor, read_attributes(descriptor), time.monotonic(), lookups=1)
        self.nodes: dict[int, Node] = {1: root}
        self.by_inode: dict[int, Node] = {root.attributes.st_ino: root}
        self.handles: dict[int, Handle] = {}
        self.silly: dict[Node, tuple[Node, str]] = {}
        """Files that were removed here while they are open here, with the folder and their name in it."""
        self.next = 2
        self.handlers = {
            1: self.lookup, 2: self.forget, 3: self.getattr, 4: self.setattr, 5: self.readlink, 6: self.symlink,
            9: self.mkdir, 10: self.unlink, 11: self.rmdir, 12: self.rename, 13: self.link, 14: self.open,
            15: self.read, 16: self.write, 17: self.statfs, 18: self.release, 20: self.fsync, 25: self.flush,
            26: lambda _: pack_init(locks_reach_the_server=not local_locks), 27: self.opendir, 28: self.readdir,
            29: lambda _: b"", 30: lambda _: b"",
            31: self.getlk, 32: self.setlk, 33: self.setlk, 35: self.create, 36: lambda _: b"", 42: self.batch_forget,
        }  # fmt: skip

    def before(self, request: Request) -> None:
        """Faults."""
        while self.away.exists():
            time.sleep(0.02)
        asks = request.opcode in STALE_OPCODES and request.node != 1
        if asks and self.stale.exists() and self.chance.random() < STALE_SHARE:
            raise OSError(errno.ESTALE, "stale")

    # What is believed, and for how long.

    def ask(self, node: Node) -> os.stat_result:
        """The server's attributes now. ESTALE if it was removed there."""
        found = read_attributes(node.descriptor)
        if found.st_nlink == 0:
            self.forget_names(node)
            raise OSError(errno.ESTALE, "stale")
        if changes(found) != changes(node.attributes):
            node.children.clear()
            node.listing = node.content = None
        node.attributes, node.asked_at = found, time.monotonic()
        return found

    def believe(self, node: Node) -> os.stat_result:
        """The remembered attributes if they are fresh enough."""
        fresh = time.monotonic() - node.asked_at < self.cache_seconds
        return node.attributes if fresh else self.ask(node)

    def forget_names(self, node: Node) -> None:
        for each in self.nodes.values():
            for name in [name for name, child in each.children.items() if child is node]:
                del each.children[name]

    def find(self, parent: Node, name: str) -> Node | None:
        """By a remembered name, or the server's."""
        self.believe(parent)
        if name in parent.children:
            return parent.children[name]
        try:
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent.descriptor)
        except FileNotFoundError:
            parent.children[name] = None
            return None
        found = read_attributes(descriptor)
        node = self.by_inode.get(found.st_ino)
        if node is None:
            node = Node(self.next, descriptor, found, time.monotonic())
            self.next += 1
            self.nodes[node.number] = self.by_inode[found.st_ino] = node
        else:
            os.close(descriptor)
        parent.children[name] = node
        return node

    def note_own_change(self, parent: Node, before: os.stat_result, name: str) -> None:
        """After a change of our own the other names are believed only if nobody else has changed the folder."""
        alone = changes(before) == changes(parent.attributes)
        if not alone:
            parent.children.clear()
        parent.listing = None
        parent.attributes, parent.asked_at = read_attributes(parent.descriptor), time.monotonic()
        parent.children.pop(name, None)

    def pack_node(self, node: Node) -> bytes:
        return pack_attributes(node.attributes, size=node.attributes.st_size, seconds_ahead=self.ahead)

    def entry(self, node: Node) -> bytes:
        node.lookups += 1
        return ENTRY.pack(node.number, 0, 0, 0, 0, 0) + self.pack_node(node)

    # Messages.

    def lookup(self, request: Request) -> bytes:
        node = self.find(self.nodes[request.node], _name(request.body))
        if node is None:
            raise OSError(errno.ENOENT, "absent")
        try:
            self.believe(node)
        except OSError:  # removed on another machine: the name is looked up anew, as Linux does
            node = self.find(self.nodes[request.node], _name(request.body))
            if node is None:
                raise OSError(errno.ENOENT, "absent") from None
        return self.entry(node)

    def forget(self, request: Request) -> bytes:
        self._forget(request.node, struct.unpack_from("<Q", request.body)[0])
        return b""

    def batch_forget(self, request: Request) -> bytes:
        for number, lookups in struct.iter_unpack("<QQ", request.body[8:]):
            self._forget(number, lookups)
        return b""

    def _forget(self, number: int, lookups: int) -> None:
        node = self.nodes.get(number)
        if node is None or number == 1:
            return
        node.lookups -= lookups
        if node.lookups <= 0 and not node.opened:
            self.forget_names(node)
            del self.nodes[number]
            self.by_inode.pop(node.attributes.st_ino, None)
            os.close(node.descriptor)

    def getattr(self, request: Request) -> bytes:
        node = self.nodes[request.node]
        self._flush_node(node)
        self.believe(node)
        return ATTRIBUTES_ANSWER.pack(0, 0, 0) + self.pack_node(node)

    def setattr(self, request: Request) -> bytes:
        node = self.nodes[request.node]
        valid, _, _, size, _, _, mtime, _, _, mtime_ns, _, mode, _, uid, gid, _ = struct.unpack_from(
            "<IIQQQQQQIIIIIIII", request.body
        )
        self._flush_node(node)
        if valid & SIZE:
            os.truncate(node.path, size)
        if valid & MODE:
            os.chmod(node.path, mode)  # noqa: PTH101 - a descriptor's name
        if valid & (OWNER | GROUP):
            os.chown(node.path, uid if valid & OWNER else -1, gid if valid & GROUP else -1)
        if valid & MTIME_NOW:
            os.utime(node.path)
        elif valid & MTIME:
            moment = (mtime - self.ahead) * 10**9 + mtime_ns
            os.utime(node.path, ns=(moment, moment))
        self.ask(node)
        return ATTRIBUTES_ANSWER.pack(0, 0, 0) + self.pack_node(node)

    def readlink(self, request: Request) -> bytes:
        return os.fsencode(os.readlink("", dir_fd=self.nodes[request.node].descriptor))

    def symlink(self, request: Request) -> bytes:
        name, target, _ = request.body.split(b"\0", 2)
        return self._make(request, os.fsdecode(name), lambda parent, word: os.symlink(target, word, dir_fd=parent))

    def mkdir(self, request: Request) -> bytes:
        mode, _ = struct.unpack_from("<II", request.body)
        name = _name(request.body[8:])
        return self._make(request, name, lambda parent, word: os.mkdir(word, mode, dir_fd=parent))

    def link(self, request: Request) -> bytes:
        node = self.nodes[struct.unpack_from("<Q", request.body)[0]]
        name = _name(request.body[8:])
        self._flush_node(node)
        answer = self._make(
            request, name, lambda parent, word: os.link(node.path, word, dst_dir_fd=parent, follow_symlinks=True)
        )
        self.ask(node)
        return answer

    def _make(self, request: Request, name: str, make: Callable[[int, str], object]) -> bytes:
        parent = self.nodes[request.node]
        before = read_attributes(parent.descriptor)
        try:
            make(parent.descriptor, name)
        except OSError:
            parent.children.pop(name, None)  # as Linux does: an absent name is believed no more if making it fails
            raise
        self.note_own_change(parent, before, name)
        node = self.find(parent, name)
        if node is None:
            raise OSError(errno.ESTALE, "gone again")
        self.ask(node)
        if request.uid:
            os.chown(node.path, request.uid, request.gid, follow_symlinks=False)
            self.ask(node)
        return self.entry(node)

    def unlink(self, request: Request) -> bytes:
        self._remove(request.node, _name(request.body))
        return b""

    def _remove(self, number: int, name: str) -> None:
        parent = self.nodes[number]
        before = read_attributes(parent.descriptor)
        node = parent.children.get(name)
        if node is not None and node.opened:
            silly = f".nfs{node.attributes.st_ino:016x}{self.next:08x}"
            self.next += 1
            os.rename(name, silly, src_dir_fd=parent.descriptor, dst_dir_fd=parent.descriptor)
            self.silly[node] = (parent, silly)
        else:
            os.unlink(name, dir_fd=parent.descriptor)
        self.note_own_change(parent, before, name)

    def rmdir(self, request: Request) -> bytes:
        parent, name = self.nodes[request.node], _name(request.body)
        before = read_attributes(parent.descriptor)
        os.rmdir(name, dir_fd=parent.descriptor)
        self.note_own_change(parent, before, name)
        return b""

    def rename(self, request: Request) -> bytes:
        target = self.nodes[struct.unpack_from("<Q", request.body)[0]]
        old, new = (os.fsdecode(word) for word in request.body[8:].split(b"\0")[:2])
        source = self.nodes[request.node]
        moved = source.children.get(old)
        if moved is not None:
            self._flush_node(moved)
        replaced = target.children.get(new)
        if replaced is not None and replaced.opened and replaced is not moved:
            self._remove(target.number, new)
        before_source, before_target = read_attributes(source.descriptor), read_attributes(target.descriptor)
        os.rename(old, new, src_dir_fd=source.descriptor, dst_dir_fd=target.descriptor)
        self.note_own_change(source, before_source, old)
        if target is not source:
            self.note_own_change(target, before_target, new)
        else:
            target.children.pop(new, None)
        if moved is not None:
            moved.attributes = read_attributes(moved.descriptor)
        return b""

    def open(self, request: Request) -> bytes:
        flags = struct.unpack_from("<I", request.body)[0]
        node = self.nodes[request.node]
        self._flush_node(node)
        self.ask(node)
        return self._opened(node, flags)

    def _opened(self, node: Node, flags: int) -> bytes:
        kept = flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW)
        writable = bool(flags & (os.O_WRONLY | os.O_RDWR))
        kept = (kept & ~os.O_ACCMODE) | (os.O_RDWR if writable else os.O_RDONLY)
        descriptor = os.open(node.path, kept | os.O_CLOEXEC)
        self.handles[self.next] = Handle(node, descriptor, writable, bool(flags & os.O_APPEND))
        node.opened += 1
        self.next += 1
        return OPENED.pack(self.next - 1, DIRECT_IO, 0)

    def create(self, request: Request) -> bytes:
        flags, mode, _, _ = struct.unpack_from("<IIII", request.body)
        name = _name(request.body[16:])

        def make(parent: int, word: str) -> None:
            os.close(os.open(word, (flags & os.O_EXCL) | os.O_CREAT | os.O_WRONLY, mode, dir_fd=parent))

        answer = self._make(request, name, make)
        node = self.nodes[request.node].children[name]
        assert node is not None
        return answer + self._opened(node, flags)

    def read(self, request: Request) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", request.body)
        handle = self.handles[number]
        node = handle.node
        self._flush_node(node)
        found = self.believe(node)
        if found.st_size > CACHED_BYTES:
            return os.pread(handle.descriptor, size, offset)
        if node.content is None:
            self.ask(node)
            node.content = os.pread(handle.descriptor, CACHED_BYTES, 0)
        return node.content[offset : offset + size]

    def write(self, request: Request) -> bytes:
        number, offset, size = struct.unpack_from("<QQI", request.body)
        handle = self.handles[number]
        data = request.body[40 : 40 + size]
        if handle.appends:  # at the end as this machine knows it
            ends = [each.st_size for each in [handle.node.attributes]]
            ends += [place + len(words) for place, words in handle.dirty]
            offset = max(ends)
        handle.dirty.append((offset, data))
        if sum(len(words) for _, words in handle.dirty) > CACHED_BYTES:
            self._flush(handle)
        return struct.pack("<II", size, 0)

    def _flush(self, handle: Handle) -> None:
        if not handle.dirty:
            return
        if read_attributes(handle.descriptor).st_nlink == 0:
            handle.dirty.clear()
            raise OSError(errno.ESTALE, "stale")
        for offset, data in handle.dirty:
            os.pwrite(handle.descriptor, data, offset)
        handle.dirty.clear()
        handle.node.content = None
        self.ask(handle.node)

    def _flush_node(self, node: Node) -> None:
        if node.opened:
            for handle in self.handles.values():
                if handle.node is node:
                    self._flush(handle)

    def flush(self, request: Request) -> bytes:
        self._flush(self.handles[struct.unpack_from("<Q", request.body)[0]])
        return b""

    def fsync(self, request: Request) -> bytes:
        return self.flush(request)

    def release(self, request: Request) -> bytes:
        handle = self.handles.pop(struct.unpack_from("<Q", request.body)[0])
        handle.node.opened -= 1
        try:
            self._flush(handle)
        finally:
            os.close(handle.descriptor)
            if not handle.node.opened and handle.node in self.silly:
                parent, name = self.silly.pop(handle.node)
                os.unlink(name, dir_fd=parent.descriptor)
                parent.listing = None
        return b""

    def opendir(self, request: Request) -> bytes:
        self.ask(self.nodes[request.node])
        return OPENED.pack(0, 0, 0)

    def readdir(self, request: Request) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", request.body)
        node = self.nodes[request.node]
        if offset == 0:
            self.believe(node)
            if node.listing is None:
                node.listing = _list_folder(node)
        return pack_directory(node.listing or [], offset, size)

    def statfs(self, request: Request) -> bytes:
        found = os.statvfs(self.nodes[request.node].path)
        numbers = (found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree)
        return struct.pack("<5Q4I24x", *numbers, found.f_bsize, 255, found.f_frsize, 0)

    def getlk(self, _: Request) -> bytes:
        raise OSError(errno.ENOLCK, "not served")

    def setlk(self, request: Request) -> bytes:
        number, _, _, _, kind = struct.unpack_from("<QQQQI", request.body)
        handle = self.handles[number]
        if kind == UNLOCK:
            fcntl.flock(handle.descriptor, fcntl.LOCK_UN)
            return b""
        if kind == WRITE_LOCK and not handle.writable:
            raise OSError(errno.EBADF, "NFS locks a file for writing only if it is open for that")
        how = fcntl.LOCK_EX if kind == WRITE_LOCK else fcntl.LOCK_SH
        fcntl.flock(handle.descriptor, how | fcntl.LOCK_NB)
        return b""


def _name(body: bytes) -> str:
    return os.fsdecode(body.split(b"\0", 1)[0])


def _list_folder(node: Node) -> list[tuple[str, int, int]]:
    here = os.open(node.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(here) as found:
            entries = [(each.name, each.inode(), 4 if each.is_dir(follow_symlinks=False) else 8) for each in found]
    finally:
        os.close(here)
    return [(".", node.attributes.st_ino, 4), ("..", node.attributes.st_ino, 4), *sorted(entries)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nfs.client")
    parser.add_argument("server", type=Path)
    parser.add_argument("mount_point", type=Path)
    parser.add_argument("control", type=Path)
    parser.add_argument("--cache", type=float, default=3.0)
    parser.add_argument("--ahead", type=int, default=0)
    parser.add_argument("--local-locks", action="store_true")
    given = parser.parse_args()
    client = NfsClient(
        given.server,
        given.control,
        cache_seconds=given.cache,
        seconds_ahead=given.ahead,
        local_locks=given.local_locks,
    )
    descriptor = mount(str(given.mount_point), "nfs-like")
    print("mounted", flush=True)
    serve(descriptor, client.handlers, client.before)
    return 0


if __name__ == "__main__":
    sys.exit(main())
