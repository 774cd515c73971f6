"""What each engine cannot do, so that a plan can say it before anything runs. Torch-free."""

from collections.abc import Mapping

from stages.config import (
    Engine,
    FinetuneConfig,
    LanguageModel,
    PretrainConfig,
    StageConfig,
    Vision,
    find_engine,
)
from stages.engines.kinds import load_planned_kind
from stages.engines.prismatic.limits import find_prismatic_model_problem, find_prismatic_problem
from stages.engines.vla_foundry.limits import find_vla_foundry_problem
from stages.plugins import PluginError

# open_lm has no images, prismatic no other stage
SUPPORTED_PHASES: Mapping[str, tuple[str, ...]] = {
    "open_lm": ("trunk",),
    "prismatic": ("finetune",),
    "vla_foundry": ("trunk", "pretrain"),
}
"""The phases that each kind of engine can carry out; the kind `command` can carry out any."""

MAIN_FILES: Mapping[str, str] = {
    "open_lm": "open_lm/main.py",
    "prismatic": "scripts/pretrain.py",
    "vla_foundry": "vla_foundry/main.py",
}
"""Of each kind of engine with a checkout: the program's main file in it."""

OPEN_LM_RESERVED = frozenset({
    "model", "name", "logs", "resume", "pretrained", "config", "dataset_manifest", "train_data", "data_key",
    "train_num_samples", "global_batch_size", "workers", "precision", "qk_norm", "model_norm", "ffn_type",
    "positional_embedding_type", "lr", "wd", "beta1", "beta2", "eps", "warmup", "lr_scheduler", "lr_cooldown_end",
    "force_min_lr", "grad_clip_norm", "z_loss_coefficient", "log_every_n_steps", "seed", "save_frequency",
    "delete_previous_checkpoint", "save_most_recent", "data_tolerate_error_p", "multiple_data_passes",
    "dataset_resampled", "hf_model", "remote_sync", "distributed", "fsdp", "averagers", "epochs_cooldown",
})  # fmt: skip
"""Options of open_lm that follow from the job, or would leave it with files of another form."""


def find_engine_problem(config: StageConfig, phase: str) -> str:
    """Why the engine of a job cannot carry it out, and what would do; empty if nothing is known against it."""
    engine = find_engine(config)
    if engine is None:
        return ""
    if engine.plugin:
        return find_plugin_problem(config, engine, phase)
    if engine.kind == "command":
        return "" if engine.command else "an engine of kind command needs command: the words behind the interpreter"
    return find_built_in_problem(config, engine, phase)


def find_built_in_problem(config: StageConfig, engine: Engine, phase: str) -> str:
    """The same of the engines that know one program."""
    supported = SUPPORTED_PHASES[engine.kind]
    if phase not in supported:
        return f"an engine of kind {engine.kind} takes {', '.join(supported)} and not {phase}"
    if isinstance(config, FinetuneConfig):
        return find_prismatic_problem(config, engine)
    if not isinstance(config, PretrainConfig):
        return ""
    if engine.kind == "vla_foundry":
        return find_vla_foundry_problem(config, engine, phase)
    return find_open_lm_problem(config, engine)


def find_plugin_problem(config: StageConfig, engine: Engine, phase: str) -> str:
    """The same of a kind that a package registers. A package that is missing or broken is a problem too."""
    try:
        kind = load_planned_kind(engine)
    except PluginError as error:
        return str(error)
    if phase not in kind.phases:
        return f"an engine of kind {engine.kind} takes {', '.join(kind.phases)} and not {phase}"
    return kind.find_problem(config, phase)


# Why: docs/decisions.md, D59
def find_model_problem(config: FinetuneConfig, model: LanguageModel, vision: Vision | None) -> str:
    """The same of a fine-tune's engine and the model that it is to start from (`vision`: None if it sees no images)."""
    if config.engine is None or config.engine.kind != "prismatic":
        return ""
    return find_prismatic_model_problem(config, model, vision)


def find_open_lm_problem(config: PretrainConfig, engine: Engine) -> str:
    """The same of open_lm (traps of its argument handling and of its checkpoint intervals)."""
    if engine.command:
        return "command is for engines of kind command; open_lm's program is known"
    if taken := sorted(name for name in engine.arguments if name.replace("-", "_") in OPEN_LM_RESERVED):
        return f"arguments: {', '.join(taken)} follows from the job; take it out, and set what it stands for"
    if len(config.sources) != 1 or config.sources[0].kind != "text":
        return "open_lm takes one text data set; name one as text"
    if config.precision == "bf16" and config.model.rotary_table != "bfloat16":
        # its rotary table is built under autocast: weights trained with it mean something else under another one
        return "open_lm in bf16 builds its positions' angles in bfloat16; give the model rotary_table: bfloat16"
    return find_epochs_problem(config, engine)


def find_epochs_problem(config: PretrainConfig, engine: Engine) -> str:
    """open_lm saves at the end of its epochs only, which are all of one length: a segment must end at one."""
    epochs, total = engine.arguments.get("epochs", 1), config.schedule.total_steps
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        return f"arguments.epochs is {epochs!r}; it is a whole number above 0, of checkpoints in the whole trunk"
    if total % epochs:
        return (
            f"the trunk has {total} steps, which {epochs} epochs of open_lm do not divide; set arguments.epochs to a "
            f"divisor, or trunk.unit_tokens so that there are {total - total % epochs}"
        )
    if config.last_step % (total // epochs):
        return (
            f"a cell branches off at step {config.last_step}, and open_lm saves every {total // epochs} steps only; "
            "set arguments.epochs so that an epoch ends there"
        )
    return ""


def compute_epoch_steps(config: PretrainConfig) -> int:
    """Optimizer steps between two checkpoints of open_lm; `find_engine_problem` has found nothing."""
    epochs = config.engine.arguments.get("epochs", 1) if config.engine else 1
    return config.schedule.total_steps // int(epochs)
