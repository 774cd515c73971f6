"""A world of a few kilobytes in which a sweep with every kind of ending runs in a minute on two cores."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

COLOURS = ("red", "green", "blue", "white", "black", "yellow")
END = "<|endoftext|>"
CONTEXT = 32

SWEEP = """\
name: kept
description: "What every kind of job leaves in a store"
backend: local

data:
  words: {kind: text, path: $STORE/data/words, revision: "1"}
  pictures: {kind: captions, path: $STORE/data/pictures, field: caption, revision: "1", mean_text_tokens: 6}
  talks: {kind: conversations, path: $STORE/data/talks, revision: "1", examples: 12, mean_text_tokens: 16}
  bpe: {kind: tokenizer, path: $STORE/data/tokenizer.json, revision: "1"}
  exams: {kind: tasks, path: $STORE/data/exams, revision: "1"}

engines:
  frail: {kind: command, python: PYTHON, checkout: CHECKOUT, revision: "1", command: [frail.py]}

models:
  tiny: {d_model: 8, layers: 1, heads: 1, vocabulary: 300}

defaults:
  model: tiny
  encoder: patches-16-32
  trunk: {unit_tokens: 5120, context: 32, batch_sequences: 8, peak_lr: 5.0e-3, warmup_steps: 3, precision: fp32}
  pretrain:
    {unit_tokens: 2560, context: 32, batch_sequences: 8, restart_lr: 3.0e-3, restart_warmup_steps: 2, precision: fp32}
  finetune: {peak_lr: 1.0e-3, batch_sequences: 4, max_length: 48, precision: fp32}
  evaluate:
    text_tasks: [cloze, text_loss]
    vision_tasks: [shapes]
    max_new_tokens: 3
    precision: fp32

blocks:
  - name: mixes
    axes: {branch: [0, 50], image_share: [0.5]}
  - name: frail-evaluation          # its first attempt vanishes, its second fails, its third is right
    axes: {branch: [50], image_share: [0.25]}
    set: {evaluate.engine: frail}
  - name: frail-training            # never works
    axes: {branch: [0], image_share: [0.25]}
    set: {pretrain.engine: frail}
"""

LATER = """\
  - name: later                     # added when the others had run
    axes: {branch: [50, 100], image_share: [0], seed: [125]}
"""
EPOCHS = "\nepochs: [1, 2]\n"

FRAIL = '''\
"""An engine that fails: python frail.py REQUEST (docs/add-an-engine.md)."""

import json
import os
import signal
import sys
from pathlib import Path

request = json.loads(Path(sys.argv[1]).read_text())
starts = Path(request["folder"]) / "starts"
number = len(starts.read_text()) + 1 if starts.exists() else 1
starts.write_text("x" * number)
answer = {"format": 1, "key": request["key"]}
if request["stage"] == "evaluate" and number == 1:
    stage = os.getppid()
    supervisor = int(Path(f"/proc/{stage}/stat").read_text().rpartition(")")[2].split()[1])
    for process in (supervisor, stage, os.getpid()):
        os.kill(process, signal.SIGKILL)
elif request["stage"] == "evaluate" and number > 2:
    text = {"kind": "text", "metrics": {"acc": 0.5}, "score": 0.5, "stderr": 0.125, "chance": 0.25, "n": 12}
    loss = {"kind": "loss", "metrics": {"bits_per_byte": 2.5}, "score": 2.5, "n": 6}
    vision = {"kind": "vision", "metrics": {"accuracy": 0.75}, "score": 0.75, "stderr": 0.125, "chance": 0.5, "n": 12}
    answer["scores"] = {"cloze": text, "text_loss": loss, "shapes": vision}
else:
    answer["failure"] = {"class": "data", "message": "shard 3 has no text"}
unfinished = Path(request["folder"]) / "answer.tmp"
unfinished.write_text(json.dumps(answer))
unfinished.replace(request["answer"])
'''


def sweep_text(python: Path, checkout: Path, *, later: bool) -> str:
    """The sweep file, before or after the edit."""
    text = SWEEP.replace("PYTHON", str(python)).replace("CHECKOUT", str(checkout))
    return text + (LATER if later else "") + EPOCHS


def make_world(data: Path, checkout: Path) -> None:
    """All data sets below `data`, and the engine."""
    checkout.mkdir(parents=True)
    (checkout / "frail.py").write_text(FRAIL)
    data.mkdir(parents=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(data / "tokenizer.json"))
    make_words(data / "words", tokenizer)
    make_pictures(data / "pictures")
    make_talks(data / "talks")
    make_exams(data / "exams")


def sentence(number: int) -> str:
    first, second = COLOURS[number % 6], COLOURS[(number * 5 + number // 6 + 1) % 6]
    return f"The {first} square stands {number % 7 + 1} steps from the {second} circle."


def make_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sentence(number) for number in range(42)], trainer)
    return tokenizer


def make_words(folder: Path, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("".join(sentence(number) + END for number in range(1500))).ids
    rows = [ids[start : start + CONTEXT + 1] for start in range(0, len(ids) - CONTEXT, CONTEXT + 1)]
    half = len(rows) // 2
    manifest = ""
    for name, part in (("shard-0", rows[:half]), ("shard-1", rows[half:])):
        members = {f"{n:06d}.json.gz": gzip.compress(json.dumps(row).encode(), mtime=0) for n, row in enumerate(part)}
        write_tar(folder / f"{name}.tar", members)
        manifest += json.dumps({"shard": name, "num_sequences": len(part)}) + "\n"
    (folder / "manifest.jsonl").write_text(manifest)


def make_pictures(folder: Path) -> None:
    members: dict[str, bytes] = {}
    for number in range(48):
        colour = COLOURS[number % 6]
        members[f"{number:05d}.png"] = png(colour)
        members[f"{number:05d}.txt"] = f"a {colour} square".encode()
        members[f"{number:05d}.json"] = json.dumps({"caption": f"The {colour} square."}).encode()
    write_tar(folder / "shard-0.tar", members)
    (folder / "manifest.jsonl").write_text('{"shard": "shard-0", "num_sequences": 48}\n')


def make_talks(folder: Path) -> None:
    examples = []
    for number in range(12):
        colour = COLOURS[number % 6]
        write_png(folder / "images" / f"{colour}.png", colour)
        asked = {"from": "human", "value": "<image>\nWhat colour is it?"}
        said = {"from": "gpt", "value": colour}
        examples.append({"id": str(number), "image": f"images/{colour}.png", "conversations": [asked, said]})
    (folder / "talks.json").write_text(json.dumps(examples))


def make_exams(folder: Path) -> None:
    folder.mkdir()
    cloze = {
        "task": "cloze",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{endings}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 1, "chance": 0.25},
    }
    loss = {
        "task": "text_loss",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
        "metadata": {"version": 1},
    }
    rows = [
        {"context": f"The {COLOURS[n % 6]}", "endings": [" square", " circle", " steps", " zebra"], "gold": n % 2}
        for n in range(12)
    ]
    write_text_task(folder, cloze, rows)
    write_text_task(folder, loss, [{"text": sentence(1000 + number)} for number in range(6)])
    questions = []
    for number in range(12):
        colour = COLOURS[number % 6]
        write_png(folder / "images" / f"{colour}.png", colour)
        asked = {"question": "What colour is it?", "answers": [colour], "kind": "dark" if number % 2 else "light"}
        questions.append({"id": str(number), "image": f"images/{colour}.png", **asked})
    (folder / "shapes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    about = {"format": 1, "questions": "shapes.jsonl", "metric": "exact_match", "prompt": "{question}"}
    chance = {"chance": 0.25, "chance_by_kind": {"dark": 0.25, "light": 0.25}}
    (folder / "shapes.json").write_text(json.dumps({**about, **chance}))


def write_text_task(folder: Path, task: Mapping[str, object], rows: Sequence[Mapping[str, object]]) -> None:
    name = str(task["task"])
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}, "test_split": "test"}
    (folder / f"{name}.yaml").write_text(json.dumps({**task, **data}, indent=1))  # JSON is YAML


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write_png(path: Path, colour: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour))


SLURM_SWEEP = """\
name: kept-slurm
description: "What jobs on a cluster leave in a store"
backend: slurm

data:
  words: {kind: text, path: $STORE/data/words, revision: "1"}
  pictures: {kind: captions, path: $STORE/data/pictures, field: caption, revision: "1", mean_text_tokens: 6}
  talks: {kind: conversations, path: $STORE/data/talks, revision: "1", examples: 12, mean_text_tokens: 16}
  bpe: {kind: tokenizer, path: $STORE/data/tokenizer.json, revision: "1"}
  exams: {kind: tasks, path: $STORE/data/exams, revision: "1"}

models:
  tiny: {d_model: 8, layers: 1, heads: 1, vocabulary: 300}

defaults:
  model: tiny
  encoder: patches-16-32
  trunk: {unit_tokens: 5120, context: 32, batch_sequences: 8, peak_lr: 5.0e-3, warmup_steps: 3, precision: fp32}
  pretrain:
    {unit_tokens: 2560, context: 32, batch_sequences: 8, restart_lr: 3.0e-3, restart_warmup_steps: 2, precision: fp32}
  finetune: {peak_lr: 1.0e-3, batch_sequences: 4, max_length: 48, precision: fp32}
  evaluate: {text_tasks: [cloze], vision_tasks: [shapes], precision: fp32}

blocks:
  - name: seeds
    axes: {branch: [0], image_share: [0.5], seed: [126, 127]}

epochs: [1]

resources: {gpus_per_node: 1, gpu_type: a100, cpus: 1, memory_gib: 0.25, time_minutes: 5}
"""

SLURM_STAGE = '''\
"""Stands in the stages' place: python slurm_stage.py JOB_JSON. Each phase fails once in a way of its own."""

import json
import os
import signal
import sys
import time
from pathlib import Path

path = Path(sys.argv[1])
job = json.loads(path.read_text())
starts = path.parent / "starts"
number = len(starts.read_text()) + 1 if starts.exists() else 1
starts.write_text("x" * number)
print("start", number, flush=True)


def whole(name, content):
    unfinished = path.parent / (name + ".tmp")
    unfinished.write_text(json.dumps(content) + "\\n")
    unfinished.replace(path.parent / name)


if number == 1 and job["stage"] == "pretrain" and job["config"]["seed"] == 127:
    whole(job["paths"]["error"], {"class": "diverged", "message": "the loss of step 7 is nan", "traceback": ""})
    sys.exit(1)
if number == 1 and job["stage"] == "finetune":
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
if number == 1 and job["stage"] == "evaluate":
    time.sleep(120)
time.sleep(1)
result = {"format": 1, "key": job["key"], "stage": job["stage"], "seconds": 1.0, "files": {}}
if job["stage"] == "evaluate":
    text = {"kind": "text", "metrics": {"acc": 0.5}, "score": 0.5, "stderr": 0.125, "chance": 0.25, "n": 12}
    vision = {"kind": "vision", "metrics": {"accuracy": 0.75}, "score": 0.75, "stderr": 0.125, "chance": 0.5, "n": 12}
    result["scores"] = {"cloze": text, "shapes": vision}
else:
    line = {"step": 10, "total_steps": 10, "tokens": 2560, "loss": 2.5, "lr": 0.001, "tokens_per_second": 2560.0}
    whole(job["paths"]["metrics"], {**line, "time": time.time()})
    result |= {"steps": 10, "tokens": 2560, "loss": 2.5, "tokens_per_second": 2560.0}
whole(job["paths"]["result"], {**result, "finished_at": time.time(), "versions": {"python": "3.11.7"}})
'''
