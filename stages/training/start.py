"""Where a training begins: at its own newest checkpoint, at its parent's last one, or from scratch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from stages.checkpoint.files import (
    Checkpoint,
    check_has_moments,
    find_newest_checkpoint,
    read_result_checkpoint,
    read_step_checkpoint,
)
from stages.config import PretrainConfig, name_by_identity
from stages.data.mixture import NOTHING_CONTINUED, ContinuedOrder, compute_next_position, compute_order_seed
from stages.distributed import DistributedContext
from stages.errors import ConfigError
from stages.job_file import JobFile
from stages.models.vlm import VLM
from stages.training.state import TrainState

# What a pre-training checkpoint says of its run besides the weights and the position.


CONTINUED_TEXT = "continued_text"


def build_checkpoint_metadata(
    config: PretrainConfig, continued: Mapping[str, ContinuedOrder] = NOTHING_CONTINUED
) -> dict[str, Any]:
    """What a reader of the checkpoint needs to know, whatever the step. `continued`: by the texts' identities."""
    content = name_by_identity(config.model_dump(mode="json"))
    fixed = {
        "format": 1,
        "stage": "pretrain",
        "model": config.model.model_dump(mode="json"),
        **{part: content[part] for part in ("vision", "tokenizer")},
        "trajectory": build_trajectory(config),
    }
    return fixed | ({CONTINUED_TEXT: {name: asdict(order) for name, order in continued.items()}} if continued else {})


# Why: docs/decisions.md, D77
NEWER_FIELDS = ("engine", "loss_mean", "text_order")
"""Fields that checkpoints of earlier versions do not name. They had the effect of today's defaults."""


def build_trajectory(config: PretrainConfig) -> dict[str, Any]:
    """All that decides a run's numbers but where it stops: equal for all segments of a trunk, whatever version of this
    program trained them, and whatever the data sets were called."""
    content = name_by_identity(config.model_copy(update={"stop_step": None}).model_dump(mode="json"))
    for name in NEWER_FIELDS:
        if getattr(config, name) == PretrainConfig.model_fields[name].default:
            del content[name]
    return content


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStart:
    """What is taken over, from which checkpoint. In two parts: a model's weights are loaded before it is distributed,
    everything else after."""

    checkpoint: Checkpoint | None = None
    """None: from scratch."""
    moments: bool = False
    """Whether the optimizer's moments go on."""
    position: bool = False
    """Whether step, data order and random numbers go on, as if the run had never ended."""
    new_job: bool = True
    """False where the job itself wrote the checkpoint: its tokens and seconds go on too."""
    new_projector: bool = False
    """Whether the checkpoint's model saw no images and this one does."""
    continued_text: Mapping[str, ContinuedOrder] = field(default_factory=dict)
    """Text that goes on behind what an earlier run has read of it, by the data set's identity."""

    @property
    def saved_step(self) -> int | None:
        """Step of the job's own checkpoint, if it begins with one."""
        return None if self.checkpoint is None or self.new_job else self.checkpoint.step

    def load_weights(self, vlm: VLM) -> None:
        """Into a model that is whole, on the CPU."""
        if self.checkpoint is not None:
            vlm.load_weights(self.checkpoint.read_weights(), new_projector=self.new_projector)

    def restore(self, state: TrainState) -> None:
        """All but the weights."""
        if self.checkpoint is None:
            return
        if self.position:
            state.restore(self.checkpoint)
            if self.new_job:
                state.begin_here()
        elif self.moments:
            state.optimizer.restore(state.model.shard_moments(self.checkpoint.read_moments()))


def find_own_start(folder: Path, world: DistributedContext) -> TrainingStart | None:
    """From the newest whole checkpoint that the job itself wrote; None if there is none.

    The first rank searches and checks; the others take what it found.
    """
    found = find_newest_checkpoint(folder) if world.is_first_rank else None
    step = int(world.all_reduce_sum([found.step + 1.0 if found else 0.0])[0]) - 1
    if step < 0:
        return None
    return TrainingStart(
        checkpoint=found or read_step_checkpoint(folder, step), moments=True, position=True, new_job=False
    )


def resolve_pretrain_start(job: JobFile, config: PretrainConfig, world: DistributedContext) -> TrainingStart:
    """Of a pre-training job. ConfigError if its parent does not fit; DamagedInputError if that is damaged.

    A parent of the same trajectory is continued: its step, data order, moments and random numbers go on. From any
    other parent come the weights and, with `optimizer_state: carried`, the moments; schedule and data start at 0,
    except for text with `text_order: continue`.
    """
    if own := find_own_start(job.checkpoints, world):
        return replace(own, continued_text=read_continued_text(own.checkpoint))
    if not job.parents:
        return TrainingStart()
    if len(job.parents) != 1:
        raise ConfigError(f"pretrain takes one parent; {len(job.parents)} are given")
    parent = job.parents[0]
    checkpoint = read_result_checkpoint(parent.run, parent.key, verify=world.is_first_rank)
    world.wait()  # until the first rank has found it whole
    if checkpoint.state["model"] != config.model.model_dump(mode="json"):
        raise ConfigError(f"parent {parent.key} has another model: {checkpoint.state['model']}")
    continued = checkpoint.state.get("trajectory") == build_trajectory(config)
    carried = continued or config.optimizer_state == "carried"
    if carried:
        check_has_moments(checkpoint)
    has_projector = checkpoint.state["vision"] is not None
    if has_projector and checkpoint.state["vision"] != build_checkpoint_metadata(config)["vision"]:
        raise ConfigError(f"parent {parent.key} sees images in another way: {checkpoint.state['vision']}")
    continued_text = NOTHING_CONTINUED
    if continued:
        continued_text = read_continued_text(checkpoint)
    elif config.text_order == "continue":
        continued_text = find_continued_text(config, checkpoint, parent.key)
    return TrainingStart(
        checkpoint=checkpoint,
        moments=carried,
        position=continued,
        new_projector=not has_projector,
        continued_text=continued_text,
    )


# Where the text of a run goes on that begins at a parent of another trajectory.


def read_continued_text(checkpoint: Checkpoint | None) -> Mapping[str, ContinuedOrder]:
    """What the run of a checkpoint of ours had continued itself."""
    entries = checkpoint.state.get(CONTINUED_TEXT, {}) if checkpoint is not None else {}
    return {name: ContinuedOrder(**entry) for name, entry in entries.items()}


# Why: docs/decisions.md, D76
def find_continued_text(config: PretrainConfig, checkpoint: Checkpoint, key: str) -> Mapping[str, ContinuedOrder]:
    """Of each text that the parent (its `key`, for messages) has read too: its order there, and where that run stands.

    A text that the parent has not read begins at its start. ConfigError if the parent's checkpoint does not say where
    its data stand, as that of another program, or if it has read another revision.
    """
    state = checkpoint.state
    if "data" not in state or "trajectory" not in state:
        raise ConfigError(
            f"text_order: continue: the checkpoint of parent {key} does not say how far its text was read (another "
            "program trained it); use text_order: anew"
        )
    before, parent = read_continued_text(checkpoint), state["trajectory"]
    read = [source for source in parent["sources"] if source["share"] > 0]
    wanted = {
        source.identity or source.name: source
        for source in config.sources
        if source.kind == "text" and source.share > 0
    }
    found: dict[str, ContinuedOrder] = {}
    for number, (source, progress) in enumerate(zip(read, state["data"], strict=True)):
        if source["kind"] != "text" or (ours := wanted.get(source["name"])) is None:
            continue
        if source["revision"] != ours.revision:
            raise ConfigError(
                f"text_order: continue: parent {key} has read revision {source['revision']!r} of {ours.name}, and this "
                f"run is to read {ours.revision!r}, whose order is another one; use text_order: anew"
            )
        first = ContinuedOrder(
            seed=compute_order_seed(parent["seed"], number), shuffle_shards=parent["shuffle_shards"], position=0
        )
        position = compute_next_position(progress["cursors"])
        known_as = source["name"]
        found[known_as] = replace(before.get(known_as, first), position=position)
    return found
