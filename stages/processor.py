"""The CPU of this machine: who made it, and which vector instructions it has."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VECTORS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
"""Linux's names of the instructions that decide how fast matrix products are."""
CAPS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""Variables with which a library is kept from using some of them."""


@dataclass(frozen=True, slots=True)
class Processor:
    """What Linux says of the first core; empty where it says nothing."""

    vendor: str
    """`GenuineIntel`, `AuthenticAMD`."""
    model: str
    vectors: tuple[str, ...]
    """Of VECTORS."""


@cache
def read_processor(path: Path = Path("/proc/cpuinfo")) -> Processor:
    """This machine's processor; an unknown one where the file cannot be read (another system than Linux)."""
    try:
        first = path.read_text(errors="replace").partition("\n\n")[0]
    except OSError:
        first = ""
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return Processor(
        vendor=fields.get("vendor_id", ""),
        model=fields.get("model name", ""),
        vectors=tuple(name for name in VECTORS if name in flags),
    )


def describe_processor() -> str:
    """One line for a benchmark's table: its figures hold for such a processor only."""
    processor = read_processor()
    caps = [f"{name}={os.environ[name]}" for name in CAPS if name in os.environ]
    capped = f"; capped by {' '.join(caps)}" if caps else ""
    return f"{processor.model or 'processor unknown'}: {' '.join(processor.vectors) or 'no known vectors'}{capped}"
