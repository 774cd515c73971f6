from pathlib import Path

from jobs.slurm.commands import build_query_environment, build_submit_environment, list_ignored_variables, run_program

# --- environment and time limits


def test_personal_settings_reach_no_program() -> None:
    personal = {
        "SQUEUE_FORMAT": "%i",
        "SACCT_FORMAT": "x",
        "SBATCH_QOS": "q",
        "SLURM_JOB_ID": "3",
        "SLURM_CLUSTERS": "b",
    }
    asked = build_query_environment(personal | {"SLURM_CONF": "/c", "HOME": "/h"})
    assert asked["SLURM_CONF"] == "/c"
    assert asked["HOME"] == "/h"
    assert not set(asked) & set(personal)
    assert (asked["SLURM_TIME_FORMAT"], asked["LC_ALL"], asked["TZ"]) == ("%s", "C.UTF-8", "UTC")
    # the chosen cluster is an option of every call instead
    assert list_ignored_variables(personal | {"SLURM_CONF": "/c"}) == sorted(personal.keys() - {"SLURM_CLUSTERS"})


def test_sbatch_gives_its_jobs_no_strange_clock() -> None:
    assert "TZ" not in build_submit_environment({"SLURM_CONF": "/c"})
    assert build_submit_environment({"TZ": "Asia/Tokyo", "SBATCH_QOS": "q"}) == {
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C.UTF-8",
    }


def test_a_program_that_is_not_there_is_a_problem_in_words(tmp_path: Path) -> None:
    output = run_program(["squeue"], environment={"PATH": str(tmp_path)}, limit=1)
    assert output.problem == "squeue cannot be run: No such file or directory"
    assert not output.started
