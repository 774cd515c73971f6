"""Weights and moments to vla_foundry and back, beside what real vla_foundry says of them."""

import json
from typing import Any

import pytest
import torch

from stages.engines.vla_foundry.weights import FoundryWeightNames, convert_from_timm, convert_to_timm
from stages.vision.specs import resolve_encoder_spec
from tests.stages.engines.vla_foundry import vla_foundry_case as case
from tests.stages.training.training_case import same_bits

GOLDEN: dict[str, Any] = json.loads(case.GOLDEN.read_text())


@pytest.mark.parametrize("kind", case.KINDS)
def test_our_logits_are_those_of_vla_foundry_with_the_same_weights(kind: str) -> None:
    logits = case.our_logits(case.config_of(kind))[:, -1, ::25]
    torch.testing.assert_close(logits, torch.tensor(GOLDEN[kind]["logits"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", case.KINDS)
def test_each_weight_goes_to_its_own_name_at_vla_foundry(kind: str) -> None:
    config = case.config_of(kind)
    theirs = case.theirs(config, *case.model(config))
    sums = {name: case.weighted_sum(tensor) for name, tensor in theirs.items()}
    assert sums == pytest.approx(GOLDEN[kind]["sums"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", case.KINDS)
def test_the_weights_have_the_names_and_numbers_of_vla_foundrys_optimizer(kind: str) -> None:
    names = FoundryWeightNames(case.config_of(kind))
    assert sorted(names.list_trained()) == sorted(GOLDEN[kind]["trained"])
    assert list(names.group_by_decay()) == GOLDEN[kind]["groups"]


@pytest.mark.parametrize("kind", case.KINDS)
def test_weights_and_moments_come_back_as_they_went(kind: str) -> None:
    config = case.config_of(kind)
    vlm, encoder = case.model(config)
    names, weights = FoundryWeightNames(config), vlm.collect_weights()
    theirs = case.theirs(config, vlm, encoder)
    assert same_bits(names.convert_from_foundry(theirs), weights)
    of_language_model = {name: weights[name] for name in names.transformer}
    given = {f"exp_avg.{name}": tensor for name, tensor in of_language_model.items()}
    given |= {f"exp_avg_sq.{name}": tensor**2 for name, tensor in of_language_model.items()}
    given |= {f"step.{name}": torch.tensor(7.0) for name in of_language_model}
    written = names.convert_moments_to_foundry(given, {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1})
    whole = case.moments(config, theirs, 7)
    whole["state"] |= written["state"]
    assert written["param_groups"][1]["params"] == whole["param_groups"][1]["params"]
    back = names.convert_moments_from_foundry(whole)
    assert same_bits({name: back[name] for name in given}, given)
    assert {name.partition(".")[2] for name in back} == weights.keys()


def test_a_trained_encoder_goes_to_timms_names_and_back() -> None:
    spec = resolve_encoder_spec("siglip-tiny-32")
    encoder = {name: tensor.detach() for name, tensor in case.build_encoder(spec).named_parameters()}
    assert same_bits(convert_from_timm(spec, convert_to_timm(spec, encoder)), encoder)
