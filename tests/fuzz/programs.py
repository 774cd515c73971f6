"""The programs by name; each is loaded when it is asked for, as some need torch."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from tests.fuzz.campaign import Program

PROGRAMS = {
    "archives": "archives:Archives",
    "stored": "stored:StoredFiles",
    "sweep-files": "sweep_files:SweepFiles",
    "tokenizers": "tokenizer_files:TokenizerFiles",
    "tasks": "task_files:TaskFiles",
    "safetensors": "tensor_files:TensorFiles",
}
"""Module and class."""


def load_program(name: str, folder: Path) -> Program:
    """`folder`: where the valid inputs are made that the cases start from."""
    module, _, kind = PROGRAMS[name].partition(":")
    build: Callable[[Path], Program] = getattr(import_module(f"tests.fuzz.{module}"), kind)
    place = folder / "valid"
    place.mkdir(parents=True)
    return build(place)
