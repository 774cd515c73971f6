"""A small demo data set, for tests; the real preparation with less of everything."""

from pathlib import Path

from stages.demo.prepare import DemoSize, prepare_demo

SMALL = DemoSize(captioned_images=120, conversation_images=60, question_images=30, packages=())


def make_small_demo(folder: Path, seed: int = 0) -> Path:
    prepare_demo(folder, seed, lambda _: None, SMALL)
    return folder
