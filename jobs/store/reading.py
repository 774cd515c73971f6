"""The one door for what a store holds: files are opened without waiting and read anew where another machine replaces
them; JSON is parsed with bounds; records are built only of values that have their types.

What is behind the door is typed: no later code asks whether a number is one.
"""

import errno
import json
import math
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, TypeVar, Union, get_args, get_origin

from jobs.clock import SYSTEM_CLOCK, Clock

Value = TypeVar("Value")

# Files. Over NFS a file that is replaced while it is read is ESTALE; it is read anew.

STALE_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4)
"""Seconds before each further try. A server that restarts may answer so for longer, and then the caller hears of it."""


# Why: docs/decisions.md, D132
def read_anew(read: Callable[[], Value], clock: Clock = SYSTEM_CLOCK) -> Value:
    """What `read` returns. It must open what it reads, by name, each time that it is called."""
    for pause in STALE_PAUSES:
        try:
            return read()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        clock.sleep(pause)
    return read()


SPECIAL_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


# Why: docs/decisions.md, D153
def open_regular(path: Path | str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
    """A descriptor of a regular file, at once. Raises OSError for anything else of that name, which a read might wait
    for without end."""
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a named pipe that nobody reads
            raise OSError(errno.EINVAL, "is a socket or a named pipe, and no regular file", str(path)) from None
        raise
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind != stat.S_IFREG:
            number = errno.EISDIR if kind == stat.S_IFDIR else errno.EINVAL
            what = SPECIAL_FILES.get(kind, "a special file")
            raise OSError(number, f"is {what}, and no regular file", str(path))
    except OSError as error:
        os.close(descriptor)
        raise name_file(error, path) from None
    return descriptor


def open_to_read(path: Path | str) -> BinaryIO:
    """The file as bytes, with a buffer; OSError as `open_regular`."""
    return os.fdopen(open_regular(path), "rb")


def name_file(error: OSError, path: Path | str) -> OSError:
    """The error with its file: a call by descriptor names none. One that a library raised by its words alone keeps
    them."""
    if error.errno is None:
        return OSError(0, str(error), str(path))
    if error.filename is None:
        error.filename = str(path)
    return error


LEAST_BYTES, MOST_AT_ONCE = 2**12, 2**26
"""Of one read: a whole ledger is read in one piece, which saves the memory of a second copy."""


def read_file(path: Path | str) -> bytes:
    """The content of a file that may be replaced meanwhile, on this machine or another. Raises OSError."""
    return read_file_and_status(path)[0]


def read_file_and_status(path: Path | str) -> tuple[bytes, os.stat_result]:
    """The same, and the status of the very file that was read."""
    return read_anew(partial(_read_once, path))


def _read_once(path: Path | str) -> tuple[bytes, os.stat_result]:
    descriptor = open_regular(path)
    try:
        known = os.fstat(descriptor)
        size, parts = min(max(known.st_size + 1, LEAST_BYTES), MOST_AT_ONCE), []
        while part := os.read(descriptor, size):  # thousands of files: a file object costs more than the calls
            parts.append(part)
        return b"".join(parts), known  # one part is not copied
    except OSError as error:
        raise name_file(error, path) from None
    finally:
        os.close(descriptor)


# JSON.

HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
HALF_CHARACTERS = re.compile("[\ud800-\udfff]")
MOST_BYTES = 2**28
"""No record of ours comes near it."""


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text; ValueError for whatever is wrong with it, nesting beyond all measure included.

    Halves of surrogate pairs become U+FFFD: no file, terminal or table can take them.
    """
    if len(content) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES // 2**20} MiB")
    try:
        value = json.loads(content)
        raw = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        if raw.isascii() and b"\\u" not in raw:
            return value  # nearly all that a store holds; the search below takes as long as the parsing
        return _replace_halves(value) if HALF_CHARACTER.search(raw) else value
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _replace_halves(value: Any) -> Any:
    if isinstance(value, str):
        return HALF_CHARACTERS.sub("\ufffd", value)
    if isinstance(value, list):
        return [_replace_halves(part) for part in value]
    if isinstance(value, dict):
        return {_replace_halves(name): _replace_halves(part) for name, part in value.items()}
    return value


def parse_object(content: bytes | str) -> dict[str, Any]:
    """A JSON object; ValueError for anything else."""
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


# Types.

MOST_WHOLE = 2**63
LATEST = 1e11
"""Unix seconds of the year 5138; what lies beyond, or is no number, is no time."""


def is_whole_number(value: object) -> bool:
    """Whether it is an integer of 64 bits, which a bool is not."""
    return type(value) is int and -MOST_WHOLE <= value < MOST_WHOLE


def is_number(value: object) -> bool:
    """Whether it is a finite number that a float can hold."""
    return is_whole_number(value) or (type(value) is float and math.isfinite(value))


def is_time(value: object) -> bool:
    """Whether it is a moment in Unix seconds, or 0."""
    return is_number(value) and 0 <= value <= LATEST  # type: ignore[operator]  # a number, as was just asked


TypeCheck = Callable[[object], bool]
PLAIN_CHECKS: dict[Any, TypeCheck] = {
    float: is_number,
    int: is_whole_number,
    bool: lambda value: type(value) is bool,
    Any: lambda _: True,
    object: lambda _: True,
}


def build_type_check(kind: Any) -> TypeCheck:
    """What tells whether a value has the type of a dataclass's field: plain ones, enums, tuples, mappings and unions of
    them."""
    if kind in PLAIN_CHECKS:
        return PLAIN_CHECKS[kind]
    origin, parts = get_origin(kind), get_args(kind)
    if origin in {UnionType, Union}:
        checks = [build_type_check(part) for part in parts]
        return lambda value: any(check(value) for check in checks)
    if origin is tuple:
        each_has_type = build_type_check(parts[0])
        return lambda value: isinstance(value, tuple) and all(map(each_has_type, value))
    if origin is not None:
        has_type = build_type_check(parts[1])
        return lambda value: (
            isinstance(value, origin) and all(isinstance(name, str) and has_type(each) for name, each in value.items())
        )
    return lambda value: isinstance(value, kind)


FIELD_CHECKS: dict[type, Mapping[str, TypeCheck]] = {}
"""Each class's are built once: a report reads thousands of records."""


def list_field_checks(kind: type) -> Mapping[str, TypeCheck]:
    """Check by field of a dataclass; of a field whose name ends with `_at`, that it is a time too."""
    if kind not in FIELD_CHECKS:
        found = {each.name: build_type_check(each.type) for each in fields(kind)}
        FIELD_CHECKS[kind] = {
            name: _also_time(check) if name.endswith("_at") else check for name, check in found.items()
        }
    return FIELD_CHECKS[kind]


def _also_time(check: TypeCheck) -> TypeCheck:
    return lambda value: check(value) and is_time(value)


def find_type_problem(kind: type, content: Mapping[str, Any]) -> str:
    """The first value that has not its field's type, in words; empty if all have. Names that are no field pass."""
    checks = list_field_checks(kind)
    for name, value in content.items():
        if name in checks and not checks[name](value):
            return f"{name} is {repr(value)[:60]}"
    return ""
