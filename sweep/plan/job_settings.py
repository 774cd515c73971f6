"""The settings that each job is told (`settings` of job.json), from the sweep file and from what the job runs on."""

from collections.abc import Hashable
from os.path import relpath
from pathlib import Path
from typing import Any

from jobs.job import Resources
from jobs.store.paths import Store
from stages.config import Vision
from stages.flops import image_cost
from sweep.catalog import Catalog
from sweep.spec.models import Model
from sweep.spec.resources import processes
from sweep.spec.run_settings import TRAINING, device_settings, given_settings
from sweep.spec.schema import Sweep

FEATURES = relpath(Store(Path("/")).features, Store(Path("/")).run("stage", "key").root)
"""The folder of kept features, as a job's folder sees it."""


class JobSettings:
    """Settings of one sweep's jobs. Equal questions get the same object."""

    def __init__(self, sweep: Sweep, catalog: Catalog) -> None:
        self.sweep = sweep
        self.catalog = catalog
        self.known: dict[Hashable, dict[str, Any]] = {}

    def keep_features(self, model: Model, phase: str, vision: Vision | None) -> bool:
        """Whether the store keeps what the encoder makes of images: it is asked for, and the encoder is frozen."""
        if vision is None or not self.given(model.name, phase).get("feature_cache"):
            return False
        image = image_cost(vision.encoder, vision.projector, vision.frozen, model.shape.d_model)
        return image.feature_bytes > 0

    def of(self, model: Model, phase: str, resources: Resources, *, keeps_features: bool) -> dict[str, Any]:
        """What a job is told."""
        several = processes(resources, self.sweep.backend) > 1
        where = (model.name, phase, resources.gpus > 0, resources.gpu_type, several, keeps_features)
        if where not in self.known:
            given = {name: value for name, value in self.given(model.name, phase).items() if name != "feature_cache"}
            if not several:
                given.pop("parallel", None)  # one process shares its work with nobody
            self.known[where] = {
                **given,
                # nothing goes on from an image-text run's moments: its last checkpoint leaves them out
                **({"keep_optimizer": False} if phase == "pretrain" else {}),
                **({"feature_store": FEATURES} if keeps_features else {}),
                **device_settings(resources, self.catalog, phase=phase),
            }
        return self.known[where]

    def given(self, model: str, phase: str) -> dict[str, Any]:
        """The sweep file's words: `checkpoints` is the widest entry."""
        where = ("given", model, phase)
        if where not in self.known:
            checkpoints = self.sweep.checkpoints if phase in TRAINING else {}
            self.known[where] = {**checkpoints, **given_settings(self.sweep.settings, model, phase)}
        return self.known[where]
