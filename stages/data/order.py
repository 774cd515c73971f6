"""The order of samples as a function of (seed, position) alone: nothing to store, nothing to replay."""

MASK = (1 << 64) - 1
ROUNDS = 4


def mix(*numbers: int) -> int:
    """A well-mixed 64-bit number of several (splitmix64's finaliser, chained)."""
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        state ^= state >> 31
    return state


def shuffled(position: int, size: int, seed: int) -> int:
    """The index at `position` of an endless stream that passes through 0..size-1 in a new random order each time.

    A Feistel network of a power of four at least `size`, walked until it lands below `size`: constant memory for any
    size, and any position at once.
    """
    epoch, x = divmod(position, size)
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = x >> half, x & low
        for step in range(ROUNDS):
            left, right = right, left ^ (mix(seed, epoch, step, right) & low)
        x = left << half | right
        if x < size:
            return x
