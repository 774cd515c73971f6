from pathlib import Path

from jobs.store.checks import Check, Severity
from sweep.report.doctor import estimate_checkpoint_bytes, format_doctor_report
from tests.sweep.small_sweep import SMALL, planned


def test_a_line_of_the_report_stays_one_line_whatever_a_node_said() -> None:
    check = Check(name="node", severity=Severity.PROBLEM, text="it said a\nb\x1b[31m", advice="look")
    assert format_doctor_report([check]) == "problem  node  it said a b\\u001b[31m; look"


def test_a_checkpoint_while_training_holds_the_optimizer(tmp_path: Path) -> None:
    jobs = {job.phase: job for job in planned(tmp_path, SMALL).jobs}
    assert estimate_checkpoint_bytes(jobs["trunk"]) == jobs["trunk"].estimate.checkpoint_bytes
    assert estimate_checkpoint_bytes(jobs["finetune"]) == 3 * jobs["finetune"].estimate.checkpoint_bytes
    assert estimate_checkpoint_bytes(jobs["evaluate"]) == 0
