"""What is known to go wrong with an installation of vla_foundry, found before it starts."""

import json
import subprocess
from pathlib import Path
from typing import Any

from stages.engines.process import environment_of
from stages.errors import ConfigError
from stages.job_file import EngineSettings

MODULES = ("torch", "torchvision", "numpy", "PIL", "yaml", "fsspec", "tqdm", "webdataset", "draccus", "einops",
           "transformers", "timm", "diffusers", "open_clip", "tifffile", "boto3", "botocore", "tdigest_rs",
           "scipy")  # fmt: skip
"""What `vla_foundry.main` imports at its start, whatever it trains."""
FIRST_TIMM = (1, 0, 16)
"""The first one that reads a network's shape from a folder (`local-dir:`); vla_foundry's own pin is older."""
LOOK = """
import importlib.metadata, importlib.util, json, sys
def version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps({"missing": missing, "timm": version("timm")}))
"""


def check_installation(settings: EngineSettings, *, images: bool) -> None:
    """ConfigError if the checkout is none of vla_foundry, or its interpreter lacks what it needs."""
    if not settings.checkout or not (Path(settings.checkout) / "vla_foundry" / "main.py").is_file():
        raise ConfigError(
            f"engine vla_foundry: {settings.checkout or 'no folder'} (checkout) has no vla_foundry/main.py"
        )
    found = ask_interpreter(settings)
    if found["missing"]:
        raise ConfigError(
            f"engine vla_foundry: {settings.python} lacks {', '.join(found['missing'])}; install them there"
        )
    version = tuple(int(number) for number in found["timm"].split(".")[:3] if number.isdigit())
    if images and version < FIRST_TIMM:
        first = ".".join(map(str, FIRST_TIMM))
        raise ConfigError(
            f"engine vla_foundry: {settings.python} has timm {found['timm'] or '(of no version)'}, which reads no "
            f"encoder from a folder; install timm {first} or a later one there"
        )


def ask_interpreter(settings: EngineSettings) -> dict[str, Any]:
    """What the interpreter has, without importing it; ConfigError if it cannot even say that."""
    environment = environment_of(settings, {}, {})
    try:
        done = subprocess.run(
            [settings.python, "-c", LOOK, *MODULES],
            env=environment, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(f"engine vla_foundry: {settings.python} (python) is no working Python: {error}") from error
    return answer
