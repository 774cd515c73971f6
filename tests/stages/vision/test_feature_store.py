"""Features on disk: several writers at once, killed writers, damage, a full disk."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from stages.config import Vision
from stages.data.image_reader import open_image_reader
from stages.vision import feature_store
from stages.vision.feature_extractor import FeatureExtractor, load_feature_extractor
from stages.vision.feature_store import FeatureStore, main, open_feature_store
from stages.vision.image_input import ImageInput
from stages.vision.specs import resolve_encoder_spec
from tests.stages.training.training_case import World, png, text_config
from tests.stages.vision.encoder_case import SIGLIP, save, siglip_model
from tests.stages.vision.store_writer import digest, features, filled, store_in


def writer(folder: Path, first: int, end: int) -> "subprocess.Popen[bytes]":
    """A process that stores images first, first + 1... before `end`."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.stages.vision.store_writer", str(folder), str(first), str(end)]
    )


def holds(store: FeatureStore, numbers: range) -> bool:
    found = [store.get(digest(number)) for number in numbers]
    return all(f is not None and torch.equal(f, features(n)) for f, n in zip(found, numbers, strict=True))


def test_what_was_added_is_found_here_and_by_the_next_process(tmp_path: Path) -> None:
    store = filled(tmp_path, range(20))
    assert holds(store, range(20))
    assert holds(store_in(tmp_path), range(20))
    assert store.get(digest(20)) is None
    store.add(digest(3), features(99))
    assert holds(store, range(20)), "an image is stored once"
    assert len(list(tmp_path.iterdir())) == 2
    assert holds(pickle.loads(pickle.dumps(store)), range(20))  # noqa: S301 - for a worker process


def test_features_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    for wrong in (features(0)[:3], features(0).float()):
        with pytest.raises(ValueError, match=r"the store has \(4, 8\) bfloat16"):
            store_in(tmp_path).add(digest(0), wrong)


def test_two_writers_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    with writer(tmp_path, 0, 300) as one, writer(tmp_path, 150, 450) as other:
        assert (one.wait(), other.wait()) == (0, 0)
    assert len(list(tmp_path.glob("*.index"))) == 2
    assert holds(store_in(tmp_path), range(450))


def test_a_reader_picks_up_what_others_add_from_time_to_time(tmp_path: Path) -> None:
    now = 1_000.0
    reader, other = store_in(tmp_path, clock=lambda: now), filled(tmp_path, range(5))
    assert reader.get(digest(1)) is None, "it has just read the folder"
    now += feature_store.REFRESH_SECONDS + 1
    assert holds(reader, range(5))
    other.add(digest(5), features(5))
    now += feature_store.REFRESH_SECONDS + 1
    assert holds(reader, range(6))


def test_a_writer_that_is_killed_leaves_whole_entries(tmp_path: Path) -> None:
    with writer(tmp_path, 0, 10**9) as process:
        while not any(index.stat().st_size for index in tmp_path.glob("*.index")):
            time.sleep(0.01)
        time.sleep(0.05)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    store = store_in(tmp_path)
    total = len(store)
    assert total > 0
    assert holds(store, range(total))
    assert store.damaged == 0
    store.add(digest(total), features(total))
    assert holds(store_in(tmp_path), range(total + 1))


def test_a_torn_last_line_is_no_entry(tmp_path: Path) -> None:
    filled(tmp_path, range(3))
    [index] = tmp_path.glob("*.index")
    content = index.read_bytes()
    index.write_bytes(content[:-5])
    assert (len(store := store_in(tmp_path)), holds(store, range(2))) == (2, True)
    index.write_bytes(content[:-40] + b'\n["no entry"]\n{"image": "x", "offset": -1, "crc32": 0}\nnoise\n')
    assert len(store_in(tmp_path)) == 2


def test_a_flipped_byte_is_found_and_the_image_stored_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    filled(tmp_path, range(3))
    [data] = tmp_path.glob("*.features")
    content = bytearray(data.read_bytes())
    content[64 + 17] ^= 1  # in the second entry
    data.write_bytes(content[:-1])  # and the third lacks a byte
    store = store_in(tmp_path)
    assert holds(store, range(1))
    assert store.get(digest(1)) is None
    assert store.get(digest(2)) is None
    assert store.damaged == 2
    assert capsys.readouterr().err.count("damaged at byte 64; such images are encoded again") == 1
    for number in (1, 2):
        store.add(digest(number), features(number))
    assert holds(store, range(3))
    assert holds(store_in(tmp_path), range(3)), "of two entries of an image, one that holds is enough"


def test_a_full_disk_ends_the_storing_and_not_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, left = filled(tmp_path, range(2)), [30]
    write = os.write

    def filling_up(descriptor: int, content: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = write(descriptor, content[: left[0]])
        left[0] -= taken
        return taken

    monkeypatch.setattr(os, "write", filling_up)
    for number in range(2, 6):
        store.add(digest(number), features(number))
    monkeypatch.undo()
    assert capsys.readouterr().err.count("nothing more is stored: [Errno 28] No space left on device") == 1
    assert holds(store, range(2))
    assert store.get(digest(2)) is None
    assert holds(filled(tmp_path, range(6)), range(6)), "another process finds room again"


def test_there_are_never_more_than_so_many_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feature_store, "MAX_PACKS", 2)
    for number in range(4):
        filled(tmp_path, range(number, number + 1))
    assert len(list(tmp_path.glob("*.index"))) == 2
    assert capsys.readouterr().err.count("nothing more is stored: 2 packs are there") == 2
    assert holds(store_in(tmp_path), range(2))


def test_packs_can_be_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "encoder-0"
    for number in range(0, 30, 10):
        filled(folder, range(number, number + 15))
    about = {"encoder": "some", "transform": "letterbox", "image_tokens": 4, "feature_width": 8, "dtype": "bfloat16"}
    (folder / "about.json").write_text(json.dumps(about))
    running = store_in(folder)
    assert main([str(tmp_path), "--merge"]) == 0
    assert capsys.readouterr().out == "some  revision -  letterbox  35 images  0.000 GiB  0 damaged\n"
    assert len(list(folder.iterdir())) == 3
    assert holds(store_in(folder), range(35))
    assert running.get(digest(1)) is None, "a job that runs meanwhile encodes anew, and does not fail"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    save(siglip_model(), world.data / "siglip")
    save(siglip_model(seed=5), world.data / "other")
    return world


def vision(**changes: object) -> Vision:
    return Vision.model_validate({"encoder": SIGLIP, "weights": ["siglip"], **changes})


def test_each_encoder_and_transform_has_a_folder_of_its_own(world: World) -> None:
    job = world.job("a", "pretrain", text_config(), feature_store="../../../features")
    visions = [vision(), vision(revision="2"), vision(transform="letterbox"), vision(weights=["other"])]
    stores = [open_feature_store(job, each) for each in (*visions, vision(projector="linear"))]
    folders = [store.folder for store in stores if store is not None]
    assert len(set(folders)) == 4
    assert folders[4] == folders[0], "the projector has no part in the features"
    assert all(folder.parent == world.root / "features" for folder in folders)
    about = json.loads((folders[2] / "about.json").read_text())
    assert (about["encoder"], about["transform"], about["dtype"]) == (SIGLIP, "letterbox", "bfloat16")
    assert {store.entry_bytes for store in stores if store is not None} == {16 * 32 * 2}
    assert resolve_encoder_spec(SIGLIP).feature_bytes == 16 * 32 * 2


def test_there_is_no_store_for_what_is_not_kept(world: World) -> None:
    job = world.job("a", "pretrain", text_config(), feature_store="../../../features")
    assert open_feature_store(world.job("b", "pretrain", text_config()), vision()) is None
    assert open_feature_store(job, vision(frozen=False)) is None
    assert open_feature_store(job, Vision(encoder="patches-16-32")) is None


def test_what_one_job_has_encoded_the_next_one_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.job("a", "pretrain", text_config(), feature_store="../../../features", feature_cache_gib=0)
    colours = ("red", "green", "blue")

    def pictures() -> list[ImageInput]:
        reader = open_image_reader(job, vision())
        return [reader.read(colour, partial(png, colour)) for colour in colours]

    first = pictures()
    assert all(picture.features is None for picture in first)
    fresh = load_feature_extractor(job, vision(), torch.device("cpu")).extract_features(first)
    second = pictures()
    assert all(picture.pixels is None for picture in second)
    assert torch.equal(FeatureExtractor(torch.nn.Identity(), torch.device("cpu")).extract_features(second), fresh)
    # a picture that was read before another process stored its features is not encoded again either
    eyes = load_feature_extractor(job, vision(), torch.device("cpu"))
    monkeypatch.setattr(eyes, "_run", lambda pixels: pytest.fail(f"{len(pixels)} images encoded"))
    assert torch.equal(eyes.extract_features(first), fresh)


def test_the_command_tells_what_a_store_holds_and_checks_it(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    job = world.job("a", "pretrain", text_config(), feature_store="../../../features")
    store = open_feature_store(job, vision(revision="v1"))
    assert store is not None
    store.add(digest(1), torch.ones(16, 32, dtype=torch.bfloat16))
    folder = world.root / "features"
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"{SIGLIP}  revision v1  resize-naive  1 images  0.000 GiB  0 damaged\n"
    [data] = folder.glob("*/*.features")
    data.write_bytes(b"\0" * 1024)
    assert main([str(folder)]) == 1
    assert "0 images  0.000 GiB  1 damaged" in capsys.readouterr().out
    assert main([str(world.data)]) == 1
    assert main([]) == 2
    (store.folder / "about.json").write_text('{"image_tokens": 16, "feature_width": 32, "dtype": "os"}')
    assert main([str(folder)]) == 1
    assert "not readable" in capsys.readouterr().err
