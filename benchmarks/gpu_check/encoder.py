"""Images a second of a frozen encoder: SigLIP SO400M/14 at 384 px with random weights, as a training job runs it.

Decoding of image files is not part of it; `benchmarks/images.py` measures that. Never run on a GPU. The CPU half takes
a SigLIP of two narrow blocks.
"""

import time
from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.gpu_check.parts import Check, Figure, Row
from stages.config import Vision
from stages.distributed import select_device
from stages.gpu_memory import ENCODER_IMAGES_AT_ONCE
from stages.training.metrics import measure_peak_memory
from stages.vision.encoders import build_encoder_module
from stages.vision.feature_extractor import FeatureExtractor
from stages.vision.image_input import ImageInput
from stages.vision.specs import resolve_encoder_spec

LEAST_ROUNDS, LONGEST_SECONDS = 3, 5.0


def measure(check: Check) -> Iterator[Row]:
    """One row."""
    device = select_device(check.device)
    vision = Vision(encoder="siglip-so400m-14-384" if check.on_gpu else "siglip-tiny-32")
    spec = resolve_encoder_spec(vision.encoder)
    encoder = build_random_encoder(vision, device)
    extractor = FeatureExtractor(encoder, device, feature_dtype=getattr(torch, spec.feature_dtype))
    generator = torch.Generator().manual_seed(0)
    shape = (3, spec.image_size, spec.image_size)
    images = [
        ImageInput(f"{number:064x}", pixels=torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator))
        for number in range(ENCODER_IMAGES_AT_ONCE if check.on_gpu else 4)
    ]
    finite = bool(extractor.extract_features(images).isfinite().all())  # warms up, too
    rounds, began = 0, time.perf_counter()
    while rounds < LEAST_ROUNDS or (time.perf_counter() - began < LONGEST_SECONDS and check.on_gpu):
        extractor.extract_features(images)
        if check.on_gpu:
            torch.cuda.synchronize(device)
        rounds += 1
    rate = rounds * len(images) / (time.perf_counter() - began)
    figures: dict[str, Figure] = {
        "per_second": rate,
        "unit": "images",
        "peak_memory_gib": measure_peak_memory(device),
    }
    if check.peak_tflops:
        figures["mfu"] = rate * spec.flops / (check.peak_tflops * 1e12)
    yield Row(name=spec.name, passed=finite, reason="" if finite else "features are not finite", figures=figures)


def build_random_encoder(vision: Vision, device: torch.device) -> nn.Module:
    """The encoder with random weights, frozen; nothing is downloaded."""
    encoder = build_encoder_module(vision.model_copy(update={"frozen": False}))
    if encoder is None:
        raise ValueError(f"encoder {vision.encoder!r} is no network")
    encoder.to(device).requires_grad_(False)
    for weight in encoder.parameters():
        weight.normal_(std=0.02)
    return encoder
