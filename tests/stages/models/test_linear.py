"""Whose matrix products training takes, by the processor."""

from pathlib import Path

import pytest

from stages.models import linear
from stages.models.linear import select_training_matmul
from stages.processor import Processor, describe_processor, read_processor

EPYC = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9755 128-Core Processor
flags\t\t: fpu sse2 avx avx2 avx512f avx512_bf16

processor\t: 1
vendor_id\t: Other
"""


@pytest.mark.parametrize(
    ("vendor", "capability", "matmul"),
    [
        ("AuthenticAMD", "AVX512", "onednn"),
        ("AuthenticAMD", "AVX2", "torch"),
        ("GenuineIntel", "AVX512", "torch"),
        ("GenuineIntel", "AVX2", "torch"),
        ("", "DEFAULT", "torch"),
    ],
)
def test_onednn_trains_only_where_its_products_are_faster(
    monkeypatch: pytest.MonkeyPatch, vendor: str, capability: str, matmul: str
) -> None:
    monkeypatch.setattr(linear, "read_processor", lambda: Processor(vendor, "", ()))
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    assert select_training_matmul() == matmul


def test_a_processor_is_known_by_its_first_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(EPYC)
    found = read_processor(tmp_path / "cpuinfo")
    assert found == Processor("AuthenticAMD", "AMD EPYC 9755 128-Core Processor", ("avx2", "avx512f", "avx512_bf16"))
    assert read_processor(tmp_path / "none") == Processor("", "", ())
    monkeypatch.setattr("stages.processor.read_processor", lambda: found)
    for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    wanted = "AMD EPYC 9755 128-Core Processor: avx2 avx512f avx512_bf16; capped by ATEN_CPU_CAPABILITY=avx2"
    assert describe_processor() == wanted
