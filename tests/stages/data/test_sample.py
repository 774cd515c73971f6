import pytest

from stages.data.captions import Captions
from stages.data.conversations import Conversations
from stages.data.image_reader import EncoderImageReader
from stages.data.sample import SampleSource
from stages.data.text import TokenShards
from stages.data.tokenizer import TextTokenizer
from tests.stages.training.training_case import CONTEXT, World, document_of


@pytest.mark.parametrize("kind", ["text", "captions", "conversations"])
def test_what_does_not_fit_is_said_to(
    world: World, tokenizer: TextTokenizer, images: EncoderImageReader, kind: str
) -> None:
    sources: dict[str, SampleSource] = {
        "text": TokenShards("text", world.data / "text", context=CONTEXT, vocabulary=300, seed=0),
        "captions": Captions("captions", world.data / "captions", field="", tokenizer=tokenizer, images=images),
        "conversations": Conversations(
            "conversations", world.data / "conversations", tokenizer=tokenizer, images=images, max_length=64
        ),
    }
    whole = document_of(sources[kind], 0)
    assert sources[kind].read_document(0, 0, whole.length - 1) is None
    assert sources[kind].read_document(0, 0, whole.length) is not None
