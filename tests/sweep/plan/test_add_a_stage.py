"""docs/add-a-stage.md is true: its code, put where the page says, makes a stage that a sweep plans."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent, indent

ROOT = Path(__file__).parent.parent.parent.parent


def list_code_blocks(page: str) -> list[str]:
    """The indented blocks of a page, in its order."""
    lines = page.splitlines()
    groups = itertools.groupby(lines, key=lambda line: not line or line.startswith("    "))
    blocks = (dedent("\n".join(group)).strip("\n") for is_code, group in groups if is_code)
    return [block + "\n" for block in blocks if block]


def insert_before(path: Path, place: str, code: str) -> None:
    text = path.read_text()
    assert text.count(place) == 1, (path.name, place)
    path.write_text(text.replace(place, code + place))


def test_a_stage_takes_four_source_files_and_the_sweep_file(tmp_path: Path) -> None:
    for folder in ("sweep", "jobs", "stages", "manifests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    config, entry, function, phase, method, call, *_ = list_code_blocks((ROOT / "docs" / "add-a-stage.md").read_text())

    insert_before(tmp_path / "stages/config.py", "def find_engine(", config + "\n\n")
    insert_before(tmp_path / "stages/config.py", '    "pretrain": Stage(', indent(entry, "    "))
    (tmp_path / "stages/count.py").write_text(function)
    insert_before(tmp_path / "sweep/phases.py", "    )\n}\n", indent(phase, "        "))
    planner = tmp_path / "sweep/plan/planner.py"
    insert_before(planner, "    def build_template(", indent(method, "    ") + "\n")
    insert_before(planner, "            chains.append(FinetuneChain(", indent(call, "            "))
    imports = "from stages.config import CountConfig\nfrom sweep.plan.stage_configs import collect_settings\n"
    insert_before(planner, "from jobs.job import", imports)
    demo = tmp_path / "manifests/demo.yaml"
    demo.write_text(demo.read_text().replace("defaults:\n", "defaults:\n  count.only: embed\n"))

    command = [sys.executable, "-m", "sweep", "plan", "manifests/demo.yaml", "--store", "store", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["jobs"]
    assert counts["count"] == counts["evaluate"] > 0
