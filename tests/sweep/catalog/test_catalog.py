import shutil
from pathlib import Path

import pytest

from sweep.catalog import FOLDER, load_catalog
from sweep.errors import SweepFileError

# the paper's table of models: parameters, peak learning rate, warmup, batch
PAPER_MODELS = {
    "11m": (10_569_312, 3e-3, 100, 64),
    "79m": (78_914_048, 3e-3, 400, 512),
    "154m": (153_677_376, 3e-3, 400, 512),
    "411m": (411_616_256, 3e-3, 2_000, 512),
    "1.4b": (1_439_795_200, 1e-2, 5_000, 256),
    "3b": (2_795_932_160, 3e-3, 5_000, 256),
    "7b": (6_889_410_560, 3e-4, 5_000, 2_048),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped catalog, to be damaged."""
    for path in FOLDER.glob("*.yaml"):
        shutil.copy(path, tmp_path)
    return tmp_path


def test_the_models_are_the_papers() -> None:
    models = load_catalog().models
    assert {
        name: (model.shape.parameters, model.peak_lr, model.warmup_steps, model.batch_sequences)
        for name, model in models.items()
    } == PAPER_MODELS


def test_image_text_runs_have_the_authors_settings() -> None:
    for name, warmup in (("1.4b", 5_000), ("79m", 400)):
        model = load_catalog().models[name]
        assert (model.restart_lr, model.restart_warmup_steps) == (3e-3, warmup)
        assert (model.image_text_batch_sequences, model.image_text_weight_decay) == (256, 0.033)


def test_every_entry_names_its_source() -> None:
    catalog = load_catalog()
    for section in (catalog.models, catalog.gpus, catalog.datasets, catalog.tasks):
        assert all(len(entry.source) > 10 for entry in section.values())


def test_every_task_of_the_paper_is_known() -> None:
    tasks = load_catalog().tasks
    vision = {name for name, task in tasks.items() if task.with_image and not name.startswith("default")}
    assert vision == {"vqav2", "gqa", "textvqa", "refcoco", "ocid_ref", "pope", "vizwiz"}
    assert sum(not task.with_image and not name.startswith("default") for name, task in tasks.items()) == 9


def test_a_limit_takes_documents_from_a_task_and_adds_none() -> None:
    catalog = load_catalog()
    assert catalog.find_task("vqav2", with_image=True, limit=1_024).documents == 1_024
    assert catalog.find_task("copa", with_image=False, limit=1_024).documents == 100


def test_an_unknown_task_or_data_set_has_a_stated_default() -> None:
    catalog = load_catalog()
    assert catalog.find_task("shapes", with_image=True).name == "default_vision"
    assert catalog.find_task("cloze", with_image=False, limit=50).documents == 50
    assert catalog.find_dataset("mine").name == "default"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "models.yaml",
            "peak_lr: 1.0e-2",
            "peek_lr: 1.0e-2",
            "models.1.4b: field 'peek_lr' is unknown; fields are name",
        ),
        ("models.yaml", "    final_lr: 1.0e-5\n", "", "models.11m: field 'final_lr' is missing"),
        (
            "models.yaml",
            "warmup_steps: 5000",
            "warmup_steps: soon",
            "models.1.4b.warmup_steps: 'soon' is not of type int",
        ),
        (
            "models.yaml",
            "warmup_steps: 5000",
            "warmup_steps: true",
            "models.1.4b.warmup_steps: True is not of type int",
        ),
        ("models.yaml", "heads: 16", "heads: 17", "models.1.4b.shape: .*heads"),
        ("models.yaml", "a100: 0.3128", "a100: 31.28", "models.1.4b: a100: 31.28 is not a number above 0 and up to 1"),
        ("models.yaml", "a100: 0.3128", "z80: 0.3128", "models.1.4b: no GPU type 'z80'"),
        ("models.yaml", "      trunk: {", "      trunc: {", "models.11m.resources: wants exactly trunk, pretrain"),
        ("models.yaml", "nodes: 32", "nodes: -32", "models.7b.resources.pretrain.nodes: -32 is below 0"),
        ("gpus.yaml", "factor: 1\n", "factor: 2\n", "gpus.a100: must be there, with the factor 1"),
        (
            "gpus.yaml",
            "{trunk: 0.08, ",
            "{trunk: -1, ",
            "gpus.cpu.startup_minutes: wants minutes for exactly trunk, pretrain",
        ),
        ("gpus.yaml", "{trunk: 0.08, ", "{", "gpus.cpu.startup_minutes: wants minutes for exactly trunk, pretrain"),
        ("gpus.yaml", "encoder_utilisation: 0.4", "encoder_utilisation: high", "encoder_utilisation: 'high'"),
        ("gpus.yaml", "gpus:\n", "gpus: [", "gpus.yaml: cannot be read as YAML"),
        ("data.yaml", "  default_text:", "  other_text:", "the entry 'default_text' is missing"),
        ("data.yaml", "  cc12m:", "  cc12m: !!python/object/apply:os.getcwd", "data.yaml: cannot be read as YAML"),
    ],
)
def test_a_wrong_figure_is_named_with_its_place(folder: Path, file: str, old: str, new: str, message: str) -> None:
    path = folder / file
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    with pytest.raises(SweepFileError, match=message) as raised:
        load_catalog(folder)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "gpus.yaml").unlink()
    with pytest.raises(SweepFileError, match=r"gpus\.yaml: cannot be read"):
        load_catalog(folder)
