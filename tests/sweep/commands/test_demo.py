"""`sweep demo`: from nothing to a picture, with real data, stages, tables and figures."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.store.paths import Store
from sweep.cli import main
from sweep.commands.demo import DemoOptions, PictureRound
from sweep.stored_sweep import open_sweep

COMMAND = (sys.executable, "-m", "sweep", "demo", "--quick", "--store")


def list_attempts(store: Path) -> list[Path]:
    return sorted(store.glob("runs/*/*/attempts/*"))


def run_quick(store: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, str(store)], capture_output=True, text=True, check=False)


def stop_once_something_runs(store: Path) -> tuple[int, str]:
    """Starts the demo and sends SIGTERM when its first stage has begun; exit code and stderr."""
    demo = subprocess.Popen([*COMMAND, str(store)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while demo.poll() is None and not list(store.glob("runs/*/*/attempts/*/start.json")):
        time.sleep(0.1)
    demo.send_signal(signal.SIGTERM)
    _, said = demo.communicate()
    return demo.returncode, said


@pytest.mark.slow
@pytest.mark.timeout(2_500)  # some 75 s of CPU; a machine that is shared gives it little at a time
def test_a_taste_ends_with_a_picture_goes_on_after_a_stop_and_repeats_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    code, said = stop_once_something_runs(store)
    assert code == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1].startswith("next: `sweep demo --quick --store ")

    done = run_quick(store)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].startswith("next: `sweep demo --store ")
    assert re.search(r"demo-quick: from start to picture in (\d+ min )?\d+ s", done.stderr)
    for shown in ("data demo --quick", "plan ", "submit demo-quick", "status demo-quick", "results demo-quick"):
        assert f"\n$ sweep {shown}" in done.stderr
    picture = Path(done.stdout.splitlines()[-1])
    with Image.open(picture) as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(image.width * image.height) or []) > 50
    rows = pq.read_table(store / "sweeps" / "demo-quick" / "results" / "results.parquet").to_pylist()
    assert {(row["image_share"], row["epochs"]) for row in rows} == {(0.0, 1), (0.0, 3), (0.5, 1), (0.5, 3)}
    assert all({score["task"] for score in row["scores"]} >= {"cloze", "shapes_val"} for row in rows)

    before = list_attempts(store)
    again = run_quick(store)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, str(picture))
    assert list_attempts(store) == before
    assert_a_newer_picture_is_told_while_jobs_run(store, picture, capsys)


def assert_a_newer_picture_is_told_while_jobs_run(
    store: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = PictureRound(DemoOptions(store=store, quick=True, cpus=None))
    pictures.results.append(store / "one that is still to come")
    pictures.shown = 0
    began = picture.stat().st_mtime_ns
    pictures.update()
    assert pictures.drawing is not None
    pictures.drawing.wait()
    pictures.update()
    assert capsys.readouterr().err.endswith(f"4 of 5 models in the picture: {picture}\n")
    assert picture.stat().st_mtime_ns > began
    assert pictures.drawing is None, "nothing new, so nothing is drawn"


def test_a_sweep_of_the_users_that_has_its_name_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Path("manifests/demo.yaml").read_text().replace("name: demo\n", "name: demo-quick\n")
    (tmp_path / "own.yaml").write_text(own)
    store = tmp_path / "store"
    assert main(["plan", str(tmp_path / "own.yaml"), "--store", str(store)]) == 0
    planned = open_sweep(store, "demo-quick").paths.manifest.read_bytes()
    capsys.readouterr()
    assert main(["demo", "--quick", "--store", str(store)]) == 1
    printed = capsys.readouterr()
    assert "has a sweep 'demo-quick' that is not the demo; give another folder with --store DIR" in printed.err
    assert printed.err.count("\n") == 1
    assert Store(store).locate_sweep("demo-quick").manifest.read_bytes() == planned
    assert not (store / "data").exists()
