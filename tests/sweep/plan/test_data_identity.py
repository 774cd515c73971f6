"""Data are known by their content: what moves a key, what is told and refused, and what plans of before keep."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from jobs.store.paths import Store, write_json
from sweep.catalog import load_catalog
from sweep.cli import main
from sweep.content.kept import DataContents
from sweep.errors import PlanConflictError
from sweep.plan.data_identity import StoredIdentities, identify_data
from sweep.plan.grid import expand_grid
from sweep.plan.manifest import DataIdentity, Manifest, read_manifest, write_manifest
from sweep.plan.new_plan import check_nothing_lost, make_plan, store_plan
from tests.stages.prepare.test_count import make_pairs, make_talks, make_tasks
from tests.sweep.content.test_digest import make_encoder, make_tokenizer
from tests.sweep.small_sweep import SMALL, edited, keys, planned, written

TASKS = ("text_tasks: [cloze], vision_tasks: [shapes]", "text_tasks: [sums], vision_tasks: [hues]")
REAL = edited(TASKS)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with all data of `REAL`."""
    make_data(tmp_path / "data")
    return tmp_path


def make_data(folder: Path) -> None:
    make_pairs(folder / "words", samples=3)
    make_pairs(folder / "pictures", samples=4)
    make_talks(folder / "talks")
    make_tasks(folder / "exams")
    make_tokenizer(folder / "bpe").joinpath("tokenizer.json").rename(folder / "tokenizer.json")


def plan(folder: Path, text: str = REAL, *words: str) -> Manifest:
    """Plans the text in the folder's store; the stored plan."""
    assert try_plan(folder, text, *words) == 0
    return stored(folder)


def try_plan(folder: Path, text: str = REAL, *words: str) -> int:
    return main(["plan", str(written(folder, text)), "--store", str(folder / "store"), *words])


def stored(folder: Path) -> Manifest:
    return read_manifest(Store(folder / "store").locate_sweep("small").manifest)


def store_plan_of_before(folder: Path, text: str = REAL) -> Manifest:
    """What version 0.1 stored: names alone."""
    manifest = planned(folder, text)
    paths = Store(folder / "store").locate_sweep(manifest.sweep)
    write_manifest(paths.manifest, manifest)
    paths.source.write_text(text)
    return manifest


def finish(folder: Path, manifest: Manifest, *phases: str) -> None:
    """Gives the jobs of these phases results."""
    for job in manifest.jobs:
        if job.phase in phases:
            run = Store(folder / "store").locate_run(job.stage, job.key)
            write_json(run.result, {"format": 1, "key": job.key, "stage": job.stage, "files": {}})


def change(folder: Path, name: str = "words") -> None:
    """Other content at the same place."""
    shutil.rmtree(folder / "data" / name)
    make_pairs(folder / "data" / name, samples=7)


RENAMED = REAL.replace("words:", "letters:").replace("pictures:", "photos:").replace("talks:", "dialogues:")
RENAMED = RENAMED.replace("bpe:", "tok:").replace("exams:", "papers:")


def test_a_name_moves_nothing(study: Path) -> None:
    before = plan(study)
    after = plan(study, RENAMED)
    assert keys(after) == keys(before)
    assert after.data.keys() == {"letters", "photos", "dialogues", "tok", "papers"}
    configs = [json.loads(json.dumps(dict(job.config))) for job in after.jobs]
    assert {source["name"] for config in configs for source in config.get("sources", ())} == {"letters", "photos"}


def test_a_path_moves_nothing_and_neither_does_another_store(
    study: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = plan(study)
    (study / "data").rename(study / "moved")
    assert keys(plan(study, REAL.replace("path: data/", "path: moved/"))) == keys(before)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    make_data(elsewhere / "data")
    assert keys(plan(elsewhere, RENAMED)) == keys(before)


def test_a_moved_store_moves_nothing(study: Path) -> None:
    text = REAL.replace("path: data/", "path: $STORE/data/")
    (study / "store").mkdir()
    (study / "data").rename(study / "store" / "data")
    before = store_plan_of_before(study, text)
    (study / "store").rename(study / "away")
    (study / "new").mkdir()
    (study / "away").rename(study / "new" / "store")
    other = text.replace("name: small", "name: other")
    # another sweep finds the former keys too, though the stored plan names places that are gone
    assert try_plan(study / "new", other) == 0
    found = read_manifest(Store(study / "new" / "store").locate_sweep("other").manifest)
    assert keys(found) == keys(before) == keys(plan(study / "new", text))


def test_each_kind_of_data_is_in_the_keys_of_the_jobs_that_read_it(study: Path) -> None:
    before = plan(study)
    moved = {}
    for name, file in (
        ("words", "words/1.tar"), ("pictures", "pictures/1.tar"), ("talks", "talks/talks.json"),
        ("bpe", "tokenizer.json"), ("exams", "exams/sums.jsonl"),
    ):  # fmt: skip
        path = study / "data" / file
        held = path.read_bytes()
        path.write_bytes(held.replace(b"a", b"e", 1))
        after = plan(study, REAL, "--replace")
        moved[name] = {job.phase for job in after.jobs if job.key not in keys(before)}
        path.write_bytes(held)
        assert keys(plan(study, REAL, "--replace")) == keys(before)
    whole = {"trunk", "pretrain", "finetune", "evaluate"}
    assert moved == {
        "words": whole, "pictures": whole - {"trunk"}, "bpe": whole - {"trunk"},
        "talks": {"finetune", "evaluate"}, "exams": {"evaluate"},
    }  # fmt: skip


def test_weights_of_an_encoder_are_known_by_content_and_found_under_their_identity(study: Path) -> None:
    make_encoder(study / "data" / "siglip")
    text = edited(
        TASKS,
        ("  exams:", "  weights: {kind: encoder, path: data/siglip}\n  exams:"),
        (
            "encoder: patches-16-64",
            "encoder: siglip-so400m-14-384\n  finetune.max_length: 2048\n  pretrain.context: 2048",
        ),
        ("unit_tokens: 25600", "unit_tokens: 1000000"),
        ("context: 64, batch_sequences: 8, unit_tokens: 1000000", "batch_sequences: 8, unit_tokens: 1000000"),
    )
    before = plan(study, text)
    identity = before.identities["weights"]
    assert before.data[identity.name] == before.data["weights"]
    after = plan(study, text.replace("weights:", "siglip:"))
    assert keys(after) == keys(before)
    (study / "data" / "siglip" / "config.json").write_text('{"model_type": "siglip",\n "hidden_size": 8}')
    assert keys(plan(study, text)) == keys(before)
    (study / "data" / "siglip" / "model.safetensors").write_bytes(b"others")
    assert try_plan(study, text) == 1
    assert not keys(plan(study, text, "--replace")) & {job.key for job in before.jobs if job.phase != "trunk"}


def test_other_content_under_a_name_is_refused_until_it_is_confirmed(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = plan(study)
    finish(study, before, "trunk")
    change(study)
    capsys.readouterr()
    assert try_plan(study) == 1
    _, error = capsys.readouterr()
    [line] = [line for line in error.splitlines() if line.startswith("sweep plan: ")]
    assert line.startswith("sweep plan: data words: content ")
    assert "not what 'small' was planned with; 32 jobs would leave the plan, 2 of them done " in line
    assert "--replace" in line
    assert stored(study) == before
    assert try_plan(study, REAL, "--diff") == 0
    report = capsys.readouterr().out
    assert "data words: content " in report
    assert "done jobs that leave the plan: 2; their results stay in the store" in report
    assert try_plan(study, REAL, "--diff", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["jobs_gone_done"] == 2
    assert [each["label"] for each in found["data"]] == ["words"]
    after = plan(study, REAL, "--replace")
    assert not keys(after) & keys(before)
    assert plan(study) == after  # confirmed once


def test_data_that_were_packed_anew_keep_all_keys_if_the_user_says_so(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = plan(study)
    change(study)
    capsys.readouterr()
    assert try_plan(study) == 1
    assert "--same-data words if the samples are the same" in capsys.readouterr().err
    assert try_plan(study, REAL, "--same-data", "wrds") == 2
    assert "--same-data wrds: the file has no such data" in capsys.readouterr().err
    after = plan(study, REAL, "--same-data", "words")
    assert keys(after) == keys(before)
    assert after.identities["words"].content != before.identities["words"].content
    assert plan(study) == after  # said once
    # the store remembers it, for other names and other sweeps too
    assert keys(plan(study, RENAMED)) == keys(before)
    shutil.rmtree(Store(study / "store").locate_sweep("small").root)
    assert keys(plan(study)) == keys(before)
    (study / "data" / "exams" / "hues.jsonl").write_text('{"id": "1"}\n')
    assert try_plan(study) == 1
    assert keys(plan(study, REAL, "--same-data", "exams")) == keys(before)


def test_a_submission_refuses_data_that_changed_since_the_plan(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan(study)
    change(study)
    for words in ([], ["--dry-run"]):
        capsys.readouterr()
        assert main(["submit", "small", "--store", str(study / "store"), *words]) == 1
        assert "nothing was sent: data words: content " in capsys.readouterr().err
    assert not (study / "store" / "runs").exists()
    plan(study, REAL, "--replace")
    words = ["--store", str(study / "store"), "--dry-run", "--ignore-data"]  # its tasks are not there
    assert main(["submit", "small", *words]) == 0


def test_a_changed_task_moves_evaluations_alone_and_is_told_by_its_file(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = plan(study)
    (study / "data" / "exams" / "hues.jsonl").write_text('{"id": "1"}\n')
    assert try_plan(study) == 1
    assert "data exams/hues.json: content " in capsys.readouterr().err
    after = plan(study, REAL, "--replace")
    assert {job.phase for job in before.jobs if job.key not in keys(after)} == {"evaluate"}


def test_a_task_that_no_evaluation_uses_moves_nothing(study: Path) -> None:
    before = plan(study)
    (study / "data" / "exams" / "more.jsonl").write_text("")
    assert plan(study) == before


def test_a_revision_is_a_way_to_new_keys_and_back_whatever_the_content(study: Path) -> None:
    revised = REAL.replace("path: data/words", 'path: data/words, revision: "2"')
    before = plan(study)
    after = plan(study, revised)
    assert not keys(after) & keys(before)
    assert keys(plan(study)) == keys(before)
    # other content with another revision is what the user says it is
    change(study)
    assert not keys(plan(study, revised, "--replace")) & keys(after)
    third = plan(study, REAL.replace("path: data/words", 'path: data/words, revision: "3"'))
    assert not keys(third) & (keys(before) | keys(after))


@pytest.mark.parametrize("revision", ["", '"1"'])
def test_a_plan_of_before_keeps_its_keys_and_the_content_is_recorded(study: Path, revision: str) -> None:
    text = REAL.replace("path: data/words", f"path: data/words, revision: {revision}") if revision else REAL
    before = store_plan_of_before(study, text)
    after = plan(study, text)
    assert [job.key for job in after.jobs] == [job.key for job in before.jobs]
    assert after.identities["words"].name == "words"
    assert after.identities["words"].content.startswith("sha256-")
    assert keys(plan(study, text)) == keys(before)
    # the record outlives the name, and a plan that has other data meanwhile
    assert keys(plan(study, text.replace("words:", "letters:"))) == keys(before)
    held = study / "held"
    shutil.move(study / "data" / "words", held)
    make_pairs(study / "data" / "words", samples=7)
    assert not keys(plan(study, text, "--replace")) & keys(before)
    shutil.rmtree(study / "data" / "words")
    shutil.move(held, study / "data" / "words")
    assert keys(plan(study, text, "--replace")) == keys(before)


def test_other_content_than_after_the_migration_is_told(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store_plan_of_before(study)
    plan(study)
    change(study)
    assert try_plan(study) == 1
    assert "data words: content " in capsys.readouterr().err


def test_two_names_of_before_for_the_same_data_both_keep_their_keys(study: Path) -> None:
    both = edited(
        TASKS,
        (
            "  pictures: {kind: captions, path: data/pictures}",
            "  dense: {kind: captions, path: data/pictures, field: a}\n"
            "  raw: {kind: captions, path: data/pictures, field: b}",
        ),
        ("      image_share: [0, 0.2]", "      image_share: [0, 0.2]\n      captions: [dense, raw]"),
    )
    before = store_plan_of_before(study, both)
    assert [job.key for job in plan(study, both).jobs] == [job.key for job in before.jobs]
    assert [job.key for job in plan(study, both).jobs] == [job.key for job in before.jobs]


def test_a_new_sweep_shares_the_work_of_a_plan_of_before_at_the_same_place(study: Path) -> None:
    before = store_plan_of_before(study)
    other = REAL.replace("name: small", "name: other")
    for text in (other, RENAMED.replace("name: small", "name: other")):
        shutil.rmtree(study / "store" / "known-data", ignore_errors=True)
        assert try_plan(study, text) == 0
        found = read_manifest(Store(study / "store").locate_sweep("other").manifest)
        assert keys(found) == keys(before)
        shutil.rmtree(Store(study / "store").locate_sweep("other").root)


def test_a_name_of_before_is_not_given_to_other_data_of_that_name(study: Path) -> None:
    before = store_plan_of_before(study)
    make_pairs(study / "data" / "corpus", samples=9)
    other = REAL.replace("name: small", "name: other").replace("path: data/words", "path: data/corpus")
    assert try_plan(study, other) == 0
    found = read_manifest(Store(study / "store").locate_sweep("other").manifest)
    assert found.identities["words"].name.startswith("sha256-")
    assert not keys(found) & keys(before)
    assert keys(plan(study)) == keys(before)


def test_a_plan_of_before_whose_place_is_known_to_have_changed_is_told(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_plan_of_before(study, REAL.replace("name: small", "name: first"))
    store_plan_of_before(study)
    assert try_plan(study, REAL.replace("name: small", "name: first")) == 0
    change(study)
    capsys.readouterr()
    assert try_plan(study) == 1
    assert "data words: content " in capsys.readouterr().err


def test_data_that_come_later_move_nothing(tmp_path: Path) -> None:
    before = plan(tmp_path)
    assert before.identities == {}
    make_data(tmp_path / "data")
    after = plan(tmp_path)
    assert keys(after) == keys(before)
    assert after.identities.keys() == {"words", "pictures", "talks", "bpe", "exams/sums.yaml", "exams/hues.json"}
    change(tmp_path)
    assert try_plan(tmp_path) == 1


def test_a_task_that_comes_later_moves_nothing(study: Path) -> None:
    text = REAL.replace("[sums]", "[sums, later]")
    before = plan(study, text)
    exams = study / "data" / "exams"
    (exams / "later.yaml").write_text((exams / "sums.yaml").read_text())
    after = plan(study, text)
    assert keys(after) == keys(before)
    assert after.identities["exams/later.yaml"].content


def test_data_that_are_removed_after_training_move_nothing(study: Path) -> None:
    before = plan(study)
    shutil.rmtree(study / "data")
    after = plan(study)
    assert keys(after) == keys(before)
    assert after.identities == before.identities
    # another sweep that reads the same place finds the work too
    assert try_plan(study, RENAMED.replace("name: small", "name: other")) == 0
    assert keys(read_manifest(Store(study / "store").locate_sweep("other").manifest)) == keys(before)


def test_addresses_of_servers_go_by_name_and_revision(tmp_path: Path) -> None:
    remote = REAL.replace("path: data/words", "path: s3://bucket/words")
    assert keys(plan(tmp_path, remote)) == keys(planned(tmp_path / "elsewhere", REAL))
    renamed = plan(tmp_path, remote.replace("words:", "letters:"))
    assert not keys(renamed) & keys(planned(tmp_path / "elsewhere", REAL))


def test_two_names_for_the_same_text_in_one_mixture_are_refused(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = REAL.replace("  words:", "  copy: {kind: text, path: data/words}\n  words:").replace(
        "  model: tiny", "  model: tiny\n  text: {words: 0.5, copy: 0.5}"
    )
    assert try_plan(study, twice) == 1
    assert "hold the same data; name one of them" in capsys.readouterr().err


def test_two_cells_of_the_same_data_under_two_names_share_all_work(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = edited(
        TASKS,
        ("  words:", "  copy: {kind: text, path: data/words}\n  words:"),
        ("      branch: [0, 50, 100]", "      branch: [0, 50, 100]\n      text: [words, copy]"),
    )
    manifest = plan(study, twice)
    assert len(manifest.cells) == 12
    assert len(manifest.jobs) == 32
    assert "6 cells ask for the same work as another" in capsys.readouterr().err


def test_data_that_are_being_written_go_by_their_name_until_they_are_there(study: Path) -> None:
    shutil.rmtree(study / "data" / "words")
    (study / "data" / "words").mkdir()  # made, and not yet filled
    before = plan(study)
    assert "words" not in before.identities
    change(study)
    after = plan(study)
    assert keys(after) == keys(before)
    assert after.identities["words"].content


def test_two_people_who_plan_at_once_come_to_the_same_keys(study: Path) -> None:
    """Each decides before the other has stored, in either order."""
    for made in ([], [REAL]):
        for order in ((0, 1), (1, 0)):
            store = Store(study / "store")
            shutil.rmtree(store.root, ignore_errors=True)
            before = [store_plan_of_before(study, text) for text in made]
            files = [written(study / "a", REAL.replace("path: data/", f"path: {study}/data/"))]
            other = RENAMED.replace("name: small", "name: other").replace("path: data/", f"path: {study}/data/")
            files.append(written(study / "b", other))
            plans = [make_plan(path, store) for path in files]
            for number in order:
                check_nothing_lost(plans[number], store)
                store_plan(plans[number], store)
            again = [make_plan(path, store) for path in files]
            assert [keys(each.manifest) for each in again] == [keys(each.manifest) for each in plans]
            assert keys(plans[0].manifest) == keys(plans[1].manifest)
            assert all(keys(each) == keys(plans[0].manifest) for each in before)


def test_a_plan_made_before_another_was_stored_with_other_data_is_refused(study: Path) -> None:
    store = Store(study / "store")
    path = written(study, REAL)
    first = make_plan(path, store)
    change(study)
    store_plan(make_plan(path, store), store)
    with pytest.raises(PlanConflictError, match="was planned with other data by another command meanwhile"):
        store_plan(first, store)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"name": 7}', '{"name": "words", "content": ["x"]}'])
def test_damaged_records_are_passed_over(study: Path, text: str) -> None:
    before = store_plan_of_before(study)
    plan(study)
    for path in (study / "store" / "known-data").iterdir():
        path.write_text(text)
    assert keys(plan(study)) == keys(before)


@pytest.mark.parametrize("name", [".hidden", "a b", "empty"])
def test_other_folders_among_the_sweeps_are_passed_over(study: Path, name: str) -> None:
    (study / "store" / "sweeps" / name).mkdir(parents=True)
    (study / "store" / "sweeps" / name / "manifest.jsonl").write_text("no plan")
    assert plan(study).identities["words"].content


def test_a_later_version_may_add_fields(study: Path) -> None:
    plan(study)
    paths = Store(study / "store").locate_sweep("small")
    first, *others = paths.manifest.read_text().splitlines(keepends=True)
    header = json.loads(first)
    header["identities"]["words"]["later"] = {"a": 1}
    paths.manifest.write_text(json.dumps(header) + "\n" + "".join(others))
    assert isinstance(stored(study).identities["words"], DataIdentity)
    assert try_plan(study) == 0


def test_an_identity_is_found_without_a_plan_in_the_store(study: Path) -> None:
    from sweep.spec.reader import load_sweep

    store = Store(study / "store")
    sweep = load_sweep(written(study, REAL), store=store.root, catalog=load_catalog())
    found = identify_data(sweep, expand_grid(sweep), DataContents(store), StoredIdentities(store, "small"))
    assert found.changes == ()
    assert {label: each.name == each.content for label, each in found.identities.items()} == dict.fromkeys(
        ("words", "pictures", "talks", "bpe", "exams/sums.yaml", "exams/hues.json"), True
    )
    assert not store.root.exists()
    assert SMALL != REAL


def test_a_stored_plan_that_cannot_be_read_is_an_error_and_that_of_another_sweep_is_passed_over(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan(study)
    broken = {"small"}

    def read(path: Path) -> bytes:
        if path.parent.name in broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        with path.open("rb") as file:
            return file.readline()

    monkeypatch.setattr("sweep.plan.manifest.read_first_line", read)
    capsys.readouterr()
    assert try_plan(study, REAL, "--replace") == 1
    assert "manifest.jsonl: the disk or network file system failed" in capsys.readouterr().err
    shutil.copytree(study / "store" / "sweeps" / "small", study / "store" / "sweeps" / "other")
    broken.symmetric_difference_update({"small", "other"})
    assert try_plan(study, REAL) == 0
