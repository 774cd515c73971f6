"""Sweep files, changed, given to `sweep plan`: planned, or refused in lines that name file and line."""

import random
import re
from pathlib import Path

from tests.fuzz.campaign import Outcome, Verdict, ViolationError
from tests.fuzz.in_process import run_sweep
from tests.fuzz.yaml_changes import change_yaml
from tests.sweep.small_sweep import MANIFESTS, SMALL

SHIPPED = ("demo", "captions", "seeds", "7b-pair", "encoders", "frozen", "shares", "paper")
WIDE = """\
name: wide
description: a file with all sections
backend: slurm
data:
  words: {kind: text, path: data/words, revision: "1"}
  pictures: {kind: captions, path: "s3://bucket/pictures", field: "txt,caption", mean_text_tokens: 12.5, examples: 1000}
  talks: {kind: conversations, path: data/talks, examples: 100}
  bpe: {kind: tokenizer, path: data/tokenizer.json}
  exams: {kind: tasks, path: data/exams}
models:
  tiny: {d_model: 64, layers: 2, heads: 2, vocabulary: 512}
  other: {like: tiny, layers: 4}
  third: {like: other, d_model: 128}
engines:
  frail: {kind: command, python: /usr/bin/python3, environment: {A: "1"}}
defaults:
  model: tiny
  encoder: patches-16-64
  trunk: {context: 64, batch_sequences: 8, unit_tokens: 51200, peak_lr: 3e-3, warmup_steps: 4}
  pretrain: {context: 64, batch_sequences: 8, unit_tokens: 25600, restart_lr: 2e-3, restart_warmup_steps: 3}
  finetune: {batch_sequences: 8}
  evaluate: {text_tasks: [cloze, {name: other, limit: 20}], vision_tasks: [shapes], max_new_tokens: 4}
blocks:
  - name: first
    axes: {branch: [0, 50, 100], image_share: [0, 0.2], seed: [0, 1]}
    set: {captions: pictures}
    epochs: [1]
  - axes: {model: [tiny, other], branch: [25], image_share: [0.1]}
    set: {pretrain.context: 32}
exclude:
  - {branch: [50], image_share: [0.2]}
epochs: [1, 2]
checkpoints: {steps: 100}
resources:
  cpus: 4
  limit_minutes: 60
  gpus_per_node: 2
  gpu_type: h100
  memory_gib: 32
  partition: main
  account: us
  constraint: "ib&fast"
  options: {licenses: matlab}
  setup: ["module load python"]
  models: {other: {cpus: 2, tokens_per_second: 1000.0, phases: {trunk: {nodes: 2, time_minutes: 30}}}}
  phases: {evaluate: {gpus_per_node: 1}}
settings: {feature_cache: true, phases: {finetune: {feature_cache: false}}}
"""
PLACED = re.compile(r"\S.*:\d+: |\.\.\. and \d+ more$")
"""A line of an error that names file and line."""
WITHOUT_LINE = re.compile(
    r"sweep plan: .*(is empty|cannot be read|is larger than|cannot hold|is not YAML: |control characters)"
)


class SweepFiles:
    """See `tests.fuzz.campaign.Program`."""

    name = "sweep-files"

    def __init__(self, folder: Path) -> None:
        self._sound = {name: (MANIFESTS / f"{name}.yaml").read_bytes() for name in SHIPPED}
        self._sound |= {"small": SMALL.encode(), "wide": WIDE.encode()}
        for name, content in self._sound.items():
            (folder / f"{name}.yaml").write_bytes(content)
            said = run_sweep(folder, ["plan", f"{name}.yaml", "--store", folder / "store"])
            if said.code:
                raise ViolationError(f"{name} is refused: {said.err}")

    def run_case(self, dice: random.Random, folder: Path) -> Verdict:
        name = dice.choice(("small", "small", "wide", "wide", "wide", "demo", *self._sound))
        path = folder / "sweep.yaml"
        path.write_bytes(change_yaml(dice, self._sound[name]))
        said = run_sweep(folder, ["plan", "sweep.yaml", "--store", "store"])
        if said.code == 0:
            return Verdict(Outcome.PASSED, name)
        first, *others = said.err.removesuffix("\n").split("\n")
        odd = [line for line in others if not PLACED.match(line) and not line.startswith("counting")]
        if not PLACED.match(first.removeprefix("sweep plan: ")) and not WITHOUT_LINE.match(first):
            odd.insert(0, first)
        if odd:
            raise ViolationError(f"names no line: {odd[0][:200]}")
        return Verdict(Outcome.REFUSED, name)
