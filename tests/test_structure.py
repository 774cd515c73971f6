"""The house: no import circle, no crowded folder, class names once, public functions named by a verb."""

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("sweep", "jobs", "stages")
MOST_FILES = 25

VERBS = frozenset(
    """
    accumulate acquire add adjust adopt advance allocate allow append apply are ask attach attend begin block
    build can cancel centre check checkpoint choose classify clean clear clip close collate collect colour
    compact compare compile compute configure connect convert copy count create cut decide decode deduplicate
    define deliver describe detect digest discount divide download draw drop dump embed encode enter escape estimate
    exit expand explain export extend extract fetch fill find fit flatten flush fold forecast format freeze fuse gather
    generate get group guess gunzip halve has hash hold identify ignore import index infer inspect install is
    iter join judge keep kill label letterbox lift limit list listen load locate log look make map mark match measure
    merge move multiply name narrow needs nest normalise normalize note number observe open pack pad parse pause
    permute pick pin place plan poll post predict prefetch prefill prepare preview price print project query quote
    raise rank read readinto reconcile record refer refine refresh refuse register release reload remove rename
    render reorder replace replicate report request requeue require resample reserve reset resize resolve
    restore rotate round run sample save scale score select send set shard shorten show shuffle signal silence
    sleep sort split start step stop store strip submit subtract suggest sum summarize take tell terminate thin
    touch trace train transform truncate try unwrap update uses validate view wait withdraw wrap write zero
    """.split()  # noqa: SIM905 - read as text, not as a list of 200 quotes
)
"""First words of public functions. Add a new verb here, where a reviewer sees it."""

PRESCRIBED = frozenset(
    "main monotonic boottime now forward backward loglikelihood tok keys readable all init from to".split()  # noqa: SIM905
) | frozenset({"status", "results", "metrics", "logs", "tick", "resume"})
"""First words that libraries or usage prescribe: time, torch, lm-eval, io, torch.distributed, constructors; and the
commands' own names, as methods of `sweep.open(...)`."""


def sources() -> dict[str, ast.Module]:
    """The syntax tree of every module, by its dotted name; a package has its own name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = ast.parse(path.read_text())
    return found


SOURCES = sources()


def imported(tree: ast.Module) -> Iterator[str]:
    """Our modules that a module imports anywhere: in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in SOURCES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in SOURCES or node.module in SOURCES:
                    yield full if full in SOURCES else node.module


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {name: set(imported(tree)) - {name} for name, tree in SOURCES.items()}
    while leaves := {name for name, needed in left.items() if not needed & left.keys()}:
        for name in leaves:
            del left[name]
    # what cannot be taken away leaf by leaf is in a circle, or needs one that is
    assert sorted(left) == []


def test_no_folder_is_crowded() -> None:
    counts = Counter(
        path.parent.relative_to(ROOT)
        for package in (*PACKAGES, "tests")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    )
    assert {str(folder): count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_a_class_name_stands_for_one_class() -> None:
    places = defaultdict(list)
    for name, tree in SOURCES.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


CLOCK = "jobs.clock"
READS_OF_TIME = frozenset(
    "time monotonic sleep perf_counter clock_gettime time_ns monotonic_ns perf_counter_ns".split()  # noqa: SIM905
)
WITHOUT_A_CLOCK = {
    "jobs.slurm.doctor.node_probe": "runs on a node as a copy of one file, where jobs.clock may not be installed"
}
"""Modules of jobs/ and sweep/ that read the machine's time themselves, and why."""


def read_times(tree: ast.Module) -> list[str]:
    """What a module takes of `time` to read it or to wait: as `time.NAME`, called or passed on, or imported from it."""
    attributes = [
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time"
    ]
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
    ]
    return sorted(READS_OF_TIME.intersection(attributes + names))


def test_time_comes_from_the_clock_that_a_test_can_replace() -> None:
    found = {
        name: read
        for name, tree in SOURCES.items()
        if name.partition(".")[0] in {"jobs", "sweep"} and name != CLOCK and (read := read_times(tree))
    }
    assert found.keys() == WITHOUT_A_CLOCK.keys()


def test_a_read_of_time_is_found_however_it_is_written() -> None:
    assert read_times(ast.parse("import time\nbegan = time.monotonic()")) == ["monotonic"]
    assert read_times(ast.parse("import time\nf = field(default_factory=time.time)")) == ["time"]
    assert read_times(ast.parse("from time import sleep")) == ["sleep"]
    assert read_times(ast.parse("import time\ntime.strftime('%Y')\nclock.sleep(1)")) == []


def is_property(node: ast.FunctionDef) -> bool:
    return any(isinstance(each, ast.Name) and "property" in each.id for each in node.decorator_list)


def public_functions() -> Iterator[tuple[str, str]]:
    """(module, name) of public functions, and of the public methods of classes that are no properties."""
    for module, tree in SOURCES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                yield module, node.name
            elif isinstance(node, ast.ClassDef):
                for each in node.body:
                    if isinstance(each, ast.FunctionDef) and not is_property(each):
                        yield f"{module}.{node.name}", each.name


def test_public_functions_begin_with_a_verb() -> None:
    odd = [
        f"{where}: {name}"
        for where, name in public_functions()
        if not name.startswith("_") and name.split("_")[0] not in VERBS | PRESCRIBED
    ]
    assert odd == []
