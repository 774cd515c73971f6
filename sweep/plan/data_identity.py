"""What keys know each data set by: its content, whatever it is called and wherever it lies.

The rules, the first that fits (docs/decisions.md, D141):
1. What the stored plan of this sweep says of the name and revision, if the content is the same or cannot be seen.
2. If the stored plan went by the name alone, as plans of version 0.1 and plans without sight of the data do, it still
   goes by the name: no key moves, and the content is recorded.
3. A name by which this store knows the content already, from whatever plan.
4. The name by which another plan of this store went alone, if its data lie at the same place.
5. The content's digest. For data that cannot be seen: what another plan knows that has seen the place, else name and
   revision.
A `revision` is the user's own word. Another one makes another identity of the same content.
"""

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from jobs.store.paths import SAFE_NAME, Store, SweepPaths, write_json
from jobs.store.reading import parse_object, read_file
from sweep.content.digest import PREFIX
from sweep.content.kept import DataContents, describe_content
from sweep.errors import SweepFileError
from sweep.file_facts import is_present
from sweep.plan.grid import Grid
from sweep.plan.manifest import DataIdentity, parse_identities, read_manifest_header
from sweep.spec.data import DataSet
from sweep.spec.schema import Sweep
from sweep.spec.yaml_source import read_yaml

logger = logging.getLogger(__name__)

RECORD_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DataItem:
    """A data set of a sweep, or one evaluation task of it."""

    label: str
    """The data set's name; of a task FOLDER/FILE."""
    kind: str
    path: str
    revision: str
    task: str = ""
    """The task's file in the folder."""

    @property
    def data_set(self) -> str:
        return self.label.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentChange:
    """Other content under a name and revision that a stored plan has used."""

    label: str
    before: str
    now: str

    def __str__(self) -> str:
        return f"data {self.label}: content {describe_content(self.before)} -> {describe_content(self.now)}"


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """What a stored sweep file says of a data set, as far as it decides its identity."""

    kind: str
    revision: str


class StoredPlan:
    """What a stored plan says of its data; `known` is empty in a plan of an earlier version."""

    def __init__(self, paths: SweepPaths) -> None:
        self.paths = paths
        self.places, self.known = read_manifest_header(paths.manifest)

    @cached_property
    def entries(self) -> Mapping[str, StoredEntry]:
        """The data sets of the stored sweep file."""
        return dict(iter_stored_entries(self.paths.source))

    def find_identity(self, item: DataItem) -> DataIdentity | None:
        """What the plan's keys know the item's name and revision by; None if the plan does not use them."""
        if item.label in self.known:
            found = self.known[item.label]
            return found if found.revision == item.revision else None
        if item.task and any(label.startswith(f"{item.data_set}/") for label in self.known):
            return None  # it names all tasks that it takes from the folder
        if item.data_set not in self.places:
            return None
        entry = self.entries.get(item.data_set, StoredEntry(item.kind, item.revision))
        if entry != StoredEntry(item.kind, item.revision):
            return None
        return DataIdentity(name=item.label, revision=item.revision)


def iter_stored_entries(path: Path) -> Iterator[tuple[str, StoredEntry]]:
    """Data sets of a sweep file as stored; none where it cannot be read."""
    try:
        for name, entry in read_yaml(path).data["data"].items():
            yield str(name), StoredEntry(str(entry.get("kind", "")), str(entry.get("revision", "")))
    except (SweepFileError, KeyError, TypeError, AttributeError):
        return


class StoredIdentities:
    """What a store knows of data: its plans, and its records of content that keys know by a name."""

    def __init__(self, store: Store, sweep: str, same: Collection[str] = ()) -> None:
        """`same`: data sets, or FOLDER/FILE of tasks, whose other content the user takes for the former one."""
        self.store, self.sweep, self.same = store, sweep, frozenset(same)

    @cached_property
    def own(self) -> StoredPlan:
        """The plan of the sweep itself."""
        return self.read_own_again()

    def read_own_again(self) -> StoredPlan:
        """The same, as it is stored by now."""
        return self._read_plan(self.sweep)

    @cached_property
    def others(self) -> tuple[StoredPlan, ...]:
        """The plans of other sweeps, by name."""
        try:
            names = sorted(path.name for path in self.store.sweeps.iterdir())
        except OSError:
            return ()
        names = [name for name in names if name != self.sweep and SAFE_NAME.fullmatch(name)]
        return tuple(self._iter_plans(names))

    def _iter_plans(self, names: Sequence[str]) -> Iterator[StoredPlan]:
        for name in names:
            try:
                yield self._read_plan(name)
            except OSError as error:  # another user's, say: it says nothing of these data
                logger.info("%s: passed over: %s", self.store.locate_sweep(name).manifest, error)

    @cached_property
    def records(self) -> tuple[DataIdentity, ...]:
        """Every identity with a content that the store knows, those of plans and of records; by name."""
        found = {each for plan in (self.own, *self.others) for each in plan.known.values() if each.content}
        return tuple(sorted({*found, *self._iter_records()}, key=lambda each: (each.name, each.revision)))

    def _read_plan(self, name: str) -> StoredPlan:
        return StoredPlan(self.store.locate_sweep(name))

    def _iter_records(self) -> Iterator[DataIdentity]:
        try:
            paths = sorted(self.store.known_data.glob("*.json"))
        except OSError:
            return
        for path in paths:
            try:
                yield from parse_identities({"identities": {path.name: parse_object(read_file(path))}}).values()
            except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
                logger.info("%s: passed over: %s", path, error)

    # Why: docs/decisions.md, D141
    def decide_identity(self, item: DataItem, content: str) -> tuple[DataIdentity, ContentChange | None]:
        """By the rules above; and what is to be told. `content`: empty where the data cannot be seen."""
        own = self.own.find_identity(item)
        if own and content in ("", own.content):
            return own, None
        if not content:
            return self._find_seen_elsewhere(item) or DataIdentity(name=item.label, revision=item.revision), None
        if own and not self.same.isdisjoint({item.label, item.data_set}):
            return replace(own, content=content), None
        before = own.content if own else ""
        if own and not before:
            before = self._find_content_before(item, content)
            if not before:
                return replace(own, content=content), None
        change = ContentChange(label=item.label, before=before, now=content) if before else None
        return DataIdentity(name=self._find_name(item, content), revision=item.revision, content=content), change

    def _find_name(self, item: DataItem, content: str) -> str:
        """Rules 3 to 5."""
        known = [each.name for each in self.records if (each.content, each.revision) == (content, item.revision)]
        names = {name for name in known if name != content}
        if not names and not self._find_content_before(item, content):
            names = {each.name for each in self._iter_same_place(item) if not each.content}
        return item.label if item.label in names else min(names, default=content)

    def _find_seen_elsewhere(self, item: DataItem) -> DataIdentity | None:
        """What another plan knows that has seen the data at the same place."""
        return next((each for each in self._iter_same_place(item) if each.content), None)

    def _find_content_before(self, item: DataItem, content: str) -> str:
        """Another content that a plan has seen at the same place; empty if none has, or if one has seen this one."""
        seen = {each.content for each in self._iter_same_place(item) if each.content}
        return "" if content in seen else min(seen, default="")

    def _iter_same_place(self, item: DataItem) -> Iterator[DataIdentity]:
        """Identities in other plans of data of the item's kind and revision at its place, whatever they call it; those
        under its own name first."""
        for plan in self.others:
            for label in sorted(plan.places, key=lambda each: (each != item.data_set, each)):
                if not label.startswith(PREFIX) and self._is_same_place(plan.places[label], item.path):
                    kind = plan.entries.get(label, StoredEntry(item.kind, item.revision)).kind
                    twin = replace(item, label=f"{label}/{item.task}" if item.task else label)
                    if kind == item.kind and (found := plan.find_identity(twin)):
                        yield found

    def _is_same_place(self, there: str, here: str) -> bool:
        """Whether two paths are one, or one within the store as it lay before it was moved."""
        root = f"{self.store.root}/"
        return there == here or (here.startswith(root) and there.endswith(f"/{here.removeprefix(root)}"))

    def save(self, identities: Mapping[str, DataIdentity]) -> None:
        """Records which content keys mean by a name. OSError. Equal records have one file, so writers may meet."""
        for each in identities.values():
            if each.content not in ("", each.name):
                content = asdict(each)
                digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
                path = self.store.known_data / f"{digest}.json"
                if not path.exists():
                    write_json(path, {"format": RECORD_FORMAT, **content})


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedData:
    """The data sets of a sweep with their identities, and what is to be told of them."""

    data: Mapping[str, DataSet]
    identities: Mapping[str, DataIdentity] = field(default_factory=dict)
    """For the manifest: of what is known by more than its name."""
    changes: tuple[ContentChange, ...] = ()


def identify_data(sweep: Sweep, grid: Grid, contents: DataContents, stored: StoredIdentities) -> IdentifiedData:
    """The identity of each data set and task of a sweep."""
    data: dict[str, DataSet] = {}
    identities: dict[str, DataIdentity] = {}
    changes: list[ContentChange] = []
    for name, each in sweep.data.items():
        found: dict[str, DataIdentity] = {}
        for item in list_items(each, grid):
            content = contents.find_content(item.kind, item.path, item.task)
            found[item.label], change = stored.decide_identity(item, content)
            changes += [change] if change else []
        data[name] = apply_identities(each, found)
        if any(one.content or one.name != label for label, one in found.items()):
            identities |= found
    return IdentifiedData(data=data, identities=identities, changes=tuple(changes))


def list_unread_data(sweep: Sweep, grid: Grid, contents: DataContents) -> list[str]:
    """The paths of the data that `identify_data` will have to read."""
    items = [item for each in sweep.data.values() for item in list_items(each, grid)]
    return list(dict.fromkeys(item.path for item in items if not contents.is_kept(item.kind, item.path, item.task)))


def list_items(data: DataSet, grid: Grid) -> list[DataItem]:
    """The data set, or the tasks that the grid's evaluations take from it."""
    about = {"kind": data.kind, "path": data.path, "revision": data.revision}
    if data.kind != "tasks":
        return [DataItem(label=data.name, **about)]
    return [DataItem(label=f"{data.name}/{file}", task=file, **about) for file in list_task_files(data, grid)]


def list_task_files(data: DataSet, grid: Grid) -> list[str]:
    """Files of the tasks of a folder. A trusted task may have none, and lm-eval's own is meant."""
    files: dict[str, None] = {}
    seen: set[tuple[int, int]] = set()
    for point in grid.points:
        if point.values["evaluate.tasks"] != data.name:
            continue
        text, vision = point.values["evaluate.text_tasks"], point.values["evaluate.vision_tasks"]
        if (id(text), id(vision)) in seen:
            continue
        seen.add((id(text), id(vision)))
        here = [f"{each.name}.yaml" for each in text if not each.trusted or is_present(f"{data.path}/{each.name}.yaml")]
        files |= dict.fromkeys([*here, *(f"{each.name}.json" for each in vision)])
    return list(files)


def apply_identities(data: DataSet, found: Mapping[str, DataIdentity]) -> DataSet:
    """The data set as the planner takes it."""
    if data.kind == "tasks":
        return replace(data, task_identities={label.partition("/")[2]: one.name for label, one in found.items()})
    [identity] = found.values()
    return replace(data, identity="" if identity.name == data.name else identity.name)


def find_content_changes(
    paths: SweepPaths, contents: DataContents, places: Collection[str]
) -> tuple[ContentChange, ...]:
    """The data at `places` that have other content by now than the stored plan of a sweep went by."""
    plan = StoredPlan(paths)
    changes = []
    for label, identity in plan.known.items():
        name, _, task = label.partition("/")
        if identity.content and name in plan.entries and plan.places.get(name) in places:
            now = contents.find_content(plan.entries[name].kind, plan.places[name], task)
            if now not in ("", identity.content):
                changes.append(ContentChange(label=label, before=identity.content, now=now))
    return tuple(changes)
