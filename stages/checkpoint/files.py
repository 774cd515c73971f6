"""Checkpoints: a folder per step, usable only while its own record of sizes and sha256 holds (docs/formats.md)."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stages.config import LanguageModel, Tokenizer, Vision
from stages.errors import ConfigError, DamagedInputError
from stages.files import check_fence, convert_storage_errors, flush_to_disk, keep_usual_mode, make_folder, write_json
from stages.tensor_files import TensorFileError, load_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.vlm import VLM


MODEL, OPTIMIZER, STATE, RECORD = "model.safetensors", "optimizer.safetensors", "state.json", "record.json"
STEP_FOLDER = re.compile(r"step-(\d{8,})")


def render_checkpoint_name(step: int) -> str:
    """The folder of a step's checkpoint."""
    return f"step-{step:08d}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose record held when it was read."""

    path: Path
    state: Mapping[str, Any]
    """state.json: step, data position, RNG state, model, vision and tokenizer configuration."""
    key: str = ""
    """Of the finished job that it belongs to, where it was read as such: named if its tensors turn out damaged."""

    @property
    def step(self) -> int:
        return int(self.state["step"])

    def read_weights(self) -> "dict[str, Tensor]":
        """The model's tensors; DamagedInputError if the file, which is as it was written, is none."""
        return self._read_tensors(MODEL)

    @property
    def has_moments(self) -> bool:
        return (self.path / OPTIMIZER).exists()

    def read_moments(self) -> "dict[str, Tensor]":
        """The optimizer's tensors, likewise; empty for a checkpoint without them."""
        return self._read_tensors(OPTIMIZER) if self.has_moments else {}

    def _read_tensors(self, name: str) -> "dict[str, Tensor]":
        try:
            return load_tensors(self.path / name)
        except TensorFileError as error:
            raise DamagedInputError(str(error), damaged_key=self.key) from error


def save_checkpoint(
    folder: Path, state: Mapping[str, Any], weights: "Mapping[str, Tensor]", moments: "Mapping[str, Tensor] | None"
) -> Path:
    """Writes `folder`/step-N for `state["step"]` and returns it.

    StorageError if it does not fit; FencedError if another incarnation of the job has taken over.
    The checkpoint appears whole: written under a hidden name, flushed, renamed. A torn one of that step is replaced.
    """
    final = folder / render_checkpoint_name(state["step"])
    unfinished = folder / f".{final.name}.{os.getpid()}.tmp"
    with convert_storage_errors(final):
        try:
            if not folder.exists():
                make_folder(folder)
            unfinished.mkdir()
            write_tensors(unfinished / MODEL, weights)
            if moments is not None:
                write_tensors(unfinished / OPTIMIZER, moments)
            write_json(unfinished / STATE, state)
            write_json(unfinished / RECORD, {"files": compute_file_digests(unfinished)})
            flush_to_disk(unfinished)
            check_fence()
            remove_checkpoint(final)
            unfinished.rename(final)
            flush_to_disk(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return final


def write_tensors(path: Path, tensors: "Mapping[str, Tensor]") -> None:
    """A safetensors file, flushed to disk."""
    from safetensors.torch import save_file

    with keep_usual_mode(path):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    flush_to_disk(path)


def compute_file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of each file of a folder."""
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": compute_sha256(path)}
        for path in sorted(folder.iterdir())
        if path.name != RECORD
    }


def compute_sha256(path: Path) -> str:
    """Of a file's content, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_checkpoint(path: Path, *, may_lack: Collection[str] = ()) -> Checkpoint | None:
    """The checkpoint if its record holds (every file there, sizes and sha256 right), else None.

    `may_lack`: names of files that need not be there.
    """
    try:
        record = json.loads((path / RECORD).read_bytes())["files"]
        if {MODEL, STATE} - record.keys():
            return None
        for name, expected in record.items():
            file = path / Path(name).name
            if name in may_lack and not file.exists():
                continue
            if file.stat().st_size != expected["bytes"] or compute_sha256(file) != expected["sha256"]:
                return None
        return Checkpoint(path, json.loads((path / STATE).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def list_step_folders(folder: Path) -> list[Path]:
    """Folders named as checkpoints, the newest first, valid or not."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name)]
    return sorted(named, key=lambda path: int(path.name[5:]), reverse=True)


def read_unverified_checkpoint(path: Path) -> Checkpoint | None:
    """A checkpoint whose record another process checks; None if not even its state can be read."""
    try:
        return Checkpoint(path, json.loads((path / STATE).read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def read_step_checkpoint(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step that another process found whole; DamagedInputError if this one cannot read it."""
    path = folder / render_checkpoint_name(step)
    if (found := read_unverified_checkpoint(path)) is None:
        raise DamagedInputError(f"{path}: one process found this checkpoint, another cannot read its {STATE}")
    return found


def find_newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint whose record holds; torn ones are skipped."""
    return next((found for path in list_step_folders(folder) if (found := read_checkpoint(path))), None)


def remove_old_checkpoints(folder: Path, *, keep: int, always: Collection[int] = ()) -> None:
    """Keeps the `keep` newest checkpoints, and those of the steps in `always`.

    The others are removed, with leftovers of writers that were killed.
    """
    for path in list_step_folders(folder)[keep:]:
        if int(path.name[5:]) not in always:
            remove_checkpoint(path)
    for leftover in folder.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def remove_checkpoint(path: Path) -> None:
    """Takes a checkpoint's name away before its files: a kill leaves it whole, or a leftover that goes later."""
    doomed = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    with suppress(FileNotFoundError):
        path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def read_result_checkpoint(run: Path, key: str = "", *, verify: bool = True) -> Checkpoint:
    """The checkpoint that a finished run's result.json names; DamagedInputError (with `key`) if it does not hold.

    Without `verify` its record is not checked: for a process beside one that does.
    """
    try:
        name = json.loads((run / "result.json").read_bytes())["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedInputError(f"{run}: no readable result.json that names a checkpoint", damaged_key=key) from error
    found, path = None, run / str(name)
    with suppress(ValueError, RuntimeError):  # no file name: a zero byte, half a character, links in a circle
        path = path.resolve()
        if path.is_relative_to(run.resolve()):
            may_lack = {OPTIMIZER} if is_optimizer_set_aside(run, path) else ()
            found = read_checkpoint(path, may_lack=may_lack) if verify else read_unverified_checkpoint(path)
    if found is None:
        raise DamagedInputError(f"{path}: the checkpoint does not match its own record", damaged_key=key)
    return replace(found, key=key)


SET_ASIDE = "set-aside.json"
"""In a run's folder: what `sweep gc` took out of it (docs/formats.md)."""


def is_optimizer_set_aside(run: Path, checkpoint: Path) -> bool:
    """Whether the run says that the optimizer's state of its checkpoint was taken away once it was done."""
    try:
        paths = json.loads((run / SET_ASIDE).read_bytes())["paths"]
        return f"{checkpoint.relative_to(run.resolve()).as_posix()}/{OPTIMIZER}" in paths
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def check_has_moments(checkpoint: Checkpoint) -> None:
    """Of a parent's checkpoint that an optimizer is to go on from. ConfigError if it was written without its state;
    DamagedInputError if that was taken away later: then the parent has to run again."""
    if checkpoint.has_moments:
        return
    try:
        had_them = OPTIMIZER in json.loads((checkpoint.path / RECORD).read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        had_them = False
    if had_them:
        message = f"{checkpoint.path}: the optimizer's state was taken away (sweep gc)"
        raise DamagedInputError(message, damaged_key=checkpoint.key)
    raise ConfigError(f"parent {checkpoint.key} has no optimizer state to carry on; use optimizer_state: fresh")


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained model and what else is needed to use it."""

    vlm: "VLM"
    """On the CPU, in float32, in evaluation mode."""
    tokenizer: Tokenizer | None
    """The tokenizer it was trained with, where one was needed."""
    checkpoint: Checkpoint


def load_model(run: Path, key: str = "") -> LoadedModel:
    """The model of a finished run's folder. DamagedInputError (with `key`) if its checkpoint does not hold."""
    return build_model(read_result_checkpoint(run, key), key)


def build_model(checkpoint: Checkpoint, key: str = "") -> LoadedModel:
    """The model that a checkpoint holds, with no other file needed."""
    from stages.models.vlm import VLM
    from stages.vision.encoders import build_encoder_module

    state = checkpoint.state
    try:
        vision = Vision.model_validate(state["vision"]) if state["vision"] else None
        tokenizer = Tokenizer.model_validate(state["tokenizer"]) if state.get("tokenizer") else None
        encoder = build_encoder_module(vision) if vision else None
        vlm = VLM(LanguageModel.model_validate(state["model"]), vision, encoder)
        vlm.load_weights(checkpoint.read_weights())
    except (KeyError, ValueError) as error:
        message = f"{checkpoint.path}: not a model of this version: {' '.join(str(error).split())}"
        raise DamagedInputError(message, damaged_key=key) from error
    return LoadedModel(vlm.eval(), tokenizer, checkpoint)


# Checkpoints written beside the training: one thread, from copies in the CPU's memory.


# Why: docs/decisions.md, D21
class CheckpointWriter:
    """Writes one checkpoint at a time and removes older ones behind it.

    While one is written its tensors are in memory twice: the model's weights and moments, 12 bytes a parameter. Nothing
    of the state is shared with the training, which goes on changing its own.
    """

    def __init__(self, folder: Path, *, always: Collection[int] = ()) -> None:
        """`always`: steps whose checkpoints are never removed."""
        self._folder, self._always = folder, always
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None

    def begin(
        self,
        state: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        moments: Mapping[str, Tensor] | None,
        *,
        keep: int,
    ) -> None:
        """Starts to write; the last one must be over (`wait`). Nobody may change what is given.

        `keep`: newest checkpoints that stay, this one among them.
        """
        self._writing = self._thread.submit(self._write, state, weights, moments, keep)

    def check(self) -> None:
        """Raises what the last write ended with, if it is over: StorageError, FencedError."""
        if self._writing is not None and self._writing.done():
            self._writing.result()

    def wait(self) -> None:
        """Until the last write is over; raises its error."""
        if self._writing is not None:
            self._writing.result()

    def close(self) -> None:
        """Waits, and ends the thread. An error that `wait` has not raised is lost: nothing comes after it."""
        self._thread.shutdown()

    def _write(
        self, state: Mapping[str, Any], weights: Mapping[str, Tensor], moments: Mapping[str, Tensor] | None, keep: int
    ) -> Path:
        path = save_checkpoint(self._folder, state, weights, moments)
        remove_old_checkpoints(self._folder, keep=keep, always=self._always)
        return path
