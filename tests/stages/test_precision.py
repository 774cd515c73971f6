"""Which devices have products in bfloat16, and what a job says on one that has not."""

from pathlib import Path

import pytest
import torch

from stages import precision
from stages.precision import has_cpu_bf16, report_slow_precision


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu avx2 avx512f", False),
        ("model name\t: bf16 is only a name here", False),
    ],
)
def test_a_processor_says_whether_it_has_bfloat16(tmp_path: Path, line: str, native: bool) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text(f"processor\t: 0\n{line}\npower management:\n")
    assert has_cpu_bf16(facts) is native
    assert has_cpu_bf16(tmp_path / "none") is False


def test_a_job_says_that_it_imitates_bfloat16(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for native, given, told in ((False, "bf16", True), (False, "fp32", False), (True, "bf16", False)):
        monkeypatch.setattr(precision, "has_cpu_bf16", lambda native=native: native)
        report_slow_precision(given, torch.device("cpu"))
        assert ("precision bf16 on cpu: it has no products in bfloat16" in capsys.readouterr().err) is told
