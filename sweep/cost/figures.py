"""The figures of data and tasks that estimates go by: each with its value and with how it is known.

In this order: what was counted with the jobs' own functions, what the sweep file states, what the catalog assumes.
A count by characters, where no tokenizer can be asked, is an assumption too and comes behind the sweep file.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from jobs.counted import format_counted
from stages.config import Task
from sweep.catalog import Catalog, DatasetEntry, TaskEntry
from sweep.cost.counts import DataCount, DataCounts, DataUse, TaskCount
from sweep.cost.estimate import Lengths
from sweep.cost.speed import Origin
from sweep.spec.data import DataSet

CONTRADICTION = 0.02
"""What the sweep file states may be so far from the count, as a share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number of an estimate."""

    subject: str
    """What it is of: `data NAME`, `task NAME`, `speed of MODEL on TYPE`..."""
    name: str
    """Which number of it, with its unit."""
    value: float
    origin: Origin
    source: str
    """Where it comes from, in words."""

    def convert_to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFigures:
    """A data set of captions or conversations, as estimates need it."""

    samples: int
    """0: not known, and it does not matter (captions)."""
    images: int
    """Different ones; 0: not known."""
    text_tokens: float
    """In the mean; where `lengths` are there, theirs."""
    lengths: Lengths = ()
    image_share: float = 1.0
    """Of the samples, those that have an image."""


@dataclass(slots=True)
class FigureBook:
    """Hands out figures, and notes which of them each phase of each model rests on."""

    catalog: Catalog
    data: Mapping[str, DataSet]
    counts: DataCounts | None = None
    """None: nothing is counted."""
    used: dict[Figure, set[tuple[str, str]]] = field(default_factory=dict)
    """Every figure that was handed out, with the (model, phase) that it was for."""
    contradictions: dict[str, None] = field(default_factory=dict)
    """What the sweep file states and the count contradicts, a line each."""

    def note_figure(self, figure: Figure, model: str, phase: str) -> None:
        """Says that the estimate of a phase rests on the figure."""
        self.used.setdefault(figure, set()).add((model, phase))

    def find_data(self, name: str, tokenizer: str, model: str, phase: str, *, prompt: str = "pure") -> DataFigures:
        """The figures of data set `name`, for the jobs of a phase; `tokenizer`: the data set of theirs."""
        data = self.data[name]
        count = self.count_data(data, tokenizer, prompt)
        entry = self.catalog.find_dataset(name)
        known = name in self.catalog.datasets
        conversations = data.kind == "conversations"
        samples = self.choose_samples(data, count, entry, wanted=conversations, known=known)
        text = self.choose_text(data, count, entry)
        for figure in (samples, text):
            if figure is not None:
                self.note_figure(figure, model, phase)
        counted = count is not None and text.origin == "counted"
        return DataFigures(
            samples=round(samples.value) if samples else 0,
            images=count.images if count else round(samples.value) if samples else 0,
            text_tokens=text.value,
            lengths=count.lengths if counted and count else (),
            image_share=1 - count.without_image / count.measured if count and count.measured else 1.0,
        )

    def note_text(self, name: str, model: str, phase: str) -> None:
        """Notes what token shards hold: no estimate needs it, as text fills its sequences."""
        data, count = self.data[name], self.count_data(self.data[name], "", "pure")
        if count is not None:
            source = describe_samples(data, count)
            for number, value in (("samples", count.samples), ("tokens", count.tokens)):
                figure = Figure(subject=f"data {name}", name=number, value=value, origin="counted", source=source)
                self.note_figure(figure, model, phase)

    def count_data(self, data: DataSet, tokenizer: str, prompt: str) -> DataCount | None:
        """What was counted of a data set; None where nothing was."""
        if self.counts is None:
            return None
        use = DataUse(
            kind=data.kind, path=data.path, field=data.field, prompt=prompt, tokenizer=self.find_tokenizer(tokenizer)
        )
        count = self.counts.find_count(use)
        return count if count and count.samples else None

    def find_tokenizer(self, name: str) -> str:
        """The local path of a tokenizer's data set; empty where it has none."""
        path = self.data[name].path if name in self.data else ""
        return "" if "://" in path else path

    def choose_samples(
        self, data: DataSet, count: DataCount | None, entry: DatasetEntry, *, wanted: bool, known: bool
    ) -> Figure | None:
        """How many samples there are; None where nothing says it and captions need no more than their length."""
        subject, name = f"data {data.name}", "samples"
        if count is not None:
            self.note_contradiction(data, name, data.examples, count.samples)
            source = describe_samples(data, count)
            return Figure(subject=subject, name=name, value=count.samples, origin="counted", source=source)
        if data.examples:
            return Figure(subject=subject, name=name, value=data.examples, origin="given", source="examples")
        if wanted or (known and entry.samples):
            source = describe_entry(entry)
            return Figure(subject=subject, name=name, value=entry.samples, origin="assumed", source=source)
        return None

    def choose_text(self, data: DataSet, count: DataCount | None, entry: DatasetEntry) -> Figure:
        """Text tokens of a sample in the mean."""
        subject, name = f"data {data.name}", "text tokens a sample"
        measured = count.mean_text_tokens if count else 0.0
        if count is not None and measured and not count.by_characters:
            self.note_contradiction(data, "mean_text_tokens", data.mean_text_tokens, measured)
            source = f"measured with the sweep's tokenizer on {count.measured:,} of {count.samples:,} samples"
            return Figure(subject=subject, name=name, value=measured, origin="counted", source=source)
        if data.mean_text_tokens:
            value = data.mean_text_tokens
            return Figure(subject=subject, name=name, value=value, origin="given", source="mean_text_tokens")
        if count is not None and measured:
            source = f"4 characters a token (C), {count.measured:,} samples: no tokenizer can be asked here"
            return Figure(subject=subject, name=name, value=measured, origin="assumed", source=source)
        value, source = entry.text_tokens, describe_entry(entry)
        return Figure(subject=subject, name=name, value=value, origin="assumed", source=source)

    def note_contradiction(self, data: DataSet, name: str, given: float | None, counted: float) -> None:
        """Remembers a stated figure that is more than a little off."""
        if given and abs(given - counted) > CONTRADICTION * counted:
            self.contradictions[
                f"data {data.name}: the sweep file says {name} {given:g}, and counted are {counted:.6g}: "
                "the count is used; correct the file, or take the line out"
            ] = None

    def find_tasks(
        self,
        tasks: str,
        text_tasks: tuple[Task, ...],
        vision_tasks: tuple[Task, ...],
        *,
        tokenizer: str,
        prompt: str,
        model: str,
    ) -> tuple[TaskEntry, ...]:
        """The tasks of an evaluation, text tasks first; `tasks`: the data set with their files."""
        use = DataUse(
            kind="tasks", path=self.data[tasks].path, prompt=prompt, tokenizer=self.find_tokenizer(tokenizer),
            text_tasks=text_tasks, vision_tasks=vision_tasks,
        )  # fmt: skip
        count = self.counts.find_count(use) if self.counts is not None else None
        found = []
        for task, with_image in [(task, False) for task in text_tasks] + [(task, True) for task in vision_tasks]:
            counted = count.tasks.get(task.name) if count else None
            entry = self.catalog.find_task(task.name, with_image=with_image, limit=task.limit)
            if count is not None and counted is not None and counted.documents:
                found.append(self.build_counted_task(task, entry, count, counted, model))
            else:
                found.append(self.note_assumed_task(task, entry, counted, model))
        return tuple(found)

    def build_counted_task(
        self, task: Task, entry: TaskEntry, count: DataCount, counted: TaskCount, model: str
    ) -> TaskEntry:
        """A task by its own files; its requests' length is assumed where that goes by characters."""
        length = counted.tokens / counted.requests
        figures = [("documents", counted.documents), ("requests", counted.requests)]
        figures += [("images", counted.images)] if entry.with_image else []
        for name, value in figures:
            self.note_task(model, task.name, name, value, origin="counted", source="the task's files")
        by = "4 characters a token (C): no tokenizer can be asked here" if count.by_characters else "the task's files"
        origin: Origin = "assumed" if count.by_characters else "counted"
        self.note_task(model, task.name, "text tokens a request", length, origin=origin, source=by)
        return replace(
            entry,
            documents=counted.documents,
            requests=counted.requests / counted.documents,
            text_tokens=length,
            images=counted.images,
            round_images=counted.round_images,
            new_images=counted.new_images,
        )

    def note_assumed_task(self, task: Task, entry: TaskEntry, counted: TaskCount | None, model: str) -> TaskEntry:
        """The catalog's entry."""
        why = f" Not counted: {counted.problem}" if counted and counted.problem else ""
        source = f"{entry.source}{why}"
        for name, value in (
            ("documents", float(entry.documents)),
            ("requests a document", entry.requests),
            ("text tokens a request", entry.text_tokens),
            *([("images", float(entry.images or entry.documents))] if entry.with_image else []),
        ):
            self.note_task(model, task.name, name, value, origin="assumed", source=source)
        return entry

    def note_task(self, model: str, task: str, name: str, value: float, *, origin: Origin, source: str) -> None:
        """Notes one figure of a task."""
        figure = Figure(subject=f"task {task}", name=name, value=value, origin=origin, source=source)
        self.note_figure(figure, model, "evaluate")


def describe_samples(data: DataSet, count: DataCount) -> str:
    """How the samples of a data set were counted."""
    if data.kind == "conversations":
        return "the records of the file"
    if count.manifest:
        return f"manifest.jsonl, {format_counted(count.shards, 'shard')}"
    if count.opened_shards < count.shards:
        return f"headers of {count.opened_shards} of {count.shards} shards, the others by their bytes"
    return f"headers of {format_counted(count.shards, 'shard')}"


def describe_entry(entry: DatasetEntry) -> str:
    """Where the catalog's figures of a data set come from: a name is no proof that it is that data set."""
    if entry.name == "default":
        return f"nothing is known of it. {entry.source}"
    return f"by its name, as {entry.name} of the catalog. {entry.source}"
