"""sbatch's options: the whole list for given resources, and nothing that a file says reaches a shell."""

import shlex
import string
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.job import Resources
from jobs.slurm.sbatch_options import (
    GPU_REQUESTS,
    OWN_FIELDS,
    REFUSED,
    build_sbatch_options,
    check_launcher,
    check_option,
    check_setup,
    has_gpu_options,
)
from jobs.store.paths import UnsafeNameError

NODE = Resources(
    nodes=2,
    gpus_per_node=8,
    gpu_type="a100",
    cpus=96,
    memory_gib=960,
    time_minutes=1_440,
    options={"partition": "gpu", "account": "proj", "qos": "low", "constraint": "ib&nvme", "reservation": "week"},
)


def test_the_whole_list_of_a_small_job() -> None:
    asked = Resources(cpus=2, memory_gib=1.5, time_minutes=7)
    assert build_sbatch_options(asked) == [
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=2",
        "--mem=1536M",
        "--time=7",
        "--propagate=NONE",
    ]


def test_the_whole_list_of_a_large_job() -> None:
    assert build_sbatch_options(NODE) == [
        "--nodes=2",
        "--ntasks-per-node=1",
        "--cpus-per-task=96",
        "--mem=983040M",
        "--time=1440",
        "--propagate=NONE",
        "--gres=gpu:a100:8",
        "--partition=gpu",
        "--account=proj",
        "--qos=low",
        "--constraint=ib&nvme",
        "--reservation=week",
    ]


def test_further_options_follow_in_order_and_an_empty_value_is_a_flag() -> None:
    asked = Resources(options={"nice": "100", "exclusive": "", "mail-user": "me@uni.edu"})
    assert build_sbatch_options(asked)[6:] == ["--exclusive", "--mail-user=me@uni.edu", "--nice=100"]


def test_limits_of_the_submitting_shell_hold_in_no_job_unless_the_file_says_so() -> None:
    assert "--propagate=NONE" in build_sbatch_options(Resources())
    asked = build_sbatch_options(Resources(options={"propagate": "MEMLOCK"}))
    assert [word for word in asked if word.startswith("--propagate")] == ["--propagate=MEMLOCK"]


def test_a_retry_asks_for_its_own_memory_and_the_clusters_name_of_the_gpu() -> None:
    options = build_sbatch_options(NODE, memory_gib=0.0001, gpu_type="nvidia_a100-sxm4-80gb")
    assert "--mem=1M" in options
    assert "--gres=gpu:nvidia_a100-sxm4-80gb:8" in options
    assert "--gres=gpu:8" in build_sbatch_options(NODE, gpu_type="")


@pytest.mark.parametrize("name", [name for name in GPU_REQUESTS if name.startswith("gpus")])
def test_the_users_own_request_for_gpus_takes_the_place_of_ours(name: str) -> None:
    options = build_sbatch_options(replace(NODE, options={name: "h100:4"}))
    assert f"--{name}=h100:4" in options
    assert not any(option.startswith("--gres=") for option in options)


@pytest.mark.parametrize(("gres", "is_gpu"), [
    ("gpu", True), ("gpu:2", True), ("gpu:h100:2", True), ("nvme:1,gpu=2", True),
    ("nvme:1", False), ("gpumem:3", False),
])  # fmt: skip
def test_other_gres_join_ours_and_gpus_of_the_user_replace_them(gres: str, is_gpu: bool) -> None:
    assert has_gpu_options({"gres": gres}) is is_gpu
    wanted = f"--gres={gres}" if is_gpu else f"--gres=gpu:a100:8,{gres}"
    assert wanted in build_sbatch_options(replace(NODE, options={"gres": gres}))


def test_a_job_without_gpus_keeps_the_users_gres() -> None:
    assert "--gres=nvme:1" in build_sbatch_options(Resources(options={"gres": "nvme:1"}))
    assert has_gpu_options({"tres-per-task": "cpu=2,gres/gpu:a100=1"})


def test_nodes_to_avoid_are_joined_with_the_users() -> None:
    options = build_sbatch_options(Resources(options={"exclude": "n[5-7]"}), exclude=["n1", "n2"])
    assert [option for option in options if option.startswith("--exclude")] == ["--exclude=n1,n2,n[5-7]"]
    with pytest.raises(UnsafeNameError, match="not names of nodes"):
        build_sbatch_options(Resources(), exclude=["n1;id"])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_options_that_would_break_a_sweep_are_refused_with_what_serves_instead(name: str) -> None:
    assert check_option(name, "1") == f"is not for sweep files: {REFUSED[name]}"
    assert check_option(name, "")


@pytest.mark.parametrize(
    ("name", "whole"),
    [("arr", "array"), ("wra", "wrap"), ("tim", "time"), ("gpus-per-n", "gpus-per-node"), ("exclud", "exclude")],
)
def test_an_abbreviation_that_sbatch_would_complete_is_refused(name: str, whole: str) -> None:
    assert f"--{whole}; write" in check_option(name, "1")


@pytest.mark.parametrize("name", [
    "exclusive", "nice", "mail-type", "licenses", "hold", "time-min", "mem-bind", "gres", "gpus", "exclude", "begin",
    "switches", "contiguous", "prefer", "tmp", "gpu-bind", "wait-all-nodes", "container",
])  # fmt: skip
def test_what_sites_need_is_allowed(name: str) -> None:
    assert check_option(name, "") == ""


@pytest.mark.parametrize("name", ["", "-p", "--nice", "a b", "nice=1", "Nice", "x\n", "é", "-", "n"])
def test_what_is_no_long_option_is_refused(name: str) -> None:
    assert "is not a long option" in check_option(name, "")


LINES = {
    "option": "#SBATCH --array=1",
    "indented option": "  #sbatch -p x",
    "option of PBS": "#PBS -q x",
    "newline": "a\nb",
    "return": "a\rb",
    "NUL": "a\x00",
    "backslash": "echo \\",
    "long": "x" * 1_001,
    "line separator": "a\u2028b",
    "escape": "\x1b[0m",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_lines_that_would_change_the_script_around_them_are_refused(line: str) -> None:
    assert check_setup([line])


def test_ordinary_set_up_and_launchers_are_allowed() -> None:
    assert (
        check_setup(["module load cuda/12", "source ~/envs/a b/bin/activate", "export X='a;b' # é", "", "x \\\\"]) == ""
    )
    assert check_launcher(["apptainer", "exec", "--nv", "/images/a b.sif"]) == ""
    assert "a program is wanted first" in check_launcher(["--nv"])
    assert "an empty word" in check_launcher(["apptainer", ""])
    assert "more than 50 words" in check_launcher(["x"] * 51)
    assert "more than 100 lines" in check_setup(["x"] * 101)


NASTY = st.text(
    alphabet=st.one_of(
        st.sampled_from("'\"`$(){};|&<>\\\n\r\t*?~#!=- ,%é\u2028\x00"), st.sampled_from(string.ascii_letters)
    ),
    max_size=30,
)
NAMES = st.one_of(
    NASTY, st.sampled_from([*sorted(REFUSED), *GPU_REQUESTS, *OWN_FIELDS, "exclude", "nice", "exclusive", "licenses"])
)


@settings(max_examples=400, deadline=None)
@given(options=st.dictionaries(NAMES, NASTY, max_size=4), gpu_type=NASTY, gpus=st.integers(0, 8))
@example(options={"licenses": "a b;$(id)|`id` 'é' \"x\""}, gpu_type="a100", gpus=1)
@example(options={"licenses": "x\n#SBATCH --array=0-9"}, gpu_type="a100", gpus=1)
def test_options_are_refused_or_arrive_as_one_word_each(options: dict[str, str], gpu_type: str, gpus: int) -> None:
    asked = Resources(options=options, gpu_type=gpu_type, gpus_per_node=gpus)
    try:
        words = build_sbatch_options(asked)
    except UnsafeNameError:
        return
    for word in words:
        assert word.startswith("--")
        assert word.isprintable()
        assert word.partition("=")[0][2:].replace("-", "").isalpha()
    assert all(word.count("=") for word in words[:5])
    for name, value in options.items():
        if name not in {"gres", "exclude"}:
            assert (f"--{name}={value}" if value else f"--{name}") in words
    assert len({word.partition("=")[0] for word in words}) == len(words)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(NASTY, min_size=1, max_size=4))
@example(words=["a b", "$(touch /tmp/x)", "';id;'", '"', "é|x", "*"])
def test_a_launcher_is_refused_or_the_shell_gives_exactly_its_words(words: list[str]) -> None:
    if check_launcher(words):
        return
    line = f"printf '%s\\0' {shlex.join(words)}"
    printed = subprocess.run(["bash", "-c", line], check=True, capture_output=True)
    assert printed.stdout.decode().split("\0")[:-1] == words


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(NASTY, max_size=4))
def test_set_up_is_refused_or_stays_one_line_each_and_no_option(lines: list[str]) -> None:
    if check_setup(lines):
        return
    text = "\n".join(lines)
    assert text.splitlines() == lines or not any(lines[-1:])
    assert not any(line.lstrip().upper().startswith("#SBATCH") for line in text.splitlines())


@pytest.mark.parametrize(
    "resources",
    [
        {"setup": ("#SBATCH --array=1",)},
        {"launcher": ("-x",)},
        {"gpu_type": "a100 --wrap"},
        {"options": {"partition": ""}},
        {"options": {"partition": "a\n#SBATCH"}},
        {"options": {"wrap": "id"}},
    ],
    ids=["setup", "launcher", "GPU type", "empty", "newline", "wrap"],
)
def test_an_edited_manifest_gets_no_further_than_this(resources: dict[str, Any]) -> None:
    with pytest.raises(UnsafeNameError):
        build_sbatch_options(
            Resources(gpus_per_node=1, **resources) if "gpu_type" in resources else Resources(**resources)
        )
