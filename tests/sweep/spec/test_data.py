"""Weights of vision encoders: which data sets a sweep file's encoders take, and what they do to keys."""

from pathlib import Path
from typing import Any

import pytest

from jobs.store.job_file import build_job_content, read_planned_job
from stages.config import PretrainConfig, Vision
from sweep.cli import main
from sweep.errors import SweepFileError
from sweep.plan.manifest import Manifest, write_manifest
from sweep.spec.data import build_content_revision, resolve_encoder_weights
from tests.sweep.small_sweep import SMALL, edited, keys, planned, shipped, written

SIGLIP = "  siglip: {kind: encoder, encoder: siglip-so400m-14-384, path: encoders/siglip}\n"
DINOV2 = "  dinov2: {kind: encoder, encoder: dinov2-l-14-reg, path: encoders/dinov2}\n"


def text(encoder: str, entries: str, setting: str = "") -> str:
    """The small sweep with that encoder and those data sets."""
    chosen = f"encoder: {encoder}" + (f"\n  {setting}" if setting else "")
    room = (
        "pretrain: {context: 64, batch_sequences: 8, unit_tokens: 25600",
        "pretrain: {context: 1024, unit_tokens: 1e8",
    )
    return edited(("encoder: patches-16-64", chosen), ("models:", entries + "models:"), room)


def eyes(manifest: Manifest) -> Vision:
    """Of the first cell's image-text run."""
    job = next(job for job in manifest.jobs if job.phase == "pretrain")
    found = PretrainConfig.model_validate(dict(job.config)).vision
    assert found is not None
    return found


ENCODERS: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "by the data set's own word": ("siglip-so400m-14-384", SIGLIP + DINOV2, "", ("siglip",)),
    "another by its word": ("dinov2-l-14-reg", SIGLIP + DINOV2, "", ("dinov2",)),
    "one for each part": ("siglip+dinov2", DINOV2 + SIGLIP, "", ("siglip", "dinov2")),
    "the only one there is": ("siglip-so400m-14-384", "  eyes: {kind: encoder, path: eyes}\n", "", ("eyes",)),
    "named outright": ("siglip-so400m-14-384", SIGLIP + DINOV2, "encoder_weights: dinov2", ("dinov2",)),
    "a list": ("siglip+dinov2", SIGLIP + DINOV2, "encoder_weights: [dinov2, siglip]", ("dinov2", "siglip")),
    "an encoder without weights": ("patches-16-64", SIGLIP, "encoder_weights: siglip", ()),
    "one that brings its own": ("efficientnet-lite0", SIGLIP, "", ()),
}


@pytest.mark.parametrize(("encoder", "entries", "setting", "expected"), ENCODERS.values(), ids=ENCODERS)
def test_an_encoder_takes_the_weights_of_its_parts(
    encoder: str, entries: str, setting: str, expected: tuple[str, ...], tmp_path: Path
) -> None:
    assert eyes(planned(tmp_path, text(encoder, entries, setting))).weights == expected


WRONG: dict[str, tuple[str, list[str]]] = {
    "no weights": (text("siglip-so400m-14-384", ""), ["needs the weights of siglip-so400m-14-384", "kind: encoder"]),
    "weights of a part missing": (text("siglip+dinov2", SIGLIP), ["dinov2-l-14-reg-384", "there are siglip"]),
    "weights of another size": (text("siglip-so400m-14-224", SIGLIP), ["the weights of siglip-so400m-14-224"]),
    "two that would do": (
        text("dinov2-l-14-reg", DINOV2 + DINOV2.replace("dinov2:", "dinov3:")),
        ["dinov2 and dinov3 all hold dinov2-l-14-reg"],
    ),
    "too few names": (
        text("siglip+dinov2", SIGLIP + DINOV2, "encoder_weights: siglip"),
        ["names 1 data sets (siglip), and siglip+dinov2 has 2 parts"],
    ),
    "unknown name": (text("patches-16-64", SIGLIP, "encoder_weights: clip"), ["'clip' is not a data set"]),
    "another kind": (text("patches-16-64", SIGLIP, "encoder_weights: [words]"), ["of kind text", "takes kind encoder"]),
    "unknown encoder": (text("patches-16-64", SIGLIP.replace("-384", "-x")), ["data.siglip.encoder", "is unknown"]),
    "several in a folder": (
        text("patches-16-64", "  both: {kind: encoder, encoder: siglip+dinov2, path: both}\n"),
        ["'siglip+dinov2' has 2 parts; name the part"],
    ),
    "nothing to keep": (
        text("patches-16-64", "  none: {kind: encoder, encoder: patches, path: none}\n"),
        ["'patches' has no weights to keep"],
    ),
    "an address": (
        text("patches-16-64", "  far: {kind: encoder, path: 's3://bucket/siglip'}\n"),
        ["data.far.path", "is no folder of this machine"],
    ),
    "an encoder of text": (
        edited(("{kind: text,", "{kind: text, encoder: siglip-so400m-14-384,")),
        ["data.words.encoder", "this one is of kind text"],
    ),
}


@pytest.mark.parametrize(("content", "parts"), WRONG.values(), ids=WRONG)
def test_wrong_weights_end_in_a_clear_line(content: str, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(SweepFileError) as caught:
        planned(tmp_path, content)
    for part in parts:
        assert part in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/sweep.yaml:")


@pytest.mark.parametrize("setting", ["pretrain.context", "finetune.max_length"])
def test_a_sequence_has_room_for_an_image_and_its_text(setting: str, tmp_path: Path) -> None:
    chosen = f"    set: {{{setting}: 729}}\nepochs:"
    with pytest.raises(SweepFileError, match=f"{setting} 729 has no room for an image .* makes 729 tokens"):
        planned(tmp_path, text("siglip-so400m-14-384", SIGLIP).replace("epochs:", chosen))
    assert planned(tmp_path, text("siglip-so400m-14-384", SIGLIP).replace("epochs:", chosen.replace("729", "730")))


def test_weights_that_are_not_there_yet_are_a_remark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, text("siglip-so400m-14-384", SIGLIP))
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 0
    told = capsys.readouterr().err
    for name in ("words", "pictures", "talks", "bpe", "exams", "siglip"):
        assert f": data.{name}: {tmp_path}/" in told


def test_an_axis_of_encoders_finds_each_ones_weights() -> None:
    manifest = shipped("encoders")
    runs = [job.config for job in manifest.jobs if job.phase == "pretrain"]
    found: list[Any] = [dict(run)["vision"] for run in runs]
    assert [each.get("weights") for each in found] == [["siglip"], ["siglip", "dinov2"], None]


def test_the_weights_name_and_revision_move_every_key_behind_them(tmp_path: Path) -> None:
    before = planned(tmp_path / "a", text("siglip-so400m-14-384", SIGLIP))
    for change in ("revision: v2, ", "revision: v3, "):
        after = planned(tmp_path / "b", text("siglip-so400m-14-384", SIGLIP.replace("path", f"{change}path")))
        shared = {job.phase for job in after.jobs if job.key in keys(before)}
        assert shared == {"trunk"}
        before = after
    elsewhere = planned(tmp_path / "c", text("siglip-so400m-14-384", SIGLIP.replace("encoders/siglip", "other")))
    assert keys(elsewhere) == keys(planned(tmp_path / "a", text("siglip-so400m-14-384", SIGLIP)))


def test_revisions_of_data_sets_and_of_the_setting_are_joined(tmp_path: Path) -> None:
    entries = SIGLIP.replace("path", "revision: v2, path") + DINOV2
    assert eyes(planned(tmp_path, text("siglip+dinov2", entries))).revision == "v2,"
    both = text("siglip+dinov2", entries, "pretrain.encoder_revision: mine")
    assert eyes(planned(tmp_path, both)).revision == "v2,,mine"
    assert build_content_revision((), "v1") == "v1"  # an encoder whose weights come with a package
    assert resolve_encoder_weights("efficientnet-lite0", None, {}) == ()


def test_children_of_an_image_text_run_are_told_where_its_weights_lie(tmp_path: Path) -> None:
    manifest = planned(tmp_path, text("siglip-so400m-14-384", SIGLIP))
    write_manifest(tmp_path / "manifest.jsonl", manifest)
    for job in manifest.jobs:
        data = build_job_content(read_planned_job(tmp_path / "manifest.jsonl", job.key), "a1")["data"]
        assert isinstance(data, dict)
        assert data["siglip"] == f"{tmp_path}/encoders/siglip"


def test_the_new_settings_reach_the_stage_and_leave_the_keys_of_those_who_do_not_use_them(tmp_path: Path) -> None:
    given = "image_transform: letterbox, pretrain.packing: padded, pretrain.shuffle_shards: 4, trunk.shuffle_shards: 8"
    manifest = planned(tmp_path, edited(("epochs:", f"    set: {{{given}}}\nepochs:")))
    runs = {
        job.phase: PretrainConfig.model_validate(dict(job.config)) for job in manifest.jobs if job.stage == "pretrain"
    }
    last = runs["pretrain"]
    assert last.vision is not None
    assert (last.vision.transform, last.packing, last.shuffle_shards) == ("letterbox", "padded", 4)
    assert (runs["trunk"].packing, runs["trunk"].shuffle_shards) == ("packed", 8)
    usual = "image_transform: resize-naive, pretrain.packing: packed, pretrain.shuffle_shards: 16"
    assert keys(planned(tmp_path / "b", edited(("epochs:", f"    set: {{{usual}}}\nepochs:")))) == keys(
        planned(tmp_path / "c", SMALL)
    )


def test_a_rotary_table_belongs_to_the_model_and_costs_no_speed(tmp_path: Path) -> None:
    plain = edited(("{d_model: 64, layers: 2, heads: 2, vocabulary: 512}", "{like: 79m}"))
    manifest = planned(tmp_path, plain.replace("{like: 79m}", "{like: 79m, rotary_table: bfloat16}"))
    for job in manifest.jobs:
        if job.stage == "pretrain":
            assert PretrainConfig.model_validate(dict(job.config)).model.rotary_table == "bfloat16"
    before = planned(tmp_path / "b", plain)
    assert not keys(manifest) & keys(before)
    assert [job.estimate for job in manifest.jobs] == [job.estimate for job in before.jobs]


@pytest.mark.parametrize(
    ("given", "expected"), [("caption", "caption"), ("txt", ""), ('"syn_text,txt"', "syn_text,txt")]
)
def test_a_caption_is_a_field_or_one_of_several(given: str, expected: str, tmp_path: Path) -> None:
    manifest = planned(tmp_path, edited(("{kind: captions,", f"{{kind: captions, field: {given},")))
    fields = {
        source.field
        for job in manifest.jobs
        if job.phase == "pretrain"
        for source in PretrainConfig.model_validate(dict(job.config)).sources
        if source.kind == "captions"
    }
    assert fields == {expected}


@pytest.mark.parametrize("given", ['"a,,b"', '"a, b"', '",a"', '"a;b"'])
def test_a_list_of_fields_has_no_gaps(given: str, tmp_path: Path) -> None:
    with pytest.raises(SweepFileError, match="field is a caption's key"):
        planned(tmp_path, edited(("{kind: captions,", f"{{kind: captions, field: {given},")))
