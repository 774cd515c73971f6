"""Engines of a sweep file: other programs that carry out the jobs of a phase. Where they lie enters no key."""

import re
from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, field_validator

from stages.config import BUILT_IN_ENGINES, Engine, FinetuneConfig, LanguageModel, StageConfig, Vision, find_engine
from stages.engines.kinds import find_engine_plugin, render_engine_label
from stages.engines.limits import find_engine_problem, find_model_problem
from stages.plugins import PluginError
from sweep.errors import ConfigProblemError
from sweep.spec.fields import Fields, Name, Revision

OWN_ENGINE = "own"
"""In place of an engine's name: our stage itself."""

AbsolutePath = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._+=@-]+)+$", max_length=1_000)]
ArgumentName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,79}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,79}$")]
CommandWord = Annotated[str, Field(min_length=1, max_length=1_000, pattern=r"^[^\x00-\x1f\x7f]*$")]
SECRET = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)(_|$)"
)
"""In a variable's name, in capitals."""
Config = TypeVar("Config", bound=StageConfig)


class EngineFields(Fields):
    """One entry of `engines`: `kind`, `revision`, `command` and `arguments` decide numbers and enter keys."""

    kind: Name = Field(
        description="the program: command, open_lm, prismatic, vla_foundry, or one of an installed package",
        json_schema_extra={"values": {"command": "any program"}},
    )
    python: AbsolutePath = Field(description="the absolute path of its interpreter, or for command of any program")
    checkout: AbsolutePath | None = Field(
        None,
        description="the absolute path of its checkout",
        json_schema_extra={"needed": "the kinds open_lm, prismatic and vla_foundry"},
    )
    revision: Revision = Field("", description="a word that names the checkout's content; changing it makes new keys")
    command: list[CommandWord] = Field(default_factory=list, max_length=100, description="the words behind the program")
    environment: dict[VariableName, CommandWord] = Field(default_factory=dict, description="variables, name to value")
    environment_from: list[VariableName] = Field(
        default_factory=list, max_length=100, description="names of variables that jobs take from the submitting shell"
    )
    arguments: dict[ArgumentName, StrictBool | StrictInt | StrictFloat | StrictStr] = Field(
        default_factory=dict, description="settings of the engine's own, name to value"
    )

    @field_validator("kind")
    @classmethod
    def check_kind(cls, given: str) -> str:
        """A kind that is not built in must be there now: its package says what it can do, and enters the keys."""
        if given not in BUILT_IN_ENGINES:
            try:
                find_engine_plugin(given)
            except PluginError as error:
                raise ValueError(str(error)) from None
        return given

    # Why: docs/decisions.md, D167
    @field_validator("environment")
    @classmethod
    def check_secrets(cls, given: dict[str, str]) -> dict[str, str]:
        """A value of this file is copied into the plan and into each job's folder, for all who read the store."""
        if secret := next((name for name in given if SECRET.search(name.upper())), ""):
            raise ValueError(
                f"{secret} looks like a secret, and a value given here is stored in clear text: take the line out, "
                f"write environment_from: [{secret}], and set the variable in the shell that submits, or in "
                "resources.setup"
            )
        return given

    def build_config(self) -> Engine:
        """What a job's configuration says of it."""
        return Engine(
            kind=self.kind,
            revision=self.revision,
            plugin=render_engine_label(self.kind),
            command=tuple(self.command),
            arguments=dict(self.arguments),
        )

    def build_settings(self) -> dict[str, object]:
        """What job.json says of it besides (`stages.job_file.EngineSettings`)."""
        given: dict[str, object] = {
            "python": self.python,
            "checkout": self.checkout,
            "environment": self.environment,
            "environment_from": self.environment_from,
        }
        return {name: value for name, value in given.items() if value}


def add_engine(config: Config, name: str, engines: Mapping[str, EngineFields]) -> Config:
    """The configuration of a job that the named engine carries out."""
    return config if name == OWN_ENGINE else config.model_copy(update={"engine": engines[name].build_config()})


def build_engine_settings(config: StageConfig, engines: Mapping[str, EngineFields]) -> dict[str, object]:
    """Where the job's engine lies, as an entry of its settings; of two that differ in that alone the first is taken."""
    engine = find_engine(config)
    if engine is None:
        return {}
    found = next(each for each in engines.values() if each.build_config() == engine)
    return {"engine": found.build_settings()}


def check_engine(config: StageConfig, phase: str, processes: int) -> None:
    """ConfigProblemError for a job that its engine cannot carry out, or that would start it in several `processes`."""
    if find_engine(config) is None:
        return
    if problem := find_engine_problem(config, phase):
        raise ConfigProblemError(f"{phase}.engine: {problem}")
    if processes > 1:
        raise ConfigProblemError(
            f"{phase}.engine: an engine is started once for a job, on one node with at most one GPU; "
            f"set resources.phases.{phase} to nodes: 1, gpus_per_node: 1"
        )


def check_engine_model(config: FinetuneConfig, model: LanguageModel, vision: Vision) -> None:
    """ConfigProblemError for a fine-tune of such a model that its engine cannot carry out."""
    if problem := find_model_problem(config, model, vision):
        raise ConfigProblemError(f"finetune.engine: {problem}")


def find_engine_name_problem(setting: str, name: str, engines: Mapping[str, EngineFields]) -> str:
    """What is wrong with `name` as the value of the setting `PHASE.engine`; empty if nothing is."""
    if name == OWN_ENGINE or name in engines:
        return ""
    known = (
        f"known are {', '.join(engines)} and {OWN_ENGINE}" if engines else f"add it under engines, or take {OWN_ENGINE}"
    )
    return f"{name!r} is not an engine of this file; {setting} takes the name of one; {known}"
