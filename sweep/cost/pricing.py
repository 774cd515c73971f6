"""What each job of a plan asks for and costs, from the figures of the sweep file and the catalog."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

from jobs.counted import format_counted
from jobs.job import Estimate, Resources
from stages.config import EvaluateConfig, FinetuneConfig, LanguageModel, PretrainConfig, StageConfig, Vision
from stages.flops import compute_image_cost
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import Catalog, Placement
from sweep.cost.estimate import (  # fmt: skip
    FEATURE_MEMORY_GIB,
    LossShares,
    SourceUse,
    add_startup,
    compute_images_by_source,
    compute_loss_shares,
    count_encodings,
    count_remembered,
    discount_kept_features,
    estimate_evaluate,
    estimate_finetune,
    estimate_pretrain,
    plan_resources,
)
from sweep.cost.figures import DataFigures, Figure, FigureBook
from sweep.cost.speed import NOTHING_MEASURED, NOTHING_STARTED, Measured, Speed, Startups, estimate_speed
from sweep.errors import SweepError, SweepFileError
from sweep.phases import PHASES
from sweep.spec.models import Model
from sweep.spec.resources import count_processes, resolve_placement, select_gpu_type
from sweep.spec.schema import Sweep

# Which images' features a store will keep, as a plan adds job after job (`feature_cache`; docs/estimates.md).

EncodedDataKey = tuple[str, Vision]
"""Where the images lie, and what makes features of them."""


@dataclass(slots=True)
class FeatureReuse:
    """Counts distinct images, each once for the whole plan.

    Runs of one seed draw the same images in the same order, so the shorter one's are among the longer one's; runs of
    different seeds are taken to draw different images, up to all that the data set has.
    """

    images_by_place: dict[EncodedDataKey, dict[int | None, float]] = field(default_factory=lambda: defaultdict(dict))

    def add_images(
        self, path: str, vision: Vision, images: float, *, seed: int | None = None, examples: int = 0
    ) -> float:
        """How many of the `images` that a job draws no job before it has drawn.

        `seed`: of its order; None for a job that goes through the whole data set. `examples`: images of the data set,
        0 where that is not known.
        """
        # the projector is no part of what is kept
        by_seed = self.images_by_place[path, vision.model_copy(update={"projector": "linear"})]
        before = sum_distinct_images(by_seed, examples)
        by_seed[seed] = max(images, by_seed.get(seed, 0.0))
        return sum_distinct_images(by_seed, examples) - before


def sum_distinct_images(by_seed: dict[int | None, float], examples: int) -> float:
    """Distinct images of all seeds."""
    drawn = sum(by_seed.values())
    return min(drawn, float(examples)) if examples else drawn


ANSWERS_SHARE = 0.5
"""C: part of a conversation's text that is answers, on which alone the loss is. For the shares of targets only."""

ResourcesAndEstimate = tuple[Resources, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDraws:
    """Images that a job draws from one data set."""

    path: str
    draws: float
    samples: int
    """Of the data set, with an image; 0: not known."""
    images: int
    """Different ones of the data set; 0: not known."""
    seed: int | None = None
    """Of its order; None for a job that goes through the whole data set."""


class Pricer:
    """Prices jobs of one sweep. Equal questions get the same objects."""

    def __init__(
        self,
        sweep: Sweep,
        catalog: Catalog,
        measured: Measured = NOTHING_MEASURED,
        *,
        startups: Startups = NOTHING_STARTED,
        figures: FigureBook | None = None,
    ) -> None:
        """`figures`: takes note of what the prices rest on; without it nothing is counted."""
        self.catalog, self.backend, self.source = catalog, sweep.backend, sweep.source
        self.data, self.resources = sweep.data, sweep.resources
        self.measured, self.startups = measured, startups
        self.figures = FigureBook(catalog, sweep.data) if figures is None else figures
        self.feature_reuse = FeatureReuse()
        self.cached_placement = cache(self.resolve_placement)
        self.cached_speed = cache(self.compute_speed)
        self.cached_startup = cache(self.choose_startup)
        self.cached_data = cache(self.figures.find_data)
        self.note_text = cache(self.figures.note_text)

    def price_trunk(self, model: Model, config: PretrainConfig, steps: int) -> ResourcesAndEstimate:
        """`steps` of the trunk; its last checkpoint keeps the optimizer's state for what goes on from it."""
        for source in config.sources:
            self.note_text(source.name, model.name, "trunk")
        estimate = estimate_pretrain(
            model.shape,
            tokens=steps * config.step_tokens,
            context=config.context,
            speed=self.find_speed(model, "trunk", config),
            carries_optimizer=True,
        )
        return self.price_estimate(model, "trunk", estimate)

    def price_pretrain(
        self,
        model: Model,
        config: PretrainConfig,
        *,
        keeps_features: bool = False,
        memory_gib: float = FEATURE_MEMORY_GIB,
    ) -> ResourcesAndEstimate:
        """With `keeps_features` the encoder sees each image once for the whole plan.

        `memory_gib`: for features that a process remembers.
        """
        speed = self.find_speed(model, "pretrain", config)
        figures = self.find_source_figures(model.name, config)
        images = self.compute_source_images(model, config, figures)
        draws = [
            ImageDraws(
                path=self.data[source.name].path,
                draws=drawn,
                samples=round(each.samples * each.image_share),
                images=each.images,
                seed=config.seed,
            )
            for source, each, drawn in zip(config.sources, figures, images, strict=True)
            if each is not None and drawn
        ]
        estimate = estimate_pretrain(
            model.shape,
            tokens=config.schedule.total_steps * config.step_tokens,
            context=config.context,
            speed=speed,
            images=sum(images),
            encoded=self.count_encoded(model, "pretrain", config.vision, draws, memory_gib),
            vision=config.vision,
        )
        new = self.add_draws(config.vision, draws) if keeps_features else None
        return self.price_estimate(model, "pretrain", estimate, Kept(speed, config.vision, new))

    def find_source_figures(self, model: str, config: PretrainConfig) -> list[DataFigures | None]:
        """Of each source with images; None for text, whose sequences are full."""
        tokenizer = config.tokenizer.name if config.tokenizer is not None else ""
        for source in config.sources:
            if source.kind == "text":
                self.note_text(source.name, model, "pretrain")
        return [
            None if source.kind == "text" else self.cached_data(source.name, tokenizer, model, "pretrain")
            for source in config.sources
        ]

    def compute_source_images(
        self, model: Model, config: PretrainConfig, figures: Sequence[DataFigures | None]
    ) -> tuple[float, ...]:
        """Images of each source in the whole run."""
        if config.vision is None:
            return (0.0,) * len(config.sources)
        image = compute_image_cost(
            config.vision.encoder, config.vision.projector, config.vision.frozen, model.shape.d_model
        )
        return compute_images_by_source(
            config.schedule.total_steps * config.step_tokens,
            build_source_uses(config, figures),
            image_tokens=image.tokens,
            context=config.context,
            share_by=config.share_by,
            packing=config.packing,
        )

    def compute_loss_shares(self, config: PretrainConfig) -> tuple[LossShares, ...]:
        """What each source of an image-text run is expected to have of the loss."""
        return compute_loss_shares(
            build_source_uses(config, self.find_source_figures("", config)),
            image_tokens=resolve_encoder_spec(config.vision.encoder).image_tokens if config.vision else 0,
            context=config.context,
            share_by=config.share_by,
            packing=config.packing,
            loss_mean=config.loss_mean,
        )

    def price_finetune(
        self,
        model: Model,
        config: FinetuneConfig,
        vision: Vision,
        *,
        keeps_features: bool = False,
        memory_gib: float = FEATURE_MEMORY_GIB,
    ) -> ResourcesAndEstimate:
        """With `keeps_features` the encoder sees each image once for the whole plan. `memory_gib`: as for pretrain."""
        name = config.conversations.name
        figures = self.cached_data(name, config.tokenizer.name, model.name, "finetune", prompt=config.prompt)
        speed = self.find_speed(model, "finetune", config)
        samples = round(figures.samples * figures.image_share)
        drawn = ImageDraws(
            path=self.data[name].path, draws=config.epochs * samples, samples=samples, images=figures.images
        )
        estimate = estimate_finetune(
            model.shape,
            epochs=config.epochs,
            examples=figures.samples,
            text_tokens=figures.text_tokens,
            vision=vision,
            speed=speed,
            max_length=config.max_length,
            lengths=figures.lengths,
            image_share=figures.image_share,
            encoded=self.count_encoded(model, "finetune", vision, [drawn], memory_gib),
        )
        new = self.add_draws(vision, [drawn]) if keeps_features else None
        return self.price_estimate(model, "finetune", estimate, Kept(speed, vision, new))

    def price_evaluate(
        self, model: Model, config: EvaluateConfig, vision: Vision, *, prompt: str = "pure"
    ) -> ResourcesAndEstimate:
        """`prompt`: that of the fine-tune, which the questions are asked with."""
        estimate = estimate_evaluate(
            model.shape,
            tasks=self.figures.find_tasks(
                config.tasks,
                config.text_tasks,
                config.vision_tasks,
                tokenizer=config.tokenizer.name,
                prompt=prompt,
                model=model.name,
            ),
            vision=vision,
            speed=self.find_speed(model, "evaluate", config),
            processes=self.count_job_processes(model, "evaluate"),
        )
        return self.price_estimate(model, "evaluate", estimate)

    def find_longest_prompt(self, config: StageConfig) -> int:
        """Mean text tokens of the longest-winded vision task of an evaluation; 0 where there is none."""
        tasks = config.vision_tasks if isinstance(config, EvaluateConfig) else ()
        return max((round(self.catalog.find_task(task.name, with_image=True).text_tokens) for task in tasks), default=0)

    def count_encoded(
        self, model: Model, phase: str, vision: Vision | None, draws: Sequence[ImageDraws], memory_gib: float
    ) -> float | None:
        """Images that go through a frozen encoder in one job that keeps nothing; None where it sees each draw."""
        if vision is None or not vision.frozen:
            return None
        image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.shape.d_model)
        processes = self.count_job_processes(model, phase)
        remembered = count_remembered(image.feature_bytes, memory_gib) // max(1, len(draws))
        return sum(
            count_encodings(
                each.draws, examples=each.samples, images=each.images, remembered=remembered, processes=processes
            )
            for each in draws
        )

    def add_draws(self, vision: Vision | None, draws: Sequence[ImageDraws]) -> float:
        """Images among the draws that no job before has drawn."""
        if vision is None:
            return 0.0
        return sum(
            self.feature_reuse.add_images(
                each.path, vision, min(each.draws, each.images or each.draws), seed=each.seed, examples=each.images
            )
            for each in draws
        )

    def price_estimate(
        self, model: Model, phase: str, estimate: Estimate, kept: "Kept | None" = None
    ) -> ResourcesAndEstimate:
        """What the job asks for, and what it costs with its start-up.

        The time limit counts on no kept features: jobs that run side by side may encode the same images.
        """
        placement = self.cached_placement(model.name, model.catalog_name, phase)
        gpu = self.catalog.gpus[select_gpu_type(placement)]
        startup = self.cached_startup(gpu.name, phase)
        self.figures.note_figure(startup, model.name, phase)
        try:
            resources = plan_resources(estimate, placement, gpu, startup.value)
        except SweepError as error:
            text = str(error).removeprefix("resources: ")
            raise SweepFileError(self.source.format_problem(("resources",), text)) from None
        if kept is not None and kept.new_images is not None and kept.vision is not None:
            estimate = apply_kept_features(estimate, kept.speed, model, kept.vision, kept.new_images)
        return resources, add_startup(estimate, resources, gpu, startup.value)

    def choose_startup(self, gpu_type: str, phase: str) -> Figure:
        """Minutes of an attempt beside its steps."""
        subject, name = f"start-up on {gpu_type}", f"minutes of {phase}"
        gpu, found = self.catalog.gpus[gpu_type], self.startups.get((PHASES[phase].stage, gpu_type))
        if found is not None:
            source = f"measured from {format_counted(found.jobs, 'job')}"
            return Figure(subject=subject, name=name, value=found.minutes, origin="counted", source=source)
        minutes = gpu.find_startup(phase)
        return Figure(subject=subject, name=name, value=minutes, origin="assumed", source=gpu.startup_source)

    def count_job_processes(self, model: Model, phase: str) -> int:
        """Processes that share a job of the phase, each with its own memory of features."""
        placement = self.cached_placement(model.name, model.catalog_name, phase)
        resources = Resources(nodes=placement.nodes, gpus_per_node=placement.gpus_per_node)
        return count_processes(resources, self.backend)

    def resolve_placement(self, name: str, catalog_name: str, phase: str) -> Placement:
        """As the function of this name."""
        return resolve_placement(self.catalog, self.resources, name, catalog_name, phase)

    def find_speed(self, model: Model, phase: str, config: PretrainConfig | FinetuneConfig | EvaluateConfig) -> Speed:
        """The speed of a job, noted among the figures."""
        context = config.max_length if isinstance(config, FinetuneConfig) else config.context
        speed = self.cached_speed(
            model.name, model.shape, model.catalog_name, phase, context=context, precision=config.precision
        )
        for figure in self.list_speed_figures(model, phase, config.precision, speed):
            self.figures.note_figure(figure, model.name, phase)
        return speed

    def list_speed_figures(self, model: Model, phase: str, precision: str, speed: Speed) -> list[Figure]:
        """What the speed of a phase's jobs rests on."""
        kind = select_gpu_type(self.cached_placement(model.name, model.catalog_name, phase))
        entry, source = self.catalog.models.get(model.catalog_name), speed.basis
        if speed.origin == "assumed" and entry is not None and speed.is_gpu:
            source = f"{source}. {entry.source}"
        own = f"speed of {model.name} in {precision} on {kind}"
        rate = speed.flops_per_second
        found = [Figure(subject=own, name="FLOP/s", value=rate, origin=speed.origin, source=source)]
        parts = []
        if phase == "evaluate":
            why = "C: short answers, decoded token by token"
            parts.append(("speed of evaluation", "share of training's", speed.evaluate_efficiency, why))
        if PHASES[phase].sees_images and speed.is_gpu:
            why = "C: the forward of a ViT alone, of the A100's peak times the type's factor"
            parts.append(("speed of a frozen encoder", "share of the peak", self.catalog.encoder_utilisation, why))
        return found + [
            Figure(subject=subject, name=name, value=value, origin="assumed", source=f"{why} (sweep/catalog/gpus.yaml)")
            for subject, name, value, why in parts
        ]

    def compute_speed(
        self, name: str, shape: LanguageModel, catalog_name: str, phase: str, *, context: int, precision: str
    ) -> Speed:
        given = self.resources.models.get(name)
        return estimate_speed(
            self.catalog,
            shape,
            select_gpu_type(self.cached_placement(name, catalog_name, phase)),
            name=catalog_name,
            measured=self.measured,
            tokens_per_second=given.tokens_per_second if given else None,
            context=context,
            precision=precision,
        )


def build_source_uses(config: PretrainConfig, figures: Sequence[DataFigures | None]) -> list[SourceUse]:
    """The sources of an image-text run; `figures`: of those with images (`Pricer.find_source_figures`)."""
    return [
        SourceUse(source.share)
        if each is None
        else SourceUse(
            source.share,
            with_images=True,
            text_tokens=each.text_tokens,
            lengths=each.lengths,
            image_share=each.image_share,
            learned_share=ANSWERS_SHARE if source.kind == "conversations" else 1.0,
        )
        for source, each in zip(config.sources, figures, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a job that shares the store's features encodes itself."""

    speed: Speed
    vision: Vision | None
    new_images: float | None
    """None: the job does not share them."""


def apply_kept_features(estimate: Estimate, speed: Speed, model: Model, vision: Vision, new_images: float) -> Estimate:
    """The estimate of a job that encodes `new_images` and finds the features of its other images."""
    image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.shape.d_model)
    return discount_kept_features(estimate, speed, image, new_images)
