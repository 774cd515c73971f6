"""sbatch's options for a job's resources, and what a sweep file may say to Slurm at all. Pure.

Everything that a file says reaches sbatch as one word of its argument list, or the batch script as one quoted word;
only set-up lines are shell, by their nature, and are held to one line each. What would break that is refused here, both
when the sweep file is read and before sbatch is called.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from jobs.job import Resources
from jobs.slurm.site.gpu_kinds import SHARED, parse_gpu_kind
from jobs.store.paths import UnsafeNameError

LONGEST_VALUE = 400
LONGEST_LINE = 1_000
MOST_LINES = 100
MOST_WORDS = 50

NAME = re.compile(r"[a-z][a-z-]{0,38}[a-z]")
HOST_LIST = re.compile(r"[A-Za-z0-9._,\[\]-]{1,4000}")

FIELDS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "reservation": "reservation",
    "time": "time_minutes",
    "nodes": "nodes",
    "mem": "memory_gib",
    "mem-per-cpu": "memory_gib",
    "mem-per-gpu": "memory_gib",
    "cpus-per-task": "cpus",
    "cpus-per-gpu": "cpus",
}
"""sbatch's options that have a field of their own among the resources."""

OWN_FIELDS = ("partition", "account", "qos", "constraint", "reservation")
"""Of these, the ones that are kept among `Resources.options` under sbatch's name."""

LAYOUT = "a job is one task on each node, and starts one process for each GPU itself; use nodes, gpus_per_node and cpus"
LOGS = "logs lie in the store, where `sweep logs` finds them"
ANSWER = "sweep reads sbatch's answer"
REQUEUED = "jobs go on from their checkpoint when Slurm requeues them"
SETUP = "use `setup` for the environment"
ONE_CLUSTER = "ids of several clusters would be mixed up; set SLURM_CLUSTERS to one, which the store remembers"
SUBMITTER = "jobs run as the user who submits"

REFUSED = {
    "array": "jobs of one shape go out as arrays by themselves",
    "chdir": "jobs run in the store",
    "cluster": ONE_CLUSTER,
    "cluster-constraint": ONE_CLUSTER,
    "clusters": ONE_CLUSTER,
    "comment": "it carries the identity of the batch",
    "dependency": "jobs wait for their parents by themselves",
    "error": LOGS,
    "export": SETUP,
    "export-file": SETUP,
    "get-user-env": SETUP,
    "gid": SUBMITTER,
    "help": ANSWER,
    "input": "jobs read nothing from stdin",
    "job-name": "it carries the identity of the batch",
    "kill-on-invalid-dep": "jobs behind a failed parent are taken out of the queue, and come back after its repair",
    "no-kill": "a job that loses a node goes on from its checkpoint on others",
    "no-requeue": REQUEUED,
    "ntasks": LAYOUT,
    "ntasks-per-core": LAYOUT,
    "ntasks-per-gpu": LAYOUT,
    "ntasks-per-node": LAYOUT,
    "ntasks-per-socket": LAYOUT,
    "open-mode": LOGS,
    "output": LOGS,
    "parsable": ANSWER,
    "quiet": ANSWER,
    "requeue": REQUEUED,
    "signal": "jobs are asked to save before their time limit",
    "test-only": "use `sweep submit --dry-run` or `sweep doctor`",
    "uid": SUBMITTER,
    "usage": ANSWER,
    "verbose": ANSWER,
    "version": ANSWER,
    "wait": ANSWER,
    "wrap": "use `setup` for shell lines and `launcher` for words before the program",
    **{name: f"use the field {field}" for name, field in FIELDS.items()},
}
"""sbatch's options that a sweep file may not give among `options`, and what serves instead."""

GPU_REQUESTS = ("gres", "gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "tres-per-task")
"""Ways to ask for GPUs; one that the user gives takes the place of ours."""

WRITTEN_OUT = (*GPU_REQUESTS, "exclude")
"""Allowed, and searched for by their full names."""


def check_option(name: str, value: str) -> str:
    """Why `--name=value` may not be given to sbatch, as the end of a sentence; empty if it may."""
    if not NAME.fullmatch(name):
        return "is not a long option of sbatch, such as mail-type (small letters and - , without the leading --)"
    if name in REFUSED:
        return f"is not for sweep files: {REFUSED[name]}"
    if name not in WRITTEN_OUT:
        # getopt_long(3) takes any unambiguous beginning of an option for the whole
        whole = next((each for each in (*REFUSED, *WRITTEN_OUT) if each.startswith(name)), "")
        if whole:
            return f"would be taken for --{whole}; write sbatch's options out"
    return check_text(value, LONGEST_VALUE)


def check_setup_line(line: str) -> str:
    """Why a line may not stand in a batch script; empty if it may."""
    begin = line.lstrip().upper()
    if begin.startswith(("#SBATCH", "#PBS", "#BSUB")):
        return "is an option of the scheduler; options go into `options` or a field of their own"
    if (len(line) - len(line.rstrip("\\"))) % 2:
        return "ends in a backslash, which would swallow the line after it"
    return check_text(line, LONGEST_LINE)


def check_launcher_word(word: str) -> str:
    """Why a word may not stand before the program; empty if it may."""
    return "is an empty word" if not word else check_text(word, LONGEST_VALUE)


def check_text(text: str, longest: int) -> str:
    """Why a text is not one printable line of bounded length; empty if it is."""
    if len(text) > longest:
        return f"is longer than {longest} characters"
    return "" if text.isprintable() else "holds a control character or a line break; one printable line is wanted"


def check_launcher(words: Sequence[str]) -> str:
    """What is wrong with a whole launcher; empty if nothing."""
    if len(words) > MOST_WORDS:
        return f"has more than {MOST_WORDS} words"
    if words and words[0].startswith("-"):
        return f"begins with the option {words[0]!r}; a program is wanted first"
    return next((f"{word!r} {problem}" for word in words if (problem := check_launcher_word(word))), "")


def check_setup(lines: Sequence[str]) -> str:
    """What is wrong with all the set-up lines together; empty if nothing."""
    if len(lines) > MOST_LINES:
        return f"has more than {MOST_LINES} lines; put them into a file and source it"
    return next((f"{line!r} {problem}" for line in lines if (problem := check_setup_line(line))), "")


def check_resources(resources: Resources) -> None:
    """Raises UnsafeNameError for resources of a manifest that no sweep file could have made."""
    for name, value in resources.options.items():
        problem = check_text(value, LONGEST_VALUE) if name in OWN_FIELDS else check_option(name, value)
        if problem:
            raise UnsafeNameError(f"option {name!r} of a job {problem}")
        if name in OWN_FIELDS and not value:
            raise UnsafeNameError(f"option {name!r} of a job is empty")
    for what, problem in (
        ("setup", check_setup(resources.setup)),
        ("launcher", check_launcher(resources.launcher)),
        ("gpu_type", "" if re.fullmatch(r"[A-Za-z0-9._+-]{0,60}", resources.gpu_type) else "is not a plain word"),
    ):
        if problem:
            raise UnsafeNameError(f"{what} of a job: {problem}")


def build_sbatch_options(
    resources: Resources,
    *,
    memory_gib: float | None = None,
    gpu_type: str | None = None,
    memory_tracked: bool = True,
    exclude: Iterable[str] = (),
) -> list[str]:
    """What an attempt asks of Slurm, each as one word `--name=value` of sbatch's argument list (sbatch(1)).

    `memory_gib` a node and `gpu_type` (the cluster's own name, empty where its GPUs have none) go over those of
    `resources`. `memory_tracked`: False leaves `--mem` out. `exclude`: nodes to keep away from, beside those that the
    user excludes.

    Raises:
        UnsafeNameError: words that must not reach Slurm.
    """
    check_resources(resources)
    given = dict(resources.options)
    kept_away = [*exclude, *([given.pop("exclude")] if given.get("exclude") else [])]
    if any(not HOST_LIST.fullmatch(node) for node in kept_away):
        raise UnsafeNameError(f"{kept_away!r} are not names of nodes")
    options = {
        "nodes": str(resources.nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(resources.cpus),
        # Why: docs/decisions.md, D110
        **({"mem": f"{math.ceil((memory_gib or resources.memory_gib) * 1024)}M"} if memory_tracked else {}),
        "time": str(resources.time_minutes),
        # else the limits of the submitting shell hold in the job: open files, memory, core dumps (ulimit)
        "propagate": given.pop("propagate", "NONE"),
        **build_gpu_request(resources, given, gpu_type),
        **{name: given.pop(name) for name in OWN_FIELDS if name in given},
        **({"exclude": ",".join(kept_away)} if kept_away else {}),
        **dict(sorted(given.items())),
    }
    return [f"--{name}={value}" if value else f"--{name}" for name, value in options.items()]


def build_gpu_request(resources: Resources, given: dict[str, str], gpu_type: str | None) -> Mapping[str, str]:
    """`gres` for the job's GPUs, joined with other gres of the user; takes `gres` out of `given`.

    `--gres` and not `--gpus-per-node`: srun inherits the latter through the environment and then contends with any
    other request, and it needs select/cons_tres. Both show as gres/gpu in AllocTRES.
    """
    gres = given.pop("gres", "")
    if not resources.gpus_per_node or has_gpu_options(resources.options):
        return {"gres": gres} if gres else {}
    kind = resources.gpu_type if gpu_type is None else gpu_type
    shards = parse_gpu_kind(resources.gpu_type).shards
    words = ("shard", str(shards)) if shards else ("gpu", kind, str(resources.gpus_per_node))
    own = ":".join(filter(None, words))
    return {"gres": f"{own},{gres}" if gres else own}


def drop_gpu_options(options: Mapping[str, str]) -> dict[str, str]:
    """The user's own options without those that ask for GPUs, and without all of a list that names one."""
    return {name: value for name, value in options.items() if not has_gpu_options({name: value})}


def list_requested_kinds(options: Mapping[str, str]) -> str:
    """Types of the GPUs that the user's own options ask for, with numbers: `a100_1g.5gb=1`, `shard=4`."""
    found = []
    for name in GPU_REQUESTS:
        for word in options.get(name, "").split(","):
            resource, *rest = re.split("[:=]", re.sub("^gres[/:]", "", word.strip()))
            if name.startswith("gpus"):
                resource, rest = "gpu", [resource, *rest]
            kind = resource if resource in SHARED else next((part for part in rest if not part.isdigit()), "")
            if kind and resource in {"gpu", *SHARED}:
                found.append(f"{kind}={next((part for part in rest if part.isdigit()), 1)}")
    return ",".join(found)


def has_gpu_options(options: Mapping[str, str]) -> bool:
    """Whether the user's own options ask for GPUs, or for shares of them."""
    if any(name in options for name in GPU_REQUESTS if name.startswith("gpus")):
        return True
    words = f"{options.get('gres', '')},{options.get('tres-per-task', '')}".split(",")
    return any(re.match(r"(gres[/:])?(gpu|shard|mps)([:=/]|$)", word.strip()) for word in words)
