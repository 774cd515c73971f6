"""Looks at the inputs of jobs before any of them is sent: what is missing here, or does not fit.

What is quick is asked here: whether something is there, the room in the store, an engine's program. What has to be read
is read by `python -m stages.prepare inspect` in a process of its own. An answer without complaints is kept in the store
by the files' names, sizes and times; complaints are looked at anew each time, so that none outlives its cure.
"""

import errno
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jobs.counted import format_counted
from jobs.job import Job
from jobs.store.paths import Store
from stages.config import BUILT_IN_ENGINES, EvaluateConfig, find_engine
from stages.data.addresses import has_several_places, is_elsewhere, list_near_paths
from stages.engines.kinds import find_engine_plugin, load_planned_kind
from stages.engines.limits import MAIN_FILES
from stages.errors import DataError
from stages.job_file import BUILT_IN_TRACKERS
from stages.plugins import TASKS, TRACKERS, PluginError, find_plugin, list_plugins
from sweep.file_facts import FileFacts, iter_address_facts, iter_file_facts, iter_tree_facts, read_file_facts
from sweep.kept_answers import KeptAnswers, UnansweredError, compute_question_digest, query_program
from sweep.preflight.problems import InputProblem
from sweep.preflight.uses import InputUse, ReadConfig, collect_uses, read_configs
from sweep.text_format import format_bytes

logger = logging.getLogger(__name__)

FORMAT = 1
"""Raised when the same files give other answers."""
ABSENT = "where only the compute nodes have it: --ignore-data"
"""What would do about something that this machine does not show, besides a correction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What was found."""

    problems: tuple[InputProblem, ...]
    remarks: tuple[str, ...] = ()
    """Why something was not looked at."""


def check_inputs(
    store: Store,
    jobs: Sequence[Job],
    chosen: Collection[str],
    data: Mapping[str, str],
    *,
    kept: KeptAnswers | None = None,
) -> Preflight:
    """What is wrong with what the `chosen` jobs read and write. `data`: where each data set lies.

    `kept`: where answers are found and remembered; its `save` is the caller's.
    """
    configs = read_configs(jobs, chosen)
    uses = collect_uses(configs, data)
    absent = list(find_absent_inputs(uses))
    missing = {problem.setting for problem in absent}
    present = [use for use in uses if f"data.{use.name}" not in missing and not is_elsewhere(use.path)]
    read, remarks = inspect_uses(present, kept if kept is not None else KeptAnswers(store.inspections))
    problems = [
        *absent,
        *read,
        *find_engine_problems(configs),
        *find_plugin_problems(jobs, chosen, configs),
        *find_evaluation_problems(configs),
        *find_room_problem(store, [job for job in jobs if job.key in chosen]),
    ]
    return Preflight(problems=tuple({problem.name: problem for problem in problems}.values()), remarks=tuple(remarks))


def find_absent_inputs(uses: Sequence[InputUse]) -> Iterator[InputProblem]:
    """One for each data set of which this machine shows nothing, or not what is in it. Of servers nothing is asked."""
    for name, path in {use.name: use.path for use in uses}.items():
        setting = f"data.{name}"
        try:
            for place in [] if is_elsewhere(path) else list_near_paths(path):
                touch_place(place)
        except DataError as error:
            yield InputProblem(setting=setting, what=str(error), cure=f"correct the path, or make the data; {ABSENT}")
        except FileNotFoundError as error:
            cure = f"correct the path, or make the data; {ABSENT}"
            yield InputProblem(setting=setting, what=f"{error.filename}: not there", cure=cure)
        except OSError as error:
            yield InputProblem(
                setting=setting,
                what=f"{error.filename or path}: cannot be read: {error.strerror or error}",
                cure="correct the path, or have its owner let you read it"
                if error.errno in {errno.EACCES, errno.EPERM}
                else "correct the path",
            )


def touch_place(place: Path) -> None:
    """OSError where this machine shows nothing, or not what is in a folder."""
    if place.is_dir():
        with os.scandir(place) as entries:
            next(entries, None)
    else:
        place.stat()


# What has to be read.


# Why: docs/decisions.md, D138
def inspect_uses(uses: Sequence[InputUse], kept: KeptAnswers) -> tuple[list[InputProblem], list[str]]:
    """The problems of inputs that are there, and remarks on those that were not looked at."""
    digests = {use: hash_use(use) for use in uses if use.kind}
    unknown = [use for use, digest in digests.items() if not is_known_sound(kept, digest)]
    if not unknown:
        return [], []
    try:
        answers = query_program("inspect", "the program that looks at inputs", [use.build_request() for use in unknown])
        found = [parse_answer(answer) for answer in answers]
    except UnansweredError as error:
        return [], [f"inputs are not looked at: {error}"]
    except (KeyError, TypeError, AttributeError) as error:
        return [], [f"inputs are not looked at: the program's answer is not as written: {error}"]
    problems: list[InputProblem] = []
    packages: dict[str, None] = {}
    for use, (complaints, package) in zip(unknown, found, strict=True):
        problems += [build_problem(use, complaint) for complaint in complaints]
        if package:
            packages[package] = None
        elif not complaints:
            kept.add_answer(digests[use], {"sound": True})
    remarks = [f"inputs are looked at in part: the package {package} is not installed" for package in packages]
    return problems, remarks


def is_known_sound(kept: KeptAnswers, digest: str) -> bool:
    """Whether nothing was wrong when the files were as they are."""
    try:
        return bool(kept.read_answer(digest)["sound"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def parse_answer(answer: Mapping[str, Any]) -> tuple[list[Mapping[str, str]], str]:
    """Complaints, and the package that was missing. KeyError, TypeError or AttributeError for what is no answer."""
    complaints = [{name: str(each[name]) for name in ("what", "cure", "task")} for each in answer["complaints"]]
    return list(complaints), str(answer["missing_package"])


def build_problem(use: InputUse, complaint: Mapping[str, str]) -> InputProblem:
    """Of a task the setting that names it, else the data set."""
    setting = f"data.{use.name}"
    if task := complaint["task"]:
        in_text = any(each.name == task for each in use.text_tasks)
        setting = "evaluate.text_tasks" if in_text else "evaluate.vision_tasks"
    return InputProblem(setting=setting, value=task, what=complaint["what"], cure=complaint["cure"])


def hash_use(use: InputUse) -> str:
    """Of the question and of the facts of its files."""
    return compute_question_digest([FORMAT, use.build_request()], iter_use_facts(use))


def iter_use_facts(use: InputUse) -> Iterator[FileFacts]:
    """What tells the input's files from others. Names of images in large folders count by their folders' times."""
    if has_several_places(use.path):
        return chain(iter_address_facts(use.path), _facts(use))
    path = Path(use.path)
    if use.kind == "tasks":
        return iter_tree_facts(path)
    if use.kind == "conversations":
        return chain(iter_file_facts(path), iter_tree_facts(path if path.is_dir() else path.parent), _facts(use))
    return chain(iter_file_facts(path), iter_folder_time(path), _facts(use))


def _facts(use: InputUse) -> Iterator[FileFacts]:
    return iter_file_facts(Path(use.tokenizer)) if use.tokenizer else iter(())


def iter_folder_time(path: Path) -> Iterator[FileFacts]:
    """A shard that is gone changes its folder, whatever the manifest says."""
    try:
        yield read_file_facts(path)
    except OSError:
        return


# What is asked without reading.


def find_engine_problems(configs: Sequence[ReadConfig]) -> Iterator[InputProblem]:
    """Programs and checkouts that are not where the sweep file says."""
    for kind, python, checkout in {read.engine: None for read in configs if read.engine}:
        settings = [("python", Path(python), os.access(python, os.X_OK) and Path(python).is_file(), "program")]
        if checkout:
            folder = Path(checkout)
            settings.append(("checkout", folder, folder.is_dir(), "folder"))
            if folder.is_dir() and (main_file := find_main_file(kind)):
                main = folder / main_file
                settings.append(("checkout", main, main.is_file(), f"file, so no checkout of {kind},"))
        for name, path, is_there, noun in settings:
            if not is_there:
                value = python if name == "python" else checkout
                yield InputProblem(
                    setting=name,
                    value=value,
                    what=f"{path}: there is no such {noun} (engine {kind})",
                    cure=f"correct {name}; {ABSENT}",
                )


def find_main_file(kind: str) -> str:
    """The program's main file in a checkout of that kind of engine; empty where none is known."""
    if kind in BUILT_IN_ENGINES:
        return MAIN_FILES.get(kind, "")
    try:
        return find_engine_plugin(kind)[1].main_file
    except PluginError:  # told by `find_plugin_problems`
        return ""


def find_plugin_problems(
    jobs: Sequence[Job], chosen: Collection[str], configs: Sequence[ReadConfig]
) -> Iterator[InputProblem]:
    """Packages that the plan counts on and that this Python lacks, or has in another version than the plan's."""
    cure = f"install the package for the jobs' Python; {ABSENT}"
    engines = [engine for read in configs if (engine := find_engine(read.config)) and engine.plugin]
    for kind, engine in {each.kind: each for each in engines}.items():
        try:
            load_planned_kind(engine)
        except PluginError as error:
            yield InputProblem(setting="kind", value=kind, what=str(error), cure=cure)
    tasks = [task for read in configs if isinstance(read.config, EvaluateConfig) for task in read.config.vision_tasks]
    for label, name in {task.plugin: task.name for task in reversed(tasks) if task.plugin}.items():
        if what := find_family_problem(label):
            yield InputProblem(setting="evaluate.vision_tasks", value=name, what=f"task {name}: {what}", cure=cure)
    settings = {id(job.settings): job.settings for job in jobs if job.key in chosen}.values()
    names = dict.fromkeys(name for each in settings for name in list_tracker_names(each))
    for name in names:
        if name not in BUILT_IN_TRACKERS:
            try:
                find_plugin(TRACKERS, name, BUILT_IN_TRACKERS).load()
            except PluginError as error:
                yield InputProblem(setting="trackers", value=name, what=str(error), cure=cure)


def find_family_problem(label: str) -> str:
    """Why the family that a plan knows by PACKAGE:VERSION cannot be used; empty if it can."""
    from stages.evaluation.benchmarks.registry import render_family_label

    package, _, version = label.rpartition(":")
    installed = [plugin for plugin in list_plugins(TASKS) if plugin.package == package]
    if not installed:
        return f"its family is of package {package}, which is not installed"
    try:
        if label in {render_family_label(plugin.name) for plugin in installed}:
            return ""
    except PluginError as error:
        return str(error)
    return (
        f"it was planned with version {version} of the numbers of package {package}, and {installed[0].release} has "
        "another; install the release that it was planned with, or plan again (`sweep plan FILE`)"
    )


def list_tracker_names(settings: Mapping[str, object]) -> list[str]:
    """Of a job's settings, as JSON has them."""
    given = settings.get("trackers")
    return [str(name) for name in given] if isinstance(given, list | tuple) else []


def find_evaluation_problems(configs: Sequence[ReadConfig]) -> Iterator[InputProblem]:
    """Evaluations that would end with an error as they have no task, or one twice."""
    for read in configs:
        config = read.config
        if not isinstance(config, EvaluateConfig) or read.engine is not None:
            continue
        names = [task.name for task in (*config.text_tasks, *config.vision_tasks)]
        if not names:
            yield InputProblem(
                setting="evaluate.text_tasks",
                what="no evaluation: neither text_tasks nor vision_tasks names a task, and each evaluation would fail",
                cure="name tasks under defaults.evaluate",
            )
        elif twice := next((name for name in names if names.count(name) > 1), ""):
            yield InputProblem(
                setting="evaluate.text_tasks" if any(t.name == twice for t in config.text_tasks) else
                "evaluate.vision_tasks",
                value=twice, what=f"task {twice} is named twice", cure="name each task once",
            )  # fmt: skip


def find_room_problem(store: Store, jobs: Sequence[Job]) -> Iterator[InputProblem]:
    """Where the jobs' checkpoints and features need more than the store's file system has free."""
    needed = sum(job.estimate.checkpoint_bytes + job.estimate.feature_bytes for job in jobs)
    folder = store.root.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        logger.info("%s: free space is not known: %s", folder, error)
        return
    if needed > free:
        yield InputProblem(
            setting="store",
            what=f"{store.root}: {format_bytes(free)} free, and {format_counted(len(jobs), 'job')} leave "
            f"{format_bytes(needed)} of checkpoints and features",
            cure="make room, or give another --store; where they go elsewhere as jobs end: --ignore-data",
            identity=f"store: {store.root}: too little room",
        )
