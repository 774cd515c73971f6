import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.attempt.options import parse_options
from jobs.exit_codes import ExitCode
from jobs.job import Resources
from jobs.slurm.batches import SlurmBatch
from jobs.slurm.script import (
    LaunchSettings,
    build_log_pattern,
    build_sbatch_arguments,
    compute_grace_seconds,
    parse_script_tasks,
    render_batch_script,
    render_dependency,
    render_indices,
)
from jobs.store.paths import Store

NAME = "sw-0123456789ab-pretrain-toy"


def batch(**content: object) -> SlurmBatch:
    defaults: dict[str, object] = {"name": NAME, "phase": "pretrain", "tasks": {0: "aa", 4: "bb"}}
    return SlurmBatch(**{**defaults, "resources": Resources(), **content})  # type: ignore[arg-type]


def launch(store: Path = Path("/store"), **content: object) -> LaunchSettings:
    defaults: dict[str, object] = {"program": ("/bin/stage",), "code": Path("/store/code/x.zip"), "revision": "abc"}
    return LaunchSettings(store=Store(store), sweep="toy", **{**defaults, **content})  # type: ignore[arg-type]


def run_as_slurm_would(script: str, index: int) -> list[str]:
    """The words of the last command as bash sees them, with the command itself replaced by printf."""
    setup, _, command = script.rpartition("exec ")
    environment = {
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_RESTART_COUNT": "2",
        "PATH": "/usr/bin:/bin",
    }
    text = f"{setup}printf '%s\\0' {command}"
    done = subprocess.run(["bash", "-s"], input=text.encode(), env=environment, capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_the_script_starts_the_supervisor_of_its_own_task(tmp_path: Path) -> None:
    words = run_as_slurm_would(render_batch_script(batch(), launch(tmp_path)), 4)
    options = parse_options(words[words.index("jobs.attempt") + 1 :])
    assert (options.key, options.attempt) == ("bb", "slurm-77_4-r2-012345")
    assert (options.job_id, options.restart, options.batch) == ("77_4", 2, NAME)
    assert (options.store, options.sweep, options.backend) == (tmp_path, "toy", "slurm")
    assert (options.revision, options.program) == ("abc", ["/bin/stage"])


def test_resources_count_over_all_nodes(tmp_path: Path) -> None:
    resources = Resources(nodes=4, cpus=12, gpus_per_node=8, gpu_type="h100")
    words = run_as_slurm_would(render_batch_script(batch(resources=resources), launch(tmp_path)), 0)
    options = parse_options(words[words.index("jobs.attempt") + 1 :])
    assert (options.nodes, options.cpus, options.gpus, options.gpu_type) == (4, 48, 32, "h100")


@settings(deadline=None)  # a shell is started for each example
@given(words=st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1)))
def test_words_of_any_kind_arrive_whole(words: list[str]) -> None:
    """Quotes, line breaks, $(), ; and | in a program, a store's path or a revision stay what they are."""
    odd = "".join(words) or "x"
    made = launch(Path("/store"), program=("/bin/stage", *words), revision=odd, code=Path(f"/store/{odd}"))
    found = run_as_slurm_would(render_batch_script(batch(), made), 0)
    assert found[found.index("--") + 1 :] == ["/bin/stage", *words]
    assert next(word for word in found if word.startswith("--revision=")) == f"--revision={odd}"


def test_a_script_tells_its_tasks() -> None:
    assert parse_script_tasks(render_batch_script(batch(), launch())) == {0: "aa", 4: "bb"}
    assert parse_script_tasks("#!/bin/bash\necho hello\n") == {}
    assert parse_script_tasks("# tasks: [1]\n") == {}


def test_setup_lines_come_first_and_the_pinned_code_wins() -> None:
    resources = Resources(setup=("module load cuda", "export PYTHONPATH=/mine"))
    lines = render_batch_script(batch(resources=resources), launch()).splitlines()
    assert lines.index("module load cuda") < lines.index("path=/store/code/x.zip")
    assert lines[-1].startswith("exec ")


@pytest.mark.parametrize("given", ["/mine", ":/mine", "/mine:", "lib:/mine:.", "::/mine"])
def test_no_entry_of_the_python_path_means_the_current_folder(given: str) -> None:
    """`export PYTHONPATH=$PYTHONPATH:/mine`, as modules do, leaves an empty entry where there was none before."""
    script = render_batch_script(batch(resources=Resources(setup=(f"export PYTHONPATH={given}",))), launch())
    setup = script.rpartition("exec ")[0]
    text = f'set -eu\n{setup}printf "%s %s" "$PYTHONPATH" "$PYTHONSAFEPATH"'
    done = subprocess.run(["bash", "-s"], input=text.encode(), capture_output=True, check=True)
    assert done.stdout.decode() == "/store/code/x.zip:/mine 1"


@pytest.mark.parametrize("changed", [False, True])
def test_a_job_runs_only_the_code_that_was_submitted(tmp_path: Path, *, changed: bool) -> None:
    code = tmp_path / "code of all.zip"
    code.write_bytes(b"submitted")
    digest = hashlib.sha256(code.read_bytes()).hexdigest()
    if changed:
        code.write_bytes(b"damaged")
    script = render_batch_script(batch(), launch(tmp_path, code=code, code_sha256=digest)).rpartition("exec ")[0]
    done = subprocess.run(["bash", "-s"], input=f"{script}echo runs\n".encode(), capture_output=True, check=False)
    assert done.returncode == (ExitCode.NOT_SET_UP if changed else 0)
    assert (b"runs" in done.stdout) is not changed
    assert (b"is not the code that was submitted" in done.stderr) is changed


def test_all_options_of_sbatch(tmp_path: Path) -> None:
    arguments = build_sbatch_arguments(batch(after_ids=("5_1",), exclude=("n7",)), launch(tmp_path), {})
    assert arguments == [
        *("--parsable", f"--job-name={NAME}", f"--comment={NAME}", "--array=0,4"),
        *("--requeue", "--open-mode=append", "--kill-on-invalid-dep=yes", "--input=/dev/null"),
        f"--output={tmp_path}/sweeps/toy/slurm/%A_%a.log",
        f"--chdir={tmp_path}",
        "--signal=B:USR2@300",
        "--dependency=afterok:5_1",
        *("--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=4096M", "--time=60"),
        *("--propagate=NONE", "--exclude=n7"),
    ]


def test_dependencies_in_slurms_words() -> None:
    assert render_dependency(batch(), {}) == ""
    assert render_dependency(batch(after_ids=("5_1", "6_0")), {}) == "afterok:5_1:6_0"
    assert render_dependency(batch(after_tasks=(("x", 3),)), {"x": "9"}) == "afterok:9_3"
    assert render_dependency(batch(corresponds_id="5"), {}) == "aftercorr:5"
    assert render_dependency(batch(corresponds_batch="x"), {"x": "9"}) == "aftercorr:9"
    with pytest.raises(KeyError):
        render_dependency(batch(corresponds_batch="unsent"), {})


def test_a_percent_sign_in_the_stores_path_is_no_pattern() -> None:
    assert build_log_pattern(Store(Path("/a%j/b")), "toy").startswith("/a%%j/b/")


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 15), (10, 150), (60, 300), (2880, 300)])
def test_the_time_to_save_is_part_of_the_limit(minutes: int, seconds: int) -> None:
    assert compute_grace_seconds(Resources(time_minutes=minutes)) == seconds


def test_indices_are_written_as_ranges() -> None:
    assert render_indices([7, 0, 1, 2]) == "0-2,7"
    assert render_indices([5]) == "5"
