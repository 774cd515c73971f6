"""`feature_cache`: what jobs are told, what it spares, and how much room it takes."""

import json
from pathlib import Path

import pytest

from jobs.job import Job
from jobs.store.paths import Store
from stages.config import Vision
from stages.vision.specs import resolve_encoder_spec
from sweep.cli import main
from sweep.cost.pricing import FeatureReuse
from sweep.plan.job_settings import FEATURES
from sweep.plan.manifest import Manifest
from tests.sweep.small_sweep import edited, keys, planned, written

SIGLIP = Vision(encoder="siglip-so400m-14-384")
IMAGE_BYTES = 729 * 1_152 * 2
TEXT = edited(
    ("encoder: patches-16-64", "encoder: siglip-so400m-14-384"),
    ("models:", "  siglip: {kind: encoder, path: encoders/siglip}\nmodels:"),
    ("path: data/talks}", "path: data/talks, examples: 700}"),
    (
        "pretrain: {context: 64, batch_sequences: 8, unit_tokens: 25600",
        "pretrain: {context: 2048, batch_sequences: 8, unit_tokens: 1638400",
    ),
)
"""Image-text runs of 100 steps of 8 sequences of 2,048."""
CACHE = "settings: {feature_cache: true}\n"


def jobs(manifest: Manifest, phase: str) -> list[Job]:
    return [job for job in manifest.jobs if job.phase == phase]


def kept(manifest: Manifest, phase: str) -> list[int]:
    """Images whose features each job adds."""
    assert all(job.estimate.feature_bytes % IMAGE_BYTES == 0 for job in manifest.jobs)
    return [job.estimate.feature_bytes // IMAGE_BYTES for job in jobs(manifest, phase)]


def encoded(manifest: Manifest, phase: str) -> float:
    """Images that go through the encoder."""
    return sum(job.estimate.encoder_flops for job in jobs(manifest, phase)) / resolve_encoder_spec(SIGLIP.encoder).flops


def test_the_stages_find_the_stores_folder_from_theirs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert (store.locate_run("pretrain", "key").root / FEATURES).resolve() == store.features
    manifest = planned(tmp_path, TEXT + CACHE)
    told = {job.phase for job in manifest.jobs if job.settings.get("feature_store") == "../../../features"}
    assert told == {"pretrain", "finetune"}
    of_evaluations = TEXT + CACHE.replace("}", ", phases: {evaluate: {feature_cache: true}}}")
    kept = {job.phase for job in planned(tmp_path, of_evaluations).jobs if "feature_store" in job.settings}
    assert kept == {"pretrain", "finetune", "evaluate"}
    assert not any("feature_cache" in job.settings for job in manifest.jobs)


def test_it_changes_no_key_and_no_time_limit(tmp_path: Path) -> None:
    without, with_it = planned(tmp_path / "a", TEXT), planned(tmp_path / "b", TEXT + CACHE)
    assert keys(without) == keys(with_it)
    # jobs side by side may encode the same images
    assert [job.resources for job in without.jobs] == [job.resources for job in with_it.jobs]


def test_runs_over_one_data_set_share_what_they_have_drawn(tmp_path: Path) -> None:
    text = TEXT.replace("image_share: [0, 0.2]", "image_share: [0, 0.2, 0.4]").replace("[0, 50, 100]", "[0, 50]")
    manifest = planned(tmp_path, text + CACHE)
    small, large = kept(manifest, "pretrain")[1:3]
    plain = planned(tmp_path / "b", text)
    drawn = [job.estimate.encoder_flops / resolve_encoder_spec(SIGLIP.encoder).flops for job in jobs(plain, "pretrain")]
    assert kept(manifest, "pretrain") == [0, round(drawn[1]), large, 0, 0, 0]
    assert small + large == pytest.approx(max(drawn), abs=1)
    assert encoded(manifest, "pretrain") == pytest.approx(max(drawn))


def test_no_more_images_are_kept_than_there_are(tmp_path: Path) -> None:
    text = TEXT.replace("path: data/pictures}", "path: data/pictures, examples: 50}")
    assert kept(planned(tmp_path, text + CACHE), "pretrain") == [0, 50, 0, 0, 0, 0]


def test_fine_tunes_encode_their_images_once_for_the_whole_sweep(tmp_path: Path) -> None:
    manifest = planned(tmp_path, TEXT + CACHE)
    assert kept(manifest, "finetune") == [700, *[0] * 11]
    assert encoded(manifest, "finetune") == pytest.approx(700)
    # six cells of one and two epochs; a process remembers 639 images, and encodes the other 61 in each epoch
    assert encoded(planned(tmp_path / "b", TEXT), "finetune") == pytest.approx(6 * (700 + 639 + 2 * 61))


def test_a_trained_encoder_and_raw_patches_keep_nothing(tmp_path: Path) -> None:
    trained = planned(tmp_path / "a", TEXT.replace("model: tiny", "model: tiny\n  freeze_encoder: false") + CACHE)
    patches = planned(tmp_path / "b", TEXT.replace("encoder: siglip-so400m-14-384", "encoder: patches") + CACHE)
    for manifest in (trained, patches):
        assert not any("feature_store" in job.settings or job.estimate.feature_bytes for job in manifest.jobs)


def test_other_seeds_draw_other_images_until_there_are_no_others() -> None:
    store = FeatureReuse()
    assert store.add_images("a", SIGLIP, 100, seed=1) == 100
    assert store.add_images("a", SIGLIP, 60, seed=1) == 0
    assert store.add_images("a", SIGLIP, 60, seed=2, examples=150) == 50
    assert store.add_images("a", SIGLIP, 1_000, seed=3, examples=150) == 0
    assert store.add_images("b", SIGLIP, 10, seed=1) == 10


def test_what_is_kept_goes_by_encoder_weights_and_transform_and_not_by_projector() -> None:
    store = FeatureReuse()
    assert store.add_images("a", SIGLIP, 10) == 10
    for name, value, new in [("projector", "linear", 0), ("transform", "letterbox", 10), ("weights", ("x",), 10)]:
        assert store.add_images("a", SIGLIP.model_copy(update={name: value}), 10) == new


def test_the_plan_says_how_much_room_it_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, store = str(written(tmp_path, TEXT + CACHE)), str(tmp_path / "store")
    assert main(["plan", path, "--store", store, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    expected = sum(job.estimate.feature_bytes for job in planned(tmp_path, TEXT + CACHE).jobs)
    assert report["total"]["feature_bytes"] == expected > 700 * IMAGE_BYTES
    assert main(["plan", path, "--store", store]) == 0
    assert f"features  {expected / 2**30:.1f} GiB on disk beside the checkpoints" in capsys.readouterr().out
