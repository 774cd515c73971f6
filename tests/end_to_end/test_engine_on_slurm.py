"""Another program in the stages' place, through a real cluster: the same checkpoints and tables as on one machine."""

import json
import sys
from pathlib import Path

import pytest

from jobs.store.paths import Store
from stages.checkpoint.files import read_checkpoint
from sweep.plan.manifest import read_manifest
from tests.end_to_end.campaign import differences, prepare
from tests.end_to_end.test_stages_on_slurm import is_accounted, table, told
from tests.slurm_lab import Lab
from tests.slurm_lab.fakes import FOLDER
from tests.slurm_lab.processes import wait_for
from tests.stages.training.training_case import write_conversations, write_text, write_tokenizer

PROGRAM = FOLDER / "engine_trunk.py"
QUIETLY = ("--json", "--no-results")
BATCH = "context: 32, batch_sequences: 4, precision: fp32"
SWEEP = f"""\
name: small
backend: local
data:
  text: {{kind: text, path: $STORE/data/text, revision: "1"}}
  questions: {{kind: conversations, path: $STORE/data/conversations, revision: "1", examples: 10, mean_text_tokens: 20}}
  tokenizer: {{kind: tokenizer, path: $STORE/data/tokenizer.json, revision: "1"}}
  tasks: {{kind: tasks, path: $STORE/data/text, revision: "1"}}
models:
  tiny: {{d_model: 32, layers: 2, heads: 2, vocabulary: 300}}
engines:
  mine: {{kind: command, python: {sys.executable}, checkout: {PROGRAM.parent}, command: [{PROGRAM.name}]}}
defaults:
  encoder: patches-16-64
  trunk: {{engine: mine, unit_tokens: 1280, {BATCH}, peak_lr: 1.0e-3, warmup_steps: 2}}
  pretrain: {{engine: mine, unit_tokens: 640, {BATCH}, restart_lr: 1.0e-3, restart_warmup_steps: 1}}
  finetune: {{engine: mine, batch_sequences: 4, max_length: 32, precision: fp32}}
  evaluate: {{engine: mine, text_tasks: [cloze], vision_tasks: [], precision: fp32}}
blocks:
  - axes: {{model: [tiny], branch: [50, 100], image_share: [0]}}
epochs: [1]
"""


@pytest.mark.slow
@pytest.mark.timeout(2_500)
def test_a_trunk_in_two_segments_by_another_program_is_the_same_through_slurm(
    slurm: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SWEEP_SLURM_PATIENCE", "call=20 submit=20 doubt=8 absent=4 look_again=1 cache=0 pace=0")
    data, file, here, there = tmp_path / "data", tmp_path / "small.yaml", tmp_path / "here", tmp_path / "there"
    write_text(data / "text", shards=1, sequences=100)
    write_tokenizer(data / "tokenizer.json")
    write_conversations(data / "conversations", 10)
    file.write_text(SWEEP)
    for store in (here, there):
        prepare(file, store, data)
    assert told("submit", there, "--backend", "slurm").code == 0
    assert told("submit", here).code == 0
    wait_for("the end of the sweep", lambda: told("tick", there, *QUIETLY).json["complete"], seconds=200, every=1)
    told("results", here, "--no-figures")
    wait_for("Slurm's accounting of every job", lambda: is_accounted(there), seconds=60, every=1)
    assert differences(here, there, "small") == []
    assert table(there) == table(here)
    assert segments(there) == [(0, 5), (5, 10)]


def segments(store: Path) -> list[tuple[int, int]]:
    """First and last step of the trunk's jobs, by their whole checkpoints."""
    found = []
    for job in read_manifest(Store(store).locate_sweep("small").manifest).jobs:
        if job.phase == "trunk":
            run = Store(store).locate_run(job.stage, job.key)
            checkpoint = read_checkpoint(run.root / json.loads(run.result.read_text())["checkpoint"])
            assert checkpoint is not None
            found.append((int(checkpoint.state["first_step"]), checkpoint.step))
    return sorted(found)
