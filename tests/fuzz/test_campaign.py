"""The fuzz programs in short, and that their watch sees what it is there for."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.campaign import Outcome, Report, Verdict, ViolationError, make_dice, measure_wait, run_campaign

CASES = {"archives": 120, "stored": 12, "sweep-files": 30, "tokenizers": 100, "tasks": 30, "safetensors": 30}
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(("program", "cases"), CASES.items(), ids=CASES.keys())
def test_no_input_made_by_chance_breaks_its_reader(program: str, cases: int) -> None:
    """In a process of its own: it is forked for each part of the campaign, and a test process may have threads."""
    words = [sys.executable, "-m", "tests.fuzz", program, "--cases", str(cases), "--seed", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{program}: {cases} cases (seed 7)" in done.stdout


class Odd:
    """A program whose first cases are what the watch must see."""

    name = "odd"

    def run_case(self, dice: random.Random, folder: Path) -> Verdict:
        number = int(folder.name.rpartition("-")[2])
        match number:
            case 0:
                raise KeyError("gone")
            case 1:
                raise ViolationError("a sample is lost")
            case 2:
                while True:
                    pass
            case 3:
                os.kill(os.getpid(), signal.SIGKILL)
            case 4:
                return Verdict(Outcome.PASSED, str(len(bytearray(400 << 20))))
            case 5:
                bytearray(8 << 30)
            case 6:
                sys.exit(3)
        (folder / "file").write_text("x")
        return Verdict(Outcome.REFUSED, str(dice.random()))


def run_odd(folder: Path, jobs: int = 1) -> Report:
    return run_campaign(Odd(), folder, seed=1, numbers=range(9), jobs=jobs, quiet=True)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.fuzz.campaign.HANG_SECONDS", 1.0)
        return run_odd(tmp_path_factory.mktemp("odd"))


def test_the_watch_sees_each_kind_of_fault_and_goes_on(report: Report) -> None:
    found = {case.number: case.outcome for cases in report.faults.values() for case in cases}
    assert found == {
        0: Outcome.TRACEBACK,
        1: Outcome.VIOLATION,
        2: Outcome.HANG,
        3: Outcome.CRASH,
        4: Outcome.MEMORY,
        5: Outcome.MEMORY,
        6: Outcome.TRACEBACK,
    }
    assert report.counts[Outcome.REFUSED] == 2
    assert "python -m tests.fuzz odd --seed 1 --case 2" in report.format()


def test_a_case_depends_on_program_seed_and_number_alone(report: Report) -> None:
    alone = {f"refused: {make_dice('odd', 1, number).random()}" for number in (7, 8)}
    assert set(report.details) == alone
    assert make_dice("odd", 2, 7).random() != make_dice("odd", 1, 7).random()


def list_children() -> set[str]:
    """Process ids."""
    threads = Path("/proc/self/task").iterdir()
    return {pid for thread in threads for pid in (thread / "children").read_text().split()}


def test_no_process_and_no_file_is_left_behind(tmp_path: Path) -> None:
    class Quick(Odd):
        def run_case(self, dice: random.Random, folder: Path) -> Verdict:
            (folder / "file").write_text(str(dice.random()))
            return Verdict(Outcome.PASSED)

    before = list_children()  # of this process of tests: clusters and the like
    report = run_campaign(Quick(), tmp_path, seed=1, numbers=range(20), jobs=2, quiet=True)
    assert report.counts == {Outcome.PASSED: 20}
    assert list(tmp_path.iterdir()) == []
    assert list_children() <= before


def test_a_process_that_waits_for_a_processor_is_told_from_one_that_idles() -> None:
    busy = f"import os\nos.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\nwhile True: pass"
    rivals = [subprocess.Popen([sys.executable, "-S", "-c", busy]) for _ in range(3)]
    idle = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    try:
        deadline = time.monotonic() + 120
        while measure_wait(rivals[0].pid) < 3.0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert measure_wait(idle.pid) < 1.0  # its start-up alone
    finally:
        for process in (*rivals, idle):
            process.kill()
            process.wait()
