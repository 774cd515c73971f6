"""What is known to go wrong with prismatic's installation, parent or tokenizer, found before it starts."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stages.data.tokenizer import TextTokenizer
from stages.engines.prismatic.options import TOKEN_VARIABLE
from stages.engines.process import environment_of
from stages.errors import ConfigError
from stages.job_file import EngineSettings

MODULES = ("torch", "torchvision", "timm", "transformers", "huggingface_hub", "accelerate", "draccus", "jsonlines",
           "rich", "PIL", "numpy", "tqdm", "requests", "wandb", "yaml", "open_lm")  # fmt: skip
"""What scripts/pretrain.py imports at its start, and open_lm for the language model."""
TRIGGERS = ("True", "False", "Yes", "No", *(chr(ord("A") + i) for i in range(26)))
"""Words that prismatic's model looks up when it is built, and fails on where one is not a single token."""
LOOK = """
import importlib.metadata, importlib.util, json, sys
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
try:
    timm = importlib.metadata.version("timm")
except importlib.metadata.PackageNotFoundError:
    timm = ""
gpu = False
if "torch" not in missing:
    import torch
    gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
print(json.dumps({"missing": missing, "timm": timm, "gpu": gpu}))
"""


def check_installation(settings: EngineSettings) -> None:
    """ConfigError if the checkout is none of prismatic, or its interpreter or machine lacks what it needs."""
    checkout = Path(settings.checkout)
    if not settings.checkout or not (checkout / "scripts" / "pretrain.py").is_file():
        raise ConfigError(f"engine prismatic: {settings.checkout or 'no folder'} (checkout) has no scripts/pretrain.py")
    found = ask_interpreter(settings)
    if found["missing"]:
        raise ConfigError(
            f"engine prismatic: {settings.python} lacks {', '.join(found['missing'])}; install them there"
            + ("" if "open_lm" not in found["missing"] else "; a checkout of open_lm may be named in PYTHONPATH behind "
               "prismatic's (environment: {PYTHONPATH: /opt/prismatic:/opt/open_lm})")
        )  # fmt: skip
    if found["timm"] and int(found["timm"].split(".")[0]) >= 1:
        raise ConfigError(
            f"engine prismatic: with timm {found['timm']} its image features are lists, which its projector refuses; "
            "install timm==0.9.10"
        )
    if not found["gpu"]:
        raise ConfigError("engine prismatic: it trains on a GPU with bfloat16 only, and this machine shows it none")


def ask_interpreter(settings: EngineSettings) -> dict[str, Any]:
    """What the interpreter has; ConfigError if it cannot even say that."""
    try:
        done = subprocess.run(
            [settings.python, "-c", LOOK, *MODULES],
            env=environment_of(settings, {TOKEN_VARIABLE: ""}, {}),
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        raise ConfigError(f"engine prismatic: {settings.python} (python) is no working Python: {error}") from error
    return answer


def check_words(tokenizer: TextTokenizer, vocabulary: int) -> None:
    """ConfigError for a tokenizer that prismatic's model refuses, or that fills the model's vocabulary."""
    if split := [word for word in TRIGGERS if len(tokenizer.encode(word)) != 1]:
        raise ConfigError(f"{tokenizer.file}: prismatic wants one token for each of {', '.join(split[:5])}")
    if len(tokenizer.start_of_text) > 1:
        raise ConfigError(f"{tokenizer.file}: texts start with several tokens; prismatic has room for one")
    if max(Tokenizer.from_file(str(tokenizer.file)).get_vocab().values()) + 1 >= vocabulary:
        raise ConfigError(
            f"{tokenizer.file}: prismatic needs a token for padding, and all {vocabulary} of the model's are taken"
        )
