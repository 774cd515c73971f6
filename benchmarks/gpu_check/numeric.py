"""The tests of tests/stages/devices on the device: attention, loss, optimizer, compiled blocks, answers, an encoder."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_check.parts import Check, Row

TESTS = Path("tests") / "stages" / "devices"
ALL_PASSED, SOME_FAILED = 0, 1
"""pytest's exit codes."""


def measure(check: Check) -> Iterator[Row]:
    """A row that counts, and one for each test that failed."""
    report = check.folder / "tests.xml"
    # a warning that only a GPU gives says nothing about numbers
    command = [sys.executable, "-m", "pytest", str(TESTS), f"--junitxml={report}", "-W", "default"]
    done = subprocess.run(command, env={**os.environ, "STAGE_DEVICE": check.device}, check=False)
    if done.returncode not in {ALL_PASSED, SOME_FAILED} or not report.is_file():
        yield Row(name="tests", passed=False, reason=f"pytest ended with {done.returncode}; its output is in the log")
        return
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - pytest wrote it here
    skipped = [case for case in cases if case.find("skipped") is not None]
    failed = [(case, found) for case in cases for found in (*case.findall("failure"), *case.findall("error"))]
    yield Row(
        name="tests",
        passed=not failed and bool(cases),
        reason=f"{len(failed)} failed" if failed else "" if cases else "there is no test",
        figures={"tests": len(cases), "failed": len(failed), "skipped": len(skipped)},
    )
    for case, found in failed:
        reason = " ".join((found.get("message") or "").split())[:200]
        yield Row(name=case.get("name", ""), passed=False, reason=reason)
