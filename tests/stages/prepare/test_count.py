"""What is counted of data for an estimate, with and without the packages of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stages.config import Task
from stages.prepare import count
from stages.prepare.count import CountRequest, count_data_set, select_evenly
from stages.prepare.shards import write_manifest, write_tar

ROOT = Path(__file__).parents[3]


def make_pairs(folder: Path, *, shards: int = 2, samples: int = 10, manifest: bool = True) -> Path:
    """Captions of 4, 8, 12 ... letters in `alt`."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        members: list[tuple[str, bytes]] = []
        for number in range(samples):
            caption = json.dumps({"alt": "word" * (number + 1)}).encode()
            members += [(f"{number}.png", b"image"), (f"{number}.json", caption)]
        write_tar(folder / f"{shard}.tar", members)
    if manifest:
        write_manifest(folder, [(str(shard), samples) for shard in range(shards)])
    return folder


def make_talks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A red square."}]
    records = [
        {"id": "1", "image": "a.png", "conversations": talk},
        {"id": "2", "image": "a.png", "conversations": talk * 2},
        {"id": "3", "conversations": [{**turn, "value": "word"} for turn in talk]},
        {"id": "4"},
    ]
    (folder / "talks.json").write_text(json.dumps(records))
    return folder


def make_tasks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    rows = [{"q": "1 + 1", "answers": ["2", "3"]}, {"q": "2 + 2", "answers": ["4", "5", "6"]}]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row | {"gold": 0}) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: sums.jsonl}}\ntest_split: test\n"
        "output_type: multiple_choice\ndoc_to_text: 'Q: {{q}} ='\ndoc_to_choice: answers\ndoc_to_target: gold\n"
        "metric_list: [{metric: acc}]\n"
    )
    for name, images in (("hues", ["a", "a", "b"]), ("more", ["b", "c", "b"])):
        lines = [
            {"id": str(number), "image": f"{image}.png", "question": "Hue?", "answers": ["red"]}
            for number, image in enumerate(images)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        about = {
            "format": 1,
            "questions": f"{name}.jsonl",
            "metric": "exact_match",
            "prompt": "{question}",
            "chance": 0,
        }
        (folder / f"{name}.json").write_text(json.dumps(about))
    return folder


def test_captions_are_counted_by_their_manifest_and_measured_on_a_sample(tmp_path: Path) -> None:
    found = count_data_set(CountRequest(kind="captions", path=str(make_pairs(tmp_path / "p")), field="alt"))
    assert (found.samples, found.images, found.measured, found.manifest) == (20, 20, 20, True)
    assert found.by_characters
    assert found.lengths == dict.fromkeys(range(1, 11), 2)  # four characters a token


def test_without_a_manifest_headers_are_read_and_of_many_shards_some_stand_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_pairs(tmp_path / "p", shards=6, manifest=False)
    request = CountRequest(kind="captions", path=str(folder), field="alt")
    assert (count_data_set(request).samples, count_data_set(request).opened_shards) == (60, 6)
    monkeypatch.setattr(count, "MOST_INDEXED", 3)
    monkeypatch.setattr(count, "SAMPLED_SHARDS", 2)
    found = count_data_set(request)
    assert (found.samples, found.opened_shards, found.shards) == (60, 3, 6)


def test_conversations_are_counted_whole(tmp_path: Path) -> None:
    found = count_data_set(CountRequest(kind="conversations", path=str(make_talks(tmp_path / "t"))))
    # three of the four records are conversations; two show the one image
    assert (found.samples, found.images, found.without_image) == (3, 1, 1)
    # "In: What is it?\nOut:" is 5 and " A red square." 4 tokens; the second has both twice, and an end of text between
    assert found.lengths == {9: 1, 19: 1, 4: 1}


def test_tasks_are_counted_as_they_are_asked(tmp_path: Path) -> None:
    request = CountRequest(
        kind="tasks", path=str(make_tasks(tmp_path / "e")), text_tasks=(Task(name="sums"), Task(name="none")),
        vision_tasks=(Task(name="hues", limit=2), Task(name="more")),
    )  # fmt: skip
    found = count_data_set(request).tasks
    assert (found["sums"].documents, found["sums"].requests) == (2, 5)
    assert found["sums"].tokens == 5 * 3  # "Q: 1 + 1 = 2" has 12 characters
    assert "none.yaml" in found["none"].problem
    assert (found["hues"].requests, found["hues"].images, found["hues"].new_images) == (2, 1, 1)
    assert (found["more"].requests, found["more"].images, found["more"].new_images) == (3, 2, 2)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    assert "no shards" in count_data_set(CountRequest(kind="captions", path=str(tmp_path))).problem
    (tmp_path / "text").mkdir()
    write_tar(tmp_path / "text" / "0.tar", [("0.json", b"[1, 2")])
    assert "unreadable" in count_data_set(CountRequest(kind="text", path=str(tmp_path / "text"))).problem
    (tmp_path / "text" / "bpe.json").write_text("{}")
    broken = CountRequest(kind="text", path=str(tmp_path / "text"), tokenizer=str(tmp_path / "text" / "bpe.json"))
    assert "not a tokenizer file" in count_data_set(broken).problem
    assert "0 JSON files" in count_data_set(CountRequest(kind="conversations", path=str(tmp_path))).problem


def test_a_pipe_is_told_and_not_waited_on(tmp_path: Path) -> None:
    pipe, shards = tmp_path / "talks.json", tmp_path / "shards"
    shards.mkdir()
    for path in (pipe, shards / "0.tar"):
        os.mkfifo(path)
    assert count_data_set(CountRequest(kind="conversations", path=str(pipe))).problem == (
        f"{pipe}: neither a file nor a folder"
    )
    talks = CountRequest(kind="conversations", path=str(make_talks(tmp_path / "t")), tokenizer=str(pipe))
    assert count_data_set(talks).problem == f"{pipe}: neither a file nor a folder"
    assert count_data_set(CountRequest(kind="captions", path=str(shards))).problem == (
        f"{shards}/0.tar: not a readable tar: not a file"
    )


def test_some_stand_evenly_for_all() -> None:
    assert select_evenly(range(10), 20) == list(range(10))
    assert select_evenly(range(10), 5) == [0, 2, 4, 6, 8]


def test_it_counts_where_no_package_of_training_is_installed(tmp_path: Path) -> None:
    requests = [
        {"kind": "captions", "path": str(make_pairs(tmp_path / "p")), "field": "alt", "tokenizer": "/there/t.json"},
        {"kind": "conversations", "path": str(make_talks(tmp_path / "t"))},
        {"kind": "tasks", "path": str(make_tasks(tmp_path / "e")), "text_tasks": [{"name": "sums"}],
         "vision_tasks": [{"name": "hues"}]},
    ]  # fmt: skip
    code = (
        "import sys\nfor name in ('torch', 'numpy', 'tokenizers', 'jinja2', 'safetensors', 'PIL'):\n"
        "    sys.modules[name] = None\n"
        "from stages.prepare.__main__ import main\nsys.exit(main(['count']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(requests), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    pairs, talks, tasks = json.loads(done.stdout)
    assert (pairs["samples"], pairs["by_characters"], talks["samples"]) == (20, True, 3)
    assert tasks["tasks"]["hues"]["images"] == 2
    assert tasks["tasks"]["sums"]["problem"] == "the package jinja2 is not installed"
