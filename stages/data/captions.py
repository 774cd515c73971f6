"""Captioned images from webdataset tars: `abc.jpg`, `abc.txt`, `abc.json`."""

from pathlib import Path

from stages.data.images import FeatureCache
from stages.data.sample import BadSampleError, Document
from stages.data.tar_shards import TarSample, TarShards
from stages.data.text import load_json
from stages.data.text_tokenizer import TextTokenizer

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


class Captions:
    """The image, its caption, the end-of-text token; the loss is on the caption and its end."""

    def __init__(self, name: str, path: Path, *, field: str, tokenizer: TextTokenizer, images: FeatureCache) -> None:
        self.name, self.field = name, field
        self._tokenizer, self._images = tokenizer, images
        self._shards = TarShards(path)
        self.size = self._shards.size

    def document(self, index: int, position: int) -> Document:  # noqa: ARG002 - a caption is used whole
        sample = self._shards.read(index)
        text = caption(sample, self.field)
        content = image_content(sample)
        features = self._images.features(self.name, index, sample.where, lambda: content)
        tokens = [*self._tokenizer.encode(text), self._tokenizer.end_of_text]
        return Document(tokens, [True] * len(tokens), features)


def caption(sample: TarSample, field: str) -> str:
    """The sample's `txt` member, or the string that its JSON has under `field`; BadSampleError if it is empty."""
    text: object = None
    if field in {"", "txt"}:
        text = sample.members.get("txt", b"").decode(errors="replace")
    elif "json" in sample.members:
        record = load_json(sample.where, sample.members["json"], compressed=False)
        text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise BadSampleError(f"{sample.where}: no caption in {field or 'txt'}")
    return text.strip()


def image_content(sample: TarSample) -> bytes:
    """The bytes of the sample's image file."""
    for extension in IMAGE_EXTENSIONS:
        if extension in sample.members:
            return sample.members[extension]
    raise BadSampleError(f"{sample.where}: no image; one of {', '.join(IMAGE_EXTENSIONS)} is expected")
