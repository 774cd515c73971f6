from pathlib import Path

import pytest
import torch

from stages.config import LanguageModel, Vision
from stages.engines.prismatic.weights import read_trained_weights, reorder_projector, write_parent_weights
from stages.errors import ConfigError
from stages.models.vlm import VLM
from tests.stages.engines.prismatic.prismatic_case import MODEL, VISION
from tests.stages.training.training_case import same_bits


def test_two_encoders_features_change_places_and_back(tmp_path: Path) -> None:
    vision = Vision(encoder="siglip+dinov2")  # two layers: the widest of the three would be 19 million weights
    model = VLM(LanguageModel.model_validate(MODEL), vision)
    weights = model.collect_weights()
    write_parent_weights(weights, vision, projector=tmp_path / "p.pt", language_model=tmp_path / "l.pt")
    theirs = torch.load(tmp_path / "p.pt", weights_only=True)["model"]["projector"]
    siglip, dino = torch.randn(3, 1152), torch.randn(3, 1024)
    assert model.projector is not None
    ours = model.projector[0](torch.cat((siglip, dino), dim=1))
    swapped = torch.cat((dino, siglip), dim=1) @ theirs["projector.0.weight"].T + theirs["projector.0.bias"]
    torch.testing.assert_close(swapped, ours)
    assert same_bits(reorder_projector(theirs, vision, to_prismatic=False), {n: weights[n] for n in theirs})
    with pytest.raises(ConfigError, match="projector and llm_backbone are needed"):
        read_trained_weights(tmp_path / "p.pt", vision)


def test_a_projector_of_one_layer_has_no_number_there(tmp_path: Path) -> None:
    vision = Vision.model_validate({**VISION, "projector": "linear"})
    weights = VLM(LanguageModel.model_validate(MODEL), vision).collect_weights()
    projector, made = tmp_path / "p.pt", tmp_path / "made.pt"
    write_parent_weights(weights, vision, projector=projector, language_model=tmp_path / "l.pt")
    theirs = torch.load(projector, weights_only=True)["model"]["projector"]
    assert theirs.keys() == {"projector.weight", "projector.bias"}
    language = torch.load(tmp_path / "l.pt", weights_only=True)["state_dict"]
    torch.save({"model": {"projector": theirs, "llm_backbone": language}}, made)
    assert same_bits(read_trained_weights(made, vision), weights)
