"""Which nodes the next attempts avoid, and until when. Pure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from jobs.reconcile.accounting import AccountingRecord
from jobs.reconcile.attempts import AttemptRecord
from jobs.reconcile.failures import POLICIES, NodeEvidence

# Node lists as Slurm writes them: `n1`, `n[1-3,7]`, `gpu[01-04],login2`.

MOST_NODES = 4_096
"""The longest list of names that is expanded."""
PART = re.compile(r"(?:\[[^\]]*(?:\]|\Z)|[^,\[])+")
GROUP = re.compile(r"\[([^\]]*)\]")
RANGE = re.compile(r"(\d+)-(\d+)")


def parse_node_list(text: str) -> tuple[str, ...]:
    """The names, in order. A part in an unknown form stays as it is, and a list that is too long is cut."""
    names: list[str] = []
    for part in PART.findall(text):
        names += _expand(part)
    return tuple(dict.fromkeys(names[:MOST_NODES]))


def _expand(part: str) -> list[str]:
    group = GROUP.search(part)
    if group is None:
        return [part]
    head, tail = part[: group.start()], _expand(part[group.end() :]) or [""]
    numbers = [number for piece in group[1].split(",") for number in _numbers(piece)]
    return list(islice((f"{head}{number}{rest}" for number in numbers for rest in tail), MOST_NODES))


def _numbers(piece: str) -> list[str]:
    """`01-03` as 01, 02, 03: leading zeros are kept."""
    bounds = RANGE.fullmatch(piece)
    if bounds is None:
        return [piece]
    first, last = int(bounds[1]), int(bounds[2])
    return [str(number).zfill(len(bounds[1])) for number in range(first, min(last, first + MOST_NODES) + 1)]


EXCLUSION_HOURS = 24.0
"""How long a node is excluded after the last suspicion against it."""


@dataclass(frozen=True, slots=True)
class NodeExclusion:
    """One node to avoid. `until`: Unix seconds."""

    node: str
    until: float
    reason: str


@dataclass(frozen=True, slots=True)
class NodeSuspicion:
    """One failure that speaks against a node."""

    key: str
    """The job's."""
    at: float
    """Unix seconds."""
    sure: bool
    """It is enough by itself."""
    message: str


def compute_exclusion_limit(nodes: int) -> int:
    """How many of a cluster's nodes may be excluded at once."""
    return max(1, nodes // 4)  # an error of our own fails on every node, and must not exclude the whole cluster


def select_excluded_nodes(
    outcomes: Iterable[AttemptRecord],
    now: float,
    *,
    endings: Iterable[AccountingRecord] = (),
    hours: float = EXCLUSION_HOURS,
    limit: int = 1,
) -> list[NodeExclusion]:
    """At most `limit` nodes, those with the surest and newest suspicions first.

    A node is excluded after a fault of its own, and after two different jobs have ended suspiciously on it, unless an
    attempt has gone well there since (`failures.POLICIES` says which ends are which). `outcomes` are those of all jobs
    (`SweepSnapshot.read_node_evidence`); successes may be left out if `endings` have them.
    """
    known = [
        outcome for outcome in outcomes if outcome.end is not None and (outcome.start.node or outcome.accounting_record)
    ]
    good = find_last_success(known, endings)
    everywhere = find_shared_tracebacks(known)
    signs: dict[str, list[NodeSuspicion]] = defaultdict(list)
    for outcome in known:
        nodes = find_blamed_nodes(outcome)
        for node in nodes:
            sign = find_suspicion(outcome, alone=len(nodes) == 1, traceback_elsewhere=everywhere)
            if sign is not None and sign.at + hours * 3600 > now and (sign.sure or sign.at > good.get(node, 0.0)):
                signs[node].append(sign)
    bad = {node: found for node, found in signs.items() if is_enough(found)}
    order = sorted(bad, key=lambda node: (not any(sign.sure for sign in bad[node]), -select_newest(bad[node]).at, node))
    return [
        NodeExclusion(node, select_newest(bad[node]).at + hours * 3600, explain_exclusion(bad[node]))
        for node in order[:limit]
    ]


# Why: docs/decisions.md, D125
def select_avoided_nodes(attempts: Sequence[AttemptRecord], now: float, *, hours: float = EXCLUSION_HOURS) -> list[str]:
    """Nodes that a job avoids at its next attempt, the newest first. `attempts`: its own, oldest first.

    These are nodes on which it has failed so that the node may be to blame. One job's failures exclude a node for
    nobody else, as the job may be to blame: elsewhere that shows.
    """
    good = find_last_success(attempts, ())
    found: list[str] = []
    for attempt in reversed(attempts):
        nodes = find_blamed_nodes(attempt)
        sign = find_suspicion(attempt, alone=len(nodes) == 1, traceback_elsewhere=set())
        if sign is not None and len(nodes) == 1 and sign.at > max(now - hours * 3600, good.get(nodes[0], 0.0)):
            found.append(nodes[0])
    return list(dict.fromkeys(found))


def find_blamed_nodes(outcome: AttemptRecord) -> tuple[str, ...]:
    """The node that Slurm blames, else the one that the stage names, else all nodes of the attempt."""
    failed = parse_node_list(outcome.accounting_record.failed_node) if outcome.accounting_record is not None else ()
    if failed:
        return failed
    nodes = list_attempt_nodes(outcome)
    named = outcome.end.failed_node if outcome.end is not None else ""
    return (named,) if named in nodes else nodes


def list_attempt_nodes(outcome: AttemptRecord) -> tuple[str, ...]:
    """All nodes of an attempt that are known."""
    if outcome.accounting_record is not None and outcome.accounting_record.nodes:
        return parse_node_list(outcome.accounting_record.nodes)
    return parse_node_list(outcome.start.node)


def find_last_success(outcomes: Iterable[AttemptRecord], endings: Iterable[AccountingRecord]) -> dict[str, float]:
    """Unix seconds of the last attempt that went well, by node."""
    found: dict[str, float] = {}
    pairs = [
        (list_attempt_nodes(outcome), outcome.end.ended_at)
        for outcome in outcomes
        if outcome.end is not None and _shows_that_nodes_work(outcome)
    ]
    pairs += [(parse_node_list(ending.nodes), ending.ended_at) for ending in endings if ending.state == "COMPLETED"]
    for nodes, moment in pairs:
        for node in nodes:
            found[node] = max(found.get(node, 0.0), moment)
    return found


def _shows_that_nodes_work(outcome: AttemptRecord) -> bool:
    if outcome.failure is None:
        return True
    return outcome.advanced and POLICIES[outcome.failure].node is NodeEvidence.WORKS


def find_shared_tracebacks(outcomes: Iterable[AttemptRecord]) -> set[str]:
    """Digests of tracebacks that occurred on several nodes: the code is to blame for these, and not a node."""
    nodes: dict[str, set[str]] = defaultdict(set)
    for outcome in outcomes:
        if outcome.end is not None and outcome.end.traceback_digest:
            nodes[outcome.end.traceback_digest].update(list_attempt_nodes(outcome))
    return {digest for digest, where in nodes.items() if len(where) > 1}


def find_suspicion(outcome: AttemptRecord, *, alone: bool, traceback_elsewhere: set[str]) -> NodeSuspicion | None:
    """What an attempt's end says against each of its nodes. `alone`: it had one node, so that no other is to blame."""
    end = outcome.end
    if end is None:
        return None
    evidence = POLICIES[end.failure].node if end.failure is not None else NodeEvidence.WORKS
    sure = evidence is NodeEvidence.FAULT and alone and not end.node_unsure
    unlaunched = evidence is NodeEvidence.SUSPECT_BEFORE_START and not outcome.began
    suspicious = evidence in {NodeEvidence.SUSPECT, NodeEvidence.FAULT} or unlaunched
    if not suspicious or (not sure and end.traceback_digest in traceback_elsewhere):
        return None
    return NodeSuspicion(outcome.start.key, end.ended_at, sure, end.message)


def is_enough(signs: Sequence[NodeSuspicion]) -> bool:
    """Whether the suspicions against one node exclude it: one that is sure, or two different jobs."""
    return any(sign.sure for sign in signs) or len({sign.key for sign in signs}) > 1


def select_newest(signs: Sequence[NodeSuspicion]) -> NodeSuspicion:
    """The newest of the sure ones, or of all if none is sure."""
    return max(signs, key=lambda sign: (sign.sure, sign.at))


def explain_exclusion(signs: Sequence[NodeSuspicion]) -> str:
    """Why a node is excluded, in one line."""
    last = select_newest(signs)
    if last.sure:
        return f"node fault: {last.message}"
    return f"{len({sign.key for sign in signs})} jobs failed there, the last: {last.message}"
