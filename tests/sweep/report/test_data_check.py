from pathlib import Path
from typing import Any

from sweep.report.data_check import (
    PathSettings,
    build_requests,
    format_problem_counts,
    format_report_table,
    format_verdict,
)
from tests.sweep.small_sweep import edited, written


def test_the_shortest_and_the_longest_context_of_the_jobs_decide(tmp_path: Path) -> None:
    text = edited(("trunk: {context: 64,", "trunk: {context: 128,"))
    found = build_requests(str(written(tmp_path, text)), tmp_path / "store", PathSettings())
    requests = {request["name"]: request for request in found.requests}
    assert requests["words"]["context"] == 128
    assert requests["pictures"]["context"] == 64


def test_the_report_names_each_problem_with_what_a_job_does() -> None:
    problem: dict[str, Any] = {"kind": "torn tar", "action": "refuse", "count": 1_200, "examples": ["a.tar: cut off"]}
    counts = dict.fromkeys(("shards", "samples", "tokens", "images", "decoded"), 0)
    report = {"name": "dclm", "kind": "text", **counts, "shards": 2_000, "clean": False, "problems": [problem]}
    assert format_report_table([report]) == [
        "data  kind  shards  samples  tokens  images  decoded         found",
        "------------------------------------------------------------------",
        "dclm  text   2,000        -       -       -        -  1,200 refuse",
        "",
        "dclm: 1,200 x torn tar (refuse: a job ends with an error)",
        "  a.tar: cut off",
        "  and 1,199 more",
    ]
    assert format_problem_counts({**report, "problems": []}) == "nothing"
    assert format_verdict([report]) == "1 data set: something would be skipped or refused in dclm"
