"""A configuration under the identities of its data: what keys and checkpoints hold of it."""

from typing import Any

from stages.config import EvaluateConfig, FinetuneConfig, PretrainConfig, name_by_identity
from stages.training.start import build_checkpoint_metadata, build_trajectory
from tests.stages.training.training_case import finetune_config, image_config

SIGLIP = {"encoder": "siglip-so400m-14-384", "weights": ["siglip"]}


def pretraining(**names: str) -> dict[str, Any]:
    """Each data set with an identity; `names`: what the user calls them."""
    named = {"text": "text", "captions": "captions", "tokenizer": "tokenizer", "siglip": "siglip", **names}
    kinds = ("text", "captions")
    return {
        **image_config(context=1_024),
        "sources": [{"name": named[kind], "kind": kind, "identity": f"of-{kind}", "share": 0.5} for kind in kinds],
        "tokenizer": {"name": named["tokenizer"], "identity": "of-tokenizer"},
        "vision": {**SIGLIP, "weights": [named["siglip"]], "identities": ["of-siglip"]},
    }


def test_what_a_user_calls_data_is_in_no_trajectory_and_no_checkpoint() -> None:
    names = {"text": "a", "captions": "b", "tokenizer": "c", "siglip": "d"}
    configs = [PretrainConfig.model_validate(pretraining(**each)) for each in ({}, names)]
    assert configs[0] != configs[1]
    assert build_trajectory(configs[0]) == build_trajectory(configs[1])
    assert build_checkpoint_metadata(configs[0]) == build_checkpoint_metadata(configs[1])
    held = build_checkpoint_metadata(configs[1])
    assert held["vision"]["weights"] == ["of-siglip"]
    assert held["tokenizer"] == {"name": "of-tokenizer", "revision": ""}
    assert "identit" not in str(held)


def test_data_that_go_by_their_names_stand_as_before() -> None:
    plain = image_config()
    assert name_by_identity(plain) == plain
    full = PretrainConfig.model_validate(plain).model_dump(mode="json")
    assert "identit" not in str(name_by_identity(full))
    assert PretrainConfig.model_validate(name_by_identity(full)) == PretrainConfig.model_validate(full)


def test_conversations_tasks_and_their_folder_go_by_their_identities() -> None:
    tuned = FinetuneConfig.model_validate(
        {**finetune_config(), "conversations": {"name": "talks", "kind": "conversations", "identity": "of-talks"}}
    )
    assert name_by_identity(tuned.model_dump(mode="json"))["conversations"]["name"] == "of-talks"
    asked = EvaluateConfig.model_validate(
        {
            "tasks": "papers", "identity": "exams", "tokenizer": {"name": "bpe"},
            "text_tasks": [{"name": "cloze", "identity": "of-cloze"}],
        }
    )  # fmt: skip
    held = name_by_identity(asked.model_dump(mode="json"))
    assert held["tasks"] == "exams"
    assert "identity" not in held
    # a task's name is that of its score, whatever its content
    assert (held["text_tasks"][0]["name"], held["text_tasks"][0]["identity"]) == ("cloze", "of-cloze")


def test_an_engines_argument_of_that_name_is_left_alone() -> None:
    config = {**image_config(), "engine": {"kind": "command", "command": ["x"], "arguments": {"identity": "me"}}}
    assert name_by_identity(config)["engine"]["arguments"] == {"identity": "me"}
