"""Tars made by hand: parts of whole blocks, and changes that know what a header is."""

import random
import tarfile
from collections.abc import Callable, Sequence
from typing import Literal

from tests.fuzz.byte_changes import change_bytes, pick_range

BLOCK = 512
TarFormat = Literal[0, 1, 2]
FORMATS: tuple[TarFormat, ...] = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
END = bytes(2 * BLOCK)


def build_member(name: str, content: bytes, form: TarFormat, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Header and content, padded to whole blocks. A name that `form` cannot hold is written as pax."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname, entry.mtime = len(content), kind, link, 1_700_000_000
    try:
        header = entry.tobuf(form, "utf-8", "surrogateescape")
    except ValueError:
        header = entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + pad(content)


def pad(content: bytes, fill: bytes = b"\0") -> bytes:
    """With `fill` up to the next whole block."""
    return content + fill * (-len(content) % BLOCK)


def seal(header: bytes) -> bytes:
    """The header block with a checksum that holds."""
    blank = header[:148] + b" " * 8 + header[156:512]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def is_header(block: bytes) -> bool:
    """Whether the checksum of a block holds."""
    digits = block[148:156].replace(b"\0", b" ").strip()
    if len(block) < BLOCK or not digits or digits.strip(b"01234567"):
        return False
    return sum(block[:148]) + 8 * 32 + sum(block[156:]) == int(digits, 8)


def build_raw(kind: bytes, name: bytes, content: bytes, size: bytes = b"") -> bytes:
    """A header of any kind, name and size field, sealed, and its content."""
    digits = size or b"%011o\0" % len(content)
    fields = name[:100].ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + digits[:12].ljust(12, b"\0")
    fields += b"14400000000\0" + b" " * 8 + kind + bytes(100) + b"ustar\x0000"
    return seal(fields.ljust(BLOCK, b"\0")) + pad(content)


def build_pax_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    size = next(size for size in range(len(rest), len(rest) + 9) if size == len(rest) + len(str(size)))
    return str(size).encode() + rest


# Changes of a list of parts. What follows from them, webdataset's own reader says.

Parts = list[bytes]


def _double(dice: random.Random, parts: Parts) -> None:
    parts.insert(dice.randrange(len(parts) + 1), dice.choice(parts))


def _move(dice: random.Random, parts: Parts) -> None:
    parts.insert(dice.randrange(len(parts)), parts.pop(dice.randrange(len(parts))))


def _shuffle(dice: random.Random, parts: Parts) -> None:
    dice.shuffle(parts)


def _insert_special(dice: random.Random, parts: Parts) -> None:
    """A folder, a link, a device, a note, or a kind that nobody knows."""
    kind = dice.choice((*(bytes([code]) for code in b"123456"), b"7", b"\0", b"D", b"N", b"V", b"A", b"Z", b"9", b"x"))
    name = dice.choice((b"a.txt", b"00000.txt", b"folder/", b"../../etc/passwd", b"", b"/", b"__note__", b"dev.json"))
    content = dice.choice((b"", b"", b"", b"some text", bytes(700)))
    parts.insert(dice.randrange(len(parts) + 1), build_raw(kind, name, content))


def _insert_refused(dice: random.Random, parts: Parts) -> None:
    """Sparse files, and parts of a tar of several volumes."""
    part = build_raw(dice.choice((b"S", b"M")), b"sparse.json", b"[1]", dice.choice(SIZES))
    if dice.random() < 0.4:
        records = build_pax_record(b"GNU.sparse.major", b"1") + build_pax_record(b"GNU.sparse.minor", b"0")
        records += build_pax_record(b"GNU.sparse.name", b"real.json") + build_pax_record(b"GNU.sparse.realsize", b"99")
        part = build_raw(b"x", b"pax", records)
    parts.insert(dice.randrange(len(parts) + 1), part)


def _insert_pax(dice: random.Random, parts: Parts) -> None:
    """An extended header before a member, or before the end; now and then one for all members."""
    records = b"".join(
        build_pax_record(dice.choice(PAX_KEYS), dice.choice(PAX_VALUES)) for _ in range(dice.choice((1, 1, 2, 5)))
    )
    if dice.random() < 0.25:
        records = change_bytes(dice, records)
    parts.insert(
        dice.randrange(len(parts) + 1), build_raw(dice.choice((b"x", b"x", b"x", b"g", b"X")), b"pax", records)
    )


def _insert_long_name(dice: random.Random, parts: Parts) -> None:
    name = dice.choice(
        (b"", b"\0", b"long/" * 60 + b"a.txt\0", b"a.json", b"x.txt\0y.txt\0", b"\xff\xfe.txt\0", bytes(600))
    )
    part = build_raw(dice.choice((b"L", b"L", b"K")), b"././@LongLink", name, dice.choice((b"", b"", b"", *SIZES)))
    parts.insert(dice.randrange(len(parts) + 1), part)


def _change_field(dice: random.Random, parts: Parts) -> None:
    """A field of a header, with a checksum that holds again."""
    number = dice.randrange(len(parts))
    first, last, values = dice.choice(FIELDS)
    header = parts[number][:BLOCK]
    value = dice.choice(values) if dice.random() < 0.8 else dice.randbytes(last - first)
    parts[number] = (
        seal(header[:first] + value[: last - first].ljust(last - first, b"\0") + header[last:]) + parts[number][BLOCK:]
    )


def _change_checksum(dice: random.Random, parts: Parts) -> None:
    """Other ways to write the sum, some of which are right."""
    number = dice.randrange(len(parts))
    header = parts[number][:BLOCK]
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    signed = sum(byte - 256 * (byte > 127) for byte in header[:148] + header[156:]) + 8 * 32
    ways = (b"%06o\0 ", b"%o\0", b"%7o\0", b" %06o ", b"%08o", b"+%05o\0", b"0o%o", b"%d\0", b"-%o\0")
    field = dice.choice(ways) % dice.choice((total, total, signed % 8**6, total + 1))
    parts[number] = header[:148] + field[:8].ljust(8, b"\0") + header[156:] + parts[number][BLOCK:]


def _fill_padding(dice: random.Random, parts: Parts) -> None:
    """What stands behind a content's end in its last block means nothing."""
    number = dice.randrange(len(parts))
    part = parts[number].rstrip(b"\0")
    if len(part) > BLOCK:
        parts[number] = pad(part, dice.choice((b"\xff", b" ", b"a")))


def _insert_zeros(dice: random.Random, parts: Parts) -> None:
    parts.insert(dice.randrange(len(parts) + 1), bytes(BLOCK * dice.choice((1, 2, 3, 20))))


def _insert_garbage(dice: random.Random, parts: Parts) -> None:
    parts.insert(dice.randrange(len(parts) + 1), dice.randbytes(BLOCK * dice.choice((1, 2))))


def _join(dice: random.Random, parts: Parts) -> None:
    """Another tar behind, or before, its end with it."""
    zeros = bytes(BLOCK * dice.choice((1, 2, 18)))
    parts += [zeros, *parts[: dice.randrange(len(parts) + 1)]]


def _shift(dice: random.Random, parts: Parts) -> None:
    """Some bytes more or less: nothing behind them begins at a block's begin."""
    number = dice.randrange(len(parts))
    place = dice.randrange(len(parts[number]) + 1)
    parts[number] = parts[number][:place] + dice.choice((b"\0", b"x" * 100)) + parts[number][place:]


SIZES = (
    *(b"-0000001000", b"+0000000012", b"0000_000_02", b"00000000018", b"77777777777\0"),
    *(b"\x80" + bytes(10) + b"\x05", b""),
    *(b"\xff" * 12, b"\x80" + b"\xff" * 11, b"\x81" + bytes(11), b"\x80" + bytes(11), b"           \0"),
    *(b"\0" * 12, b"00000000000"),
    *(b"00000001000\0", b"1 ", b" 1000 \0", b"12\0 34", "²".encode(), b"0x10", b"00000000512", b"00000002000 "),
    b"7" * 12,
)  # fmt: skip
NAMES = (
    b"",
    b"a.txt",
    b"00000.json",
    b"/",
    b"a",
    b".",
    b"..",
    b"\xff.txt",
    b"x" * 100,
    b"a\nb.txt",
    b"\x1b[2J.txt",
    b"__a__/b.txt",
)
FIELDS: Sequence[tuple[int, int, Sequence[bytes]]] = (
    (0, 100, NAMES),
    (100, 108, SIZES),
    (108, 116, SIZES),
    (116, 124, SIZES),
    (124, 136, SIZES),
    (124, 136, SIZES),
    (136, 148, SIZES),
    (156, 157, tuple(bytes([code]) for code in b"\x0001234567ASLKVMNDXxgZ\xff ")),
    (157, 257, NAMES),
    (257, 265, (b"ustar\x0000", b"ustar  \0", b"", b"USTAR\x0000", b"ustar\x0011", b"\xff" * 8)),
    (329, 345, SIZES),
    (345, 500, (*NAMES, b"p" * 155)),
)
PAX_KEYS: tuple[bytes, ...] = (
    b"path",
    b"path",
    b"size",
    b"size",
    b"linkpath",
    b"mtime",
    b"comment",
    b"hdrcharset",
    b"SCHILY.xattr.user.a",
    b"\xff",
)
PAX_KEYS += (
    b"GNU.sparse.size",
    b"GNU.sparse.map",
    b"GNU.sparse.name",
    b"GNU.sparse.major",
    b"uid",
    b"path ",
    b"LIBARCHIVE.xattr.b",
)
PAX_VALUES = (
    *(b"", b"0", b"1", b"5", b"512", b"513", b"1024", b"-5", b"9" * 19, b"9" * 25, b"9" * 5000, "²".encode()),
    *(b"1e3", b"0x10"),
    *(b"a.txt", b"a.json", b"00000.txt", b"/etc/passwd.txt", b"\xff\xfe.txt", b"a\0b.txt", b"a\nb.txt"),
    *(b"x" * 70_000, b"BINARY"),
    *(b" 5", b"5 ", b"5\0", b"+5", b"5_0", "é.txt".encode(), b"folder/", b"b.json/", b"__note__", b".txt"),
    *(b"1.5", b"nan", b"00512"),
)  # fmt: skip

FORGERIES: Sequence[Callable[[random.Random, Parts], None]] = (
    *(
        _double,
        _move,
        _shuffle,
        _insert_special,
        _insert_special,
        _insert_refused,
        _insert_pax,
        _insert_pax,
        _insert_pax,
    ),
    *(_insert_long_name, _change_field, _change_field, _change_field, _change_checksum, _fill_padding, _insert_zeros),
    *(_insert_garbage, _join, _shift),
)


def forge(dice: random.Random, parts: Parts) -> tuple[bytes, str]:
    """A tar of the parts after one to three changes, and the name of the first."""
    parts = list(parts)
    changes = [dice.choice(FORGERIES) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
    for change in changes:
        change(dice, parts)
    return b"".join(parts) + dice.choice((END, END, END, END, bytes(512), b"", bytes(20 * BLOCK))), changes[0].__name__[
        1:
    ]


# Damage: changes of a whole tar that know of blocks alone.


def damage(dice: random.Random, content: bytes) -> tuple[bytes, str]:
    """A tar whose bytes or blocks were changed on the way, and how."""
    if dice.random() < 0.4:
        return change_bytes(dice, content), "bytes"
    change = dice.choice(BLOCK_CHANGES)
    blocks = [content[start : start + BLOCK] for start in range(0, len(content), BLOCK)]
    first, last = pick_range(dice, len(blocks))
    change(dice, blocks, first, last)
    return b"".join(blocks), change.__name__[1:]


def _lose_blocks(dice: random.Random, blocks: Parts, first: int, last: int) -> None:
    del blocks[first:last]


def _zero_blocks(dice: random.Random, blocks: Parts, first: int, last: int) -> None:
    blocks[first:last] = [bytes(BLOCK)] * (last - first)


def _repeat_blocks(dice: random.Random, blocks: Parts, first: int, last: int) -> None:
    blocks[last:last] = blocks[first:last]


def _move_blocks(dice: random.Random, blocks: Parts, first: int, last: int) -> None:
    taken = blocks[first:last]
    del blocks[first:last]
    place = dice.randrange(len(blocks) + 1)
    blocks[place:place] = taken


def _copy_blocks(dice: random.Random, blocks: Parts, first: int, last: int) -> None:
    """One place over another, as a file system may after a crash."""
    place = dice.randrange(len(blocks) + 1)
    blocks[place : place + last - first] = blocks[first:last]


def _swap_blocks(dice: random.Random, blocks: Parts, first: int, last: int) -> None:
    other = dice.randrange(len(blocks))
    first = min(first, len(blocks) - 1)
    blocks[first], blocks[other] = blocks[other], blocks[first]


BLOCK_CHANGES = (_lose_blocks, _zero_blocks, _repeat_blocks, _move_blocks, _copy_blocks, _swap_blocks)
