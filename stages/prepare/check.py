"""Checks data sets before a job reads them: what it would skip, and what it would refuse."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.data.addresses import list_local_paths
from stages.data.shard_sets import find_remote_shard, iter_folders
from stages.data.shards import (
    MANIFEST,
    UNPACK_TARS,
    LocalFolder,
    ShardFolder,
    list_compressed_tars,
    list_tars,
    read_manifest,
)
from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from stages.files import read_regular
from stages.prepare.check_samples import ConversationPart, check_conversations, check_shard, split_conversations
from stages.prepare.count import raise_for_remote, read_present_counts
from stages.prepare.findings import Action, CheckRequest, Findings, Shard, guess_kind, render_report
from stages.prepare.inputs import LARGEST_ID, resolve_tokenizer_file
from stages.prepare.pool import iter_results, show_progress
from stages.prepare.shards import write_manifest
from stages.prepare.tokenizer_probe import check_tokenizer_speed

Part = Shard | ConversationPart


@dataclass(slots=True)
class DataSetReport:
    """One data set's."""

    request: CheckRequest
    findings: Findings = field(default_factory=Findings)

    def render_json(self) -> dict[str, Any]:
        return render_report(self.request.name, self.request.kind, self.request.path, self.findings)


def check_data_sets(
    requests: Sequence[CheckRequest], *, workers: int, decode: str = "sample", write_manifests: bool = False
) -> list[DataSetReport]:
    """The reports, in the order of the requests. `decode`: which images, `all`, `sample` or `none`.

    `write_manifests`: for a folder of tars that lacks one, if all of its tars are whole.
    """
    reports: list[DataSetReport] = []
    work: list[tuple[int, Part]] = []
    for number, request in enumerate(requests):
        report, parts = inspect_data_set(request, decode)
        reports.append(report)
        work += [(number, part) for part in parts]
    found: dict[int, Findings] = {}
    tasks = list(enumerate(part for _, part in work))
    with show_progress("checking", len(tasks)) as listener:
        for (place, _), findings in iter_results(check_numbered_part, tasks, workers):
            found[place] = findings
            listener.advance(1, findings.tokens)
    for place, (number, _) in enumerate(work):  # in their order, so that the same examples are shown each time
        reports[number].findings.add(found[place])
    if write_manifests:
        for number, report in enumerate(reports):
            write_missing_manifest(report, [(part, found[i]) for i, (n, part) in enumerate(work) if n == number])
    return reports


def check_numbered_part(task: tuple[int, Part]) -> Findings:
    """The findings of one part."""
    part = task[1]
    return check_shard(part) if isinstance(part, Shard) else check_conversations(part)


def inspect_data_set(request: CheckRequest, decode: str) -> tuple[DataSetReport, list[Part]]:
    """What the files as a whole say, and the parts that are to be checked one by one."""
    report = DataSetReport(request)
    if remote := request.path if request.is_remote else find_remote_shard(request.path):
        report.findings.note("not looked at", Action.NOTE, f"{remote}: not a local path; copy it and check that")
        return report, []
    try:
        paths = list_local_paths(request.path)
        if absent := next((path for path in paths if not path.exists()), None):
            raise DataError(f"{absent}: there is no such file or folder")
        report.request = request.model_copy(update={"kind": request.kind or guess_kind(paths[0])})
        return report, list(list_parts(report, decode))
    except DataError as error:
        report.findings.note("not readable", Action.REFUSE, str(error))
        return report, []


def list_parts(report: DataSetReport, decode: str) -> Sequence[Part]:
    """The parts of a data set; none of a kind whose parts are not checked."""
    match report.request.kind:
        case "text" | "captions":
            return list_shards(report, decode)
        case "conversations":
            requests = [
                report.request.model_copy(update={"path": str(path)}) for path in list_local_paths(report.request.path)
            ]
            return [part for request in requests for part in split_conversations(request, decode)]
        case "tokenizer":
            check_tokenizer(report.request)
    return []


def check_tokenizer(request: CheckRequest) -> None:
    """DataError if the tokenizer cannot be read or does not fit the vocabulary."""
    file = resolve_tokenizer_file(Path(request.path))
    check_tokenizer_speed(file)
    TextTokenizer(file, request.vocabulary or LARGEST_ID)


def list_shards(report: DataSetReport, decode: str) -> Sequence[Part]:
    """The tars of all places; DataError for a manifest that is none, or if there are none."""
    folders = list(iter_folders(map(str, list_local_paths(report.request.path)), raise_for_remote))
    return [shard for folder in folders for shard in list_folder_shards(report, folder, decode)]


def list_folder_shards(report: DataSetReport, found: ShardFolder, decode: str) -> Sequence[Part]:
    """The tars that are meant, by their names, by a manifest, or all there are."""
    assert isinstance(found, LocalFolder)  # noqa: S101 - `raise_for_remote` has refused the others
    request, folder = report.request, found.path
    tars = list_tars(folder)
    manifest = folder / MANIFEST
    if found.names:
        known = read_present_counts(found) or {}
        shards = [Shard(request, folder / name, known.get(name), decode) for name in found.names]
    elif not manifest.exists():
        if folder.is_dir() and tars:
            report.findings.note("no manifest", Action.NOTE, f"{folder}: every start reads all headers")
        for name in list_compressed_tars(folder) if folder.is_dir() else ():
            report.findings.note("not read", Action.NOTE, f"{folder / name}: {UNPACK_TARS}")
        shards = [Shard(request, tar, None, decode) for tar in tars]
    else:
        content = read_regular(manifest)
        names, counts = read_manifest(str(manifest), content)
        if content and not content.endswith(b"\n"):
            report.findings.note("manifest without a last newline", Action.NOTE, f"{manifest}: open_lm drops that line")
        for tar in (tar for tar in tars if tar.name not in names):
            report.findings.note("shard not in the manifest", Action.NOTE, f"{tar}: is not used")
        shards = [Shard(request, folder / name, count, decode) for name, count in zip(names, counts, strict=True)]
    if not shards:
        raise DataError(f"{folder}: no shards; a folder of tars, or a tar, is expected")
    return shards


def write_missing_manifest(report: DataSetReport, parts: Sequence[tuple[Part, Findings]]) -> None:
    """Writes a manifest for a folder of whole tars without one; a note says so, or why not."""
    folder = Path(report.request.path)
    shards = [(part.path, findings) for part, findings in parts if isinstance(part, Shard)]
    if not shards or not folder.is_dir() or (folder / MANIFEST).exists():
        return
    if torn := [path for path, findings in shards if "torn tar" in findings.problems]:
        report.findings.note(
            "manifest not written", Action.NOTE, f"{torn[0]}: is not whole; copy it again, or remove it"
        )
        return
    write_manifest(folder, ((path.stem, findings.samples) for path, findings in shards))
    del report.findings.problems["no manifest"]
    report.findings.note("manifest written", Action.NOTE, f"{folder / MANIFEST}: {len(shards)} shards")
