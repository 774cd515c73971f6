"""`python -m benchmarks.gpu_check.machine`: the machine as JSON. A process of its own: it opens the GPU, and ends."""

import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from sweep.catalog import load_catalog


def main() -> None:
    """Prints one object: docs/gpu-check.md has its fields."""
    print(json.dumps(describe_machine()))


def describe_machine() -> dict[str, Any]:
    """Processor and versions; `gpu` is None where torch finds none."""
    import torch

    found: dict[str, Any] = {
        "processor": read_processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": None,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "count": torch.cuda.device_count(),
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gib": round(properties.total_memory / (1 << 30), 1),
            "driver": query_driver(),
            "peak_tflops": find_peak_tflops(properties.name),
        }
    return found


def read_processor() -> str:
    """Its name and the vector instructions that decide a CPU's speed here."""
    try:
        content = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    name = re.search(r"^model name\s*: (.*)$", content, flags=re.MULTILINE)
    flags = re.search(r"^flags\s*: (.*)$", content, flags=re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    features = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in known]
    return f"{name[1] if name else platform.machine()} ({', '.join(features) or 'no avx2'})"


def query_driver() -> str:
    """The driver's version; empty where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return ""
    return found[0] if found else ""


def find_peak_tflops(name: str) -> float:
    """bf16 peak of a device of that name, by the catalog of GPU types; 0 where it has none such."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    known = [gpu for gpu in load_catalog().gpus.values() if gpu.peak_tflops and gpu.name.split("-")[0] in words]
    return max((gpu.peak_tflops or 0.0 for gpu in known), default=0.0)


if __name__ == "__main__":
    main()
