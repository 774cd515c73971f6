from collections.abc import Callable
from pathlib import Path

import pytest

from stages.data.captions import Captions
from stages.data.collate import collate_sequences
from stages.data.image_reader import EncoderImageReader
from stages.data.mixture import Mixture
from stages.data.packing import join_documents
from stages.data.sample import NO_LOSS, BadSampleError
from stages.data.tokenizer import TextTokenizer
from stages.vision.image_input import ImageInput
from tests.stages.data.mixture_run import MixtureRun
from tests.stages.training.training_case import CONTEXT, World, document_of, picture_reader, png, write_tar


def test_a_caption_follows_its_image_and_ends_with_end_of_text(
    world: World, tokenizer: TextTokenizer, images: EncoderImageReader
) -> None:
    source = Captions("captions", world.data / "captions", field="", tokenizer=tokenizer, images=images)
    document = document_of(source, 1)
    assert tokenizer.decode(list(document.tokens[:-1])) == "a green square again"
    assert document.tokens[-1] == tokenizer.end_of_text
    sequence = join_documents([document], source=0)
    assert sequence.length == 4 + len(document.tokens) - 1
    assert sequence.targets.tolist() == [NO_LOSS] * 3 + list(
        document.tokens
    )  # the last image position predicts the first word
    named = Captions("captions", world.data / "captions", field="caption", tokenizer=tokenizer, images=images)
    assert tokenizer.decode(list(document_of(named, 1).tokens)) == "it is green"


@pytest.mark.parametrize(
    ("members", "field", "reason"),
    [
        ({"a.txt": b"text"}, "", "no image"),
        ({"a.png": b"no image at all", "a.txt": b"text"}, "", "not a usable image"),
        ({"a.png": png("red")[:60], "a.txt": b"text"}, "", "not a usable image"),
        ({"a.png": png("red"), "a.txt": b"  "}, "", "no caption in txt"),
        ({"a.png": png("red"), "a.json": b'{"caption": 3}'}, "caption", "no caption in caption"),
        ({"a.png": png("red"), "a.json": b"{"}, "caption", "unreadable"),
        ({"a.png": png("red"), "a.txt": b"x"}, "caption", "no caption in caption"),
        ({"a.png": png("red"), "a.json": b'{"caption": "a \\ud83d dog"}'}, "caption", "half a character"),
        ({"a.png": png("red"), "a.json": b'{"caption": ["good", "\\udc00"]}'}, "caption", "half a character"),
    ],
)
def test_a_bad_captioned_image_says_why(
    tmp_path: Path, world: World, members: dict[str, bytes], field: str, reason: str
) -> None:
    write_tar(tmp_path / "shard.tar", members)
    tokenizer = TextTokenizer(world.data / "tokenizer.json", 300)
    images = picture_reader()
    source = Captions("captions", tmp_path, field=field, tokenizer=tokenizer, images=images)
    with pytest.raises(BadSampleError, match=reason):
        source.read_document(0, 0)


class CountedReads:
    """Pictures that are counted instead of decoded."""

    image_tokens = 4

    def __init__(self) -> None:
        self.reads = 0

    def read(self, where: str, content: Callable[[], bytes]) -> ImageInput:  # noqa: ARG002 - a reader's form
        self.reads += 1
        return ImageInput(where)


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_an_image_is_decoded_only_for_the_sequence_that_it_is_in(
    world: World, tokenizer: TextTokenizer, packing: str
) -> None:
    counted = CountedReads()
    source = Captions("captions", world.data / "captions", field="", tokenizer=tokenizer, images=counted)
    mixture = Mixture(
        [source], [1.0], by="tokens", context=CONTEXT, stripes=4, seed=0, bad_samples_limit=0, packing=packing
    )
    data = MixtureRun(mixture)
    sequences = [sequence for _ in range(6) for sequence in data.take_batch()]
    assert counted.reads == sum(sequence.samples for sequence in sequences) == data.progress[0].images
    batch = collate_sequences(sequences, CONTEXT)
    assert batch.image_positions is not None
    assert batch.image_positions.shape == (counted.reads, 4)
    if packing == "packed":
        assert counted.reads > 24
        assert batch.documents is not None
    else:
        assert counted.reads == 24
        assert batch.documents is None
        assert (batch.tokens[:, -1] == 0).all()
