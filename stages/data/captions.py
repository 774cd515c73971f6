"""Captioned images from webdataset tars (img2dataset, DataComp, DataCompDR): `abc.jpg`, `abc.txt`, `abc.json`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from stages.data.order import hash_numbers
from stages.data.sample import BadSampleError, Document, ImageReader, check_text
from stages.data.shards import ShardFolder, TarSample, TarShards
from stages.data.text import parse_json
from stages.data.tokenizer import TextTokenizer

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class Captions:
    """The image, its caption, the end-of-text token; the loss is on the caption and its end."""

    def __init__(
        self,
        name: str,
        folder: ShardFolder | Path,
        *,
        field: str,
        tokenizer: TextTokenizer,
        images: ImageReader,
        seed: int = 0,
    ) -> None:
        """`field`: where captions stand, several with commas between; see `read_captions`."""
        self.name, self.seed = name, seed
        self.fields = [part.strip() for part in field.split(",") if part.strip()] or ["txt"]
        self._tokenizer, self._images = tokenizer, images
        self._shards = TarShards(folder)
        self.size = self._shards.size

    @property
    def shard_sizes(self) -> Sequence[int]:
        return self._shards.sizes

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:
        sample = self._shards.find_sample(index)
        read_image = open_image_member(sample)
        text = select_caption(read_captions(sample, self.fields), self.seed, position)
        tokens = [*self._tokenizer.encode(text), self._tokenizer.end_of_text]
        if room is not None and self._images.image_tokens + len(tokens) - 1 > room:
            return None
        image = self._images.read(sample.where, read_image)
        return Document(tokens, [True] * len(tokens), image, self._images.image_tokens)

    def prefetch(self, shards: Sequence[int]) -> None:
        self._shards.prefetch(shards)


def select_caption(captions: Sequence[Sequence[str]], seed: int, position: int) -> str:
    """One of the fields by chance, and of its captions one by chance: a function of (seed, position)."""
    field = captions[hash_numbers(seed, position, 0) % len(captions)]
    return field[hash_numbers(seed, position, 1) % len(field)]


def read_captions(sample: TarSample, fields: Sequence[str]) -> list[list[str]]:
    """The captions of each of the `fields` that the sample has; BadSampleError if it has none.

    A field is `txt`, the text file, or a key of one of the sample's JSON files (`json`, then others: DataCompDR has
    its regenerated captions as a list in `syn.json`). Empty captions do not count.
    """
    found = [usable for field in fields if (usable := read_field_captions(sample, field))]
    if not found:
        raise BadSampleError(f"{sample.where}: no caption in {', '.join(fields)}")
    return found


def read_field_captions(sample: TarSample, field: str) -> list[str]:
    """The captions of one field; none if it is absent or neither a string nor a list of strings.

    BadSampleError if one of them is no text.
    """
    if field == "txt":
        given: object = sample.read("txt").decode(errors="replace") if "txt" in sample.extensions else None
    else:
        given = read_json_value(sample, field)
    texts = given if isinstance(given, list) else [given]
    return [
        check_text(f"{sample.where}: {field}", text.strip()) for text in texts if isinstance(text, str) and text.strip()
    ]


def read_json_value(sample: TarSample, key: str) -> object:
    """The value of the first of the sample's JSON files that has the key; None if none has."""
    files = [name for name in sample.extensions if name == "json" or name.endswith(".json")]
    for extension in sorted(files, key=lambda name: (name != "json", name)):
        record = parse_json(f"{sample.where}.{extension}", sample.read(extension), compressed=False)
        if isinstance(record, dict) and key in record:
            return record[key]
    return None


def open_image_member(sample: TarSample) -> Callable[[], bytes]:
    """Reads the bytes of the sample's image file."""
    for extension in IMAGE_EXTENSIONS:
        if extension in sample.extensions:
            return lambda: sample.read(extension)
    raise BadSampleError(f"{sample.where}: no image; one of {', '.join(IMAGE_EXTENSIONS)} is expected")
