"""open_lm's checkpoints: `epoch_N.pt`, `optimizer_N.pt`, `stats_N.pt`, and its Hugging Face style folders.

    python -m stages.checkpoint.openlm import epoch_4.pt --out RUN --heads 16
    python -m stages.checkpoint.openlm export RUN --out FOLDER

`import` writes a run folder as a pretrain job leaves one (result.json and a checkpoint): name it as `run` of the parent
in a job.json, and that job starts from the imported weights and, with `optimizer_state: carried`, from its moments if
`optimizer_N.pt` lies beside the file. The number of heads is nowhere in open_lm's weights, so it is given; a Hugging
Face style folder says it itself. `export` writes files for open_lm's `--resume` and `--pretrained`.
"""

import argparse
import json
import pickle
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.checkpoint.files import read_result_checkpoint, save_checkpoint
from stages.config import LanguageModel
from stages.errors import ConfigError, StageError
from stages.files import write_json
from stages.models.openlm import OpenLM
from stages.tensor_files import TensorFileError, load_tensors

# Reading what open_lm wrote, without unpickling code: tensors, plain containers and numpy numbers, nothing else.

PREFIXES = ("module.", "_orig_mod.", "llm.model.", "model.")
"""Of DDP, of torch.compile, of Prismatic's wrapper, of the Hugging Face wrapper."""
ROTARY_BUFFER = "pos_embed.inv_freq"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights of an `epoch_N.pt`, of a `.safetensors` or `.bin` file, or of a Hugging Face style folder.

    Under open_lm's bare names. ConfigError if the file holds code, or no weights of an OpenLM.
    """
    weights: dict[str, Tensor] = {}
    for file in list_weight_files(path):
        for name, tensor in read_state_dict(file).items():
            bare = strip_wrapper_prefixes(name)
            if isinstance(tensor, Tensor) and not bare.endswith(ROTARY_BUFFER):
                weights[bare] = tensor
    if "tok_embeddings.weight" not in weights:
        raise ConfigError(f"{path}: no weights of an OpenLM; it has {', '.join(sorted(weights)[:4]) or 'no tensors'}")
    return weights


def list_weight_files(path: Path) -> list[Path]:
    """The file itself; of a folder its safetensors or, without any, its `pytorch_model*.bin`."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not found:
        raise ConfigError(f"{path}: neither *.safetensors nor pytorch_model*.bin is in this folder")
    return found


def read_state_dict(path: Path) -> dict[str, Any]:
    """The state dictionary of one file."""
    if path.suffix == ".safetensors":
        try:
            return dict(load_tensors(path))
        except TensorFileError as error:
            raise ConfigError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    content = read_pickle(path)
    state = content.get("state_dict", content)
    if not isinstance(state, dict):
        raise ConfigError(f"{path}: state_dict is {type(state).__name__}; a dictionary of tensors is needed")
    return state


def read_pickle(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """A torch.save file of plain data. ConfigError if it needs anything that could run code.

    `mmap`: its tensors are read from the file when they are used, and not before.
    """
    with torch.serialization.safe_globals(list_numpy_globals()):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"{path}: not a file of tensors and plain data: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds {type(content).__name__}; a checkpoint of open_lm is a dictionary")
    return content


def list_numpy_globals() -> list[Any]:
    """What a numpy float64 in a pickle names: open_lm's cosine schedule leaves learning rates of that type."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]  # numpy._core.multiarray.scalar, or numpy.core... before numpy 2
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return [np.dtype, type(np.dtype(np.float64)), *((scalar, name) for name in names)]


def strip_wrapper_prefixes(name: str) -> str:
    """A weight's name without what wrappers put before it."""
    name = name.replace("_orig_mod.", "")
    while (prefix := next((p for p in PREFIXES if name.startswith(p)), None)) is not None:
        name = name.removeprefix(prefix)
    return name


def infer_model_shape(weights: Mapping[str, Tensor], heads: int, rotary_table: str) -> LanguageModel:
    """The model's shape, from its weights' shapes. ConfigError for a kind of model that is not ours."""
    embeddings = weights["tok_embeddings.weight"]
    if embeddings.dim() != 2:
        raise ConfigError(f"not an OpenLM: tok_embeddings.weight has shape {tuple(embeddings.shape)[:8]}")
    vocabulary, width = embeddings.shape
    # as many as have names: others than these show as names that differ
    layers = len({name.split(".")[1] for name in weights if name.startswith("layers.")})
    shape = {
        "d_model": width, "layers": layers, "heads": heads, "vocabulary": vocabulary,
        "qk_norm": "layers.0.attention.q_norm.weight" in weights, "rotary_table": rotary_table,
    }  # fmt: skip
    try:
        model = LanguageModel.model_validate(shape)
    except ValueError as error:
        raise ConfigError(f"not a model of ours ({' '.join(str(error).split())}); heads: {heads}") from error
    with torch.device("meta"):
        own = {name: parameter.shape for name, parameter in OpenLM(model).named_parameters()}
    odd = sorted(own.keys() ^ weights.keys()) or [name for name in own if own[name] != weights[name].shape]
    if odd:
        raise ConfigError(f"not an OpenLM with gain-only norms, SwiGLU and untied output: {', '.join(odd[:4])} differ")
    return model


def read_moments(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """AdamW's tensors of an `optimizer_N.pt`, under the names of a checkpoint of ours.

    `names`: the model's weights in order, by which torch.optim numbers them.
    """
    state = read_pickle(path).get("optimizer", {}).get("state", {})
    moments: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        entry = state.get(number, state.get(name))
        if entry is None:
            raise ConfigError(f"{path}: it has no moments of weight {number} ({name})")
        moments[f"exp_avg.{name}"] = entry["exp_avg"].float()
        moments[f"exp_avg_sq.{name}"] = entry["exp_avg_sq"].float()
        moments[f"step.{name}"] = torch.as_tensor(entry["step"], dtype=torch.float32)
    return moments


def import_run(path: Path, out: Path, *, heads: int | None = None, rotary_table: str = "float32") -> Path:
    """Writes the run folder `out` (result.json and a checkpoint) from open_lm's weights at `path`; gives its path."""
    if (out / "result.json").exists():
        raise ConfigError(f"{out}: there is a run already; give a new folder")
    weights = read_weights(path)
    model = infer_model_shape(weights, heads or read_head_count(path), rotary_table)
    with torch.device("meta"):
        names = [name for name, _ in OpenLM(model).named_parameters()]
    beside = path.with_name(path.name.replace("epoch_", "optimizer_"))
    with_moments = beside != path and beside.exists()
    moments = read_moments(beside, names) if with_moments else None
    step = int(read_pickle(path).get("step", 0)) if path.name.startswith("epoch_") else 0
    state = {
        "format": 1, "stage": "pretrain", "step": step, "model": model.model_dump(mode="json"), "vision": None,
        "tokenizer": None, "imported": str(path.name),
    }  # fmt: skip
    checkpoint = save_checkpoint(out / "checkpoints", state, {name: weights[name].float() for name in names}, moments)
    write_json(out / "result.json", {"format": 1, "checkpoint": checkpoint.relative_to(out).as_posix()})
    return out


def read_head_count(path: Path) -> int:
    """The number of heads that a Hugging Face style folder's config.json states; ConfigError where none does."""
    try:
        content = json.loads(((path if path.is_dir() else path.parent) / "config.json").read_bytes())
        return int(content.get("n_heads") or content["params"]["n_heads"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: no config.json beside it says n_heads; give --heads") from error


def export_run(
    run: Path, out: Path, *, number: int = 1, seed: int | None = None, position: Mapping[str, Any] | None = None
) -> Path:
    """Writes a finished run's language model as open_lm's files `epoch_`, `optimizer_`, `stats_NUMBER.pt`.

    `number` counts open_lm's "epochs" (its checkpoint intervals). `seed`, where given, is checked by its `--resume`.
    `position`: where its data stand (`next_shard_per_source`, `samples_seen`), without which it begins them at 0.
    The optimizer's file is written if the checkpoint has moments. A projector is left out: open_lm has no images.
    """
    checkpoint = read_result_checkpoint(run)
    try:
        model = LanguageModel.model_validate(checkpoint.state["model"])
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{checkpoint.path}: no model of this version") from error
    with torch.device("meta"):
        names = [name for name, _ in OpenLM(model).named_parameters()]
    weights, moments = checkpoint.read_weights(), checkpoint.read_moments()
    head: dict[str, Any] = {"epoch": number, "name": run.name, "evaluation_metrics": [], "step": checkpoint.step}
    head |= position or {}
    if seed is not None:
        head["shard_shuffle_seed"] = seed
    out.mkdir(parents=True, exist_ok=True)
    torch.save({**head, "state_dict": {name: weights[name] for name in names}}, out / f"epoch_{number}.pt")
    if moments:
        torch.save(
            {**head, "optimizer": build_optimizer_state(names, moments, checkpoint.state)},
            out / f"optimizer_{number}.pt",
        )
    torch.save({**head, "is_final_checkpoint": True, "percentage_of_data_seen": 1.0}, out / f"stats_{number}.pt")
    return out / f"epoch_{number}.pt"


def build_optimizer_state(names: list[str], moments: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Any]:
    """torch.optim.AdamW's state dictionary, with open_lm's two groups: none without decay, all with it."""
    given = (state.get("trajectory") or {}).get("optimizer") or {}
    group = {
        "lr": 0.0, "betas": (given.get("beta1", 0.9), given.get("beta2", 0.95)), "eps": given.get("eps", 1e-8),
        "amsgrad": False, "maximize": False, "foreach": None, "capturable": False, "differentiable": False,
        "fused": None, "decoupled_weight_decay": True,
    }  # fmt: skip
    kept = {
        number: {key: moments[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
        for number, name in enumerate(names)
        if f"step.{name}" in moments
    }
    decay = given.get("weight_decay", 0.033)
    none = {**group, "weight_decay": 0.0, "params": []}
    return {"state": kept, "param_groups": [none, {**group, "weight_decay": decay, "params": list(range(len(names)))}]}


def main() -> int:
    """The two commands; 1 and a line of reason for what a user can put right."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser("import", help="open_lm's file or folder to a run folder")
    importing.add_argument("file", type=Path, help="epoch_N.pt, *.safetensors, *.bin or a Hugging Face style folder")
    importing.add_argument("--heads", type=int, help="attention heads, where no config.json says it")
    importing.add_argument(
        "--rotary-table", choices=("float32", "bfloat16"), default="float32", help="bfloat16: trained under amp"
    )
    exporting = commands.add_parser("export", help="a finished run to open_lm's files")
    exporting.add_argument("run", type=Path, help="folder with result.json")
    exporting.add_argument("--number", type=int, default=1, help="N of epoch_N.pt (default: 1)")
    exporting.add_argument("--seed", type=int, help="seed that open_lm's --resume is to insist on")
    for command in (importing, exporting):
        command.add_argument("--out", type=Path, required=True, help="folder to write")
    given = parser.parse_args()
    try:
        if given.command == "import":
            print(import_run(given.file, given.out, heads=given.heads, rotary_table=given.rotary_table))
        else:
            print(export_run(given.run, given.out, number=given.number, seed=given.seed))
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
