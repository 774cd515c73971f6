"""Whether another program's checkout and interpreter can carry out a job, found out before the program starts."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from stages.engines.engine import build_environment
from stages.errors import ConfigError
from stages.job_file import EngineSettings

PROBE_TIMEOUT_SECONDS = 300
PROBE_SCRIPT = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]  # the folder that it happens to run in
import importlib.metadata, importlib.util, json
asked = json.loads(sys.argv[1])
def find_version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
missing = [name for name in asked["modules"] if importlib.util.find_spec(name) is None]
has_gpu = False
if asked["gpu"] and "torch" not in missing:
    import torch
    has_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
versions = {name: find_version(name) for name in asked["versions"]}
print(json.dumps({"missing": missing, "versions": versions, "has_gpu": has_gpu}))
"""
"""Runs in the engine's interpreter. Imports nothing but torch, and torch only where a GPU is asked for."""


class Installation(BaseModel):
    """What an engine's interpreter has."""

    missing: tuple[str, ...]
    """Modules that it lacks, of those that were asked for."""
    versions: dict[str, str]
    """By package; empty where a package is not installed or has no version."""
    has_gpu: bool
    """A CUDA device with bfloat16; false where nobody asked."""

    def parse_version(self, package: str) -> tuple[int, ...]:
        """The first three numbers of a version, as many as there are."""
        return tuple(int(number) for number in self.versions[package].split(".")[:3] if number.isdigit())


def check_checkout(engine: str, settings: EngineSettings, program: str) -> None:
    """ConfigError unless the checkout has the program's main file `program` (relative)."""
    if not settings.checkout or not (Path(settings.checkout) / program).is_file():
        raise ConfigError(f"engine {engine}: {settings.checkout or 'no folder'} (checkout) has no {program}")


def query_installation(
    engine: str,
    settings: EngineSettings,
    modules: Sequence[str],
    *,
    versions: Sequence[str] = (),
    gpu: bool = False,
    environment: Mapping[str, str] | None = None,
    advice: Mapping[str, str] | None = None,
) -> Installation:
    """Asks the engine's interpreter. ConfigError if it does not run, or lacks one of `modules`.

    `advice`: for a module that is missing, what else would do.
    """
    asked = json.dumps({"modules": list(modules), "versions": list(versions), "gpu": gpu})
    try:
        done = subprocess.run(
            [settings.python, "-c", PROBE_SCRIPT, asked],
            env=build_environment(settings, environment or {}, {}),
            capture_output=True, text=True, timeout=PROBE_TIMEOUT_SECONDS, check=True,
        )  # fmt: skip
        # a module that is imported may print lines of its own before
        found = Installation.model_validate_json(done.stdout.splitlines()[-1])
    except (OSError, IndexError, ValidationError, subprocess.SubprocessError) as error:
        raise ConfigError(f"engine {engine}: {settings.python} (python) is no working Python: {error}") from error
    if found.missing:
        more = "".join(text for module, text in (advice or {}).items() if module in found.missing)
        raise ConfigError(
            f"engine {engine}: {settings.python} lacks {', '.join(found.missing)}; install them there{more}"
        )
    return found
