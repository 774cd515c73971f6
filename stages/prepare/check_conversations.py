"""Checks a part of a set of conversations, with the functions by which the stages read it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from stages.data.conversations import (
    Conversation,
    ConversationReader,
    ImageFiles,
    check_record,
    conversation_file,
    read_records,
)
from stages.data.sample import BadSampleError
from stages.errors import DataError
from stages.prepare.check_request import CheckRequest
from stages.prepare.encoding import load_tokenizer
from stages.prepare.findings import Action, Findings
from stages.prepare.image_probe import BrokenImageError, ImageProbe, MissingImageError
from stages.prepare.tokenizer_file import LARGEST_ID

PART_RECORDS = 2_000


@dataclass(frozen=True, slots=True)
class ConversationPart:
    """Records start..stop of a set of conversations."""

    request: CheckRequest
    start: int
    stop: int
    decode: str


@lru_cache(maxsize=1)
def records_of(path: str) -> list[Any]:
    """The list of a conversation file, read once a process."""
    return read_records(Path(path))


def conversation_parts(request: CheckRequest, decode: str) -> list[ConversationPart]:
    """The parts that cover all records; DataError if the file cannot be read or is empty."""
    file = conversation_file(Path(request.path))
    count = len(records_of(str(file)))
    if not count:
        raise DataError(f"{file}: no usable conversation")
    return [
        ConversationPart(request, start, min(start + PART_RECORDS, count), decode)
        for start in range(0, count, PART_RECORDS)
    ]


def check_part(part: ConversationPart) -> Findings:
    """What a stage would make of the records. The file counts as one shard, with its first part."""
    file = conversation_file(Path(part.request.path))
    findings = Findings(shards=0 if part.start else 1)
    check = image_check(part, findings, file)
    for number, record in enumerate(records_of(str(file))[part.start : part.stop], start=part.start):
        findings.samples += 1
        try:
            conversation = check_record(f"{file.name}: record {number}", record)
        except BadSampleError as error:
            findings.note("no conversation", Action.SKIP, str(error))
            continue
        try:
            check(conversation)
        except BrokenImageError as error:
            findings.note("broken or oversized image", Action.SKIP, str(error))
        except MissingImageError as error:
            findings.note("missing image", Action.SKIP, str(error))
        except BadSampleError as error:
            findings.note("no answer within the context", Action.SKIP, str(error))
    return findings


def image_check(part: ConversationPart, findings: Findings, file: Path) -> Callable[[Conversation], None]:
    """The check of a well-formed record: its image, and with a tokenizer whether an answer fits the context."""
    request, probe = part.request, ImageProbe(part.request, part.decode, findings)
    if not (request.tokenizer and request.context):
        images = ImageFiles(file.parent)

        def check_image(conversation: Conversation) -> None:
            if conversation.image:
                probe.read(conversation.where, partial(images.read, conversation.where, conversation.image))

        return check_image
    tokenizer = load_tokenizer(request.tokenizer, request.vocabulary or LARGEST_ID, "")
    reader = ConversationReader(file.parent, tokenizer=tokenizer, images=probe, max_length=request.context)

    def check_document(conversation: Conversation) -> None:
        document = reader.document(conversation)
        findings.tokens += len(document.tokens) if document is not None else 0

    return check_document
