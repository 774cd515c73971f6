"""What `sweep export` asks of `python -m stages.export`, as JSON on stdin. Torch-free: both sides check it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue


class ExportedDataSet(BaseModel):
    """One data set that the model has seen, as its configuration names it."""

    model_config = ConfigDict(extra="forbid")

    stage: str
    name: str
    kind: str = ""
    revision: str = ""
    share: float | None = None


class ModelFacts(BaseModel):
    """What the model card says and the checkpoint does not know."""

    model_config = ConfigDict(extra="forbid")

    sweep: str
    cell: str
    stage: str
    key: str
    """Of the job whose model it is."""
    epochs: int | None = None
    axes: dict[str, JsonValue] = {}
    data: list[ExportedDataSet] = []
    recipe: list[tuple[str, dict[str, JsonValue]]] = []
    """Jobs in their order: a title, and what was set."""
    scores: list[dict[str, JsonValue]] = []
    """task, kind, score, stderr, chance, n; empty before an evaluation."""
    stable_scores: dict[str, float | None] = {}
    cost: dict[str, float | None] = {}
    """Hours by name: a100_hours_own, a100_hours_shared, gpu_hours_own..."""
    code_revision: str = ""
    versions: dict[str, str] = {}

    def build_identity(self) -> dict[str, str | int | None]:
        """Which model it is, for export.json."""
        return {
            "sweep": self.sweep,
            "cell": self.cell,
            "stage": self.stage,
            "epochs": self.epochs,
            "key": self.key,
        }


class ExportRequest(BaseModel):
    """One export. Paths are absolute."""

    model_config = ConfigDict(extra="forbid")

    run: str
    """Folder of the finished job whose model it is."""
    out: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    context: int
    """Positions that it was trained on."""
    tokenizer: str = ""
    """A tokenizer.json or its folder; empty where the sweep names none."""
    facts: ModelFacts
