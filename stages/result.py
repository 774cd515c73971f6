"""result.json: its presence, valid, means that the job is done."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from platform import python_version
from typing import Any

from stages.files import write_json
from stages.job_file import JobFile

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a finished job says of itself (docs/formats.md)."""

    steps: int = 0
    """Optimizer steps of this job."""
    tokens: int = 0
    """Positions that went through the model in training, image tokens and padding included."""
    padding: int = 0
    """The part of `tokens` that held nothing."""
    image_tokens: int = 0
    images: int = 0
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    """For each data set: sequences, samples, tokens (no padding), image_tokens, images."""
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    loss: float | None = None
    """Mean training loss of the last logged steps, z-loss included."""
    checkpoint: str = ""
    """Path of the final checkpoint, relative to the job's folder."""
    bad_samples: int = 0
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)


def write_result(job: JobFile, result: Result) -> None:
    """Writes result.json with the sizes of the final checkpoint's files; the last act of a stage."""
    folder = job.run / result.checkpoint
    paths = sorted(folder.iterdir()) if result.checkpoint else []
    files = {path.relative_to(job.run).as_posix(): path.stat().st_size for path in paths}
    content = {
        "format": FORMAT,
        "key": job.key,
        "stage": job.stage,
        "finished_at": time.time(),
        "files": files,
        "versions": list_versions(),
        **asdict(result),
    }
    write_json(job.result, content)


def list_versions() -> dict[str, str]:
    """Python and the libraries that decide the numbers."""
    import torch

    return {"python": python_version(), "torch": str(torch.__version__)}


def render_relative_path(job: JobFile, path: Path) -> str:
    """`path` as result.json names it."""
    return path.relative_to(job.run).as_posix()
