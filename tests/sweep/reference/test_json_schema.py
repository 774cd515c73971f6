"""The JSON Schema of a sweep file: it takes what the reader takes, and marks what is wrong in a file's form."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from sweep.catalog import load_catalog
from sweep.cli import main
from sweep.errors import SweepFileError
from sweep.reference.json_schema import build_sweep_schema, render_sweep_schema
from sweep.spec.data import resolve_data_address
from sweep.spec.reader import SweepFileReader, load_sweep
from sweep.spec.yaml_source import parse_yaml
from tests.fuzz.sweep_files import WIDE
from tests.fuzz.yaml_changes import change_yaml
from tests.sweep.small_sweep import MANIFESTS, ROOT, SMALL
from tests.sweep.spec.test_reader import WRONG
from tests.sweep.spec.test_resources import WRONG as WRONG_RESOURCES
from tests.sweep.spec.test_run_settings import WRONG as WRONG_SETTINGS

SCHEMA = build_sweep_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
SHIPPED = [
    *sorted(MANIFESTS.glob("*.yaml")),
    ROOT / "tests" / "end_to_end" / "small.yaml",
    *sorted(ROOT.glob("tests/fixtures/store-0.1/store/sweeps/*/sweep.yaml")),
]
BEYOND_FORM = (
    "is not a finite number",  # YAML's .nan is a number to JSON Schema
    "the shares of text add up to",
    "is given twice, nested and dotted",
    "is not a whole number",  # of 20.0 where a file may not write one, which is an integer to JSON Schema
    "holds a control character",  # of U+0085 and the like
    "to have another, install the package",  # what installed packages add is known to Python alone
)
"""What the reader says of a file's form that no schema can know: see each."""


def is_marked(text: str) -> bool:
    """Whether the schema finds anything wrong with the file."""
    return next(VALIDATOR.iter_errors(parse_yaml(text, Path("sweep.yaml")).data), None) is not None


def find_form_problems(text: str) -> list[str]:
    """What the reader says of the file's form, before it looks at what names and values mean together."""
    source = parse_yaml(text, Path("sweep.yaml"))
    try:
        SweepFileReader(source, Path("/store"), load_catalog()).validate_schema()
    except SweepFileError as error:
        return list(error.problems)
    return []


def test_it_is_a_schema_of_draft_2020_12() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_sweep_file_of_the_project_is_taken(path: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(parse_yaml(path.read_text(), path).data)] == []


def test_the_files_of_tests_are_taken() -> None:
    assert not is_marked(SMALL)
    assert not is_marked(WIDE)


def list_wrong_files() -> Iterator[tuple[str, str]]:
    """The wrong sweep files of the tests that are YAML at all."""
    cases = [(name, text) for name, text, _, _ in WRONG]
    for name, (given, _) in WRONG_RESOURCES.items():
        cases.append((name, SMALL + f"resources: {given if given.startswith('{') else '{' + given + '}'}\n"))
    cases += [(name, f"{SMALL}{case[0]}\n") for name, case in WRONG_SETTINGS.items()]
    for name, text in cases:
        try:
            parse_yaml(text, Path("sweep.yaml"))
        except SweepFileError:
            continue
        yield name, text


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in list_wrong_files()])
def test_a_file_of_wrong_form_is_marked(text: str) -> None:
    problems = find_form_problems(text)
    if problems and not any(known in problem for problem in problems for known in BEYOND_FORM):
        assert is_marked(text)


def test_most_wrong_files_of_the_tests_are_marked() -> None:
    """The others are wrong by what a schema cannot know: names given elsewhere, rules between values."""
    cases = list(list_wrong_files())
    marked = [name for name, text in cases if is_marked(text)]
    assert len(cases) >= 70
    assert len(marked) >= 0.6 * len(cases)


def test_schema_and_reader_agree_on_changed_files(tmp_path: Path) -> None:
    """What the reader takes, the schema takes; what the reader finds wrong in the form, the schema marks."""
    dice = random.Random(7)
    sources = [text.encode() for text in (SMALL, WIDE, (MANIFESTS / "demo.yaml").read_text())]
    counted = {"taken": 0, "marked": 0}
    path = tmp_path / "sweep.yaml"
    for _ in range(600):
        content = change_yaml(dice, dice.choice(sources))
        path.write_bytes(content)
        try:
            text = content.decode()
            parse_yaml(text, path)
        except (SweepFileError, UnicodeDecodeError):
            continue
        if not isinstance(parse_yaml(text, path).data, dict):
            continue
        problems = find_form_problems(text)
        if not problems:
            try:
                load_sweep(path, store=tmp_path / "store", catalog=load_catalog())
            except SweepFileError:
                continue
            assert not is_marked(text), text
            counted["taken"] += 1
        elif not any(known in problem for problem in problems for known in BEYOND_FORM):
            assert is_marked(text), problems
            counted["marked"] += 1
    assert min(counted.values()) > 30, counted


@pytest.mark.parametrize(
    "address",
    [
        *("data/a", "/data/a b", "$STORE/x", "s3://bucket/{00000..01279}.tar", "a.tar::b.tar", "shards/*.tar"),
        *(
            "../x",
            "a/../b",
            "~/x",
            "a::../b",
            "pipe:cat x",
            "data/$(id)",
            "ftp://x/y",
            "x;y",
            "a\nb",
            "",
            "x/..",
            "..a/b",
        ),
    ],
)
def test_addresses_are_taken_as_the_reader_takes_them(address: str) -> None:
    try:
        resolve_data_address(address, "text", Path("/folder"), Path("/store"))
        sound = True
    except ValueError:
        sound = False
    content = {**parse_yaml(SMALL, Path("x")).data, "data": {"words": {"kind": "text", "path": address}}}
    assert is_marked(json.dumps(content)) is not sound


def test_a_setting_says_its_title_description_default_unit_and_choices() -> None:
    trunk = SCHEMA["$defs"]["TrunkSection"]["properties"]
    assert trunk["context"]["x-unit"] == "tokens"
    assert trunk["context"]["default"] == 2_048
    assert trunk["precision"]["enum"] == ["bf16", "fp32", "auto"]
    assert "several times as slow" in trunk["precision"]["description"]
    assert "Needed by a trunk" in trunk["peak_lr"]["description"]
    missing = [
        f"{name}.{key}"
        for name, definition in SCHEMA["$defs"].items()
        for key, field in definition["properties"].items()
        if "$ref" not in field and not (field.get("title") and field.get("description"))
    ]
    assert missing == []


def test_the_kept_schema_is_that_of_the_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert (MANIFESTS / "sweep.schema.json").read_text() == render_sweep_schema(), "run `make reference`"
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == render_sweep_schema()


def test_every_shipped_file_names_the_schema() -> None:
    for path in MANIFESTS.glob("*.yaml"):
        words, _, schema = path.read_text().partition("\n")[0].partition("$schema=")
        assert words == "# yaml-language-server: ", path
        assert (path.parent / schema).is_file(), path
