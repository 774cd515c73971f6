"""Tries a tokenizer file in a process of its own, which can be ended: a pattern in it may take exponential time.

    python -m stages.prepare.tokenizer_probe SECONDS FILE [END_OF_TEXT]

`tokenizers` works in Rust without a way to stop it, and a file is input like any other.
"""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.prepare.inputs import LARGEST_ID

SECONDS = 30
"""Of CPU time, as the machine may be busy. A usual tokenizer needs a fraction of one, and a few to load at most."""
WALL_FACTOR = 20
LETTERS = ("a", "A", "1", " ", "\n", "-", "_", "'", "é", "中", "ab", "a ", "1,")
RUNS = (16, 20, 24, 40, 4_000)
SENTENCE = "What colours are the 2 cars (left, right)? Red, and dark-blue; it's 3.14; sûr, 中.\n"


def iter_texts() -> Iterator[str]:
    """Texts on which patterns that backtrack take long: runs of one letter that end in another, and plain text."""
    yield SENTENCE * 200
    for length in RUNS:
        for letter in LETTERS:
            yield letter * length + "!"


# Why: docs/decisions.md, D151
@lru_cache(maxsize=16)
def check_tokenizer_speed(file: Path, end_of_text: str = "", seconds: int = SECONDS) -> None:
    """DataError if a tokenizer file cannot encode plain text, or takes more than so many CPU seconds for it."""
    command = [sys.executable, "-m", "stages.prepare.tokenizer_probe", str(seconds), str(file)]
    command += [end_of_text] if end_of_text else []
    slow = (
        f"{file}: it takes more than {seconds} s to encode a little plain text; a pattern in it may take exponential "
    )
    slow += "time; take another tokenizer file"
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=WALL_FACTOR * seconds, errors="replace"
        )
    except subprocess.TimeoutExpired:
        raise DataError(slow) from None
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        raise DataError(slow)
    if done.returncode == 0:
        return
    said = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.startswith("error: ")]
    raise DataError(said[-1] if said else f"{file}: the tokenizer library ended with exit code {done.returncode} on it")


def main() -> int:
    """Encodes the texts; a line on stderr if that fails."""
    seconds, file, *end_of_text = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    try:
        tokenizer = TextTokenizer(Path(file), LARGEST_ID, *end_of_text)
        for text in iter_texts():
            tokenizer.encode(text)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
