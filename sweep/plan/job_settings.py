"""The settings of each job (`settings` of job.json), from the sweep file and from what the job runs on."""

from collections.abc import Hashable, Mapping
from os.path import relpath
from pathlib import Path
from typing import Any

from jobs.job import Resources
from jobs.store.paths import Store
from stages.config import Vision
from stages.flops import compute_image_cost
from sweep.catalog import Catalog
from sweep.cost.estimate import FEATURE_MEMORY_GIB
from sweep.phases import PHASES
from sweep.spec.models import Model
from sweep.spec.resources import count_processes
from sweep.spec.run_settings import build_device_settings, merge_run_settings
from sweep.spec.schema import Sweep

FEATURES = relpath(Store(Path("/")).features, Store(Path("/")).locate_run("stage", "key").root)
"""The folder of kept features, as a job's folder sees it."""


class JobSettingsBuilder:
    """Settings of one sweep's jobs. Equal questions get the same object."""

    def __init__(self, sweep: Sweep, catalog: Catalog) -> None:
        self.sweep = sweep
        self.catalog = catalog
        self.known: dict[Hashable, dict[str, Any]] = {}

    def needs_feature_cache(self, model: Model, phase: str, vision: Vision | None) -> bool:
        """Whether the store keeps what the encoder makes of images: it is asked for, and the encoder is frozen."""
        if vision is None or not self.read_file_settings(model.name, phase).get("feature_cache"):
            return False
        image = compute_image_cost(vision.encoder, vision.projector, vision.frozen, model.shape.d_model)
        return image.feature_bytes > 0

    def read_feature_memory(self, model: Model, phase: str) -> float:
        """GiB in which a process of the phase remembers features."""
        return float(self.read_file_settings(model.name, phase).get("feature_cache_gib", FEATURE_MEMORY_GIB))

    def build_settings(
        self, model: Model, phase: str, resources: Resources, *, keeps_features: bool, fitted: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The settings for job.json; `fitted`: those with which it fits its GPUs (`sweep.plan.memory`)."""
        several = count_processes(resources, self.sweep.backend) > 1
        extra = tuple(fitted.items())
        where = (model.name, phase, resources.gpus > 0, resources.gpu_type, several, keeps_features, extra)
        if where not in self.known:
            given = {
                name: value
                for name, value in self.read_file_settings(model.name, phase).items()
                if name != "feature_cache"
            }
            if not several:
                given.pop("parallel", None)  # one process shares its work with nobody
            self.known[where] = {
                **given,
                **fitted,
                # nothing goes on from an image-text run's moments: its last checkpoint leaves them out
                **({"keep_optimizer": False} if phase == "pretrain" else {}),
                **({"feature_store": FEATURES} if keeps_features else {}),
                **build_device_settings(resources, self.catalog, phase=phase),
            }
        return self.known[where]

    def read_file_settings(self, model: str, phase: str) -> dict[str, Any]:
        """What the sweep file says; its `checkpoints` is the widest entry."""
        where = ("given", model, phase)
        if where not in self.known:
            checkpoints = self.sweep.checkpoints if PHASES[phase].trains else {}
            self.known[where] = {**checkpoints, **merge_run_settings(self.sweep.settings, model, phase)}
        return self.known[where]
