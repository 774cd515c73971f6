import json
from pathlib import Path

import pytest

from stages.engines.prismatic.data import write_conversations
from stages.errors import ConfigError, DataError
from tests.stages.training.training_case import conversation
from tests.stages.training.training_case import write_conversations as write_llava


def test_records_that_would_stop_prismatic_half_way_are_left_out(tmp_path: Path) -> None:
    write_llava(tmp_path / "llava", 6)
    file = tmp_path / "llava" / "conversations.json"
    text = {"id": "t", "conversations": conversation(0)["conversations"][2:]}
    absent = {**conversation(0), "image": "images/absent.png"}
    climbing = {**conversation(0), "image": "../llava/images/red.png/../../../etc/hosts"}
    file.write_text(json.dumps([*json.loads(file.read_text()), text, absent, climbing, {"conversations": []}]))
    written = write_conversations(file.parent, tmp_path / "out.json", limit=3)
    assert (written.with_image, written.without_image, written.bad) == (6, 1, 3)
    assert (written.count_steps(4), written.count_images(4)) == (2 + 1, 8)
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept[0] == {**conversation(0), "id": "0"}
    assert "image" not in kept[6]
    with pytest.raises(DataError, match="3 records are of no use; the limit is 2"):
        write_conversations(file.parent, tmp_path / "out.json", limit=2)
    file.write_text(json.dumps([text]))
    with pytest.raises(ConfigError, match="no conversation has an image"):
        write_conversations(file.parent, tmp_path / "out.json", limit=0)
