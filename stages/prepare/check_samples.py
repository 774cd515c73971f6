"""Checks one tar of token sequences or of captioned images, with the functions by which the stages read it."""

from collections.abc import Callable

from stages.data.captions import captions, image_reader
from stages.data.sample import BadSampleError
from stages.data.shards import OpenShard, TarSample
from stages.data.text import check_ids, check_length, token_ids
from stages.errors import DataError
from stages.prepare.check_request import Shard
from stages.prepare.encoding import load_tokenizer
from stages.prepare.findings import Action, Findings
from stages.prepare.image_probe import BrokenImageError, ImageProbe
from stages.prepare.member_names import odd_members
from stages.prepare.tokenizer_file import LARGEST_ID

ANY_ID = (1 << 63) - 1
"""A vocabulary to which every id belongs."""


def check_shard(shard: Shard) -> Findings:
    """What a stage would make of the shard."""
    findings = Findings(shards=1)
    if not shard.path.exists():
        findings.note("missing shard", Action.REFUSE, f"{shard.path}: there is no such file")
        return findings
    try:
        opened = OpenShard(shard.path)
    except DataError as error:
        findings.note("torn tar", Action.REFUSE, str(error))
        return findings
    try:
        check_count(findings, shard, len(opened.index))
        for kind, name in odd_members(shard.path):
            findings.note(kind, Action.NOTE, f"{shard.path.name}: {name}: is not followed, unpacked or run")
        check_samples(findings, shard, opened)
    finally:
        opened.close()
    return findings


def check_count(findings: Findings, shard: Shard, count: int) -> None:
    """The manifest's count against the tar's: a job passes over what is not there and never meets what is too much."""
    said = f"{shard.path.name}: {count} samples; the manifest says {shard.expected}"
    if shard.expected is not None and not count:
        findings.note("empty shard", Action.REFUSE, said)
    elif shard.expected not in {None, count}:
        findings.note("wrong count", Action.NOTE, said)


def check_samples(findings: Findings, shard: Shard, opened: OpenShard) -> None:
    """Every sample of a whole tar."""
    check = text_check(findings, shard) if shard.request.kind == "text" else captions_check(findings, shard)
    for number in range(len(opened.index)):
        findings.samples += 1
        try:
            if number in opened.index.repeated:
                findings.note("duplicate key", Action.SKIP, f"{shard.path.name}: {opened.index.keys[number]}")
            else:
                check(opened.sample(number))
        except BadSampleError as error:
            findings.note("unreadable member", Action.SKIP, str(error))
        except DataError as error:
            findings.note("torn tar", Action.REFUSE, str(error))


Check = Callable[[TarSample], None]


def text_check(findings: Findings, shard: Shard) -> Check:
    """The check of a sample of token ids. All ids of a longer one count, as any window of it may be taken."""
    context, vocabulary = shard.request.context or 1, shard.request.vocabulary or ANY_ID

    def check(sample: TarSample) -> None:
        try:
            tokens = token_ids(sample)
        except BadSampleError as error:
            findings.note("no list of token ids", Action.SKIP, str(error))
            return
        findings.tokens += len(tokens)
        findings.shortest = len(tokens) if findings.shortest is None else min(findings.shortest, len(tokens))
        try:
            check_length(sample.where, tokens, context)
        except BadSampleError as error:
            findings.note("too short", Action.SKIP, str(error))
            return
        try:
            check_ids(sample.where, tokens, vocabulary)
        except BadSampleError as error:
            findings.note("token id outside the vocabulary", Action.SKIP, str(error))

    return check


def captions_check(findings: Findings, shard: Shard) -> Check:
    """The check of a captioned image."""
    request = shard.request
    fields = [part.strip() for part in request.field.split(",") if part.strip()] or ["txt"]
    probe = ImageProbe(request, shard.decode, findings)
    tokenizer = load_tokenizer(request.tokenizer, request.vocabulary or LARGEST_ID, "") if request.tokenizer else None

    def check(sample: TarSample) -> None:
        try:
            read_image = image_reader(sample)
        except BadSampleError as error:
            findings.note("missing image", Action.SKIP, str(error))
            return
        try:
            found = captions(sample, fields)
        except BadSampleError as error:
            findings.note(caption_problem(sample, fields), Action.SKIP, str(error))
            return
        if tokenizer is not None:
            findings.tokens += len(tokenizer.encode(found[0][0])) + 1
        try:
            probe.read(sample.where, read_image)
        except BrokenImageError as error:
            findings.note("broken or oversized image", Action.SKIP, str(error))

    return check


def caption_problem(sample: TarSample, fields: list[str]) -> str:
    """Why there is no caption: the file that would hold it is missing, or it holds none."""
    if fields == ["txt"]:
        return "empty caption" if "txt" in sample.extensions else "missing txt"
    has_json = any(name == "json" or name.endswith(".json") for name in sample.extensions)
    return "empty or missing caption" if has_json else "missing json"
