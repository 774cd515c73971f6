from pathlib import Path

import pytest

from stages.data.tokenizer import TextTokenizer
from stages.errors import DataError
from tests.stages.training.training_case import World


def test_a_tokenizer_must_fit_the_model(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="beyond the model's vocabulary of 200"):
        TextTokenizer(world.data / "tokenizer.json", 200)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer file"):
        TextTokenizer(tmp_path, 300)
