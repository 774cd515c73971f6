"""The kernel's side of a file system in user space: mounting /dev/fuse, and messages as Python values. Linux, protocol
7.31 (linux/fuse.h). What is done with a message is the file system's (`FileSystem`).
"""

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

HEADER = struct.Struct("<IIQQIIIHH")
ANSWER = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<6Q10I")
ENTRY = struct.Struct("<4QII")
ATTRIBUTES_ANSWER = struct.Struct("<QII")
OPENED = struct.Struct("<QII")
DIRECTORY_ENTRY = struct.Struct("<QQII")
INIT_ANSWER = struct.Struct("<IIIIHHIIHHI28x")
MAX_WRITE = 128 * 1_024
READ_BYTES = MAX_WRITE + 4_096
BIG_WRITES, FLOCK_LOCKS = 1 << 5, 1 << 10
DIRECT_IO = 1
NO_ANSWER = {2, 36, 42}
"""FORGET, INTERRUPT, BATCH_FORGET."""
MS_NOSUID, MS_NODEV = 2, 4
MNT_DETACH = 2


class Request(NamedTuple):
    """One message of the kernel's."""

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    body: bytes


def mount(folder: str, name: str) -> int:
    """Mounts a file system of which nothing is answered yet; the descriptor of its messages."""
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(name.encode(), folder.encode(), b"fuse", MS_NOSUID | MS_NODEV, options.encode()) != 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, os.strerror(number), folder)
    return descriptor


def unmount(folder: str) -> None:
    """Also one that is in use, or whose process has ended."""
    ctypes.CDLL(None).umount2(folder.encode(), MNT_DETACH)


def serve(
    descriptor: int, handlers: Mapping[int, Callable[[Request], bytes]], before: Callable[[Request], None]
) -> None:
    """Answers until the file system is unmounted. `before` each request may wait, or raise OSError as its answer."""
    while True:
        try:
            message = os.read(descriptor, READ_BYTES)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno in {errno.ENOENT, errno.EINTR, errno.EAGAIN}:
                continue  # it was interrupted before it was read
            raise
        _, opcode, unique, node, uid, gid, *_ = HEADER.unpack_from(message)
        request = Request(opcode, unique, node, uid, gid, message[HEADER.size :])
        number, content = _handle(request, handlers, before)
        if opcode in NO_ANSWER:
            continue
        try:
            os.write(descriptor, ANSWER.pack(ANSWER.size + len(content), -number, unique) + content)
        except OSError as error:
            if error.errno != errno.ENOENT:  # nobody waits for it any more
                raise


def _handle(
    request: Request, handlers: Mapping[int, Callable[[Request], bytes]], before: Callable[[Request], None]
) -> tuple[int, bytes]:
    handler = handlers.get(request.opcode)
    if handler is None:
        return errno.ENOSYS, b""
    try:
        before(request)
        return 0, handler(request)
    except OSError as error:
        return error.errno or errno.EIO, b""


def pack_init(*, locks_reach_the_server: bool) -> bytes:
    """The answer to the first message. Else the kernel keeps locks to this mount."""
    return INIT_ANSWER.pack(
        7, 31, 0, BIG_WRITES | (FLOCK_LOCKS if locks_reach_the_server else 0), 12, 10, MAX_WRITE, 1, 0, 0, 0
    )


def pack_attributes(found: os.stat_result, *, size: int, seconds_ahead: int) -> bytes:
    """`seconds_ahead`: of the server's clock."""
    times = [divmod(stamp, 10**9) for stamp in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
    return ATTRIBUTES.pack(
        found.st_ino,
        size,
        found.st_blocks,
        *(second + seconds_ahead for second, _ in times),
        *(rest for _, rest in times),
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_rdev,
        4_096,
        0,
    )


def pack_directory(names: list[tuple[str, int, int]], offset: int, most: int) -> bytes:
    """As many of (name, inode, type) from `offset` on as fit."""
    content = b""
    for place, (name, inode, kind) in enumerate(names[offset:], offset + 1):
        word = os.fsencode(name)
        entry = DIRECTORY_ENTRY.pack(inode, place, len(word), kind) + word
        entry += b"\0" * (-len(entry) % 8)
        if len(content) + len(entry) > most:
            break
        content += entry
    return content
