"""A look at inputs needs no heavy package: what needs one is left out, and it is said which."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig

from stages.prepare.check_inputs import InputRequest, are_too_many, inspect_input
from stages.vision import encoder_folder
from tests.stages.training.training_case import write_tokenizer
from tests.stages.vision.encoder_case import save, siglip_model


def inspect_without(packages: list[str], requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In an interpreter that lacks the packages."""
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({packages}))\n"
        "from stages.prepare.__main__ import main\n"
        "raise SystemExit(main(['inspect']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(requests), capture_output=True, text=True, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_an_encoder_is_looked_at_without_torch_and_a_tokenizer_is_left_out(tmp_path: Path) -> None:
    folder = save(siglip_model(), tmp_path / "siglip")
    write_tokenizer(tmp_path / "tokenizer.json")
    encoder = {"kind": "encoder", "path": str(folder)}
    requests: list[dict[str, Any]] = [
        encoder | {"encoder": "siglip-tiny-32"},
        encoder | {"encoder": "siglip-tiny-64"},
        {"kind": "tokenizer", "path": str(tmp_path / "tokenizer.json"), "vocabulary": 10},
    ]
    sound, other, tokenizer = inspect_without(["torch", "transformers", "tokenizers", "numpy"], requests)
    assert (sound["complaints"], sound["missing_package"]) == ([], "")
    assert "image_size is 32; encoder 'siglip-tiny-64' has 64" in other["complaints"][0]["what"]
    assert (tokenizer["complaints"], tokenizer["missing_package"]) == ([], "tokenizers")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (encoder_folder.SIGLIP_DEFAULTS, SiglipVisionConfig()),
        (encoder_folder.DINOV2_DEFAULTS, Dinov2WithRegistersConfig()),
    ],
)
def test_what_a_configuration_may_leave_out_is_what_transformers_takes(ours: dict[str, object], theirs: Any) -> None:
    assert {name: getattr(theirs, name) for name in ours} == ours
    assert Dinov2WithRegistersConfig().image_size == encoder_folder.DINOV2_IMAGE_SIZE


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no whole safetensors file"),
        (b"\xff" * 16, "its header is no header"),
        (b"\2\0\0\0\0\0\0\0{}more", "14 bytes, and its header says 10"),
        (b"\2\0\0\0\0\0\0\0[]", "no whole safetensors file"),
    ],
)
def test_weights_that_are_no_safetensors_are_told(tmp_path: Path, content: bytes, reason: str) -> None:
    folder = save(siglip_model(), tmp_path / "siglip")
    (folder / "model.safetensors").write_bytes(content)
    found = inspect_input(InputRequest(kind="encoder", path=str(folder), encoder="siglip-tiny-32"))
    assert reason in found.complaints[0].what


def test_a_job_would_end_by_what_is_read_of_its_samples() -> None:
    assert are_too_many(["bad"] * 6, read=6, samples=6, limit=100)
    assert not are_too_many(["bad"], read=16, samples=100_000, limit=100)  # one may be chance
    assert are_too_many(["bad"] * 2, read=16, samples=1_000, limit=100)
    assert not are_too_many(["bad"] * 2, read=16, samples=500, limit=100)
    assert not are_too_many([], read=16, samples=500, limit=100)
