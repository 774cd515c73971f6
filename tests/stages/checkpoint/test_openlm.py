"""open_lm's files, written here as open_lm writes them, and ours as it reads them."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.checkpoint.files import load_model, read_result_checkpoint
from stages.checkpoint.openlm import export_run, import_run, main, read_pickle, read_weights
from stages.config import LanguageModel
from stages.errors import ConfigError
from stages.models.openlm import OpenLM

MODEL = LanguageModel(d_model=32, layers=2, heads=4, vocabulary=60)


def model() -> OpenLM:
    torch.manual_seed(0)
    return OpenLM(MODEL)


def groups(lm: OpenLM) -> list[dict[str, Any]]:
    """open_lm's: nothing without decay, everything with it."""
    return [{"params": [], "weight_decay": 0.0}, {"params": list(lm.parameters())}]


def write_open_lm(folder: Path, prefix: str = "module.") -> Path:
    """epoch_3.pt and optimizer_3.pt of a run with a cosine schedule; `main` also keeps the rotary buffer."""
    folder.mkdir(parents=True, exist_ok=True)
    lm = model()
    state: dict[str, Tensor] = {prefix + name: weight.detach() for name, weight in lm.named_parameters()}
    state[f"{prefix}layers.0.attention.pos_embed.inv_freq"] = torch.ones(4)
    torch.save(
        {"epoch": 3, "name": "x", "step": 30, "state_dict": state, "evaluation_metrics": []}, folder / "epoch_3.pt"
    )
    optimizer = torch.optim.AdamW(groups(lm), lr=1e-3)
    lm(torch.randint(0, 60, (2, 8))).logsumexp(-1).mean().backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = np.float64(1e-4)  # as the schedule leaves it
    torch.save({"epoch": 3, "optimizer": optimizer.state_dict(), "scaler": {}}, folder / "optimizer_3.pt")
    return folder / "epoch_3.pt"


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "llm.model."])
def test_weights_are_found_behind_the_prefixes_of_wrappers(tmp_path: Path, prefix: str) -> None:
    weights = read_weights(write_open_lm(tmp_path, prefix))
    expected = dict(model().named_parameters())
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_an_imported_run_has_open_lms_weights_moments_and_step(tmp_path: Path) -> None:
    run = import_run(write_open_lm(tmp_path), tmp_path / "run", heads=4)
    loaded = load_model(run)
    assert loaded.vlm.lm.config == MODEL
    assert loaded.checkpoint.step == 30
    tokens = torch.randint(0, 60, (1, 9))
    assert torch.equal(loaded.vlm.lm(tokens), model()(tokens))
    moments = read_result_checkpoint(run).read_moments()
    assert len(moments) == 3 * len(list(model().parameters()))
    assert moments["step.norm.weight"].item() == 1
    assert moments["exp_avg_sq.layers.1.feed_forward.w3.weight"].shape == (32, 256)
    with pytest.raises(ConfigError, match="there is a run already"):
        import_run(tmp_path / "epoch_3.pt", run, heads=4)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_hugging_face_folder_says_its_heads_itself(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    state = {f"model.{key}": weight.detach().clone() for key, weight in model().named_parameters()}
    if name.endswith("bin"):
        torch.save(state, folder / name)
    else:
        save_file(state, folder / name)
    with pytest.raises(ConfigError, match="give --heads"):
        import_run(folder, tmp_path / "refused")
    (folder / "config.json").write_text(json.dumps({"model_type": "openlm", "n_heads": 4}))
    assert load_model(import_run(folder, tmp_path / "run")).vlm.lm.config == MODEL


def test_export_and_import_give_the_same_bits(tmp_path: Path) -> None:
    run = import_run(write_open_lm(tmp_path), tmp_path / "run", heads=4, rotary_table="bfloat16")
    file = export_run(run, tmp_path / "out", number=7, seed=124)
    again = import_run(file, tmp_path / "again", heads=4, rotary_table="bfloat16")
    one, two = read_result_checkpoint(run), read_result_checkpoint(again)
    for first, second in ((one.read_weights(), two.read_weights()), (one.read_moments(), two.read_moments())):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.state["model"] == two.state["model"]
    assert two.state["model"]["rotary_table"] == "bfloat16"
    assert read_pickle(tmp_path / "out" / "stats_7.pt")["is_final_checkpoint"] is True


def test_torchs_adamw_takes_an_exported_optimizer(tmp_path: Path) -> None:
    run = import_run(write_open_lm(tmp_path), tmp_path / "run", heads=4)
    export_run(run, tmp_path / "out")
    lm = model()
    optimizer = torch.optim.AdamW(groups(lm), lr=1.0)
    optimizer.load_state_dict(read_pickle(tmp_path / "out" / "optimizer_1.pt")["optimizer"])
    state = optimizer.state[lm.output.weight]
    assert torch.equal(state["exp_avg"], read_result_checkpoint(run).read_moments()["exp_avg.output.weight"])
    assert optimizer.param_groups[1]["weight_decay"] == 0.033


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path: Path, legacy: bool) -> None:
    file, target = tmp_path / "epoch_1.pt", tmp_path / "written"
    content = {"epoch": 1, "state_dict": Malicious(target)}
    if legacy:
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file)
    with pytest.raises(ConfigError, match=r"epoch_1\.pt: not a file of tensors and plain data"):
        import_run(file, tmp_path / "run", heads=4)
    assert not target.exists()
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_kind_is_refused_with_what_differs(tmp_path: Path) -> None:
    state = {name: weight.detach() for name, weight in model().named_parameters()}
    torch.save({"epoch": 1, "state_dict": {**state, "norm.bias": torch.zeros(32)}}, tmp_path / "epoch_1.pt")
    with pytest.raises(ConfigError, match=r"norm\.bias"):
        import_run(tmp_path / "epoch_1.pt", tmp_path / "run", heads=4)
    torch.save({"epoch": 1, "state_dict": state}, tmp_path / "epoch_2.pt")
    with pytest.raises(ConfigError, match="heads: 5"):
        import_run(tmp_path / "epoch_2.pt", tmp_path / "run", heads=5)
    torch.save({"other": torch.zeros(1)}, tmp_path / "epoch_3.pt")
    with pytest.raises(ConfigError, match="no weights of an OpenLM"):
        import_run(tmp_path / "epoch_3.pt", tmp_path / "run", heads=4)


def test_the_command_imports_and_exports_and_names_a_mistake_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["openlm_checkpoint", *arguments])
        return main()

    file = write_open_lm(tmp_path)
    assert command("import", str(file), "--heads", "4", "--out", str(tmp_path / "run")) == 0
    assert command("export", str(tmp_path / "run"), "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "epoch_1.pt").exists()
    assert command("import", str(tmp_path / "no.pt"), "--heads", "4", "--out", str(tmp_path / "other")) == 1
    assert "no.pt" in capsys.readouterr().err
