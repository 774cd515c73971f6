"""Slurm's last answer for each job of a sweep that it would not take: what `sweep status` and `explain` show.

STORE/sweeps/NAME/refusals.json. For people to read: nothing is decided by it, and each round asks Slurm anew.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from jobs.slurm.sbatch_errors import POLICY, RefusalKind, SubmitRefusal
from jobs.slurm.site.site import Site
from jobs.slurm.states import explain_reason
from jobs.store.paths import Store, write_json
from jobs.store.reading import is_time
from jobs.store.records import read_record
from jobs.store.results import is_known_format

FORMAT = 1


# Why: docs/decisions.md, D108
@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why Slurm did not take a job when a round last offered it."""

    text: str
    """One line: what Slurm would not take, in plain English with Slurm's own words."""
    advice: str = ""
    """What would do, as an order to the reader; empty if there is nothing to do but wait."""
    when: float
    """Unix seconds of the answer."""
    kind: RefusalKind
    """INVALID: never as the job is. The others pass by themselves."""

    def __str__(self) -> str:
        return f"{self.text}; {self.advice}" if self.advice else self.text


REFUSED = "Slurm refuses it"
EXPLANATIONS: tuple[tuple[str, str, str], ...] = (
    ("Invalid partition name specified", "there is no such partition", "correct partition: {partitions}"),
    ("No partition specified", "no partition is the default", "name one: partition: {partitions}"),
    ("Invalid qos specification", "the QOS does not exist or is not open to its account", "correct qos: {qos}"),
    ("Invalid account", "the account is not yours or may not use the partition", "correct account: {accounts}"),
    ("User's group not permitted", "the partition is closed to your groups", "correct partition: {partitions}"),
    ("Requested time limit is invalid", "more time than the partition gives", "lower time_minutes"),
    ("Node count specification invalid", "more or fewer nodes than the partition gives a job", "correct nodes"),
    ("Memory required by task is not available", "more memory than a node or CPU may give", "lower memory_gib"),
    ("CPU count specification invalid", "more CPUs than a node may give", "lower cpus"),
    ("More processors requested", "more CPUs than the partition gives", "lower cpus"),
    (
        "Invalid feature specification",
        "no node is as constraint says",
        "correct constraint; `sinfo -o %f` lists features",
    ),
    (
        "Invalid generic resource",
        "no node has such GPUs",
        "correct gpu_type and gpus_per_node; `sinfo -o %G` lists them",
    ),
    ("Requested GRES option unsupported", "this cluster gives no GPUs that way", "correct gpus_per_node"),
    ("Invalid node name specified", "it names a node that is not there", "correct the option that names it"),
    ("Requested reservation is invalid", "there is no such reservation", "correct reservation"),
    ("Access denied to requested reservation", "the reservation is not for you", "correct reservation"),
    ("Invalid license specification", "there are no such licences", "correct licenses among options"),
    (
        "Requested node configuration is not available",
        "no nodes of the partition can ever give what it asks for",
        "lower nodes, cpus, memory_gib or gpus_per_node",
    ),
    ("Unspecified error", "the site's own check of submissions says no", "ask the cluster's administrators"),
)
"""Beginnings of Slurm's words, what they mean, and what to change."""


def explain_few_nodes(excluded: Iterable[str]) -> str:
    """Why a job waits that would need nodes which are excluded at present."""
    return f"too few nodes are left without those that are excluded for their faults: {', '.join(excluded)}"


def explain_refusal(answer: SubmitRefusal, when: float, choices: Mapping[str, str]) -> Refusal:
    """Slurm's refusal, of sbatch or of its --test-only, in plain English with what would do.

    `choices`: what there is instead, for the words in braces above.
    """
    if answer.kind is not RefusalKind.INVALID:
        return Refusal(text=answer.reason, when=when, kind=answer.kind)
    plain, advice = next((rest for begin, *rest in EXPLANATIONS if answer.reason.startswith(begin)), ("", ""))
    if answer.reason.startswith(POLICY):
        limit = answer.reason.rpartition("; ")[2]
        plain, advice = (
            f"above the {explain_reason(limit).removeprefix('never: ')}",
            "ask for less, or take another qos",
        )
    text = f"{REFUSED}: {plain} ({answer.reason})" if plain else f"{REFUSED}: {answer.reason}"
    return Refusal(text=text, advice=advice.format_map(choices) or "change `resources`", when=when, kind=answer.kind)


def list_choices(site: Site) -> dict[str, str]:
    """What a user could name instead, for `explain_refusal`."""
    accounts = sorted({each.account for each in site.associations or () if each.user == site.user})
    own_qos = sorted({name for each in site.associations or () if each.user == site.user for name in each.qos})
    return {
        "partitions": ", ".join(each.name for each in site.partitions or ()) or "`sinfo` lists them",
        "accounts": f"yours: {', '.join(accounts)}" if accounts else "ask the cluster's administrators for one",
        "qos": f"yours: {', '.join(own_qos)}" if own_qos else "`sacctmgr show qos` lists them",
    }


def read_refusals(store: Store, sweep: str) -> dict[str, Refusal]:
    """The last refusal by key, of the jobs that were not sent since; empty without any, and for a damaged file.

    A job may have gone on by other means since (another sweep of the store, `resume` on one machine): readers show only
    those of jobs that are ready, waiting or interrupted.
    """
    content = read_record(store.locate_sweep(sweep).refusals) or {}
    if not is_known_format(content.get("format"), FORMAT):
        return {}
    found: dict[str, Refusal] = {}
    with contextlib.suppress(KeyError, TypeError, ValueError):
        for each in content["answers"]:
            if not is_time(each["when"]):
                continue
            refusal = Refusal(
                text=str(each["text"]),
                advice=str(each["advice"]),
                when=float(each["when"]),
                kind=RefusalKind(each["kind"]),
            )
            found |= dict.fromkeys(map(str, each["keys"]), refusal)
    return found


def update_refusals(
    store: Store, sweep: str, new: Mapping[str, Refusal], *, settled: Collection[str], planned: Collection[str]
) -> None:
    """Keeps a round's answers, over those of earlier rounds.

    `settled`: keys that need no answer any more (sent, queued, done). `planned`: keys of the plan; others are dropped.
    A store that refuses the write is no error.
    """
    known = {**read_refusals(store, sweep), **new}
    kept = {key: known[key] for key in sorted(known) if key in planned and key not in settled}
    path = store.locate_sweep(sweep).refusals
    with contextlib.suppress(OSError):
        if not kept:
            path.unlink(missing_ok=True)
            return
        keys: dict[Refusal, list[str]] = {}
        for key, refusal in kept.items():
            keys.setdefault(refusal, []).append(key)
        answers = [
            {"text": each.text, "advice": each.advice, "when": each.when, "kind": each.kind.value, "keys": names}
            for each, names in keys.items()
        ]
        write_json(path, {"format": FORMAT, "answers": answers}, lasting=False)
