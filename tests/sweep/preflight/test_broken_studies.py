"""Studies that would fail after hours: `plan` tells each in one line, `submit` refuses it; sound ones pass."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.stages.data.tokenizer_kinds import byte_level, unigram
from tests.stages.training.training_case import COLOURS, png, write_captions, write_tar, write_text
from tests.stages.vision.encoder_case import dinov2_model, save, siglip_model
from tests.sweep.preflight.studies import Study, rewrite, write_data


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sound study's data, and a store that keeps what was counted and found sound of them."""
    folder = tmp_path_factory.mktemp("shared")
    write_data(folder / "data")
    return folder


@pytest.fixture
def study(shared: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Study:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[-60:]
    return Study(shared / "data", shared / "store", tmp_path, name.strip("-"))


Change = Callable[[Study], None]


def misspelt_task(study: Study) -> None:
    study.edit(("text_tasks: [sums]", "text_tasks: [sumz]"))


def typo_in_a_task(study: Study) -> None:
    path = study.copy("exams") / "sums.yaml"
    path.write_text(path.read_text().replace("doc_to_text", "doc_to_txt"))


def task_of_another_field(study: Study) -> None:
    path = study.copy("exams") / "sums.yaml"
    path.write_text(path.read_text().replace("{{question}}", "{{query}}"))


def task_without_its_rows(study: Study) -> None:
    (study.copy("exams") / "sums.jsonl").unlink()


def task_named_twice(study: Study) -> None:
    study.edit(("text_tasks: [sums]", "text_tasks: [sums, {name: sums, limit: 2}]"))


def local_part_of_a_list_missing(study: Study) -> None:
    study.edit((f"{study.data}/words", f"[{study.data}/words/shard-7.tar, 'http://127.0.0.1:9/{{0..3}}.tar']"))


def pattern_without_files(study: Study) -> None:
    study.edit((f"{study.data}/words", f"'{study.data}/words/*.tra'"))


def no_evaluations(study: Study) -> None:
    study.edit(("  evaluate: {text_tasks: [sums], vision_tasks: [hues]}\n", ""))


def misspelt_vision_task(study: Study) -> None:
    study.edit(("vision_tasks: [hues]", "vision_tasks: [hue]"))


def exams_without_images(study: Study) -> None:
    shutil.rmtree(study.copy("exams") / "images")


def too_small_a_vocabulary(study: Study) -> None:
    study.edit(("vocabulary: 512", "vocabulary: 256"))


def torn_tokenizer(study: Study) -> None:
    path = study.copy("tokenizer.json")
    path.write_text(path.read_text()[:1_000])


def tokenizer_without_an_end(study: Study) -> None:
    path = study.copy("tokenizer.json")
    path.write_text(path.read_text().replace("<|endoftext|>", "<|other|>"))


def tokenizer_of_other_texts(study: Study) -> None:
    """It knows no letter but `a`, so that no text comes back from its tokens."""
    path = study.copy("tokenizer.json")
    rewrite(
        path, lambda file: {**file, "model": {**file["model"], "vocab": {"<|endoftext|>": 0, "a": 1}, "merges": []}}
    )


def sequences_too_short(study: Study) -> None:
    write_text(study.move("words", study.folder / "words"), shards=1, sequences=5, length=33)


def made_for_another_context(study: Study) -> None:
    study.move("words", study.data / "made-32")


def made_with_another_tokenizer(study: Study) -> None:
    study.move("words", study.data / "made-64")
    tokenizer = Tokenizer.from_file(str(study.data / "tokenizer.json"))
    tokenizer.add_tokens(["square"])
    tokenizer.save(str(study.move("tokenizer.json", study.folder / "tokenizer.json")))


def tokens_beyond_the_vocabulary(study: Study) -> None:
    rows = {f"{row:06d}.json": json.dumps([600] * 65).encode() for row in range(5)}
    write_tar(study.move("words", study.folder / "words") / "shard-0.tar", rows)


def shard_that_is_not_there(study: Study) -> None:
    (study.copy("words") / "shard-1.tar").unlink()


def shard_that_is_empty(study: Study) -> None:
    (study.copy("words") / "shard-0.tar").write_bytes(b"")


def shard_that_is_torn(study: Study) -> None:
    path = study.copy("words") / "shard-0.tar"
    path.write_bytes(path.read_bytes()[:3_000])


def folder_without_shards(study: Study) -> None:
    study.move("pictures", study.folder / "pictures").mkdir()


def captions_under_another_field(study: Study) -> None:
    study.edit((f"path: {study.data}/pictures", f"path: {study.data}/pictures, field: alt"))


def talks_without_images(study: Study) -> None:
    shutil.rmtree(study.copy("talks") / "images")


def talks_that_are_no_list(study: Study) -> None:
    rewrite(study.copy("talks") / "conversations.json", lambda records: {"data": records})


def talks_of_other_sides(study: Study) -> None:
    path = study.copy("talks") / "conversations.json"
    path.write_text(path.read_text().replace('"human"', '"alice"'))


def talks_that_do_not_fit(study: Study) -> None:
    study.edit(("max_length: 128", "max_length: 24"))


def missing_folder(study: Study) -> None:
    study.move("pictures", study.folder / "picturez")


def unreadable_folder(study: Study) -> None:
    path = study.copy("pictures")
    if os.geteuid():
        path.chmod(0)
    else:  # nothing is closed to root: a link that goes in a circle cannot be read by anybody
        shutil.rmtree(path)
        path.symlink_to(path)


def encoder_of_another_size(study: Study) -> None:
    folder = save(dinov2_model(), study.folder / "dino")
    rewrite(folder / "config.json", lambda config: {**config, "num_register_tokens": 2})
    name_encoder(study, "dinov2-tiny-reg-32", folder)


def encoder_that_was_cut_off(study: Study) -> None:
    folder = save(siglip_model(), study.folder / "siglip")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    name_encoder(study, "siglip-tiny-32", folder)


def name_encoder(study: Study, encoder: str, folder: Path) -> None:
    study.edit(
        ("encoder: patches-16-64", f"encoder: {encoder}"),
        ("\nmodels:", f"\n  tower: {{kind: encoder, path: {folder}, encoder: {encoder}}}\nmodels:"),
    )


def engine_without_its_program(study: Study) -> None:
    checkout = study.folder / "open_lm"
    checkout.mkdir()
    name_engine(study, checkout)


def name_engine(study: Study, checkout: Path) -> None:
    study.edit(
        ("\ndefaults:", f"\nengines:\n  lm: {{kind: open_lm, python: /usr/bin/env, checkout: {checkout}}}\ndefaults:"),
        ("trunk: {", "trunk: {engine: lm, precision: fp32, "),
        ("branch: [0, 50]", "branch: [0, 100]"),  # open_lm saves at an epoch's end
    )


def store_without_room(study: Study) -> None:
    study.edit(("layers: 2", "layers: 900000"))


BROKEN: dict[Change, tuple[str, str]] = {
    misspelt_task: (
        r"study.yaml:17: evaluate.text_tasks: .*/exams/sumz.yaml: there is no such file",
        "is it sums\\? tasks there are sums",
    ),
    typo_in_a_task: (r"study.yaml:17: .*/exams/sums.yaml: .*doc_to_txt|doc_to_text", "correct the task's file"),
    task_of_another_field: (
        r"study.yaml:17: .*/exams/sums.yaml: row 1 .*'query' is undefined",
        r"correct the task's fields, or its data \(a row has question, answers, gold\)",
    ),
    task_without_its_rows: (r"sums.yaml: there is no file .*/exams/sums.jsonl", "correct the task's file"),
    task_named_twice: (r"study.yaml:17: evaluate.text_tasks: task sums is named twice", "name each task once"),
    local_part_of_a_list_missing: (r"study.yaml:4: data.words: .*/words/shard-7.tar: not there", "correct the path"),
    pattern_without_files: (r"study.yaml:4: data.words: .*/words/\*.tra: no file has such a name", "correct the path"),
    no_evaluations: (r"evaluate.text_tasks: no evaluation", "name tasks under defaults.evaluate"),
    misspelt_vision_task: (r"study.yaml:17: evaluate.vision_tasks: .*/exams/hue.json: there is no", r"is it hues\?"),
    exams_without_images: (r"/exams/hues.json: 6 of 6 images are not in .*/exams", "put the images there"),
    too_small_a_vocabulary: (
        r"study.yaml:7: data.bpe: .*tokenizer.json: token id \d+ is beyond the model's vocabulary of 256",
        "raise the model's vocabulary above that id",
    ),
    torn_tokenizer: (r"study.yaml:7: data.bpe: .*tokenizer.json: not a tokenizer file", "name a tokenizer.json"),
    tokenizer_without_an_end: (
        r"data.bpe: .*tokenizer.json: no end-of-text token",
        "add one of these special tokens to the file",
    ),
    tokenizer_of_other_texts: (r"data.bpe: .*: text does not come back from tokens", "take another tokenizer"),
    sequences_too_short: (
        r"study.yaml:4: data.words: .*: 33 tokens; context 64 needs 65",
        "`sweep data text --context 64`",
    ),
    made_for_another_context: (
        r"data.words: .*/made-32/dataset.json: made for context 32; context 64 needs",
        "lower the context",
    ),
    made_with_another_tokenizer: (
        r"data.words: .*/made-64/dataset.json: its tokens were made with another tokenizer",
        "name that tokenizer",
    ),
    tokens_beyond_the_vocabulary: (r"data.words: .*: token id 600, beyond the model's vocabulary of 512", "raise the"),
    shard_that_is_not_there: (r"words/manifest.jsonl: 1 of 2 shards are not there: shard-1.tar", "make the shards"),
    shard_that_is_empty: (r"words/shard-0.tar: an empty file", "copy it again"),
    shard_that_is_torn: (r"words/shard-0.tar: cut off", "copy it again"),
    folder_without_shards: (r"study.yaml:5: data.pictures: .*/pictures: no samples", "correct the path or field"),
    captions_under_another_field: (
        r"data.pictures: .*12 of 12 samples .* no caption in alt",
        "set field to where the captions stand; these samples have txt, caption",
    ),
    talks_without_images: (
        r"study.yaml:6: data.talks: .*conversations.json: 8 of 8 conversations .*there is no image",
        "put the images below .*/talks",
    ),
    talks_that_are_no_list: (r"data.talks: .*: a list of conversations is expected, not dict", "correct the path"),
    talks_of_other_sides: (r"data.talks: .*: turn 0 must come from human or user", "correct the path or the file"),
    talks_that_do_not_fit: (r"data.talks: .*: no answer within 24 tokens", "raise the longest sequence"),
    missing_folder: (r"study.yaml:5: data.pictures: .*/picturez: not there", "correct the path.*--ignore-data"),
    unreadable_folder: (r"study.yaml:5: data.pictures: .*/pictures: cannot be read: ", "correct the path"),
    encoder_of_another_size: (
        r"study.yaml:9: data.tower: .*dino/config.json: num_register_tokens is 2",
        "name a folder with the weights of dinov2-tiny-reg-32",
    ),
    encoder_that_was_cut_off: (
        r"data.tower: .*siglip/model.safetensors: no whole safetensors file",
        "copy it again",
    ),
    engine_without_its_program: (
        r"study.yaml:12: checkout: .*/open_lm/open_lm/main.py: there is no such file, so no checkout of open_lm",
        "correct checkout",
    ),
    store_without_room: (r"store: .*free, and 7 jobs leave", "make room"),
}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_a_broken_study_is_told_by_the_plan_and_refused_before_anything_runs(
    change: Change, study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    change(study)
    assert study.plan() == 0
    told = capsys.readouterr().err
    what, cure = BROKEN[change]
    [line] = [line for line in told.splitlines() if re.search(what, line)]
    assert re.search(cure, line)
    assert "next: correct what is told above; `sweep submit " in told
    assert study.submit() == 1
    refused = capsys.readouterr()
    assert refused.out == ""
    assert refused.err.startswith("sweep submit: nothing was sent: 1 problem of what the jobs read\n")
    assert len([line for line in refused.err.splitlines() if re.search(what.split(": ", 1)[-1], line)]) == 1
    assert f"sweep submit {study.name} --ignore-data" in refused.err
    assert not (study.store / "runs").exists()


def sound(study: Study) -> None:
    """As it is."""


def without_manifest(study: Study) -> None:
    (study.copy("words") / "manifest.jsonl").unlink()


def one_tar(study: Study) -> None:
    study.edit((f"{study.data}/words", f"{study.data}/words/shard-0.tar"))


def made_by_sweep_data_text(study: Study) -> None:
    study.move("words", study.data / "made-64")


def captions_in_json(study: Study) -> None:
    study.edit((f"path: {study.data}/pictures", f'path: {study.data}/pictures, field: "caption,txt"'))


def one_bad_caption(study: Study) -> None:
    folder = study.move("pictures", study.folder / "pictures")
    write_captions(folder, 12)
    write_tar(folder / "shard-1.tar", {"a.png": png("red"), "a.txt": b"", "b.png": png("red"), "b.txt": b"fine"})


def manifest_of_shards_elsewhere(study: Study) -> None:
    """Nothing listens there: a plan asks no server."""
    path = study.move("words", study.folder / "words.jsonl")
    places = [f"{study.data}/words/shard-0", "http://127.0.0.1:9/shard-1"]
    path.write_text("".join(json.dumps({"shard": place, "num_sequences": 20}) + "\n" for place in places))


def some_shards_elsewhere(study: Study) -> None:
    study.edit((f"{study.data}/words", f"[{study.data}/words/shard-0.tar, 'http://127.0.0.1:9/{{0..3}}.tar']"))


def images_in_a_tar(study: Study) -> None:
    folder = study.copy("talks")
    shutil.rmtree(folder / "images")
    write_tar(folder / "images.tar", {f"images/{colour}.png": png(colour) for colour in COLOURS})


def talks_as_a_file(study: Study) -> None:
    study.edit((f"{study.data}/talks", f"{study.data}/talks/conversations.json"))


def linked_folders(study: Study) -> None:
    for name in ("words", "exams"):
        study.move(name, study.folder / name).symlink_to(study.data / name)


def tokenizer_with_a_start(study: Study) -> None:
    unigram(study.move("tokenizer.json", study.folder / "tokenizer.json"))


def tokenizer_in_a_folder(study: Study) -> None:
    folder = study.folder / "model"
    folder.mkdir()
    byte_level(folder / "tokenizer.json")
    study.move("tokenizer.json", folder)


def text_tasks_alone(study: Study) -> None:
    study.edit(("text_tasks: [sums], vision_tasks: [hues]", "text_tasks: [{name: sums, limit: 2}]"))


def trusted_task(study: Study) -> None:
    study.edit(("text_tasks: [sums]", "text_tasks: [{name: arc_easy, trusted: true}]"))


def captions_at_an_address(study: Study) -> None:
    study.edit((f"{study.data}/pictures", "https://example.org/pictures"))


def encoder_with_weights(study: Study) -> None:
    name_encoder(study, "siglip-tiny-32", save(siglip_model(), study.folder / "siglip"))


def engine_with_its_program(study: Study) -> None:
    main = study.folder / "open_lm" / "open_lm" / "main.py"
    main.parent.mkdir(parents=True)
    main.touch()
    name_engine(study, study.folder / "open_lm")


def shards_by_pattern(study: Study) -> None:
    study.edit((f"{study.data}/words", f"'{study.data}/words/*.tar'"))
    study.edit((f"{study.data}/pictures", f"'{study.data}/pictures/*.tar'"))


def shards_by_a_manifest(study: Study) -> None:
    study.edit((f"{study.data}/words", f"{study.data}/words/manifest.jsonl"))


SOUND: tuple[Change, ...] = (
    sound, shards_by_pattern, shards_by_a_manifest,
    without_manifest, one_tar, made_by_sweep_data_text, captions_in_json, one_bad_caption, images_in_a_tar,
    manifest_of_shards_elsewhere, some_shards_elsewhere,
    talks_as_a_file, linked_folders, tokenizer_with_a_start, tokenizer_in_a_folder, text_tasks_alone, trusted_task,
    captions_at_an_address, encoder_with_weights, engine_with_its_program,
)  # fmt: skip


@pytest.mark.parametrize("change", SOUND, ids=lambda change: change.__name__)
def test_of_a_sound_study_nothing_is_told(
    change: Change, study: Study, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(study)
    assert study.plan("--json") == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["inputs"] == []
    assert "correct what is told above" not in told.err
    monkeypatch.setattr(sys, "executable", "/bin/false")  # what was found sound is kept: nothing is looked at again
    assert study.submit("--dry-run") == 0
    told = capsys.readouterr()
    assert told.err.startswith(("Would start 1 job now", "Would start 2 jobs now"))
    assert "not looked at" not in told.err
