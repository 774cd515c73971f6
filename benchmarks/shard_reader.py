"""Shards read by offset, as training reads them here, beside webdataset's stream of the same shards.

    python benchmarks/shard_reader.py [--shards 8] [--samples 2000] [--repeat 3]

Both sides read the same tars of captioned images (about 20 kB each) in one run, turn by turn, on one thread, from the
page cache. Nothing is decoded: what is measured is finding and reading members.

resume    from the start of the process to the first sample behind `--resumed` of all samples, as after an interruption:
          here the position is looked up; a stream must read what was read before
stream    samples in the order of the shards
shuffled  samples in an order drawn over all shards: here exact; webdataset's buffer of 1,000 mixes neighbours only
"""

import argparse
import io
import os
import random
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from stages.data.shard_sets import open_shards
from stages.data.shards import ShardFolder, TarShards
from stages.prepare.manifests import write_shard_manifest
from stages.processor import describe_processor

IMAGE_BYTES = 20_000


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Measure the shard reader beside webdataset's stream.")
    parser.add_argument("--shards", type=int, default=8, help="tars (default: 8)")
    parser.add_argument("--samples", type=int, default=2_000, help="samples of each (default: 2000)")
    parser.add_argument("--resumed", type=float, default=0.9, help="share of samples read before (default: 0.9)")
    parser.add_argument("--repeat", type=int, default=3, help="turns; the least CPU time counts (default: 3)")
    options = parser.parse_args()
    total = options.shards * options.samples
    skipped = int(options.resumed * total)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(options.shards):
            write_shard(folder / f"{number:05d}.tar", number, options.samples)
        places = f"{folder}/{{00000..{options.shards - 1:05d}}}.tar"
        began = time.process_time()
        write_shard_manifest(str(folder), None, workers=1)
        counted = time.process_time() - began
        print(describe_processor())
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {total:,} samples in {options.shards} shards")
        print(f"manifest: {counted:.2f} CPU s, once")
        print("| | ours, CPU s | webdataset, CPU s | ratio |\n|---|---|---|---|")
        rows: dict[str, tuple[Callable[[], int], Callable[[], int]]] = {
            f"resume behind {skipped:,} samples": (
                lambda: consume(read_own(places, range(skipped, skipped + 1))),
                lambda: consume(islice(read_stream(places), skipped, skipped + 1)),
            ),
            "stream": (lambda: consume(read_own(places, range(total))), lambda: consume(read_stream(places))),
            "shuffled": (
                lambda: consume(read_own(places, random.Random(0).sample(range(total), total))),
                lambda: consume(read_stream(places, shuffle=1_000)),
            ),
        }
        for title, sides in rows.items():
            ours, theirs = measure_turns(sides, options.repeat)
            print(f"| {title} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.1f} |", flush=True)
    return 0


def write_shard(path: Path, number: int, samples: int) -> None:
    """A tar of random images and captions."""
    rng = random.Random(number)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in range(samples):
            for extension, content in (("jpg", rng.randbytes(IMAGE_BYTES)), ("txt", b"a caption of some words")):
                entry = tarfile.TarInfo(f"{sample:08d}.{extension}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


def measure_turns(sides: tuple[Callable[[], int], Callable[[], int]], repeat: int) -> tuple[float, float]:
    """The least CPU seconds of each side, turn by turn; both must give the same number of bytes."""
    best = [float("inf"), float("inf")]
    for _ in range(repeat):
        sizes = []
        for side, run in enumerate(sides):
            began = time.process_time()
            sizes.append(run())
            best[side] = min(best[side], time.process_time() - began)
        assert sizes[0] == sizes[1], sizes
    return best[0], best[1]


def consume(samples: Iterator[tuple[bytes, bytes]]) -> int:
    """Bytes of all samples."""
    return sum(len(image) + len(caption) for image, caption in samples)


def read_own(places: str, order: "range | list[int]") -> Iterator[tuple[bytes, bytes]]:
    """Samples by their numbers, from shards that are opened anew."""
    folder: ShardFolder = open_shards(places, Path)
    shards = TarShards(folder)
    for number in order:
        sample = shards.find_sample(number)
        yield sample.read("jpg"), sample.read("txt")


def read_stream(places: str, shuffle: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """Samples as webdataset gives them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from webdataset import WebDataset

        data = WebDataset(places, shardshuffle=False)
        for sample in data.shuffle(shuffle) if shuffle else data:
            yield sample["jpg"], sample["txt"]


if __name__ == "__main__":
    sys.exit(main())
