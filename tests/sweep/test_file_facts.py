"""Files are told from others by names, sizes and times, of large folders by the folder's own time."""

import os
from pathlib import Path

from sweep import file_facts
from sweep.file_facts import iter_file_facts, iter_tree_facts


def make_tree(folder: Path, images: int) -> Path:
    (folder / "images").mkdir(parents=True)
    (folder / "task.json").write_text("{}")
    for number in range(images):
        (folder / "images" / f"{number}.png").touch()
    (folder / "nothing").symlink_to(folder / "absent")
    return folder


def names(folder: Path) -> list[str]:
    return [name for name, _, _ in iter_tree_facts(folder)]


def test_a_small_tree_is_known_file_by_file(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "exams", 2)
    assert names(folder) == ["exams", "task.json", "images", "0.png", "1.png"]
    before = list(iter_tree_facts(folder))
    (folder / "images" / "0.png").write_bytes(b"x")
    assert list(iter_tree_facts(folder)) != before


def test_a_folder_of_many_images_is_known_by_its_time(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "exams", file_facts.MOST_IN_FOLDER + 1)
    assert names(folder) == ["exams", "task.json", "images"]
    os.utime(folder / "images", ns=(0, 0))
    before = list(iter_tree_facts(folder))
    (folder / "images" / "0.png").unlink()
    assert list(iter_tree_facts(folder)) != before


def test_a_tree_that_goes_in_a_circle_comes_to_an_end(tmp_path: Path) -> None:
    folder = make_tree(tmp_path / "exams", 0)
    (folder / "again").symlink_to(folder)
    (folder / "images" / "up").symlink_to(folder)
    assert len(names(folder)) < file_facts.MOST_IN_TREE


def test_shards_are_known_by_what_describes_them(tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).touch()
    assert [name for name, _, _ in iter_file_facts(tmp_path)] == ["2", "0.tar", "1.tar"]
    (tmp_path / "manifest.jsonl").write_text("{}\n")
    assert [name for name, _, _ in iter_file_facts(tmp_path)] == ["manifest.jsonl"]
    assert list(iter_file_facts(tmp_path / "absent")) == []
