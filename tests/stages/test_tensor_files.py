"""Damaged safetensors: one clear error from every reader."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stages.checkpoint.files import MODEL, RECORD, compute_file_digests, load_model, read_result_checkpoint
from stages.checkpoint.openlm import import_run
from stages.errors import ConfigError, DamagedInputError, DataError
from stages.export.images import ImagePrefix
from stages.export.run import export_model
from stages.files import write_json
from stages.tensor_files import TensorFileError, load_tensors
from tests.stages.export.export_case import NORMED, PATCHES, make_run, request_for


def tensor_file(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: object) -> dict[str, object]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


BAD = {
    "empty": b"",
    "header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": tensor_file(b"{"),
    "deep": tensor_file(b"[" * 100_000),
    "not UTF-8": tensor_file(b"\xff" * 8),
    "no object": tensor_file([]),
    "cut off": tensor_file(entry(), bytes(7)),
    "more behind": tensor_file(entry(), bytes(9)),
    "backwards": tensor_file(entry(data_offsets=[8, 0])),
    "a hole": tensor_file(entry(data_offsets=[8, 16]), bytes(16)),
    "overlap": tensor_file({**entry(), "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
    "unknown type": tensor_file(entry(dtype="Q8")),
    "other shape": tensor_file(entry(shape=[3])),
    "overflowing shape": tensor_file(entry(shape=[2**63, 4])),
    "negative shape": tensor_file(entry(shape=[-2])),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_a_file_that_is_no_whole_one_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(TensorFileError, match=r"x\.safetensors: no whole safetensors file: ") as caught:
        load_tensors(tmp_path / "x.safetensors")
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


def test_a_missing_file_stays_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "x.safetensors")


def test_a_checkpoint_whose_record_holds_and_whose_tensors_are_none_is_damaged_input(tmp_path: Path) -> None:
    make_run(tmp_path / "run", NORMED, PATCHES)
    step = read_result_checkpoint(tmp_path / "run").path
    (step / MODEL).write_bytes(BAD["no JSON"])
    write_json(step / RECORD, {"files": compute_file_digests(step)})
    with pytest.raises(DamagedInputError, match="no whole safetensors file") as caught:
        load_model(tmp_path / "run", "k1")
    assert caught.value.damaged_key == "k1"
    with pytest.raises(DamagedInputError, match="no whole safetensors file"):
        export_model(request_for(tmp_path / "run", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_exported_projector_must_be_whole_and_have_its_shapes(tmp_path: Path) -> None:
    make_run(tmp_path / "run", NORMED, PATCHES)
    out = export_model(request_for(tmp_path / "run", tmp_path / "out"))
    projector = out / "vision" / "projector.safetensors"
    tensors = load_tensors(projector)
    name = min(tensors)
    for changed, message in [
        ({**tensors, name: torch.zeros(3)}, f"{name} has shape \\[3\\]; the projector has"),
        ({**tensors, "x": torch.zeros(3)}, "x is missing or not the projector's"),
    ]:
        save_file(changed, projector)
        with pytest.raises(DataError, match=message):
            ImagePrefix.load(out)
    projector.write_bytes(BAD["cut off"])
    with pytest.raises(DataError, match="no whole safetensors file"):
        ImagePrefix.load(out)
    projector.unlink()
    with pytest.raises(DataError, match="is not there"):
        ImagePrefix.load(out)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"tok_embeddings.weight": torch.zeros(3)}, "tok_embeddings.weight has shape"),
        ({"tok_embeddings.weight": torch.zeros(96, 32), "layers.x.w": torch.zeros(1)}, "differ"),
        ({"tok_embeddings.weight": torch.zeros(96, 32), "layers.999999999.w": torch.zeros(1)}, "differ"),
        ({"tok_embeddings.weight": torch.zeros(96, 32), "layers.": torch.zeros(1)}, "differ"),
    ],
)
def test_weights_with_odd_names_are_no_openlm(tmp_path: Path, weights: dict[str, torch.Tensor], message: str) -> None:
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=message):
        import_run(tmp_path / "w.safetensors", tmp_path / "out", heads=2)
