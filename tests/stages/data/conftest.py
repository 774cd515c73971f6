import pytest

from stages.data.image_reader import EncoderImageReader
from stages.data.tokenizer import TextTokenizer
from tests.stages.training.training_case import World, make_world, picture_reader


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def tokenizer(world: World) -> TextTokenizer:
    return TextTokenizer(world.data / "tokenizer.json", 300)


@pytest.fixture
def images() -> EncoderImageReader:
    return picture_reader()
