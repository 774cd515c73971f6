# ruff: noqa: E501 - a table is read best with a case a line
"""Wrong sweep files end in clear lines with file and line, exit code 1, and nothing written."""

from pathlib import Path

import pytest

from sweep.budget.prices import Prices
from sweep.cli import main
from sweep.plan.manifest import read_manifest, write_manifest
from tests.sweep.small_sweep import SMALL, edited, keys, planned, written

AXES = "      image_share: [0, 0.2]\n"

PRICED = SMALL + "prices: {source: x, "
# (what is wrong, the file, the line that the message names, parts of the message)
WRONG: list[tuple[str, str, int, list[str]]] = [
    ("unknown key", edited(("backend: local", "backend: local\nbudget: 3")), 3, ["budget: is unknown"]),
    ("near miss", edited(("epochs: [1, 2]", "epochs: [1, 2]\nepoch: 3")), 24, ["epoch: is unknown; did you mean epochs?"]),
    ("missing key", edited(("backend: local\n", "")), 1, ["backend: is missing", "slurm or local"]),
    ("no choice", edited(("backend: local", "backend: pbs")), 2, ["'pbs' is not one of the choices", "slurm or local"]),
    ("word for a number", edited(("unit_tokens: 51200", "unit_tokens: many")), 15, ["'many' is not a whole number"]),
    ("number as text", edited(("unit_tokens: 51200", "unit_tokens: '51200'")), 15, ["'51200' is not a whole number"]),
    ("fraction of a step", edited(("warmup_steps: 4", "warmup_steps: 4.5")), 15, ["4.5 is not a whole number"]),
    ("true for a number", edited(("[0, 50, 100]", "[0, true, 100]")), 21, ["branch.1: True is not a number"]),
    ("number for a word", edited(("kind: text, path: data/words", "kind: text, path: 7")), 4, ["put it in quotes"]),
    ("empty axis", edited(("[0, 50, 100]", "[]")), 21, ["axes.branch: [] has no values"]),
    ("axis without brackets", edited(("[0, 50, 100]", "50")), 21, ["axes.branch: 50", "a list is wanted"]),
    ("value twice", edited(("[0, 50, 100]", "[0, 50, 50.0]")), 21, ["branch.2: 50 stands here twice"]),
    ("empty value", edited(("[0, 50, 100]", "[0, null]")), 21, ["branch.1: is empty", "0 to 100"]),
    ("empty setting", edited(("peak_lr: 3e-3", "peak_lr: ")), 15, ["trunk.peak_lr: is empty"]),
    ("share over 1", edited(("[0, 0.2]", "[0, 1.2]")), 22, ["1.2 is out of range", "a share from 0 to 1"]),
    ("branch over 100", edited(("[0, 50, 100]", "[0, 120]")), 21, ["branch.1: 120 is out of range", "0 to 100"]),
    ("not a number", edited(("peak_lr: 3e-3", "peak_lr: .nan")), 15, ["nan", "finite"]),
    ("unknown axis", edited(("branch:", "brunch:")), 21, ["axes.brunch: is unknown; did you mean branch?"]),
    ("group as an axis", edited(("branch: [0", "trunk: [0")), 20, ["trunk is a group of settings"]),
    ("unknown model", edited(("model: tiny", "model: tinny")), 13, ["'tinny' is not a model; did you mean tiny?"]),
    ("unknown model in an axis", edited((AXES, AXES + "      model: [80m]\n")), 23, ["'80m' is not a model"]),
    ("model without a shape", edited(("heads: 2, ", "")), 10, ["models.tiny: heads missing"]),
    ("odd shape", edited(("heads: 2,", "heads: 3,")), 10, ["models.tiny", "heads (3)"]),
    ("unknown like", edited(("{d_model: 64,", "{like: huge, d_model: 64,")), 11, ["like: 'huge' is not a model"]),
    (
        "cyclic defaults",
        edited(("  tiny:\n", "  a: {like: b}\n  b: {like: a}\n  tiny:\n")),
        10,
        ["models.a.like: the chain a -> b -> a goes in a circle"],
    ),
    ("unknown encoder", edited(("patches-16-64", "clip")), 14, ["encoder 'clip' is unknown"]),
    ("unknown data set", edited((AXES, AXES + "    set: {captions: photos}\n")), 23, ["'photos' is not a data set"]),
    ("data set of another kind", edited((AXES, AXES + "    set: {captions: words}\n")), 23, ["kind text", "pictures"]),
    ("shares of text", edited(("model: tiny", "model: tiny\n  text: {words: 0.5}")), 14, ["add up to 0.5"]),
    ("path that climbs out", edited(("path: data/words", "path: ../../etc/passwd")), 4, ["climbs out"]),
    ("path with a shell's mark", edited(("path: data/words", 'path: "data/$(id)"')), 4, ["not a plain path"]),
    ("path from a pipe", edited(("path: data/words", "path: 'pipe:cat /etc/passwd'")), 4, ["is no address"]),
    ("name with a shell's mark", edited(("name: small", "name: 'small;rm -rf'")), 1, ["'small;rm -rf' is not a plain word"]),
    ("name that climbs out", edited(("name: small", "name: ../small")), 1, ["is not a plain word"]),
    ("partition with a newline", SMALL + 'resources: {partition: "gpu\\n#SBATCH"}\n', 24, ["is not a plain word"]),
    ("GPU type", SMALL + "resources: {gpu_type: z100}\n", 24, ["'z100' is not a GPU type", "a100"]),
    ("slice", SMALL + "resources: {gpu_type: a100-1g.7gb}\n", 24, ["'a100-1g.7gb' is not a GPU type", "a100-1g.10gb"]),
    ("resources of no model", SMALL + "resources:\n  models:\n    tini: {nodes: 1}\n", 26, ["did you mean tiny?"]),
    ("same cell twice", SMALL.replace("epochs:", "  - axes: {branch: [50], image_share: [0]}\nepochs:"), 23, ["also in blocks.0"]),
    ("axis also set", edited((AXES, AXES + "    set: {branch: 50}\n")), 23, ["branch is also an axis"]),
    ("prices without a source", SMALL + "prices: {currency: EUR}\n", 24, ["prices.source: is missing"]),
    ("no word for a currency", PRICED + "currency: E U}\n", 24, ["currency: 'E U'"]),
    ("price of no GPU type", PRICED + "currency: EUR, gpu_hour: {z9: 1}}\n", 24, ["gpu_hour.z9: is no GPU type"]),
    ("price below 0", PRICED + "currency: EUR, core_hour: -1}\n", 24, ["core_hour: -1 is out of range"]),
    ("nested and dotted", edited((AXES, AXES + "    set: {trunk: {seed: 1}, trunk.seed: 2}\n")), 23, ["given twice"]),
    ("exclude of nothing named", SMALL + "exclude: [{}]\n", 24, ["would exclude every cell"]),
    ("exclude of everything", SMALL + "exclude: [{model: tiny}]\n", 24, ["excludes every cell"]),
    ("seed in its old place", edited((AXES, AXES + "    set: {pretrain.seed: 3}\n")), 23, ["the axis `seed`"]),
    ("epochs twice", edited(("epochs: [1, 2]", "epochs: [1, 1]")), 23, ["a number twice"]),
    ("warmup longer than the run", edited(("warmup_steps: 4", "warmup_steps: 400")), 20, ["warmup_steps 400", "100"]),
    ("no learning rate", edited(("peak_lr: 3e-3, ", "")), 20, ["trunk.peak_lr is not set", "models.tiny"]),
    ("budget below one step", edited(("unit_tokens: 25600", "unit_tokens: 256")), 20, ["less than one step of 512"]),
    ("branch before the first step", edited(("[0, 50, 100]", "[0.5]")), 20, ["before the first of the trunk's 100 steps"]),
    ("nothing to continue", edited((AXES, AXES + "    set: {lr_at_branch: continue}\n")), 20, ["nothing to go on from"]),
    ("no captions", edited(("  pictures: {kind: captions, path: data/pictures}\n", "")), 19, ["captions is not set"]),
    ("axis missing", edited(("      branch: [0, 50, 100]\n", "")), 20, ["branch not set"]),
    ("too many cells", edited((AXES, AXES + f"      seed: {list(range(40_000))}\n")), 20, ["240,000 cells"]),
    ("key twice", edited(("backend: local", "backend: local\nbackend: slurm")), 3, ["'backend' stands here twice"]),
    ("a Python object", edited(("name: small", "name: !!python/object/apply:os.system [id]")), 1, ["!!python/object", "not allowed"]),
    ("a tag of its own", edited(("name: small", "name: !secret small")), 1, ["'!secret' is not allowed"]),
    ("merge key", edited(("  model: tiny", "  <<: {model: tiny}")), 13, ["merging by '<<'"]),
    ("alias of itself", edited(("name: small", "name: &a [*a]")), 1, ["alias *a"]),
    ("broken YAML", edited(("epochs: [1, 2]", "epochs: [1, 2")), 24, ["is not YAML"]),
    ("second document", SMALL + "---\nname: other\n", 24, ["a second document"]),
    ("deep nesting", "[" * 500_000, 1, ["nested deeper than 30"]),
    ("a list", "- name: small\n", 1, ["is not a mapping"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "parts"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_a_wrong_file_ends_in_a_clear_line(
    text: str, line: int, parts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = written(tmp_path, text), tmp_path / "store"
    assert main(["plan", str(path), "--store", str(store)]) in {1, 2}
    output, errors = capsys.readouterr()
    first = errors.splitlines()[0]
    assert first.startswith(f"sweep plan: {path}:{line}: "), errors
    assert all(part in errors for part in parts), errors
    assert "Traceback" not in errors
    # one fault, one line; a circle is told at each of its links
    assert len(errors.splitlines()) == max(1, errors.count("goes in a circle")), errors
    assert output == ""
    assert not store.exists()


def test_all_faults_of_a_file_are_told_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = edited(("local", "pbs"), ("[0, 50, 100]", "[0, 120]"), ("peak_lr: 3e-3", "peak_lr: high"))
    assert main(["plan", str(written(tmp_path, text)), "--store", str(tmp_path / "store")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition("sweep.yaml:")[2].partition(":")[0] for line in lines] == ["2", "15", "21"]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"# " + b"x" * 2**20, "larger than 1 MiB"),
        (b"[" * 10_000_000, "larger than 1 MiB"),
        (b"name: sm\xe4ll\n", "not UTF-8"),
        (b"", "is empty"),
        (b"name: \x07\n", "is not YAML"),
        (b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
            b"%c: &%c [%s]\n" % (c + 1, c + 1, b", ".join([b"*%c" % c] * 9)) for c in range(ord("a"), ord("j"))
        ), "once its aliases are expanded"),
    ],
    ids=["1 MiB", "10 MB of nesting", "Latin-1", "empty", "control character", "billion laughs"],
)  # fmt: skip
def test_a_file_that_is_no_sweep_file_at_all(
    content: bytes, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_bytes(content)
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 1
    errors = capsys.readouterr().err
    assert part in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "store").exists()


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(tmp_path / "none.yaml"), "--store", str(tmp_path / "store")]) == 1
    assert capsys.readouterr().err == f"sweep plan: {tmp_path}/none.yaml: cannot be read: No such file or directory\n"


def test_prices_go_into_the_plan_and_into_no_key(tmp_path: Path) -> None:
    prices = "prices: {currency: EUR, gpu_hour: {a100: 1.5}, core_hour: 0.02, source: our list}\n"
    plain, priced = planned(tmp_path / "a"), planned(tmp_path / "b", SMALL + prices)
    assert plain.prices is None
    assert priced.prices == Prices(currency="EUR", gpu_hour={"a100": 1.5}, core_hour=0.02, source="our list")
    assert keys(plain) == keys(priced)
    write_manifest(tmp_path / "manifest.jsonl", priced)
    assert read_manifest(tmp_path / "manifest.jsonl").prices == priced.prices
