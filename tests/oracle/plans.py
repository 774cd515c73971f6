"""The shipped sweeps: stored manifests, what `sweep plan` says of them, and of a few of their cells."""

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.oracle.program import Program, names, write

COMMANDS = ("plan", "doctor", "submit", "tick", "status", "resume", "cancel", "logs", "results", "explain", "export")
HELP = ((), *((name,) for name in COMMANDS), ("data",), *(("data", name) for name in ("demo", "text", "check")))


def record_plans(program: Program, manifests: Path, out: Path) -> None:
    """A folder for each sweep file of `manifests`."""
    for path in sorted(manifests.glob("*.yaml")):
        with tempfile.TemporaryDirectory() as folder:
            record_plan(program, path, Path(folder) / "store", out / path.stem)


def record_plan(program: Program, path: Path, store: Path, out: Path) -> None:
    """The plan of one sweep in a store of its own."""
    program = replace(program, places={**program.places, str(path.parent): "$MANIFESTS"})
    write(out / "plan.txt", program.run("plan", path, store=store).text)
    write(out / "plan.json", program.run("plan", path, "--json", "--gpus", "256", "--cpus", "64", store=store).text)
    write(out / "diff.json", program.run("plan", path, "--diff", "--json", store=store).text)
    for file in sorted((store / "sweeps" / path.stem).rglob("*")):
        if file.is_file():
            write(out / "stored" / file.name, program.cleaned(file.read_text(), store=store))
    manifest = (store / "sweeps" / path.stem / "manifest.jsonl").read_text()
    lines = [json.loads(line) for line in manifest.splitlines()]
    write(out / "keys.txt", "".join(key_line(line) for line in lines if line["record"] == "job"))
    cells = [line["name"] for line in lines if line["record"] == "cell"]
    for number, cell in enumerate((cells[0], cells[len(cells) // 2], cells[-1])):
        write(out / f"explain-{number}.json", program.run("explain", cell, "--json", store=store).text)
    write(out / "explain.txt", program.run("explain", cells[len(cells) // 2], store=store).text)


def key_line(job: dict[str, list[str]]) -> str:
    """Key, phase, parents and number of cells of a job."""
    return f"{job['key']} {job['phase']} after {','.join(job['parents']) or '-'} for {len(job['cells'])}\n"


def record_words(program: Program, manifests: Path, out: Path) -> None:
    """Help texts, and what is said of common mistakes."""
    for words in HELP:
        write(out / "help" / f"{names(words) or 'sweep'}.txt", program.run(*words, "--help").text)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        planned = manifests / "demo.yaml"
        program.run("plan", planned, store=store)
        wrong = Path(folder) / "wrong.yaml"
        wrong.write_text(planned.read_text().replace("  trunk:", "  trunc:").replace("finetune:", "finetune: &x", 1))
        axis = Path(folder) / "axis.yaml"
        axis.write_text(planned.read_text().replace("branch: [0, 50, 100]", "branch: [0, 50, 101]"))
        known = replace(program, places={**program.places, str(manifests): "$MANIFESTS", folder: "$SCRATCH"})
        mistakes: tuple[tuple[str | Path, ...], ...] = (
            ("plan", Path(folder) / "absent.yaml"),
            ("plan", wrong),
            ("plan", axis),
            ("plan",),
            ("status", "absent"),
            ("explain", "absent"),
            ("explain", "m1m-b0"),
            ("submit", "demo", "--only", "absent"),
            ("cancel", "demo", "absent"),
            ("resume", "demo", "--cells", "absent"),
            ("logs", "demo"),
            ("results", "demo", "--no-figures"),
            ("export", "demo", "m1m-b0-i0-c0-x1", "--out", Path(folder) / "exported"),
            ("status", "demo"),
            ("submit", "demo", "--dry-run", "--cpus", "2"),
            ("submit", "demo", "--dry-run", "--json", "--cpus", "2"),
        )
        for number, mistake in enumerate(mistakes):
            label = names([str(number), *(each.name if isinstance(each, Path) else each for each in mistake)])
            write(out / "said" / f"{label}.txt", known.run(*mistake, store=store).text)
