"""`make gpu-check`: its CPU half as a command, and what becomes of parts that fail, hang or have no time left."""

import json
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import training
from benchmarks.gpu_check.hours import compare_seconds
from benchmarks.gpu_check.loss_curve import compare_losses
from benchmarks.gpu_check.machine import find_peak_tflops
from benchmarks.gpu_check.parts import PARTS, Check, Part, Row
from benchmarks.gpu_check.report import FORMAT, CheckReport, Outcome, format_report, format_summary
from tests.stages.training.kills import finish
from tests.stages.training.training_case import make_world, text_config

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "gpu-check.md"
GPU = {
    "name": "NVIDIA H200", "count": 1, "capability": "9.0", "memory_gib": 139.8, "driver": "570.1",
    "peak_tflops": 989.0,
}  # fmt: skip
MACHINE = {"processor": "a processor", "cores": 16, "python": "3.12.1", "torch": "2.13.0", "cuda": "12.8", "gpu": GPU}


def make_part(name: str, seconds: float = 30.0, *, cpu_seconds: float = 30.0, alone: bool = True) -> Part:
    return Part(
        name=name,
        module="numeric",
        about=f"what {name} is",
        table="checks",
        gpu_seconds=seconds,
        cpu_seconds=cpu_seconds,
        alone=alone,
    )


FAKE = """
import json, os, sys, time
name, rows = sys.argv[1], open(sys.argv[sys.argv.index("--rows") + 1], "a")
def write(**row):
    print(json.dumps({"name": "first", "passed": True, "reason": "", "figures": {}, **row}), file=rows, flush=True)
if name != "breaks":
    write(figures={"device": sys.argv[sys.argv.index("--device") + 1]})
if name == "hangs":
    time.sleep(600)
if name.startswith("meets"):
    os.mkdir(sys.argv[0] + "." + name)
    while not (os.path.exists(sys.argv[0] + ".meets-one") and os.path.exists(sys.argv[0] + ".meets-other")):
        time.sleep(0.01)
if name == "breaks":
    raise RuntimeError("no such kernel")
if name == "differs":
    write(name="second", passed=False, reason="3 is not 4")
    sys.exit(1)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The command on a machine that says it has a GPU, with parts that do as their names say; the folder of results."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(command, "PART_PROGRAM", (sys.executable, "-S", str(script)))
    monkeypatch.setattr(command, "query_machine", lambda: json.loads(json.dumps(MACHINE)))
    parts = (make_part("breaks"), make_part("hangs", 1.0), make_part("differs"), make_part("works"))
    monkeypatch.setattr(command, "PARTS", parts)
    return tmp_path / "out"


def read_parts(out: Path) -> dict[str, dict[str, Any]]:
    return {part["name"]: part for part in json.loads((out / "gpu-check.json").read_text())["parts"]}


def test_a_part_that_fails_or_hangs_is_a_row_with_its_reason_and_the_next_one_runs(
    fake: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--out", str(fake)]) == 1
    parts = read_parts(fake)
    assert {name: (part["state"], part["reason"]) for name, part in parts.items()} == {
        "breaks": ("failed", "RuntimeError: no such kernel"),
        "hangs": ("timed out", "ended after 1 s, with 1 rows"),
        "differs": ("failed", "second: 3 is not 4"),
        "works": ("done", ""),
    }
    assert parts["hangs"]["rows"] == [{"name": "first", "passed": True, "reason": "", "figures": {"device": "cuda"}}]
    assert parts["hangs"]["seconds"] < 10
    assert "RuntimeError: no such kernel" in (fake / "breaks.log").read_text()
    said = capsys.readouterr().out
    assert re.search(r"^\[ +\d+ s\] differs: second; FAILED; 3 is not 4$", said, flags=re.MULTILINE)
    assert "2 failed, 1 timed out, 1 done; MFU goals reached: 0 of 0 measured" in said


def test_one_part_alone_decides_the_exit_code(fake: Path) -> None:
    assert command.main(["--out", str(fake), "--only", "works"]) == 0
    assert list(read_parts(fake)) == ["works"]


def test_checks_run_side_by_side_on_a_gpu_and_measurements_alone(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = [make_part("meets-one", alone=False), make_part("meets-other", alone=False)]
    monkeypatch.setattr(command, "PARTS", meeting)
    assert command.main(["--out", str(fake)]) == 0
    parts = [*meeting, make_part("works"), make_part("also"), make_part("last", alone=False)]
    groups = {on_gpu: [len(group) for group in command.group_parts(parts, on_gpu=on_gpu)] for on_gpu in (True, False)}
    assert groups == {True: [2, 1, 1, 1], False: [1, 1, 1, 1, 1]}


def test_what_was_found_before_an_interruption_is_on_disk_and_the_part_is_ended(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait, pids = time.sleep, []

    def interrupt(seconds: float) -> None:
        wait(seconds)
        if read_parts(fake)["hangs"]["rows"]:
            raise KeyboardInterrupt

    def start(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(*words, **options)
        pids.append(process.pid)
        return process

    monkeypatch.setattr(command, "PARTS", (make_part("hangs"), make_part("works")))
    monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=time.monotonic, sleep=interrupt))
    monkeypatch.setattr(command, "subprocess", SimpleNamespace(Popen=start, DEVNULL=subprocess.DEVNULL))
    assert command.main(["--out", str(fake)]) == 130
    parts = read_parts(fake)
    assert list(parts) == ["hangs"]
    assert (parts["hangs"]["state"], len(parts["hangs"]["rows"])) == ("running", 1)
    assert f"what was found is in {fake}" in capsys.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_parts_that_have_no_time_left_are_named(fake: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(fake), "--budget-minutes", "0.01"]) == 0
    assert {part["state"] for part in read_parts(fake).values()} == {"skipped"}
    assert "works: not run, the time is over" in capsys.readouterr().out


def test_without_a_gpu_a_part_without_a_cpu_half_is_not_started(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "PARTS", (make_part("breaks", cpu_seconds=0), make_part("works")))
    assert command.main(["--out", str(fake), "--device", "cpu"]) == 0
    parts = read_parts(fake)
    assert parts["breaks"]["state"] == "needs a GPU"
    assert parts["works"]["rows"][0]["figures"] == {"device": "cpu"}
    table = capsys.readouterr().out.split("\n\n")[1]
    assert [line.split("  ")[0].strip() for line in table.splitlines()] == ["part", "breaks", "works"]
    assert all(line.endswith("needs a GPU, not run") for line in table.splitlines()[1:])


def test_more_minutes_give_each_part_more() -> None:
    limits = []
    for minutes in (4.0, 8.0, 40.0):
        report = CheckReport(format=FORMAT, date="", machine=MACHINE, budget_minutes=minutes)
        runner = command.PartRunner(Path(), report, gpu=None, program=(), began=time.monotonic())
        limits.append(runner.choose_limit(make_part("works", cpu_seconds=30.0)))
    assert limits == [30.0, 30.0, 150.0]


def test_a_budget_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--budget-minutes", "0"])
    assert "--budget-minutes 0: a number above 0 is expected" in capsys.readouterr().err


def make_report(gpu: dict[str, Any] | None) -> CheckReport:
    figures = {
        "tokens_per_second": 231_500.0, "mfu": 0.5312, "peak_memory_gib": 41.23, "micro_batch_tokens": 16_384,
        "planned_memory_gib": 39.04, "first_step_seconds": 21.7, "parameters": 411_616_256, "goal_mfu": 0.5,
    }  # fmt: skip
    slow = {**figures, "mfu": 0.44}
    train = Outcome(
        name="train-411M-compiled", about="speed", table="training", device="cuda", seconds=51.2,
        rows=[Row(name="text, compiled", figures=figures), Row(name="text again", figures=slow)],
    )  # fmt: skip
    rates = Outcome(
        name="encoder", about="images", table="rates", device="cuda", seconds=9.0,
        rows=[Row(name="siglip", figures={"per_second": 812.34, "unit": "images"})],
    )  # fmt: skip
    checks = Outcome(
        name="resume", about="kill -9", table="checks", device="cuda", seconds=40.0, state="failed", reason="a | b",
        rows=[Row(name="usual", passed=False, reason="weights differ", figures={"kills": 3, "equal_bits": False})],
    )  # fmt: skip
    return CheckReport(
        format=FORMAT, date="2026-11-29T17:00:00+00:00", machine={**MACHINE, "gpu": gpu}, budget_minutes=8,
        seconds=100.4, parts=[train, rates, checks],
    )  # fmt: skip


def test_the_tables_are_those_of_the_benchmarks_page() -> None:
    assert (
        format_report(make_report(GPU))
        == """\
## `make gpu-check`
NVIDIA H200 (139.8 GiB, capability 9.0, driver 570.1, bf16 peak 989.0 TFLOP/s), torch 2.13.0, Python 3.12.1, \
CUDA 12.8, a processor, 16 cores. 2026-11-29T17:00:00+00:00, 100 s of at most 480.

| part | what | state | s | remark |
| --- | --- | --- | --- | --- |
| train-411M-compiled | speed | done | 51 |  |
| encoder | images | done | 9 |  |
| resume | kill -9 | failed | 40 | a / b |

### Training in bf16 on one device
| weights | case | tokens/s | MFU | goal | peak GiB | planned GiB | at once | first step, s | remark |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 412M | text, compiled | 231,500 | 0.531 | 0.5: reached | 41.2 | 39 | 16,384 | 21.7 |  |
| 412M | text again | 231,500 | 0.44 | 0.5: not reached | 41.2 | 39 | 16,384 | 21.7 |  |

### Rates
| part | what | a second | MFU | remark |
| --- | --- | --- | --- | --- |
| encoder | siglip | 812 images |  |  |

### Checks
| part | check | outcome | figures | remark |
| --- | --- | --- | --- | --- |
| resume | usual | failed | kills 3, equal_bits False | weights differ |
"""
    )
    assert format_summary(make_report(GPU)).endswith("2 done, 1 failed; MFU goals reached: 1 of 2 measured")


def test_a_report_without_a_gpu_says_so() -> None:
    assert "No figure here says anything about a GPU" in format_report(make_report(None))
    assert "No GPU is here: only CPU halves ran" in format_summary(make_report(None))


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989), ("NVIDIA B200", 2250), ("NVIDIA L40S", 362), ("Tesla T4", 0),
    ],
)  # fmt: skip
def test_a_gpu_is_found_in_the_catalog_by_its_name(name: str, peak: float) -> None:
    assert find_peak_tflops(name) == peak


def test_losses_that_part_by_more_than_is_allowed_are_a_failure() -> None:
    wanted = [6.0, 4.0, 2.0]
    assert compare_losses("bf16", [6.06, 4.0, 1.98], wanted, 0.011).passed
    row = compare_losses("bf16", [6.0, 4.0, 2.5], wanted, 0.02)
    assert (row.passed, row.reason) == (False, "step 3: loss 2.5000, on the CPU 2.0000")
    assert row.figures["largest_relative_difference"] == pytest.approx(0.25)


def test_hours_that_are_not_wall_time_times_devices_are_a_failure() -> None:
    assert compare_seconds("cores", 41.0, 20.0, 2, []).passed
    row = compare_seconds("cores", 20.0, 20.0, 2, ["the job is failed"])
    assert (row.passed, row.reason) == (False, "the job is failed; 20.0 s apart; at most 8.0 are expected")


def test_a_micro_batch_that_does_not_fit_is_halved_and_noted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = []

    def train(check: Check, size: training.Size, case: training.Case) -> dict[str, object]:
        tried.append(size.micro_batch_tokens)
        if size.micro_batch_tokens > 384:
            raise torch.OutOfMemoryError("too much")
        return {"micro_batch_tokens": size.micro_batch_tokens}

    monkeypatch.setattr(training, "train", train)
    check = Check(device="cpu", folder=tmp_path)
    size = training.Size(
        shape=training.choose_size("79M", on_gpu=False).shape, context=192, batch_sequences=8,
        vision=training.choose_size("79M", on_gpu=False).vision, micro_batch_tokens=1_536,
    )  # fmt: skip
    row = training.measure_case(check, size, training.Case(compiled=False))
    assert (row.passed, row.figures) == (True, {"micro_batch_tokens": 384})
    assert row.reason.startswith("1,536 positions at once do not fit into the GPU's memory; 768 positions")
    monkeypatch.setattr(training, "train", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("too much")))
    row = training.measure_case(check, size, training.Case(compiled=False))
    assert (row.passed, row.reason) == (False, "192 positions at once do not fit into the GPU's memory")


def test_the_models_on_a_gpu_have_the_studys_shapes() -> None:
    found = {name: training.choose_size(name, on_gpu=True).shape.parameters for name in ("79M", "411M", "1.4B")}
    assert found == {"79M": 78_914_048, "411M": 411_616_256, "1.4B": 1_439_795_200}


def test_every_part_can_be_run_and_stands_on_its_page() -> None:
    page = PAGE.read_text()
    for part in PARTS:
        assert callable(import_module(f"benchmarks.gpu_check.{part.module}").measure)
        assert f"`{part.name}`" in page or f"`{part.name.rpartition('-')[0]}-" in page, part.name
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_a_job_runs_with_kernels_of_a_fixed_order(tmp_path: Path) -> None:
    job = make_world(tmp_path).job("fixed", "pretrain", text_config(2))
    finish(job, ("-m", "tests.stages.training.fixed_order"))
    assert job.result.exists()


@pytest.mark.slow
@pytest.mark.timeout(2_500)  # 100 s on a machine of its own, ten minutes on a busy one
def test_the_cpu_half_runs_to_its_end_and_says_what_needs_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "benchmarks.gpu_check", "--out", str(out), "--budget-minutes", "40"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=2_450)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((out / "gpu-check.json").read_text())
    check_record(record)
    assert record["machine"]["gpu"] is None
    states = {part["name"]: part["state"] for part in record["parts"]}
    assert list(states) == [part.name for part in PARTS]
    assert states == {part.name: "done" if part.cpu_seconds else "needs a GPU" for part in PARTS}
    rows = {part["name"]: part["rows"] for part in record["parts"]}
    assert rows["numeric"][0]["figures"]["tests"] > 20
    assert rows["resume"][0]["figures"]["equal_bits"] is True
    assert rows["resume"][0]["figures"]["kills"] == 1
    assert [row["name"] for row in rows["train-79M-eager"]] == ["text, eager", "text and images, eager"]
    assert [row["figures"]["images_a_step"] > 0 for row in rows["train-79M-eager"]] == [False, True]
    table = done.stdout.split("\n\n")[1].splitlines()
    assert len(table) == len(PARTS) + 1
    assert all(line.endswith("needs a GPU, not run") for line in table[1:])
    assert "No figure here says anything about a GPU" in (out / "gpu-check.md").read_text()


def check_record(record: dict[str, Any]) -> None:
    """Its fields have the types that docs/gpu-check.md gives, and the page names every figure."""
    page = PAGE.read_text()
    types = {
        "format": int, "date": str, "machine": dict, "budget_minutes": float, "seconds": float, "parts": list,
    }  # fmt: skip
    assert {name: type(value) for name, value in record.items()} == types
    of_part = {
        "name": str, "about": str, "table": str, "device": str, "state": str, "reason": str, "seconds": float,
        "rows": list,
    }  # fmt: skip
    of_row = {"name": str, "passed": bool, "reason": str, "figures": dict}
    for part in record["parts"]:
        assert {name: type(value) for name, value in part.items()} == of_part
        for row in part["rows"]:
            assert {name: type(value) for name, value in row.items()} == of_row
            for name, value in row["figures"].items():
                assert isinstance(value, int | float | str)
                assert f"`{name}`" in page, name
    named = {*types, *of_part, *of_row, *record["machine"], *GPU}
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []
