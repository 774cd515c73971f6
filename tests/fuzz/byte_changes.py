"""Changes of bytes that know no format."""

import random


def change_bytes(dice: random.Random, content: bytes) -> bytes:
    """One change by chance: bits, bytes, cuts, parts moved, doubled, emptied or filled."""
    return dice.choice(CHANGES)(dice, content)


def _flip_bits(dice: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 8, 64)) if content else 0):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def _set_bytes(dice: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 4, 16)) if content else 0):
        changed[dice.randrange(len(changed))] = dice.choice(
            (0, 0x0A, 0x1B, 0x22, 0x7F, 0x80, 0xFF, dice.randrange(256))
        )
    return bytes(changed)


def _cut(dice: random.Random, content: bytes) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _take_out(dice: random.Random, content: bytes) -> bytes:
    first, last = pick_range(dice, len(content))
    return content[:first] + content[last:]


def _double(dice: random.Random, content: bytes) -> bytes:
    first, last = pick_range(dice, len(content))
    place = dice.randrange(len(content) + 1)
    return content[:place] + content[first:last] + content[place:]


def _fill(dice: random.Random, content: bytes) -> bytes:
    first, last = pick_range(dice, len(content))
    return content[:first] + bytes([dice.choice((0, 0x20, 0x39, 0xFF))]) * (last - first) + content[last:]


def _insert_noise(dice: random.Random, content: bytes) -> bytes:
    place = dice.randrange(len(content) + 1)
    return content[:place] + dice.randbytes(dice.choice((1, 2, 7, 100))) + content[place:]


def _begin_anew(dice: random.Random, content: bytes) -> bytes:
    return dice.choice(
        (b"", b"\0", b"\n", b"\xef\xbb\xbf" + content, content + content, content.replace(b"\n", b"\r\n"))
    )


def _recode(dice: random.Random, content: bytes) -> bytes:
    text = content.decode("latin-1")
    return text.encode(dice.choice(("utf-16", "utf-16-le", "utf-32", "utf-8", "utf-7")))


CHANGES = (_flip_bits, _set_bytes, _cut, _take_out, _double, _fill, _insert_noise, _begin_anew, _recode)


def pick_range(dice: random.Random, size: int) -> tuple[int, int]:
    """Two places in order; often close to each other."""
    first = dice.randrange(size + 1)
    return first, min(size, first + int(dice.expovariate(1 / max(1, size / 20))) + 1)
