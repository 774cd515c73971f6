"""A small sweep file for tests of the planner, and ways to plan it and edited copies of it."""

from pathlib import Path

from jobs.store.paths import Store
from sweep.catalog import load_catalog
from sweep.plan.grid import expand_grid
from sweep.plan.manifest import Manifest
from sweep.plan.planner import build_manifest
from sweep.spec.reader import load_sweep
from sweep.spec.schema import Sweep

ROOT = Path(__file__).parent.parent.parent
MANIFESTS = ROOT / "manifests"

SMALL = """\
name: small
backend: local
data:
  words: {kind: text, path: data/words}
  pictures: {kind: captions, path: data/pictures}
  talks: {kind: conversations, path: data/talks}
  bpe: {kind: tokenizer, path: data/tokenizer.json}
  exams: {kind: tasks, path: data/exams}
models:
  tiny:
    {d_model: 64, layers: 2, heads: 2, vocabulary: 512}
defaults:
  model: tiny
  encoder: patches-16-64
  trunk: {context: 64, batch_sequences: 8, unit_tokens: 51200, peak_lr: 3e-3, warmup_steps: 4}
  pretrain: {context: 64, batch_sequences: 8, unit_tokens: 25600, restart_lr: 2e-3, restart_warmup_steps: 3}
  finetune: {batch_sequences: 8}
  evaluate: {text_tasks: [cloze], vision_tasks: [shapes]}
blocks:
  - axes:
      branch: [0, 50, 100]
      image_share: [0, 0.2]
epochs: [1, 2]
"""
"""A trunk of 100 steps in two segments, six cells of 50 steps, fine-tunes of one and two epochs: 32 jobs."""


def edited(*changes: tuple[str, str], text: str = SMALL) -> str:
    """`text` with each first part replaced by the second; every change must find its place."""
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after)
    return text


def written(folder: Path, text: str = SMALL) -> Path:
    """The text as a sweep file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sweep.yaml"
    path.write_text(text)
    return path


def loaded(folder: Path, text: str = SMALL) -> Sweep:
    return load_sweep(written(folder, text), store=folder / "store", catalog=load_catalog())


def planned(folder: Path, text: str = SMALL) -> Manifest:
    """The text's plan."""
    sweep = loaded(folder, text)
    return build_manifest(sweep, expand_grid(sweep), load_catalog())


def shipped(name: str, store: Path = Path("/store")) -> Manifest:
    """The plan of a sweep file of the project."""
    sweep = load_sweep(MANIFESTS / f"{name}.yaml", store=Store(store).root, catalog=load_catalog())
    return build_manifest(sweep, expand_grid(sweep), load_catalog())


def keys(manifest: Manifest) -> set[str]:
    return {job.key for job in manifest.jobs}
