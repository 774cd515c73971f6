"""A store that version 0.1 left is read by every later version, and work goes on from it."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from jobs.store.paths import Store
from sweep.plan.manifest import read_manifest
from tests.oracle.compare import differences
from tests.oracle.program import Program
from tests.oracle.stored import EXPECTED, record_stored, unpack
from tests.oracle.world import make_world

ROOT = Path(__file__).parent.parent
ANEW = "if that is meant, write the record anew: python -m tests.oracle expect"
pytestmark = pytest.mark.timeout(2_500)
NEXT = "e27469d1423bc492"
"""A pre-training that is still to be done, on the stored trunk."""


def program(tmp_path: Path) -> Program:
    return Program(tree=ROOT, python=Path(sys.executable), folder=tmp_path)


def test_what_is_said_of_it_and_its_tables_are_those_of_before(tmp_path: Path) -> None:
    record_stored(program(tmp_path), tmp_path / "scratch", tmp_path / "now")
    found = differences(EXPECTED, tmp_path / "now")
    assert not found, "\n".join([ANEW, *found])


def test_a_job_goes_on_from_a_stored_checkpoint(tmp_path: Path) -> None:
    store = unpack(tmp_path)
    make_world(store / "data", tmp_path / "engine")
    sweep = program(tmp_path)
    planned = sweep.run("plan", store / "sweeps" / "kept" / "sweep.yaml", store=store)
    assert planned.code == 0, planned.text
    assert re.search("done +15 of 32 jobs", planned.out)
    sent = sweep.run("submit", "kept", "--only", NEXT, store=store)
    assert sent.code == 0, sent.text
    assert (store / "runs" / "pretrain" / NEXT / "result.json").exists()
    exported = sweep.run(
        "export", "kept", "mtiny-b0-i50-c0-x1", "--epochs", "1", "--out", tmp_path / "out", store=store
    )
    assert exported.code == 0, exported.text
    assert (tmp_path / "out" / "model.safetensors").exists()


def attempts_of(store: Path) -> set[str]:
    return {str(path.relative_to(store)) for path in store.glob("runs/*/*/attempts/*")}


@pytest.mark.parametrize("name", ["kept", "kept-slurm"])
def test_its_data_are_known_by_content_from_now_on_and_no_finished_job_runs_again(tmp_path: Path, name: str) -> None:
    store = unpack(tmp_path)
    make_world(store / "data", tmp_path / "engine")
    sweep, paths = program(tmp_path), Store(store).locate_sweep(name)
    before, attempts = read_manifest(paths.manifest), attempts_of(store)
    results = {path: path.read_bytes() for path in store.glob("runs/*/*/result.json")}
    file = tmp_path / "sweep.yaml"
    text = paths.source.read_text()
    # as it was; then under other names, in another place
    renamed = text.replace("  words:", "  corpus:").replace("  exams:", "  papers:").replace("  bpe:", "  tok:")
    shutil.copytree(store / "data", store / "moved")
    for content in (text, renamed.replace("$STORE/data/", "$STORE/moved/")):
        file.write_text(content)
        planned = sweep.run("plan", file, store=store)
        assert planned.code == 0, planned.text
        found = read_manifest(paths.manifest)
        assert [job.key for job in found.jobs] == [job.key for job in before.jobs]
        assert all(each.content and not each.name.startswith("sha256-") for each in found.identities.values())
        assert len(found.identities) == 4 + len({task for task in ("cloze", "text_loss", "shapes") if task in text})
    again = sweep.run("plan", file, store=store)
    assert "the same as the stored plan" in again.err
    dry = sweep.run("submit", name, "--dry-run", "--json", "--backend", "local", store=store)
    assert not {path.parent.name for path in results} & set(re.findall(r"[0-9a-f]{16}", dry.out)), dry.text
    if name == "kept-slurm":  # all of it is done
        sent = sweep.run("submit", name, "--backend", "local", store=store)
        assert sent.code == 0, sent.text
        assert attempts_of(store) == attempts
    assert {path: path.read_bytes() for path in store.glob("runs/*/*/result.json")} == results
    # other content under the former names is told, and nothing is stored
    (store / "moved" / "exams" / "cloze.jsonl").write_text("{}\n")
    refused = sweep.run("plan", file, store=store)
    assert refused.code == 1
    assert "data papers/cloze.yaml: content " in refused.err
