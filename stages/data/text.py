"""open_lm's token shards: each sample one JSON list of token ids, used as they are."""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.data.order import hash_numbers
from stages.data.sample import BadSampleError, Document, Integers
from stages.data.shards import ShardFolder, TarSample, TarShards

MAX_JSON_BYTES = 1 << 26
"""A larger sample is a bad one: a small gzip file can unpack to gigabytes."""


class TokenShards:
    """Sequences of `context` + 1 token ids. A longer one gives a window that depends on (seed, position) alone."""

    def __init__(self, name: str, folder: ShardFolder | Path, *, context: int, vocabulary: int, seed: int) -> None:
        self.name = name
        self.context, self.vocabulary, self.seed = context, vocabulary, seed
        self._shards = TarShards(folder)
        import numpy as np

        self._learned = np.ones(context + 1, dtype=np.bool_)
        self.size = self._shards.size

    @property
    def shard_sizes(self) -> Sequence[int]:
        return self._shards.sizes

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:
        if room is not None and room < self.context:
            return None
        sample = self._shards.find_sample(index)
        tokens = read_token_ids(sample)
        check_length(sample.where, tokens, self.context)
        wanted = self.context + 1
        start = hash_numbers(self.seed, position) % (len(tokens) - wanted + 1)
        tokens = tokens[start : start + wanted]
        check_ids(sample.where, tokens, self.vocabulary)
        return Document(tokens, self._learned)

    def prefetch(self, shards: Sequence[int]) -> None:
        self._shards.prefetch(shards)


def check_length(where: str, tokens: Integers, context: int) -> None:
    """BadSampleError if there are too few for a sequence, in which each token has a next one."""
    if len(tokens) < context + 1:
        raise BadSampleError(f"{where}: {len(tokens)} tokens; context {context} needs {context + 1}")


def check_ids(where: str, tokens: Integers, vocabulary: int) -> None:
    """BadSampleError if a token id, of one at least, is not in the vocabulary."""
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise BadSampleError(f"{where}: a token id is outside 0..{vocabulary - 1}")


def read_token_ids(sample: TarSample) -> Integers:
    """The ids of a sample's `json.gz`, `json` or `txt` member, any integers of 64 bits."""
    import numpy as np  # here: what counts samples on a login node starts without it

    for extension in ("json.gz", "json", "txt"):
        if extension in sample.extensions:
            ids = parse_json(sample.where, sample.read(extension), compressed=extension.endswith(".gz"))
            # numpy would take true for 1 and round 1.0
            if not isinstance(ids, list) or not set(map(type, ids)) <= {int}:
                raise BadSampleError(f"{sample.where}: {extension} is no list of token ids")
            try:
                return np.array(ids, dtype=np.int64)
            except OverflowError as error:
                raise BadSampleError(f"{sample.where}: a token id of more than 64 bits") from error
    raise BadSampleError(f"{sample.where}: no json.gz, json or txt member")


def parse_json(where: str, content: bytes, *, compressed: bool) -> Any:
    """JSON of a member, of at most MAX_JSON_BYTES; BadSampleError if there is more, or it cannot be read."""
    try:
        plain = gunzip(content, MAX_JSON_BYTES + 1) if compressed else content
        found = json.loads(plain) if len(plain) <= MAX_JSON_BYTES else None
    except (EOFError, zlib.error, ValueError, RecursionError) as error:
        raise BadSampleError(f"{where}: unreadable: {error}") from error
    if len(plain) > MAX_JSON_BYTES:
        raise BadSampleError(f"{where}: more than {MAX_JSON_BYTES} bytes of JSON")
    return found


def gunzip(content: bytes, most: int) -> bytes:
    """The first `most` bytes of a gzip file. EOFError if it is cut off, zlib.error if it is none or is damaged.

    gzip's own class takes several times as long, for files of some kilobytes.
    """
    found = b""
    while content and len(found) < most:
        stream = zlib.decompressobj(wbits=31)  # 31: a gzip header, and its checksum at the end
        found += stream.decompress(content, most - len(found))
        if not stream.eof and len(found) < most:
            raise EOFError("it ends before its end mark")
        content = stream.unused_data.lstrip(b"\0")  # another gzip file may follow, or padding
    return found
