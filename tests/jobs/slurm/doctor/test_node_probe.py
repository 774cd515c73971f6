import json
from pathlib import Path

from jobs.slurm.doctor import node_probe


def probed(folder: Path) -> None:
    node_probe.main([str(folder), "sweep-vlm", "no-such-distribution"])


def test_the_probe_writes_a_whole_report(tmp_path: Path) -> None:
    (tmp_path / "mark").write_text("t")
    probed(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["mark"] == "t"
    assert report["versions"]["sweep-vlm"]
    assert report["versions"]["no-such-distribution"] == ""
