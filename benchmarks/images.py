"""Images on their way to the model, on one CPU thread: images per CPU second, by where their features come from.

    python benchmarks/images.py [--images 64] [--tars FOLDER] [--siglip]

Without `--tars`, a folder of webdataset tars, images of 512 x 512 pixels are made, as JPEG and as WebP. They are
brought to 384 x 384. Features are of the size that SigLIP SO400M/14 gives (729 x 1,152, bfloat16). `--siglip` also
runs it on one image, with random weights (1.6 GB of memory); efficientnet-lite0 is the demo's encoder, at 64 pixels.
"""

import argparse
import hashlib
import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageFilter

from stages.config import Vision
from stages.data.image_reader import EncoderImageReader
from stages.processor import describe_processor
from stages.vision.encoders import build_encoder_module, load_encoder_module
from stages.vision.feature_store import FeatureStore
from stages.vision.specs import resolve_encoder_spec
from stages.vision.transforms import ImageTransform, TransformKind

SIGLIP = resolve_encoder_spec("siglip-so400m-14-384")
CPU = torch.device("cpu")
TRANSFORMS: tuple[TransformKind, ...] = ("resize-naive", "letterbox")


def main() -> int:
    """Prints a line for each way."""
    parser = argparse.ArgumentParser(description="Measure the image path on one CPU thread.")
    parser.add_argument("--images", type=int, default=64, help="images of each kind (default: 64)")
    parser.add_argument("--tars", type=Path, help="folder of webdataset tars with the images; they are made otherwise")
    parser.add_argument("--siglip", action="store_true", help="also run SigLIP SO400M/14 at 384 px on one image")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_processor())
    kinds = {"tars": from_tars(options.tars, options.images)} if options.tars else made(options.images)
    for kind, images in kinds.items():
        size = sum(map(len, images)) / len(images) / 1_000
        print(f"{len(images)} images ({kind}), {size:.0f} kB in the mean")
        for transform in TRANSFORMS:
            reader = EncoderImageReader(SIGLIP, ImageTransform.from_spec(SIGLIP, transform), None)
            show(f"decode and {transform}", len(images), reading(reader, images))
    with tempfile.TemporaryDirectory() as folder:
        kept(images, Path(folder))
    encode("efficientnet-lite0", load_encoder_module(Vision(encoder="efficientnet-lite0"), (), CPU), 32)
    if options.siglip:
        encode(SIGLIP.name, random_siglip(), 1)
    return 0


def reading(reader: EncoderImageReader, images: Sequence[bytes]) -> Callable[[], None]:
    """Reads all images, as a source does."""

    def read() -> None:
        for image in images:
            reader.read("image", partial(bytes, image))

    return read


def kept(images: Sequence[bytes], folder: Path) -> None:
    """Features that are at hand: in the store, in memory."""
    transform, digests = (
        ImageTransform.from_spec(SIGLIP, "resize-naive"),
        [hashlib.sha256(image).hexdigest() for image in images],
    )
    shape = (SIGLIP.image_tokens, SIGLIP.feature_width)
    features = torch.randn(shape).bfloat16()
    store = FeatureStore(folder, shape, SIGLIP.feature_dtype)

    def fill() -> None:
        for digest in digests:
            store.add(digest, features)

    show("into the store", len(images), fill, repetitions=1)  # again, it would find them there
    show("from the store", len(images), reading(EncoderImageReader(SIGLIP, transform, store), images))
    show("known in memory", len(images), reading(EncoderImageReader(SIGLIP, transform, None, set(digests)), images))


def encode(name: str, encoder: torch.nn.Module, count: int) -> None:
    """The network, one image at a time, as on every CPU."""
    size = resolve_encoder_spec(name).image_size
    pixels = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)

    def run() -> None:
        with torch.no_grad():
            for _ in range(count):
                encoder(pixels)

    run()  # the first pass is slower
    show(f"encode with {name}", count, run)


def random_siglip() -> torch.nn.Module:
    """The network at its true size."""
    encoder = build_encoder_module(Vision(encoder=SIGLIP.name, frozen=False))
    assert encoder is not None
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0, 0.02)
    return encoder


def show(what: str, count: int, work: Callable[[], None], repetitions: int = 3) -> None:
    """Prints the least that `work`, which takes `count` images, has cost."""
    costs = []
    for _ in range(repetitions):
        started = time.process_time()
        work()
        costs.append((time.process_time() - started) / count)
    print(f"  {what:32} {1 / min(costs):10,.1f} images per CPU second   {1_000 * min(costs):9.2f} ms each")


def from_tars(folder: Path, count: int) -> list[bytes]:
    """The first images of the tars, in the order of their names."""
    images: list[bytes] = []
    for path in sorted(folder.rglob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith((".jpg", ".jpeg", ".png", ".webp")) and (file := tar.extractfile(member)):
                    images.append(file.read())
                if len(images) == count:
                    return images
    return images


def made(count: int) -> dict[str, list[bytes]]:
    """Images with coarse and fine detail, as JPEG and WebP of usual quality."""
    kinds: dict[str, list[bytes]] = {"JPEG": [], "WEBP": []}
    for number in range(count):
        noise = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        coarse = Image.frombytes("RGB", (64, 64), noise.numpy().tobytes()).filter(ImageFilter.GaussianBlur(1))
        image = coarse.resize((512, 512), Image.Resampling.BICUBIC)
        for kind, images in kinds.items():
            buffer = io.BytesIO()
            image.save(buffer, kind, quality=90)
            images.append(buffer.getvalue())
    return kinds


if __name__ == "__main__":
    raise SystemExit(main())
