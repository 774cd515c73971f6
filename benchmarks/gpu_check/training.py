"""Speed and memory of training: the loop's own step, at a model's real shape, on random tokens and random features.

One GPU does the part that one of eight does of the study's batches of 256: 32 sequences of 2,048 positions a step.
Batches are made before, so that no data are waited for. Never run on a GPU: compiled blocks, attention to packed
captions, the fused AdamW and page-locked transfers. The CPU half is an eager model of 0.3M weights.
"""

import gc
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import torch

from benchmarks.gpu_check.encoder import build_random_encoder
from benchmarks.gpu_check.parts import Check, Figure, Row
from stages.config import LanguageModel, PretrainConfig, Source, Tokenizer, Vision
from stages.data.batches import BatchLoader
from stages.data.collate import Batch, FixedLengthCollator
from stages.data.mixture import Mixture
from stages.data.sample import Document
from stages.distributed import DistributedContext, resolve_micro_batch_tokens, select_device
from stages.job_file import JobFile, Settings
from stages.models.vlm import VLM
from stages.schedule import Schedule
from stages.stop import StopFlag
from stages.training.loop import Training
from stages.training.metrics import GIB, LossSpikeDetector
from stages.training.optimizer import AdamW
from stages.training.parallel import ParallelModel
from stages.training.pretrain import build_pretraining
from stages.training.start import TrainingStart
from stages.training.state import TrainState
from stages.vision.feature_extractor import FeatureExtractor
from stages.vision.image_input import ImageInput
from stages.vision.specs import EncoderSpec, resolve_encoder_spec
from sweep.catalog import load_catalog

MFU_GOAL = 0.5
"""Of compiled text training at the models below, on one GPU."""
MODELS_WITH_GOAL = ("411M", "1.4B")
IMAGE_SHARE = 0.1
"""Of the tokens in batches with images: the middle of the study's shares."""
CAPTION_TOKENS = 50
WARM_UP_STEPS = 3
"""The first compiles, the second may compile again for another number of positions."""
LEAST_STEPS, LONGEST_SECONDS = 3, 4.0
"""How long is measured: whole steps until so many seconds are over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What is trained."""

    shape: LanguageModel
    context: int
    batch_sequences: int
    vision: Vision
    micro_batch_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """How it is trained."""

    compiled: bool
    images: bool = False
    recompute: bool = False

    @property
    def name(self) -> str:
        words = ["text and images" if self.images else "text", "compiled" if self.compiled else "eager"]
        return ", ".join(words + ["recompute"] * self.recompute)


def measure(check: Check) -> Iterator[Row]:
    """A row for each way to train the model that the part names."""
    model, mode = check.variant
    size = choose_size(model, on_gpu=check.on_gpu)
    plain = Case(compiled=mode == "compiled")
    cases = [plain, replace(plain, images=True)]
    if model == "1.4B" and plain.compiled:
        cases.append(replace(plain, recompute=True))
    for case in cases:
        row = measure_case(check, size, case)
        if check.on_gpu and model in MODELS_WITH_GOAL and case == Case(compiled=True):
            row = replace(row, figures={**row.figures, "goal_mfu": MFU_GOAL})
        yield row


def choose_size(model: str, *, on_gpu: bool) -> Size:
    """The model's own shape; on a CPU a small one of the same kind."""
    if on_gpu:
        shape = load_catalog().models[model.lower()].shape
        vision = Vision(encoder="siglip-so400m-14-384")
        return Size(shape=shape, context=2_048, batch_sequences=32, vision=vision)
    shape = LanguageModel(d_model=64, layers=2, heads=2, vocabulary=1_000)
    return Size(
        shape=shape, context=192, batch_sequences=8, vision=Vision(encoder="siglip-tiny-32"), micro_batch_tokens=384
    )


def measure_case(check: Check, size: Size, case: Case) -> Row:
    """One way to train; where the GPU's memory is too small, with half as many positions at once, down to one row."""
    tokens = resolve_micro_batch_tokens(size.micro_batch_tokens, select_device(check.device))
    notes: list[str] = []
    while True:
        try:
            figures = train(check, replace(size, micro_batch_tokens=tokens), case)
            return Row(name=case.name, figures=figures, reason="; ".join(notes))
        except torch.OutOfMemoryError:
            notes.append(f"{tokens:,} positions at once do not fit into the GPU's memory")
        # outside the handler, which holds the failed run's tensors
        release_memory(check)
        if tokens <= size.context:
            return Row(name=case.name, passed=False, reason=notes[-1])
        tokens //= 2


def release_memory(check: Check) -> None:
    """Gives back what an earlier case held."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # it keeps the first block that it has compiled, with its gradients
    gc.collect()
    if check.on_gpu:
        torch.cuda.empty_cache()


def train(check: Check, size: Size, case: Case) -> dict[str, Figure]:
    """Figures of some steps, as a run's metrics have them."""
    release_memory(check)
    training, state, batches = open_training(check, size, case)
    stop, device = StopFlag(), training.world.device
    started = time.perf_counter()
    training.train_step(state, stop)
    first_seconds = time.perf_counter() - started
    for _ in range(WARM_UP_STEPS - 1):
        training.train_step(state, stop)
    if check.on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    training.meter.flush()
    began, steps = time.perf_counter(), 0
    while steps < LEAST_STEPS or (time.perf_counter() - began < LONGEST_SECONDS and check.on_gpu):
        training.train_step(state, stop)
        steps += 1
    figures: dict[str, Figure] = {
        **training.meter.flush(),
        "first_step_seconds": first_seconds,
        "steps": steps,
        "positions_a_step": size.context * size.batch_sequences,
        "images_a_step": batches.images_a_step,
        "micro_batch_tokens": size.micro_batch_tokens,
        "parameters": size.shape.parameters,
    }
    if check.on_gpu:
        figures["reserved_memory_gib"] = torch.cuda.max_memory_reserved(device) / GIB
    return figures


def open_training(check: Check, size: Size, case: Case) -> tuple[Training, TrainState, "RepeatedBatches"]:
    """The loop of a job of this size; its state before the first step, with random weights on the device; its data."""
    text = Source(name="text", kind="text", share=1 - IMAGE_SHARE if case.images else 1)
    captions = Source(name="captions", kind="captions", share=IMAGE_SHARE)
    config = PretrainConfig(
        model=size.shape,
        sources=(text, captions) if case.images else (text,),
        vision=size.vision if case.images else None,
        tokenizer=Tokenizer(name="tokenizer") if case.images else None,
        context=size.context,
        batch_sequences=size.batch_sequences,
        schedule=Schedule(peak_lr=1e-4, total_steps=1_000),
    )
    settings = Settings(
        device=check.device,
        compile=case.compiled,
        activation_checkpointing=case.recompute,
        micro_batch_tokens=size.micro_batch_tokens,
        peak_tflops=check.peak_tflops,
    )
    world = DistributedContext(select_device(check.device))
    torch.manual_seed(0)
    # on a CPU the weights of the largest would take a minute to draw
    with world.device:
        vlm = VLM(config.model, config.vision)
    model = ParallelModel(vlm, world, settings, config.precision)
    extractor = None
    if case.images:
        spec = resolve_encoder_spec(size.vision.encoder)
        # its weights lie in the GPU's memory, as in a job; the features come as from a store
        encoder = build_random_encoder(size.vision, world.device)
        extractor = FeatureExtractor(encoder, world.device, feature_dtype=getattr(torch, spec.feature_dtype))
    job = build_job(check, config, settings)
    batches = build_batches(config, size, on_gpu=check.on_gpu)
    optimizer = AdamW(vlm.iter_named_weights(), config.optimizer)
    state = TrainState(model, optimizer, batches, LossSpikeDetector(sigmas=0))
    return build_pretraining(job, config, world, extractor, TrainingStart()), state, batches


def build_job(check: Check, config: PretrainConfig, settings: Settings) -> JobFile:
    """A job that writes nothing, as no step of it is logged or saved."""
    run = check.folder
    return JobFile(
        key="speed", stage="pretrain", config=config, parents=(), data={}, settings=settings, run=run,
        checkpoints=run / "checkpoints", metrics=run / "metrics.jsonl", result=run / "result.json",
        error=run / "error.json",
    )  # fmt: skip


def build_batches(config: PretrainConfig, size: Size, *, on_gpu: bool) -> "RepeatedBatches":
    """Two batches of the configured mixture."""
    sources: list[RandomText | RandomPairs] = [RandomText(config)]
    if config.vision is not None:
        sources.append(RandomPairs(config, resolve_encoder_spec(config.vision.encoder)))
    mixture = Mixture(
        sources,
        [source.share for source in config.sources],
        by=config.share_by,
        context=config.context,
        stripes=config.batch_sequences,
        seed=0,
        bad_samples_limit=0,
    )
    return RepeatedBatches(mixture, FixedLengthCollator(config.context, size.micro_batch_tokens), count=2, pin=on_gpu)


class RepeatedBatches(BatchLoader):
    """Its first batches again and again, made before they are asked for."""

    def __init__(self, sampler: Mixture, collator: FixedLengthCollator, *, count: int, pin: bool) -> None:
        super().__init__(sampler, collator, pin=pin)
        ready = [super(RepeatedBatches, self).take_batch() for _ in range(count)]
        self.images_a_step = sum(batch.images for batch in ready) / count
        self._ready = cycle(ready)

    def take_batch(self) -> Batch:
        return next(self._ready)


class RandomText:
    """Sequences that fill the context, as token shards give them."""

    name = "text"
    size = 1_000

    def __init__(self, config: PretrainConfig) -> None:
        self.context, self.vocabulary = config.context, config.model.vocabulary

    @property
    def shard_sizes(self) -> Sequence[int]:
        return [self.size]

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:  # noqa: ARG002 - a source's form
        if room is not None and room < self.context:
            return None
        tokens = np.random.default_rng(index).integers(0, self.vocabulary, self.context + 1)
        return Document(tokens, np.ones(len(tokens), dtype=np.bool_))

    def prefetch(self, shards: Sequence[int]) -> None:
        """There is nothing to fetch."""


class RandomPairs:
    """An image, whose features are kept, and a caption."""

    name = "captions"
    size = 1_000

    def __init__(self, config: PretrainConfig, spec: EncoderSpec) -> None:
        self.vocabulary, self.image_tokens = config.model.vocabulary, spec.image_tokens
        self.caption_tokens = min(CAPTION_TOKENS, config.context - spec.image_tokens)
        generator = torch.Generator().manual_seed(0)
        shape = (spec.image_tokens, spec.feature_width)
        dtype = getattr(torch, spec.feature_dtype)
        self.features = [torch.randn(shape, generator=generator).to(dtype) for _ in range(8)]

    @property
    def shard_sizes(self) -> Sequence[int]:
        return [self.size]

    def read_document(self, index: int, position: int, room: int | None = None) -> Document | None:  # noqa: ARG002 - a source's form
        if room is not None and room < self.image_tokens + self.caption_tokens - 1:
            return None
        tokens = np.random.default_rng(index).integers(0, self.vocabulary, self.caption_tokens)
        image = ImageInput(f"{index:064x}", features=self.features[index % len(self.features)])
        return Document(tokens, np.ones(len(tokens), dtype=np.bool_), image, self.image_tokens)

    def prefetch(self, shards: Sequence[int]) -> None:
        """There is nothing to fetch."""
