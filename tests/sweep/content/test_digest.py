"""Same content, same digest: what moves it, what does not, and how much of the data is read."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sweep.content import digest
from sweep.content.digest import UnreadableDataError, choose_pieces, read_content
from tests.stages.prepare.test_count import make_pairs, make_talks, make_tasks


def content(kind: str, path: Path, task: str = "") -> str:
    return read_content(kind, path, task)[0]


def make_encoder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 8, "model_type": "siglip"}))
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    return folder


def make_tokenizer(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"vocab": {"a": 0, "b": 1}}}))
    return folder


MADE: list[tuple[str, Callable[[Path], Path], str, str]] = [
    ("text", make_pairs, "", "1.tar"),
    ("captions", make_pairs, "", "manifest.jsonl"),
    ("conversations", make_talks, "", "talks.json"),
    ("tokenizer", make_tokenizer, "", "tokenizer.json"),
    ("encoder", make_encoder, "", "model.safetensors"),
    ("tasks", make_tasks, "sums.yaml", "sums.jsonl"),
    ("tasks", make_tasks, "hues.json", "hues.jsonl"),
]


@pytest.mark.parametrize(("kind", "make", "task", "file"), MADE)
def test_a_place_and_times_move_nothing_and_a_byte_does(
    tmp_path: Path, kind: str, make: Callable[[Path], Path], task: str, file: str
) -> None:
    first, second = make(tmp_path / "first"), make(tmp_path / "elsewhere" / "second")
    for path in second.iterdir():
        os.utime(path, (1, 1))
    assert content(kind, first, task) == content(kind, second, task)
    held = (second / file).read_bytes()
    (second / file).write_bytes(held[:-3] + bytes([held[-3] ^ 1]) + held[-2:])  # of the same size
    assert content(kind, first, task) != content(kind, second, task)


@pytest.mark.parametrize("number", [0, 1])
def test_shards_are_known_by_names_sizes_and_a_sample_of_each_part(tmp_path: Path, number: int) -> None:
    folder = make_pairs(tmp_path / "pairs", manifest=False)
    before = content("captions", folder)
    tar = folder / f"{number}.tar"
    held = tar.read_bytes()
    tar.write_bytes(held + bytes(512))
    assert content("captions", folder) != before
    tar.write_bytes(held)
    assert content("captions", folder) == before
    tar.rename(folder / "9.tar")
    assert content("captions", folder) != before


def test_other_files_beside_shards_move_nothing(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "pairs")
    before = content("captions", folder)
    for name in ("README.md", "._0.tar", ".DS_Store"):
        (folder / name).write_text("not data")
    assert content("captions", folder) == before


def test_the_digest_of_dataset_json_goes_before_the_bytes(tmp_path: Path) -> None:
    folder = make_pairs(tmp_path / "text")
    (folder / "dataset.json").write_text(json.dumps({"digest": "abc", "made_with": {"python": "3.11"}}))
    before = content("text", folder)
    (folder / "dataset.json").write_text(json.dumps({"made_with": {"python": "3.14"}, "digest": "abc"}))
    assert content("text", folder) == before
    (folder / "dataset.json").write_text(json.dumps({"digest": "abd"}))
    assert content("text", folder) != before
    for no_digest in ("{", "[]", '{"digest": 7}', "{}"):
        (folder / "dataset.json").write_text(no_digest)
        assert content("text", folder) == content("text", make_pairs(tmp_path / str(len(no_digest)) / no_digest[:1]))


def test_layout_of_json_and_yaml_moves_nothing(tmp_path: Path) -> None:
    tokenizer, tasks = make_tokenizer(tmp_path / "bpe"), make_tasks(tmp_path / "exams")
    before = content("tokenizer", tokenizer), content("tasks", tasks, "sums.yaml")
    held = json.loads((tokenizer / "tokenizer.json").read_text())
    (tokenizer / "tokenizer.json").write_text(json.dumps(dict(reversed(held.items())), indent=2))
    text = (tasks / "sums.yaml").read_text()
    (tasks / "sums.yaml").write_text("# arithmetic\n" + text.replace("'Q: {{q}} ='", '"Q: {{q}} ="'))
    assert (content("tokenizer", tokenizer), content("tasks", tasks, "sums.yaml")) == before
    assert content("tokenizer", tokenizer / "tokenizer.json") == before[0]
    (tasks / "sums.yaml").write_text(text.replace("Q: {{q}} =", "Question: {{q}} ="))
    assert content("tasks", tasks, "sums.yaml") != before[1]


def test_a_word_of_yaml_and_the_truth_value_that_readers_take_it_for_differ(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "exams")
    text = (tasks / "sums.yaml").read_text()
    found = set()
    for value in ("no", '"no"'):
        (tasks / "sums.yaml").write_text(f"{text}description: {value}\n")
        found.add(content("tasks", tasks, "sums.yaml"))
    assert len(found) == 2


def test_a_task_is_known_by_its_own_files(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "exams")
    before = content("tasks", tasks, "sums.yaml"), content("tasks", tasks, "hues.json")
    (tasks / "more.jsonl").write_text("")
    (tasks / "another.yaml").write_text("task: another\n")
    assert (content("tasks", tasks, "sums.yaml"), content("tasks", tasks, "hues.json")) == before
    (tasks / "sums.yaml").rename(tasks / "adding.yaml")
    assert content("tasks", tasks, "adding.yaml") == before[0]


def test_code_that_a_trusted_task_names_is_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\nprocess_docs: !function helpers.clean\ninclude: base.yaml\n")
    (tmp_path / "helpers.py").write_text("def clean(documents): return documents\n")
    (tmp_path / "base.yaml").write_text("dataset_kwargs: {data_files: {test: rows.jsonl}}\n")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    found = {content("tasks", tmp_path, "own.yaml")}
    for name, more in (("helpers.py", "# more\n"), ("base.yaml", "more: 1\n"), ("rows.jsonl", "{}\n")):
        (tmp_path / name).write_text((tmp_path / name).read_text() + more)
        found.add(content("tasks", tmp_path, "own.yaml"))
    assert len(found) == 4


def test_hostile_task_files_are_read_in_bounded_time(tmp_path: Path) -> None:
    bomb = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" if n else "a0: &a0 [x]" for n in range(12))
    for name, text in (("bomb", bomb), ("deep", "[" * 5_000), ("bytes", "\udcff"), ("code", "a: !!python/name:os.x\n")):
        (tmp_path / f"{name}.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
        assert content("tasks", tmp_path, f"{name}.yaml").startswith("sha256-")
    (tmp_path / "climbs.yaml").write_text("data_files: ../../../etc/passwd\nother: /etc/passwd\n")
    _, facts = read_content("tasks", tmp_path, "climbs.yaml")
    assert list(facts) == [str(tmp_path), str(tmp_path / "climbs.yaml")]


@pytest.mark.parametrize(
    ("kind", "task"), [("text", ""), ("conversations", ""), ("tokenizer", ""), ("tasks", "pipe.yaml")]
)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, kind: str, task: str) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UnreadableDataError, match="neither a file nor a folder"):
        read_content(kind, tmp_path if task else tmp_path / "pipe.yaml", task)


def test_a_task_without_the_rows_that_it_names_is_not_known_yet(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "exams")
    (tasks / "sums.jsonl").unlink()
    with pytest.raises(UnreadableDataError, match=r"sums.jsonl: is not there, and a task names it"):
        read_content("tasks", tasks, "sums.yaml")


def test_a_bounded_part_of_a_large_file_is_read(tmp_path: Path) -> None:
    large = tmp_path / "talks.json"
    with large.open("wb") as file:
        file.truncate(1 << 40)  # sparse: no disk holds it
    before = content("conversations", large)
    with large.open("r+b") as file:
        file.seek((1 << 40) - 5)
        file.write(b"x")
    assert content("conversations", large) != before
    starts = choose_pieces(1 << 40, digest.MOST_BYTES, digest.PIECE_BYTES)
    assert (starts[0], starts[-1], len(starts)) == (0, (1 << 40) - digest.PIECE_BYTES, 1_024)


@pytest.mark.parametrize("kind", ["text", "captions", "conversations", "encoder"])
def test_an_empty_folder_is_not_known(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UnreadableDataError, match=str(tmp_path)):
        read_content(kind, tmp_path)


def test_what_changes_while_it_is_read_is_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_pairs(tmp_path / "pairs")
    add_tars = digest.add_tars

    def write_meanwhile(reader: digest.ContentReader, path: Path) -> None:
        add_tars(reader, path)
        (path / "1.tar").write_bytes(b"half a tar")

    monkeypatch.setattr(digest, "add_tars", write_meanwhile)
    with pytest.raises(UnreadableDataError, match=r"1.tar: changes while it is read"):
        read_content("captions", folder)
