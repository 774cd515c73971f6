"""What `sweep plan` says that each data set has of the loss."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sweep.catalog import load_catalog
from sweep.cli import main
from sweep.plan.grid import expand_grid
from sweep.plan.loss_report import MAX_LINES, MixtureLoss, format_mixture_losses, list_mixture_losses
from sweep.plan.planner import build_manifest
from sweep.spec.reader import load_sweep
from tests.sweep.small_sweep import MANIFESTS, edited, written

AXIS = ("      image_share: [0, 0.2]\n", "      image_share: [0, 0.2]\n      pretrain.loss_mean: [tokens, sequences]\n")


def losses(path: Path) -> tuple[MixtureLoss, ...]:
    catalog = load_catalog()
    sweep = load_sweep(path, store=Path("/store"), catalog=catalog)
    return list_mixture_losses(sweep, catalog, build_manifest(sweep, expand_grid(sweep), catalog))


def test_each_mixture_of_the_reference_study_has_a_line_of_the_text_report() -> None:
    found = losses(MANIFESTS / "paper.yaml")
    assert len(found) == 12 <= MAX_LINES
    assert sum(each.jobs for each in found) == 300 - 12
    lines = [text for _, text in format_mixture_losses(found)]
    assert lines[:3] == [
        "estimated part of the pre-training loss that data with images have",
        "each sequence counts the same (loss_mean: sequences); in brackets: of the predicted tokens",
        "datacompdr 1 % of the mix: 1.4 % of the loss (0.019 %)",
    ]
    assert "datacompdr 8 % of the mix: 11 % of the loss (0.17 %), llava 2 %: 1.9 % (0.32 %)" in lines
    assert max(map(len, lines)) <= 92  # the label and its space before them: 100 columns


def test_mixtures_that_read_alike_have_one_line() -> None:
    found = losses(MANIFESTS / "encoders.yaml")
    assert len(found) > 1  # an encoder each
    assert len(format_mixture_losses(found)) == 3


def test_each_kind_of_mean_has_its_heading() -> None:
    lines = [text for _, text in format_mixture_losses(losses(MANIFESTS / "loss-mean.yaml"))]
    assert lines[1:] == [
        "each predicted token counts the same (pretrain.loss_mean: tokens):",
        "datacompdr 1 % of the mix: 0.019 % of the loss",
        "datacompdr 10 % of the mix: 0.21 % of the loss",
        "each sequence counts the same (loss_mean: sequences); in brackets: of the predicted tokens",
        "datacompdr 1 % of the mix: 1.4 % of the loss (0.019 %)",
        "datacompdr 10 % of the mix: 13 % of the loss (0.21 %)",
    ]


def test_the_plan_says_it_in_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, edited(AXIS))
    assert main(["plan", str(path), "--store", str(tmp_path / "store"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(each["loss_mean"], each["jobs"]) for each in report["losses"]] == [("tokens", 3), ("sequences", 3)]
    by_tokens, by_sequences = ({source["name"]: source for source in each["sources"]} for each in report["losses"])
    # an image of patches-16-64 has 16 tokens, a caption that nothing is known of 20: one to a sequence of 64
    samples, rows = 0.2 / 36, 0.8 / 64
    targets = samples * 21 / (samples * 21 + 0.8)
    for source in (by_tokens["pictures"], by_sequences["pictures"]):
        assert source["kind"] == "captions"
        assert source["share"] == 0.2
        assert source["target_share"] == pytest.approx(targets)
        assert source["sequence_share"] == pytest.approx(samples / (samples + rows))
    assert by_tokens["pictures"]["weight_share"] == pytest.approx(targets)
    assert by_sequences["pictures"]["weight_share"] == pytest.approx(samples / (samples + rows))
    assert main(["plan", str(path), "--store", str(tmp_path / "store")]) == 0
    text = capsys.readouterr().out
    assert (
        f"pictures 20 % of the mix: {100 * samples / (samples + rows):.0f} % of the loss ({100 * targets:.0f} %)"
        in text
    )


def test_a_plan_without_images_says_nothing_of_it(tmp_path: Path) -> None:
    assert losses(written(tmp_path, edited(("[0, 0.2]", "[0]")))) == ()
    assert format_mixture_losses([]) == []


def test_many_mixtures_are_counted() -> None:
    (one,) = losses(MANIFESTS / "seeds.yaml")[:1]
    text, images = one.sources
    many = [
        replace(one, sources=(text, images.model_copy(update={"name": f"d{each}"}))) for each in range(MAX_LINES + 3)
    ]
    lines = format_mixture_losses(many)
    assert len(lines) == MAX_LINES + 3
    assert lines[-1] == ("", "and 3 mixtures more (--json)")
