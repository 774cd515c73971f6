"""A study of mixed data, run for real: its plan expects the tokens, images and requests that its results count.

Text and words are Python's own documentation, so that lengths scatter as they do in real data: captions of one to
forty words, conversations of one to three turns, some without an image, questions of which several are about one
image, and a text task of two to five answers.
"""

import io
import json
import random
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from jobs.store.paths import Store
from stages.prepare.shards import write_manifest, write_tar
from sweep.cli import main
from tests.end_to_end.counted import TOLERANCE, compare_counts

SWEEP = """\
name: mixed
backend: local
data:
  docs: {kind: text, path: data/text}
  pictures: {kind: captions, path: data/pictures, field: alt}
  talks: {kind: conversations, path: data/talks, examples: 500}
  bpe: {kind: tokenizer, path: data/tokenizer.json}
  tasks: {kind: tasks, path: data/tasks}
models:
  tiny: {d_model: 64, layers: 1, heads: 2, vocabulary: 1024}
defaults:
  model: tiny
  encoder: efficientnet-lite0
  trunk:
    {unit_tokens: 32000, context: 256, batch_sequences: 4, peak_lr: 1.0e-3, warmup_steps: 5, final_lr: 1.0e-4,
     precision: auto}
  pretrain:
    {unit_tokens: 120000, context: 256, batch_sequences: 4, restart_lr: 1.0e-3, restart_warmup_steps: 5,
     final_lr: 1.0e-4, precision: fp32}
  finetune: {batch_sequences: 8, max_length: 400, prompt: vicuna, precision: fp32}
  evaluate: {text_tasks: [topics], vision_tasks: [{name: hues, limit: 50}], max_new_tokens: 4, precision: fp32}
blocks:
  - axes: {branch: [0, 100], image_share: [0.4], instruction_share: [0, 0.5]}
epochs: [1, 2]
resources: {cpus: 1, memory_gib: 2}
"""

DRAWN = 0.03
"""Of images in a fixed number of tokens. Which of an image's two captions is taken is by chance, so that a cell's
number has a standard error of 0.8 %; and Python's documentation, of which the captions are made, differs from release
to release."""


def pick_words(rng: random.Random, least: int, most: int) -> str:
    words = topics[rng.choice(sorted(topics))].split()
    start = rng.randrange(max(1, len(words) - most))
    return " ".join(words[start : start + rng.randint(least, most)])


def draw_image(rng: random.Random) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (32, 32), tuple(rng.randrange(256) for _ in range(3))).save(content, "PNG")
    return content.getvalue()


def make_data(folder: Path) -> None:
    rng = random.Random(7)
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1_000, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(topics.values(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in topics.values()))
    command = [sys.executable, "-m", "stages.prepare", "text", str(folder / "docs.jsonl"), "--context", "256"]
    command += ["--tokenizer", str(folder / "tokenizer.json"), "--out", str(folder / "text"), "--workers", "1"]
    subprocess.run(command, check=True, capture_output=True)

    (folder / "pictures").mkdir()
    for shard in range(3):
        members: list[tuple[str, bytes]] = []
        for number in range(100):
            caption = {"alt": [pick_words(rng, 1, 40), pick_words(rng, 5, 20)]}
            members += [(f"{number:03d}.png", draw_image(rng)), (f"{number:03d}.json", json.dumps(caption).encode())]
        write_tar(folder / "pictures" / f"{shard}.tar", members)
    write_manifest(folder / "pictures", [(str(shard), 100) for shard in range(3)])

    (folder / "talks").mkdir()
    talks: list[dict[str, Any]] = []
    for number in range(90):
        name = f"{number % 60}.png"  # some images are talked of twice
        (folder / "talks" / name).write_bytes(draw_image(random.Random(number % 60)))
        turns = [
            {"from": side, "value": pick_words(rng, 3, 15)}
            for _ in range(rng.randint(1, 3))
            for side in ("human", "gpt")
        ]
        talks.append({"id": str(number), "conversations": turns} | ({"image": name} if number % 9 else {}))
    (folder / "talks" / "talks.json").write_text(json.dumps(talks))

    tasks = folder / "tasks"
    tasks.mkdir()
    rows = [{"query": pick_words(rng, 5, 30), "choices": [pick_words(rng, 1, 6) for _ in range(rng.randint(2, 5))]} for _ in range(40)]  # fmt: skip # noqa: E501
    (tasks / "topics.jsonl").write_text("".join(json.dumps(row | {"gold": 0}) + "\n" for row in rows))
    (tasks / "topics.yaml").write_text(
        "task: topics\ndataset_path: json\ndataset_kwargs: {data_files: {test: topics.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: 'Q: {{query}} A:'\ndoc_to_choice: choices\ndoc_to_target: gold\n"
        "metric_list: [{metric: acc}]\n"
    )
    asked = []
    for number in range(60):
        name = f"q{number // 3}.png"
        (tasks / name).write_bytes(draw_image(random.Random(number // 3)))
        asked.append({"id": str(number), "image": name, "question": pick_words(rng, 3, 12), "answers": ["red"]})
    (tasks / "hues.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    about = {"format": 1, "questions": "hues.jsonl", "metric": "exact_match", "prompt": "{question}", "chance": 0.1}
    (tasks / "hues.json").write_text(json.dumps(about))


def test_a_mixed_study_takes_the_tokens_images_and_requests_that_its_plan_expects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    make_data(tmp_path / "data")
    file, store = tmp_path / "mixed.yaml", Store(tmp_path / "store")
    file.write_text(SWEEP)
    assert main(["plan", str(file), "--store", str(store.root)]) == 0
    report, remarks = capsys.readouterr()
    assert "data talks: the sweep file says samples 500, and counted are 90" in remarks
    assert "precision auto is " in remarks
    for name in ("data docs", "data pictures", "data talks", "task topics", "task hues"):
        assert name in report.partition("counted")[2].partition("\n\n")[0]
    assert len(list(store.counts.iterdir())) == 5
    assert main(["submit", "mixed", "--store", str(store.root), "--cpus", "2"]) == 0
    found = compare_counts(store, "mixed")
    assert {(each.phase, each.name) for each in found} == {
        ("trunk", "tokens"), ("pretrain", "tokens"), ("pretrain", "images"), ("finetune", "tokens"),
        ("finetune", "images"), ("evaluate", "requests"), ("evaluate", "tokens"), ("evaluate", "images"),
    }  # fmt: skip
    assert {each for each in found if each.error > (DRAWN if each.name == "images" else TOLERANCE)} == set()
