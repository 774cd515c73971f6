"""What jobs would skip: samples read by the very reader of the job, with its prompt, context, start token and filters.

A reading is one data set as one kind of job reads it. Its reader is opened by the function that opens it in training,
so what is bad here is bad there. Samples are drawn by a seed, or all are read; several processes share them.
"""

import io
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from stages.config import STAGES, EvaluateConfig, FinetuneConfig, PretrainConfig, Task, Vision
from stages.data.conversations import Conversations
from stages.data.sample import AbsentSampleError, BadSampleError, SampleSource
from stages.data.shard_sets import find_remote_shard
from stages.errors import ConfigError, DataError
from stages.evaluation.questions import VisionTask
from stages.evaluation.vision_task import read_vision_task
from stages.job_file import JobFile, Settings, read_config
from stages.prepare.findings import Action, Findings, render_report
from stages.prepare.pool import iter_results, show_progress

PART_SAMPLES = 64
"""Samples that a process reads at once."""
NO_LIMIT = 1 << 60
"""Bad samples are counted to the end here."""


def check_stage(name: str) -> str:
    """ValueError for what is none."""
    if name not in STAGES:
        raise ValueError(f"{name!r} is no stage")
    return name


class Reading(BaseModel):
    """One data set as jobs of one kind read it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """For the report: phase and data set."""
    stage: Annotated[str, AfterValidator(check_stage)]
    kind: str
    data: str
    """Name of the data set."""
    config: dict[str, Any]
    """The stage's configuration, with this data set alone."""
    vocabulary: int = 0
    """Of the model that is fine-tuned or evaluated."""
    vision: dict[str, Any] | None = None
    """How that model sees images."""
    paths: dict[str, str]
    """Where the data set and the tokenizer lie."""

    def build_job(self) -> JobFile:
        """A job that reads, and writes nothing."""
        folder = Path(self.paths[self.data]).parent
        return JobFile(
            key="check", stage=self.stage, config=read_config(folder, self.stage, self.config), parents=(),
            data=self.paths, settings=Settings(bad_samples_limit=NO_LIMIT), run=folder, checkpoints=folder,
            metrics=folder, result=folder, error=folder,
        )  # fmt: skip


def read_readings(given: str) -> list[Reading]:
    """The readings of a JSON list; ConfigError if they are none."""
    try:
        return [Reading.model_validate(each) for each in json.loads(given)]
    except (ValueError, TypeError, ValidationError) as error:
        raise ConfigError(f"not a list of readings: {' '.join(str(error).split())}") from error


# Opening what a job opens.


# Why: docs/decisions.md, D140
def open_source(reading: Reading) -> SampleSource:
    """The reader of a training job. ConfigError, DataError as the job would have them."""
    from stages.training.finetune import open_conversations
    from stages.training.pretrain import open_sources
    from stages.training.setup import load_tokenizer

    job = reading.build_job()
    with redirect_stderr(io.StringIO()):  # a line for each malformed record, which the report counts
        if isinstance(job.config, FinetuneConfig):
            vision = Vision.model_validate(reading.vision) if reading.vision else None
            tokenizer = load_tokenizer(job, job.config.tokenizer, reading.vocabulary, literal=True)
            return open_conversations(job, job.config, vision, tokenizer)
        if not isinstance(job.config, PretrainConfig):
            raise ConfigError(f"{reading.name}: an evaluation has no samples to train on")
        return open_sources(job, job.config, None)[0]


@lru_cache(maxsize=2)
def load_source(reading: str) -> SampleSource:
    """`open_source`, once a process for parts that follow one another."""
    return open_source(Reading.model_validate_json(reading))


@dataclass(frozen=True, slots=True)
class ReadingPart:
    """Some samples of a reading."""

    reading: str
    """As JSON."""
    indices: tuple[int, ...]


def read_part(part: ReadingPart) -> Findings:
    """What the reader makes of the samples."""
    source, findings = load_source(part.reading), Findings()
    for index in part.indices:
        findings.samples += 1
        try:
            document = source.read_document(index, index)
        except AbsentSampleError as error:
            findings.note("missing sample", Action.NOTE, str(error))
        except BadSampleError as error:
            findings.note("bad sample", Action.SKIP, str(error))
        except DataError as error:
            findings.note("unreadable", Action.REFUSE, str(error))
        else:
            if document is not None:
                findings.tokens += len(document.tokens)
                findings.images += document.image_input is not None
                findings.decoded += document.image_input is not None
    return findings


def select_indices(size: int, most: int, seed: int) -> list[int]:
    """All of `size` samples, or `most` of them by chance, in their order; `most` 0: all."""
    if not most or most >= size:
        return list(range(size))
    return sorted(random.Random(seed).sample(range(size), most))


# Evaluations: what an evaluation cannot read ends it.


def read_evaluation(reading: Reading, most: int, seed: int) -> Findings:
    """Tasks as the evaluation reads them: each row's requests, and questions with their images decoded."""
    from stages.data.image_reader import open_image_reader

    job, findings = reading.build_job(), Findings()
    config = job.config
    if not isinstance(config, EvaluateConfig):
        raise ConfigError(f"{reading.name}: not an evaluation")
    folder = job.resolve_data_path(config.tasks)
    for task in config.text_tasks:
        for problem in [] if task.trusted else iter_text_problems(folder, task, findings):
            findings.note("task that does not fit", Action.REFUSE, problem)
    if config.vision_tasks and reading.vision is None:
        findings.note("model without images", Action.REFUSE, f"{reading.name}: it has vision tasks")
        return findings
    for task in config.vision_tasks:
        try:
            found = read_vision_task(folder, task)
        except DataError as error:
            findings.note("task that does not fit", Action.REFUSE, str(error))
            continue
        images = open_image_reader(job, Vision.model_validate(reading.vision))
        read_questions(found, images, findings, select_indices(len(found.questions), most, seed))
    return findings


def iter_text_problems(folder: Path, task: Task, findings: Findings) -> Iterator[str]:
    """Why a text task cannot be scored; its rows are counted."""
    try:
        from stages.evaluation.text_task import read_text_task, render_requests
    except ImportError as error:
        findings.note("not looked at", Action.NOTE, f"task {task.name}: the package {error.name} is not installed")
        return
    try:
        found = read_text_task(folder, task)
        for row in found.rows:
            findings.samples += 1
            render_requests(found.settings, row)
    except DataError as error:
        yield str(error)


def read_questions(task: VisionTask, images: Any, findings: Findings, chosen: Sequence[int]) -> None:
    """Questions with their images decoded."""
    for number in chosen:
        question = task.questions[number]
        findings.samples += 1
        try:
            path = task.resolve_image(question)
            findings.images += 1
            images.read(f"task {task.name!r}, image {question.image!r}", path.read_bytes)
            findings.decoded += 1
        except (BadSampleError, DataError, OSError) as error:
            findings.note("question without its image", Action.REFUSE, str(error))


# All readings.


@dataclass(slots=True)
class ReadingReport:
    """What one reading gave."""

    reading: Reading
    samples: int = 0
    """Of the data set; 0 where it is not known."""
    findings: Findings = field(default_factory=Findings)

    def render_json(self) -> dict[str, Any]:
        """As a data set's report, with `of` samples that there are and `skipped` of those that were read."""
        path = self.reading.paths[self.reading.data]
        skip = [each.count for each in self.findings.problems.values() if each.action is Action.SKIP]
        report = render_report(self.reading.name, self.reading.kind, path, self.findings)
        return {**report, "of": self.samples or self.findings.samples, "skipped": sum(skip)}


def check_readings(readings: Sequence[Reading], *, most: int, seed: int, workers: int) -> list[ReadingReport]:
    """The reports, in the order of the readings. `most`: samples of each that are read; 0: all."""
    reports = [ReadingReport(reading) for reading in readings]
    work: list[tuple[int, ReadingPart]] = []
    for number, report in enumerate(reports):
        try:
            work += [(number, part) for part in begin_reading(report, most, seed)]
        except (ConfigError, DataError) as error:
            report.findings.note("not readable", Action.REFUSE, str(error))
    tasks = list(enumerate(part for _, part in work))
    found: dict[int, Findings] = {}
    with show_progress("reading", len(tasks)) as listener:
        for (place, _), findings in iter_results(read_numbered_part, tasks, workers):
            found[place] = findings
            listener.advance(1, findings.tokens)
    for place, (number, _) in enumerate(work):  # in their order, so that the same examples are shown each time
        reports[number].findings.add(found[place])
    return reports


def read_numbered_part(task: tuple[int, ReadingPart]) -> Findings:
    """The findings of one part."""
    return read_part(task[1])


def begin_reading(report: ReadingReport, most: int, seed: int) -> list[ReadingPart]:
    """Opens the reader once; the parts that are to be read. An evaluation is read at once."""
    reading, findings = report.reading, report.findings
    remote = next((path for path in reading.paths.values() if "://" in path), "")
    if remote := remote or next(filter(None, map(find_remote_shard, reading.paths.values())), ""):
        findings.note("not looked at", Action.NOTE, f"{remote}: not a local path")
        return []
    if reading.stage == "evaluate":
        findings.add(read_evaluation(reading, most, seed))
        return []
    source = open_source(reading)
    report.samples = source.size
    for reason in source.malformed if isinstance(source, Conversations) else ():
        findings.note("no conversation", Action.SKIP, reason)
        report.samples += 1
        findings.samples += 1
    text = reading.model_dump_json()
    chosen = select_indices(source.size, most, seed)
    starts = range(0, len(chosen), PART_SAMPLES)
    return [ReadingPart(text, tuple(chosen[start : start + PART_SAMPLES])) for start in starts]
