"""The conversations that prismatic is given: the checked records of the data set, in its own form.

prismatic stops half way, without a checkpoint, at the first record that is none and the first image that is not there,
so both are left out here, as our own stage leaves them out.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.data.conversations import Conversation, find_conversation_file, parse_record, read_records
from stages.data.sample import BadSampleError
from stages.errors import ConfigError, DataError
from stages.files import replace_atomically


@dataclass(frozen=True, slots=True)
class WrittenConversations:
    """What was written for prismatic."""

    images: Path
    """The folder that records name their images in."""
    with_image: int
    without_image: int
    bad: int
    """Records that were left out."""

    def count_steps(self, batch: int) -> int:
        """Optimizer steps of an epoch: batches are of one kind, and a last one is filled up with examples again."""
        return -(-self.with_image // batch) - (-self.without_image // batch)

    def count_images(self, batch: int) -> int:
        """Images that go through the model in an epoch."""
        return -(-self.with_image // batch) * batch


def write_conversations(path: Path, out: Path, *, limit: int) -> WrittenConversations:
    """Writes `out` from the data set at `path`.

    DataError for more bad records than `limit`; ConfigError where none has an image: prismatic fails on that.
    """
    file = find_conversation_file(path)
    kept: list[dict[str, Any]] = []
    bad: list[str] = []
    for number, record in enumerate(read_records(file)):
        try:
            kept.append(convert_record(number, parse_record(f"{file.name}: record {number}", record), file.parent))
        except BadSampleError as error:
            bad.append(str(error))
    if len(bad) > limit:
        raise DataError(f"{file}: {len(bad)} records are of no use; the limit is {limit}; the first: {bad[0]}")
    with_image = sum("image" in record for record in kept)
    if not with_image:
        raise ConfigError(f"{file}: no conversation has an image; prismatic needs one at least")
    with replace_atomically(out) as unfinished:
        unfinished.write_text(json.dumps(kept))
    return WrittenConversations(file.parent, with_image, len(kept) - with_image, len(bad))


def convert_record(number: int, record: Conversation, folder: Path) -> dict[str, Any]:
    """A record in LLaVA's form; BadSampleError for an image that is no file of the folder (prismatic reads no tars)."""
    if record.image:
        path = (folder / record.image).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file():
            raise BadSampleError(f"{record.where}: there is no image file {record.image!r} in {folder}")
    turns = [
        {"from": side, "value": text}
        for turn in record.turns
        for side, text in zip(("human", "gpt"), turn, strict=True)
    ]
    return {"id": str(number), **({"image": record.image} if record.image else {}), "conversations": turns}
