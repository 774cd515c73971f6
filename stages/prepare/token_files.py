"""Between the passes: the files of token ids as one numbered row of sequences.

Each piece's tokens are cut into sequences from its beginning. What is left at the ends of the pieces is joined, in the
pieces' order, and cut again: of the whole input less than one sequence is dropped.
"""

import json
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import numpy as np

from stages.files import replacing, write_json
from stages.prepare.pieces import PieceRecord
from stages.prepare.recipe import Recipe, WorkFolder

OPEN_FILES = 256

Tokens = np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]


def join_ends(recipe: Recipe, folder: WorkFolder, records: Sequence[PieceRecord]) -> tuple[list[int], int]:
    """(sequences of each file, tokens dropped); the joined ends are one more file, numbered after the pieces.

    Writes `folder.sequences` last.
    """
    length = recipe.sequence_tokens
    token_bytes = np.dtype(recipe.token_type).itemsize
    counts = [record.tokens // length for record in records]
    left = 0
    with replacing(folder.tokens(len(records))) as unfinished, unfinished.open("wb") as joined:
        for number, (record, count) in enumerate(zip(records, counts, strict=True)):
            with folder.tokens(number).open("rb") as file:
                file.seek(count * length * token_bytes)
                joined.write(file.read())
            left += record.tokens - count * length
    counts.append(left // length)
    write_json(folder.sequences, counts)
    return counts, left % length


class TokenFiles:
    """All sequences, numbered in the order of the pieces and read one at a time."""

    def __init__(self, recipe: Recipe, folder: WorkFolder) -> None:
        self._recipe, self._folder = recipe, folder
        self._ends = list(accumulate(json.loads(folder.sequences.read_bytes())))
        self._open: OrderedDict[int, int] = OrderedDict()
        self.size: int = self._ends[-1]

    def read(self, index: int) -> Tokens:
        """Sequence `index`, (context + 1,)."""
        number = bisect_right(self._ends, index)
        first = self._ends[number - 1] if number else 0
        size = self._recipe.sequence_tokens * np.dtype(self._recipe.token_type).itemsize
        content = os.pread(self._descriptor(number), size, (index - first) * size)
        return np.frombuffer(content, dtype=self._recipe.token_type)

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            self._open[number] = os.open(self._folder.tokens(number), os.O_RDONLY)
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(number)
        return self._open[number]

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


@lru_cache(maxsize=1)
def open_token_files(recipe: Recipe, root: Path) -> TokenFiles:
    """One for all the shards that a process writes."""
    return TokenFiles(recipe, WorkFolder(root))
