"""open_lm's token shards: each sample one JSON list of token ids, used as they are."""

import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

from stages.data.order import mix
from stages.data.sample import BadSampleError, Document
from stages.data.tar_shards import TarSample, TarShards

MAX_JSON_BYTES = 1 << 26
"""A larger sample is a bad one: a small gzip file can unpack to gigabytes."""


class TokenShards:
    """Sequences of `context` + 1 token ids. A longer one gives a window that depends on (seed, position) alone."""

    def __init__(self, name: str, path: Path, *, context: int, vocabulary: int, seed: int) -> None:
        self.name = name
        self.context, self.vocabulary, self.seed = context, vocabulary, seed
        self._shards = TarShards(path)
        self.size = self._shards.size

    def document(self, index: int, position: int) -> Document:
        sample = self._shards.read(index)
        tokens = token_list(sample)
        wanted = self.context + 1
        if len(tokens) < wanted:
            raise BadSampleError(f"{sample.where}: {len(tokens)} tokens; context {self.context} needs {wanted}")
        start = mix(self.seed, position) % (len(tokens) - wanted + 1)
        tokens = tokens[start : start + wanted]
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise BadSampleError(f"{sample.where}: a token id is outside 0..{self.vocabulary - 1}")
        return Document(tokens, [True] * wanted)


def token_list(sample: TarSample) -> list[int]:
    """The ids of a sample's `json.gz`, `json` or `txt` member."""
    for extension in ("json.gz", "json", "txt"):
        if extension in sample.members:
            ids = load_json(sample.where, sample.members[extension], compressed=extension.endswith(".gz"))
            if not isinstance(ids, list) or not all(type(token) is int for token in ids):
                raise BadSampleError(f"{sample.where}: {extension} is no list of token ids")
            return ids
    raise BadSampleError(f"{sample.where}: no json.gz, json or txt member")


def load_json(where: str, content: bytes, *, compressed: bool) -> Any:
    """JSON of a member, of at most MAX_JSON_BYTES."""
    try:
        if compressed:
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise BadSampleError(f"{where}: more than {MAX_JSON_BYTES} bytes of JSON")
        return json.loads(content)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise BadSampleError(f"{where}: unreadable: {error}") from error
