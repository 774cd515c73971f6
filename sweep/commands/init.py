"""`sweep init`: looks at data and writes a first sweep file of one's own."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweep.options import CommonOptions

if TYPE_CHECKING:
    from stages.prepare.finds import Find
    from sweep.first_file.draft import Wishes
    from sweep.first_file.findings import Holdings


@dataclass(frozen=True, kw_only=True)
class InitOptions(CommonOptions):
    """What `sweep init` was given."""

    places: tuple[Path, ...]
    """Folders and files to look at."""
    text: tuple[Path, ...]
    captions: tuple[Path, ...]
    conversations: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    tasks: tuple[Path, ...]
    encoder: tuple[Path, ...]
    name: str | None
    backend: str | None
    model: str | None
    gpu_type: str | None
    """A type of the catalog, or `none`."""
    out: Path | None
    yes: bool
    """Ask nothing."""
    replace: bool


OPTIONS = InitOptions

EPILOG = """example:
  sweep init data/                        look at a folder, ask, write sweep.yaml
  sweep init --text data/corpus --captions data/pairs --conversations data/talks.json \\
      --tokenizer data/tokenizer.json --tasks data/tasks --name study --out study.yaml --yes
  sweep init data/ --backend slurm --gpu-type h100 --model 79m --yes

Without a terminal nothing is asked. What lacks is told with the command that makes it."""

ROLES = ("text", "captions", "conversations", "tokenizer", "tasks", "encoder")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("places", type=Path, nargs="*", metavar="FOLDER", help="what to look at (default: this folder)")
    for role in ROLES:
        what = "weights of a vision encoder" if role == "encoder" else f"data of kind {role}, or what to make them of"
        parser.add_argument(
            f"--{role}", type=Path, action="append", default=[], metavar="PATH", help=f"{what}; may be repeated"
        )
    parser.add_argument("--name", metavar="NAME", help="of the sweep (default: the file's)")
    parser.add_argument("--backend", choices=("local", "slurm"), help="(default: slurm where sbatch is there)")
    parser.add_argument("--model", metavar="NAME", help="of the catalog (default: as large as the text feeds)")
    parser.add_argument("--gpu-type", metavar="TYPE", help="of the catalog, or none (default: this machine's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="sweep file to write (default: sweep.yaml)")
    parser.add_argument("--yes", action="store_true", help="ask nothing and take the defaults")
    parser.add_argument("--replace", action="store_true", help="replace a file that is there")
    parser.epilog = EPILOG


def run(options: InitOptions) -> int:
    from sweep.catalog import load_catalog
    from sweep.first_file.draft import Places, build_draft
    from sweep.first_file.findings import make_plain, sort_findings
    from sweep.first_file.page import render_sweep_file

    out = options.out or Path("sweep.yaml")
    check_free(out, options)
    folder = make_plain(out.parent)
    holdings = sort_findings(find_data(options), folder)
    wishes = choose_wishes(options, out)
    places = Places(folder, make_plain(options.store))
    draft = build_draft(wishes, holdings, places, load_catalog())
    write_new_file(out, render_sweep_file(draft, out.name, schema=find_schema(folder)), options)
    print(out)
    print_ending(out, holdings, options)
    return 0


def find_data(options: InitOptions) -> "list[Find]":
    """What the given places hold, told line by line."""
    from stages.printable import render_line
    from sweep.errors import SweepError
    from sweep.first_file.findings import describe_find, look_at

    named = [(path, role) for role in ROLES for path in getattr(options, role)]
    places = [(path, "") for path in options.places] or ([] if named else [(Path(), "")])
    asked = [*named, *places]
    where = render_line(", ".join(str(path) for path, _ in asked))
    print(f"looking at {where} ...", file=sys.stderr, flush=True)
    found = look_at(asked)
    for each in found:
        print(f"  {describe_find(each)}", file=sys.stderr)
    if not any(not each.problem for each in found):
        raise SweepError(
            "found nothing that a sweep can use or make data of; name folders with texts, images, conversations, a "
            "tokenizer or tasks (docs/data.md)"
        )
    return found


def check_free(out: Path, options: InitOptions) -> None:
    """SweepError if the file is there and may not be replaced."""
    from sweep.errors import SweepError

    if out.exists() and not options.replace:
        raise SweepError(f"{out} is there already; give another --out, or --replace to write over it")
    if not out.parent.is_dir():
        raise SweepError(f"{out}: there is no folder {out.parent}; make it, or give another --out")


def write_new_file(out: Path, text: str, options: InitOptions) -> None:
    """Writes the file whole; one that has appeared meanwhile is left alone."""
    from sweep.errors import SweepError

    try:
        with out.open("w" if options.replace else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise SweepError(f"{out}: cannot be written: {error.strerror}") from None


def choose_wishes(options: InitOptions, out: Path) -> "Wishes":
    """The options; what they leave open is asked on a terminal, else taken from the machine."""
    import shutil

    from sweep.catalog import load_catalog
    from sweep.errors import UsageError
    from sweep.first_file.draft import Wishes

    asks = not options.yes and sys.stdin.isatty() and sys.stderr.isatty()
    catalog = load_catalog()
    types = [name for name, kind in catalog.gpus.items() if kind.is_gpu]
    name = options.name or choose("name of the sweep", make_plain_name(out.stem), asks=asks)
    if name != make_plain_name(name):
        raise UsageError(f"--name {name!r} is not a plain word; take {make_plain_name(name)}")
    backend = options.backend or choose(
        "where jobs run", "slurm" if shutil.which("sbatch") else "local", asks=asks, choices=("local", "slurm")
    )
    usual = find_gpu_type(types) if backend == "local" else "a100"
    gpu_type = options.gpu_type or choose("GPU type", usual or "none", asks=asks, choices=(*types, "none"))
    if gpu_type != "none" and gpu_type not in catalog.gpus:
        raise UsageError(f"--gpu-type {gpu_type!r} is not a type of the catalog; types are {', '.join(types)}, none")
    if options.gpu_type is None and backend == "slurm" and not asks:
        print("  GPU type: a100 is assumed; change it with --gpu-type (`none`: CPU cores)", file=sys.stderr)
    by_size = "auto"
    model = options.model or choose("model", by_size, asks=asks, choices=(by_size, *catalog.models))
    return Wishes(
        name=name,
        backend=backend,
        device="cpu" if gpu_type == "none" else "gpu",
        gpu_type="" if gpu_type == "none" else gpu_type,
        model="" if model == by_size else model,
    )


def choose(question: str, default: str, *, asks: bool, choices: tuple[str, ...] = ()) -> str:
    """The answer on a terminal, else the default."""
    if not asks:
        return default
    from rich.console import Console
    from rich.prompt import Prompt

    from sweep.errors import SweepError

    try:
        console = Console(stderr=True)
        answer: str = Prompt.ask(question, console=console, default=default, choices=list(choices) or None)
    except EOFError:
        raise SweepError("no answer; give the options (--help), or --yes for the defaults") from None
    return answer


def make_plain_name(given: str) -> str:
    """A word that can name a sweep."""
    from sweep.first_file.draft import NAME

    return NAME.sub("-", given).strip("-._+")[:60] or "sweep"


def find_gpu_type(types: list[str]) -> str:
    """The catalog's type of this machine's first GPU; empty where there is none, or none that is known."""
    import subprocess

    from jobs.slurm.site.gpu_kinds import parse_gpu_kind

    words = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    first = listed.stdout.partition("\n")[0]
    model = parse_gpu_kind(first).model
    return model if model in types else ""


def find_schema(folder: Path) -> str:
    """The JSON Schema that lies beside the file, for editors; empty where there is none."""
    from sweep.first_file.page import SCHEMA_FILE

    return SCHEMA_FILE if (folder / SCHEMA_FILE).is_file() else ""


def print_ending(out: Path, holdings: "Holdings", options: InitOptions) -> None:
    """What lacks, and the next step."""
    from sweep.first_file.findings import join_words

    for lack in holdings.lacks:
        print(f"lacks {lack.kind}: {lack.how}", file=sys.stderr)
    store = [] if str(options.store) == "store" else ["--store", str(options.store)]
    plan = join_words(["sweep", "plan", str(out), *store])
    print(f"next: {'make what lacks, then ' if holdings.lacks else ''}{plan}", file=sys.stderr)
