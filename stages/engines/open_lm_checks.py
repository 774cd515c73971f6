"""What is known to go wrong with an installation of open_lm, found before it starts."""

import json
import subprocess
from pathlib import Path
from typing import Any

from stages.engines.process import environment_of
from stages.errors import ConfigError
from stages.job_file import EngineSettings

MODULES = ("torch", "numpy", "pandas", "webdataset", "braceexpand", "PIL", "fsspec", "tqdm", "yaml", "huggingface_hub",
           "transformers")  # fmt: skip
"""What `open_lm.main` imports at its start."""
LAST_WEBDATASET = (0, 2, 86)
"""The last one with which open_lm's branch `main` reads past its first shard; later ones hand it an end-of-shard marker
without a file name (KeyError: 'fname')."""
LOOK = """
import importlib.metadata, importlib.util, json, sys
try:
    webdataset = importlib.metadata.version("webdataset")
except importlib.metadata.PackageNotFoundError:
    webdataset = ""
missing = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
print(json.dumps({"missing": missing, "webdataset": webdataset}))
"""


def check_installation(settings: EngineSettings) -> None:
    """ConfigError if the checkout is none of open_lm, or its interpreter lacks what it needs."""
    package = Path(settings.checkout) / "open_lm"
    if not settings.checkout or not (package / "main.py").is_file():
        raise ConfigError(f"engine open_lm: {settings.checkout or 'no folder'} (checkout) has no open_lm/main.py")
    with_xformers = b"import xformers" in (package / "model.py").read_bytes()
    found = ask_interpreter(settings, [*MODULES, *(["xformers"] if with_xformers else [])])
    if found["missing"]:
        raise ConfigError(
            f"engine open_lm: {settings.python} lacks {', '.join(found['missing'])}; install them there"
            + (", or take open_lm's branch prismatic_openlm, which needs no xformers" if with_xformers else "")
        )
    version = tuple(int(number) for number in found["webdataset"].split(".")[:3] if number.isdigit())
    if with_xformers and version > LAST_WEBDATASET:
        raise ConfigError(
            f"engine open_lm: this checkout fails with webdataset {found['webdataset']} at the end of the first shard; "
            "install webdataset==0.2.86, or take the branch prismatic_openlm"
        )


def ask_interpreter(settings: EngineSettings, modules: list[str]) -> dict[str, Any]:
    """What the interpreter has, without importing it; ConfigError if it cannot even say that."""
    environment = environment_of(settings, {}, {})
    try:
        done = subprocess.run(
            [settings.python, "-c", LOOK, *modules],
            env=environment, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ConfigError(f"engine open_lm: {settings.python} (python) is no working Python: {error}") from error
    return answer
