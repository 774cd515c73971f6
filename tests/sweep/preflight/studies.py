"""A small sound study with real data, and edited copies of it."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweep.cli import main
from tests.stages.data.tokenizer_kinds import byte_level
from tests.stages.prepare.text_inputs import lines_of
from tests.stages.training.training_case import COLOURS, png, write_captions, write_conversations, write_text

TEXT = """\
name: {name}
backend: local
data:
  words: {{kind: text, path: {data}/words}}
  pictures: {{kind: captions, path: {data}/pictures}}
  talks: {{kind: conversations, path: {data}/talks}}
  bpe: {{kind: tokenizer, path: {data}/tokenizer.json}}
  exams: {{kind: tasks, path: {data}/exams}}
models:
  tiny: {{d_model: 64, layers: 2, heads: 2, vocabulary: 512}}
defaults:
  model: tiny
  encoder: patches-16-64
  trunk: {{context: 64, batch_sequences: 8, unit_tokens: 5120, peak_lr: 3e-3, warmup_steps: 4}}
  pretrain: {{context: 64, batch_sequences: 8, unit_tokens: 5120, restart_lr: 2e-3, restart_warmup_steps: 3}}
  finetune: {{batch_sequences: 8, max_length: 128}}
  evaluate: {{text_tasks: [sums], vision_tasks: [hues]}}
blocks:
  - axes: {{branch: [0, 50], image_share: [0.5]}}
epochs: [1]
"""
"""A trunk's segment, two image-text runs, their fine-tunes and evaluations: seven jobs."""

SUMS = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: 'Q: {{question}} ='
doc_to_choice: answers
doc_to_target: gold
metric_list: [{metric: acc}]
"""


def write_exams(folder: Path) -> Path:
    """One text task and one about images."""
    (folder / "images").mkdir(parents=True)
    rows = [{"question": f"{number} + 1", "answers": [f"{number + 1}", "none"], "gold": 0} for number in range(4)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(SUMS)
    about = {"format": 1, "questions": "hues.jsonl", "metric": "exact_match", "prompt": "{question}", "chance": 0.2}
    (folder / "hues.json").write_text(json.dumps(about))
    questions = [
        {"id": colour, "image": f"images/{colour}.png", "question": "What colour is it?", "answers": [colour]}
        for colour in COLOURS
    ]
    (folder / "hues.jsonl").write_text("".join(json.dumps(each) + "\n" for each in questions))
    for colour in COLOURS:
        (folder / "images" / f"{colour}.png").write_bytes(png(colour))
    return folder


def write_data(folder: Path) -> None:
    """All that the study reads, and text that `sweep data text` has made for contexts of 32 and 64."""
    write_text(folder / "words", shards=2, sequences=20, length=65)
    write_captions(folder / "pictures", 12)
    write_conversations(folder / "talks", 8)
    byte_level(folder / "tokenizer.json")
    write_exams(folder / "exams")
    documents = folder / "documents.jsonl"
    documents.write_bytes(lines_of([f"Document {number} is about a red square." for number in range(40)]))
    for context in (32, 64):
        words = [str(documents), "--tokenizer", f"{folder}/tokenizer.json", "--out", f"{folder}/made-{context}"]
        assert main(["data", "text", *words, "--context", str(context), "--workers", "1"]) == 0


@dataclass
class Study:
    """The sound study's file, and a folder for what is to be otherwise."""

    data: Path
    """Of the sound study; shared, so only to be read."""
    store: Path
    folder: Path
    """Its own."""
    name: str
    text: str = field(init=False)

    def __post_init__(self) -> None:
        self.text = TEXT.format(name=self.name, data=self.data)

    def edit(self, *changes: tuple[str, str]) -> None:
        """Each first part by the second; every change must find its place."""
        for before, after in changes:
            assert before in self.text, before
            self.text = self.text.replace(before, after)

    def move(self, name: str, path: Path) -> Path:
        """Lets the sweep file name another path in the place of `data`/`name`."""
        self.edit((f"{self.data}/{name}", str(path)))
        return path

    def copy(self, name: str) -> Path:
        """A copy of `data`/`name` of its own."""
        path = self.move(name, self.folder / name)
        if (self.data / name).is_dir():
            shutil.copytree(self.data / name, path)
        else:
            shutil.copyfile(self.data / name, path)
        return path

    @property
    def file(self) -> Path:
        return self.folder / "study.yaml"

    def run(self, command: str, *words: str) -> int:
        return main([command, *words, "--store", str(self.store)])

    def plan(self, *words: str) -> int:
        self.file.write_text(self.text)
        return self.run("plan", str(self.file), *words)

    def submit(self, *words: str) -> int:
        return self.run("submit", self.name, *words)


def rewrite(path: Path, change: Any) -> None:
    """A JSON file by what `change` makes of its content."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
