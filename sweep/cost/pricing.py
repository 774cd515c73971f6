"""What each job of a plan asks for and costs, from the figures of the sweep file and the catalog."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from jobs.job import Estimate, Resources
from stages.config import EvaluateConfig, FinetuneConfig, LanguageModel, PretrainConfig, Source, Vision
from stages.flops import compute_image_cost
from stages.vision.specs import resolve_encoder_spec
from sweep.catalog import Catalog, Placement
from sweep.cost.estimate import (  # fmt: skip
    LossShares,
    SourceUse,
    compute_images_by_source,
    compute_loss_shares,
    discount_kept_features,
    estimate_evaluate,
    estimate_finetune,
    estimate_pretrain,
    plan_resources,
)
from sweep.cost.speed import NOTHING_MEASURED, Measured, Speed, estimate_speed
from sweep.spec.data import DataSet
from sweep.spec.models import Model
from sweep.spec.resources import ResourceFields, resolve_placement, select_gpu_type

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


class Pricer:
    """Prices jobs of one sweep. Equal questions get the same objects."""

    def __init__(
        self,
        catalog: Catalog,
        data: Mapping[str, DataSet],
        resources: ResourceFields,
        measured: Measured = NOTHING_MEASURED,
    ) -> None:
        self.catalog = catalog
        self.data = data
        self.resources = resources
        self.measured = measured
        self.feature_reuse = FeatureReuse()
        self.cached_placement = cache(self.resolve_placement)
        self.cached_speed = cache(self.compute_speed)

    def price_trunk(self, model: Model, config: PretrainConfig, steps: int) -> ResourcesAndEstimate:
        """`steps` of the trunk; its last checkpoint keeps the optimizer's state for what goes on from it."""
        estimate = estimate_pretrain(
            model.shape,
            tokens=steps * config.step_tokens,
            context=config.context,
            speed=self.cached_speed(model.name, model.shape, model.catalog_name, "trunk", config.context),
            carries_optimizer=True,
        )
        return self.price_estimate(model, "trunk", estimate)

    def price_pretrain(
        self, model: Model, config: PretrainConfig, *, keeps_features: bool = False
    ) -> ResourcesAndEstimate:
        """With `keeps_features` the encoder sees each image once for the whole plan."""
        speed = self.cached_speed(model.name, model.shape, model.catalog_name, "pretrain", config.context)
        images = self.compute_source_images(model, config)
        estimate = estimate_pretrain(
            model.shape,
            tokens=config.schedule.total_steps * config.step_tokens,
            context=config.context,
            speed=speed,
            images=sum(images),
            vision=config.vision,
        )
        resources, estimate = self.price_estimate(model, "pretrain", estimate)
        if keeps_features and config.vision is not None:
            new = sum(
                self.feature_reuse.add_images(
                    self.data[source.name].path, config.vision, drawn,
                    seed=config.seed, examples=self.count_examples(source.name),
                )
                for source, drawn in zip(config.sources, images, strict=True) if drawn
            )  # fmt: skip
            estimate = apply_kept_features(estimate, speed, model, config.vision, new)
        return resources, estimate

    def compute_source_images(self, model: Model, config: PretrainConfig) -> tuple[float, ...]:
        """Images of each source in the whole run."""
        if config.vision is None:
            return (0.0,) * len(config.sources)
        image = compute_image_cost(
            config.vision.encoder, config.vision.projector, config.vision.frozen, model.shape.d_model
        )
        return compute_images_by_source(
            config.schedule.total_steps * config.step_tokens,
            [self.build_source_use(source) for source in config.sources],
            image_tokens=image.tokens,
            context=config.context,
            share_by=config.share_by,
            packing=config.packing,
        )

    def price_finetune(
        self, model: Model, config: FinetuneConfig, vision: Vision, *, keeps_features: bool = False
    ) -> ResourcesAndEstimate:
        """With `keeps_features` the encoder sees each image once for the whole plan."""
        name = config.conversations.name
        entry = self.catalog.find_dataset(name)
        examples = self.data[name].examples or entry.samples
        speed = self.cached_speed(model.name, model.shape, model.catalog_name, "finetune", config.max_length)
        estimate = estimate_finetune(
            model.shape,
            epochs=config.epochs,
            examples=examples,
            text_tokens=self.data[name].mean_text_tokens or entry.text_tokens,
            vision=vision,
            speed=speed,
            max_length=config.max_length,
        )
        resources, estimate = self.price_estimate(model, "finetune", estimate)
        if keeps_features:
            new = self.feature_reuse.add_images(self.data[name].path, vision, examples, examples=examples)
            estimate = apply_kept_features(estimate, speed, model, vision, new)
        return resources, estimate

    def price_evaluate(self, model: Model, config: EvaluateConfig, vision: Vision) -> ResourcesAndEstimate:
        tasks = [(task, False) for task in config.text_tasks] + [(task, True) for task in config.vision_tasks]
        estimate = estimate_evaluate(
            model.shape,
            tasks=tuple(
                self.catalog.find_task(task.name, with_image=with_image, limit=task.limit) for task, with_image in tasks
            ),
            vision=vision,
            speed=self.cached_speed(model.name, model.shape, model.catalog_name, "evaluate", 2_048),
        )
        return self.price_estimate(model, "evaluate", estimate)

    def price_estimate(self, model: Model, phase: str, estimate: Estimate) -> ResourcesAndEstimate:
        placement = self.cached_placement(model.name, model.catalog_name, phase)
        return plan_resources(estimate, placement, self.catalog.gpus[select_gpu_type(placement)]), estimate

    def resolve_placement(self, name: str, catalog_name: str, phase: str) -> Placement:
        """As the function of this name."""
        return resolve_placement(self.catalog, self.resources, name, catalog_name, phase)

    def compute_speed(self, name: str, shape: LanguageModel, catalog_name: str, phase: str, context: int) -> Speed:
        given = self.resources.models.get(name)
        return estimate_speed(
            self.catalog,
            shape,
            select_gpu_type(self.cached_placement(name, catalog_name, phase)),
            name=catalog_name,
            measured=self.measured,
            tokens_per_second=given.tokens_per_second if given else None,
            context=context,
        )

    def count_examples(self, name: str) -> int:
        """Samples of a data set, 0 where neither the sweep file nor the catalog knows."""
        entry = self.catalog.datasets.get(name)
        return self.data[name].examples or (entry.samples if entry is not None else 0)

    def build_source_use(self, source: Source) -> SourceUse:
        tokens = self.data[source.name].mean_text_tokens or self.catalog.find_dataset(source.name).text_tokens
        return SourceUse(
            source.share,
            with_images=source.kind != "text",
            text_tokens=tokens,
            learned_share=ANSWERS_SHARE if source.kind == "conversations" else 1.0,
        )

    def compute_loss_shares(self, config: PretrainConfig) -> tuple[LossShares, ...]:
        """What each source of an image-text run is expected to have of the loss."""
        return compute_loss_shares(
            [self.build_source_use(source) for source in config.sources],
            image_tokens=resolve_encoder_spec(config.vision.encoder).image_tokens if config.vision else 0,
            context=config.context,
            share_by=config.share_by,
            packing=config.packing,
            loss_mean=config.loss_mean,
        )


def apply_kept_features(estimate: Estimate, speed: Speed, model: Model, vision: Vision, new_images: float) -> Estimate:
    """The estimate of a job that encodes `new_images` and finds the features of its other images."""
    image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.shape.d_model)
    return discount_kept_features(
        estimate,
        speed,
        encoder_flops=new_images * image.encoder_flops,
        feature_bytes=round(new_images) * image.feature_bytes,
    )
