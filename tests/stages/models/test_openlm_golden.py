"""Figures of real open_lm (make_openlm_golden.py says how they were made), met by our model.

The last bits of float32 sums depend on torch's version and on the CPU. Where both are those of the file every bit is
asked for; on another machine the same figures within a tolerance.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.config import LanguageModel
from stages.models.openlm import OpenLM, build_rotary_table
from tests.stages.models.openlm_checkout import Case
from tests.stages.models.openlm_reference import initial_model, machine, sha256, train

GOLDEN: dict[str, Any] = json.loads((Path(__file__).with_name("openlm_golden.json")).read_text())


@pytest.fixture(params=GOLDEN["cases"], ids=lambda figures: str(figures["case"]["name"]))
def figures(request: pytest.FixtureRequest) -> Any:
    torch.set_num_threads(1)  # as open_lm ran: more threads split the sums in another way
    return request.param


def test_initial_logits_are_open_lms_bit_for_bit_or_within_tolerance_on_another_machine(figures: Any) -> None:
    case = Case(**figures["case"])
    with torch.no_grad():
        logits = initial_model(case).lm(torch.tensor([case.row(0)[:-1]]))
    if machine() == GOLDEN["machine"]:
        assert sha256(logits) == figures["initial_logits"]["sha256"]
    expected = torch.tensor(figures["initial_logits"]["first"])
    torch.testing.assert_close(logits[0, -1, :8], expected, rtol=1e-4, atol=1e-5)


def test_twenty_steps_are_open_lms_bit_for_bit_or_within_tolerance_on_another_machine(figures: Any) -> None:
    case = Case(**figures["case"])
    vlm = initial_model(case)
    losses = train(case, vlm)
    weights, expected = vlm.collect_weights(), figures["weights"]
    assert weights.keys() == expected.keys()
    if machine() == GOLDEN["machine"]:
        assert {name: sha256(weight) for name, weight in weights.items()} == {
            name: entry["sha256"] for name, entry in expected.items()
        }
        assert losses == pytest.approx(figures["losses"], abs=5.1e-4)  # open_lm prints four digits
    torch.testing.assert_close(losses, figures["losses"], rtol=2e-3, atol=0)
    for name, weight in weights.items():
        assert weight.norm().item() == pytest.approx(expected[name]["norm"], rel=2e-3), name


def test_the_bfloat16_rotary_table_is_the_one_that_open_lm_builds_under_autocast() -> None:
    cos, sin = build_rotary_table(2_048, 64, torch.device("cpu"), torch.bfloat16)
    golden = GOLDEN["rotary_bfloat16"]
    if machine() == GOLDEN["machine"]:
        assert [sha256(table.float()) for table in (cos, sin)] == golden["sha256"]
    for row, (cosines, sines) in golden["rows"].items():  # on another machine within one unit of bfloat16
        torch.testing.assert_close(cos[int(row), :8].float(), torch.tensor(cosines), rtol=0, atol=2**-8)
        torch.testing.assert_close(sin[int(row), :8].float(), torch.tensor(sines), rtol=0, atol=2**-8)


def test_a_model_takes_the_rotary_table_that_its_configuration_names() -> None:
    shape = {"d_model": 64, "layers": 1, "heads": 1, "vocabulary": 50}
    tokens = torch.randint(0, 50, (1, 600))
    logits = {}
    for table in ("float32", "bfloat16"):
        torch.manual_seed(0)
        logits[table] = OpenLM(LanguageModel.model_validate({**shape, "rotary_table": table}))(tokens)
    torch.testing.assert_close(logits["float32"][:, 0], logits["bfloat16"][:, 0])
    assert (logits["float32"][:, 500:] - logits["bfloat16"][:, 500:]).abs().max() > 1e-3
