"""What each job of a plan asks for and costs: the sweep file's and the catalog's figures, put to the estimator."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from jobs.job import Estimate, Resources
from stages.config import EvaluateConfig, FinetuneConfig, LanguageModel, PretrainConfig, Source, Vision
from sweep.catalog import Catalog, Placement
from sweep.data_sets import DataSet
from sweep.estimate import SourceUse, estimate_evaluate, estimate_finetune, estimate_pretrain, plan_resources
from sweep.models import Model
from sweep.resources import ResourceFields, request
from sweep.speed import Speed, speed_of

Priced = tuple[Resources, Estimate]


class Pricer:
    """Prices jobs of one sweep. Equal questions get the same objects."""

    def __init__(self, catalog: Catalog, data: Mapping[str, DataSet], resources: ResourceFields) -> None:
        self.catalog = catalog
        self.data = data
        self.resources = resources
        self.placement = cache(self.placement_of)
        self.speed = cache(self.speed_for)

    def trunk(self, model: Model, config: PretrainConfig, steps: int) -> Priced:
        """`steps` of the trunk; its last checkpoint keeps the optimizer's state for what goes on from it."""
        estimate = estimate_pretrain(
            model.shape,
            tokens=steps * config.step_tokens,
            context=config.context,
            speed=self.speed(model.name, model.shape, model.catalog_name, "trunk", config.context),
            carries_optimizer=True,
        )
        return self.priced(model, "trunk", estimate)

    def pretrain(self, model: Model, config: PretrainConfig) -> Priced:
        estimate = estimate_pretrain(
            model.shape,
            tokens=config.schedule.total_steps * config.step_tokens,
            context=config.context,
            speed=self.speed(model.name, model.shape, model.catalog_name, "pretrain", config.context),
            sources=tuple(self.use(source) for source in config.sources),
            share_by=config.share_by,
            vision=config.vision,
        )
        return self.priced(model, "pretrain", estimate)

    def finetune(self, model: Model, config: FinetuneConfig, vision: Vision) -> Priced:
        name = config.conversations.name
        entry = self.catalog.dataset(name)
        estimate = estimate_finetune(
            model.shape,
            epochs=config.epochs,
            examples=self.data[name].examples or entry.samples,
            text_tokens=self.data[name].mean_text_tokens or entry.text_tokens,
            vision=vision,
            speed=self.speed(model.name, model.shape, model.catalog_name, "finetune", config.max_length),
            max_length=config.max_length,
        )
        return self.priced(model, "finetune", estimate)

    def evaluate(self, model: Model, config: EvaluateConfig, vision: Vision) -> Priced:
        tasks = [(task, False) for task in config.text_tasks] + [(task, True) for task in config.vision_tasks]
        estimate = estimate_evaluate(
            model.shape,
            tasks=tuple(
                self.catalog.task(task.name, with_image=with_image, limit=task.limit) for task, with_image in tasks
            ),
            vision=vision,
            speed=self.speed(model.name, model.shape, model.catalog_name, "evaluate", 2_048),
        )
        return self.priced(model, "evaluate", estimate)

    def priced(self, model: Model, phase: str, estimate: Estimate) -> Priced:
        placement = self.placement(model.name, model.catalog_name, phase)
        return plan_resources(estimate, placement, self.catalog.gpus[gpu_type(placement)]), estimate

    def placement_of(self, name: str, catalog_name: str, phase: str) -> Placement:
        """The catalog's placement of the model, with the sweep file's words over it."""
        entry = self.catalog.models.get(catalog_name)
        usual = entry.resources[phase] if entry is not None else Placement()
        return replace(usual, **request(self.resources, name, phase))

    def speed_for(self, name: str, shape: LanguageModel, catalog_name: str, phase: str, context: int) -> Speed:
        given = self.resources.models.get(name)
        return speed_of(
            self.catalog,
            shape,
            gpu_type(self.placement(name, catalog_name, phase)),
            name=catalog_name,
            tokens_per_second=given.tokens_per_second if given else None,
            context=context,
        )

    def use(self, source: Source) -> SourceUse:
        tokens = self.data[source.name].mean_text_tokens or self.catalog.dataset(source.name).text_tokens
        return SourceUse(source.share, with_images=source.kind != "text", text_tokens=tokens)


def gpu_type(placement: Placement) -> str:
    """A job without GPUs is priced by CPU cores."""
    return placement.gpu_type if placement.gpus_per_node else "cpu"
