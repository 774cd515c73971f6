"""`sweep data check`: which data to check, with what a sweep's jobs require of them, and the report as text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.counted import format_counted
from jobs.store.paths import Store
from stages.config import STAGES, FinetuneConfig, PretrainConfig
from stages.data.addresses import make_absolute
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import load_catalog
from sweep.errors import UsageError
from sweep.phases import PHASES
from sweep.plan.manifest import Manifest
from sweep.plan.new_plan import make_plan
from sweep.preflight.readings import PlannedReading, list_readings
from sweep.spec.reader import load_sweep
from sweep.text_format import format_columns

SWEEP_FILE_SUFFIXES = {".yaml", ".yml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PathSettings:
    """What the command line says of the data below a path; a sweep file says it by itself. Empty or 0: not given."""

    kind: str = ""
    field: str = ""
    context: int = 0
    """Tokens of a sequence."""
    vocabulary: int = 0
    """Ids of the model."""
    tokenizer: str = ""
    """Absolute path."""


@dataclass(frozen=True, slots=True)
class PathRequests:
    """What is to be checked of one argument of the command."""

    requests: Sequence[dict[str, Any]]
    """For `stages.prepare.check`: a data set each."""
    readings: Sequence[PlannedReading] = ()
    """Of a sweep file: how its jobs read them."""


def build_requests(path: str, store: Path, settings: PathSettings) -> PathRequests:
    """What one argument of the command means. UsageError if `settings` are given for a sweep file."""
    if Path(path).suffix.lower() not in SWEEP_FILE_SUFFIXES:
        absolute = make_absolute(path, Path.cwd())
        return PathRequests([{"name": Path(path).name, "path": absolute, **asdict(settings)}])
    given = [name for name, value in asdict(settings).items() if value]
    if given:
        raise UsageError(
            f"--{given[0]} cannot be given for a sweep file, which sets it for each data set: "
            f"leave it out, or correct {path}"
        )
    manifest = make_plan(Path(path), Store(store)).manifest
    return PathRequests(build_sweep_requests(Path(path), store, manifest), list_readings(manifest))


@dataclass(slots=True)
class DataRequirements:
    """The strictest of what a sweep's jobs require of a data set; 0 and empty: no job requires anything."""

    longest_context: int = 0
    """Tokens that a sequence of text must have."""
    shortest_context: int = 0
    """Tokens within which a conversation must have an answer."""
    vocabulary: int = 0
    tokenizer: str = ""
    encoder: str = ""
    transform: str = ""

    def add_context(self, length: int) -> None:
        self.longest_context = max(self.longest_context, length)
        self.shortest_context = min(self.shortest_context or length, length)

    def add_vocabulary(self, vocabulary: int) -> None:
        self.vocabulary = min(self.vocabulary or vocabulary, vocabulary)


@dataclass(slots=True)
class SweepDataRequirements:
    """Of all data sets of a sweep."""

    by_name: dict[str, DataRequirements] = field(default_factory=dict)
    most_image_tokens: int = 0
    encoder: str = ""
    """That with the most tokens."""
    transform: str = ""
    vocabulary: int = 0

    def find_or_add(self, name: str) -> DataRequirements:
        return self.by_name.setdefault(name, DataRequirements())

    def add_pretrain(self, config: PretrainConfig) -> None:
        self.vocabulary = min(self.vocabulary or config.model.vocabulary, config.model.vocabulary)
        for source in config.sources:
            self.find_or_add(source.name).add_context(config.context)
            self.find_or_add(source.name).add_vocabulary(config.model.vocabulary)
            if source.kind != "text" and config.tokenizer is not None:
                self.find_or_add(source.name).tokenizer = config.tokenizer.name
        if config.tokenizer is not None:
            self.find_or_add(config.tokenizer.name).add_vocabulary(config.model.vocabulary)
        if config.vision is not None:
            tokens = resolve_encoder_spec(config.vision.encoder).image_tokens
            if tokens > self.most_image_tokens:
                self.most_image_tokens, self.encoder = tokens, config.vision.encoder
            self.transform = self.transform or config.vision.transform

    def add_finetune(self, config: FinetuneConfig) -> None:
        use = self.find_or_add(config.conversations.name)
        use.add_context(config.max_length)
        use.tokenizer = config.tokenizer.name


def build_sweep_requests(path: Path, store: Path, manifest: Manifest) -> list[dict[str, Any]]:
    """A request for each data set of a sweep file, which gives that plan. SweepFileError: see `load_sweep`."""
    sweep = load_sweep(path, store=Store(store).root, catalog=load_catalog())
    uses = collect_requirements(manifest)
    requests = []
    for name, data in sweep.data.items():
        use = uses.find_or_add(name)
        is_text = data.kind == "text"
        request = {
            "name": name,
            "path": data.path,
            "kind": data.kind,
            "field": data.field,
            "context": use.longest_context if is_text else use.shortest_context,
            "vocabulary": use.vocabulary or uses.vocabulary,
            "tokenizer": find_local_path(use.tokenizer, sweep.data),
        }
        if data.kind in {"captions", "conversations"} and uses.encoder:
            request |= {"encoder": uses.encoder, "transform": uses.transform}
        requests.append(request)
    return requests


def find_local_path(name: str, data: Mapping[str, Any]) -> str:
    """The path of a tokenizer; empty if it is not there, which the row of the tokenizer itself reports."""
    path = data[name].path if name in data else ""
    return path if path and Path(path).exists() else ""


def collect_requirements(manifest: Manifest) -> SweepDataRequirements:
    """What the jobs of a plan require of their data."""
    uses = SweepDataRequirements()
    for job in manifest.jobs:
        if not PHASES[job.phase].trains:
            continue
        config = STAGES[job.stage].config.model_validate(job.config)
        if isinstance(config, PretrainConfig):
            uses.add_pretrain(config)
        elif isinstance(config, FinetuneConfig):
            uses.add_finetune(config)
    return uses


# The report of `sweep data check` as text.

ACTION_MEANINGS = {
    "refuse": "a job ends with an error",
    "skip": "a job leaves it out, up to its bad_samples_limit",
    "note": "nothing is lost",
}


def format_report_table(reports: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each data set, then its problems by kind, each with what a job does and some examples."""
    rows: list[tuple[str, ...]] = [("data", "kind", "shards", "samples", "tokens", "images", "decoded", "found")]
    rows += [build_report_row(report) for report in reports]
    lines = format_columns(rows, left=2, rules=[1])
    for report in reports:
        for problem in report["problems"]:
            count = f"{problem['count']:,}"
            action = f"{problem['action']}: {ACTION_MEANINGS[problem['action']]}"
            lines += ["", f"{report['name']}: {count} x {problem['kind']} ({action})"]
            lines += [f"  {example}" for example in problem["examples"]]
            more = problem["count"] - len(problem["examples"])
            lines += [f"  and {more:,} more"] if more else []
    return lines


def build_report_row(report: dict[str, Any]) -> tuple[str, ...]:
    """Counts that a kind has not are left empty."""
    counts = [
        f"{report[name]:,}" if report[name] else "-" for name in ("shards", "samples", "tokens", "images", "decoded")
    ]
    return (report["name"], report["kind"] or "?", *counts, format_problem_counts(report))


def format_problem_counts(report: dict[str, Any]) -> str:
    """`nothing`, or how many problems of each sort."""
    totals = dict.fromkeys(ACTION_MEANINGS, 0)
    for problem in report["problems"]:
        totals[problem["action"]] += problem["count"]
    return ", ".join(f"{count:,} {action}" for action, count in totals.items() if count) or "nothing"


def format_verdict(reports: Sequence[dict[str, Any]], readings: Sequence[dict[str, Any]] = ()) -> str:
    """One line. `readings`: of the same data sets, as jobs read them."""
    found = [(report["name"], report["clean"]) for report in reports]
    found += [(reading["name"].rpartition(": ")[2], reading["clean"]) for reading in readings]
    bad = dict.fromkeys(name for name, clean in found if not clean)
    if not bad:
        return f"{format_counted(len(reports), 'data set')}: nothing would be skipped or refused"
    return f"{format_counted(len(reports), 'data set')}: something would be skipped or refused in {', '.join(bad)}"
