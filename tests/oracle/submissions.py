"""What would go to Slurm: every sbatch call with its arguments, script and environment, and the questions around it.

A cluster of the tests takes the jobs; its nodes are drained, so that none begins. Programs ahead of Slurm's own on the
path write down how they are called.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.oracle.program import Program, write
from tests.slurm_lab.config import Options
from tests.slurm_lab.lab import Lab

WATCHED = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo", "sacctmgr")
PATIENCE = "call=60 submit=60 pace=0 look_again=1 absent=4"
PERSONAL = {
    "SBATCH_PARTITION": "short",
    "SQUEUE_FORMAT": "%A",
    "SACCT_FORMAT": "JobID",
    "SLURM_JOB_ID": "7",
    "LC_ALL": "C",
    "TZ": "Asia/Tokyo",
}
"""Variables that must not reach Slurm's programs as they are."""
NODES = Options(nodes=32, cpus=96, memory_mb=1_024_000)
"""The largest job of the shipped sweeps takes 32 nodes of eight GPUs."""

WATCHER = """\
#!{python} -ES
import json, os, subprocess, sys, time
name = os.path.basename(sys.argv[0])
given = sys.stdin.read() if name == "sbatch" else ""
done = subprocess.run(["{real}/" + name, *sys.argv[1:]], input=given, capture_output=True, text=True)
call = dict(program=name, arguments=sys.argv[1:], script=given, environment=dict(os.environ), answer=done.stdout)
file = "{folder}/%d-%d" % (time.time_ns(), os.getpid())
with open(file + ".tmp", "w") as out:
    json.dump(call, out)
os.rename(file + ".tmp", file + ".json")
sys.stdout.write(done.stdout)
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""

OPTIONS_SWEEP = """\
name: options
description: "Jobs that ask for everything that can be asked for"
backend: slurm

data:
  words: {kind: text, path: $STORE/data/words}
  pictures: {kind: captions, path: $STORE/data/pictures}
  talks: {kind: conversations, path: $STORE/data/talks}
  bpe: {kind: tokenizer, path: $STORE/data/tokenizer.json}
  exams: {kind: tasks, path: $STORE/data/exams}

models:
  tiny: {d_model: 64, layers: 2, heads: 2, vocabulary: 512}
  small: {d_model: 128, layers: 2, heads: 2, vocabulary: 512}

defaults:
  encoder: patches-16-64
  trunk: {context: 64, batch_sequences: 8, unit_tokens: 51200, peak_lr: 3e-3, warmup_steps: 4}
  pretrain: {context: 64, batch_sequences: 8, unit_tokens: 25600, restart_lr: 2e-3, restart_warmup_steps: 3}
  finetune: {batch_sequences: 8}
  evaluate: {text_tasks: [cloze], vision_tasks: [shapes]}

blocks:
  - name: both
    axes: {model: [tiny, small], branch: [0, 50, 100], image_share: [0, 0.2]}

epochs: [1, 2]

resources:
  partition: main
  account: lab
  qos: normal
  gpus_per_node: 1
  gpu_type: a100
  time_minutes: 30
  setup: [module load cuda/12, "export NOTE='a b; c'"]
  options: {nice: 100, mail-type: FAIL}
  phases:
    trunk: {nodes: 2, gpus_per_node: 2, qos: low}
    evaluate: {partition: "main,urgent", gpus_per_node: 0, cpus: 2, memory_gib: 1.5, options: {oversubscribe: true}}
  models:
    small:
      launcher: [apptainer, exec, --nv, "image of mine.sif"]
      phases: {finetune: {memory_gib: 7, time_minutes: 45}}
"""

EXPECTED = Path(__file__).parent / "expected"


def record_submissions(program: Program, manifests: Path, scratch: Path, out: Path) -> None:
    """What would be sent for the paper's sweep and for one with every option."""
    with watched_cluster(scratch) as watch:
        record_options(program, watch, scratch, out / "options")
        record_submission(program, watch, manifests / "paper.yaml", scratch / "paper-store", out / "paper")


def record_options(program: Program, watch: "Watch", scratch: Path, out: Path, *, questions: bool = True) -> None:
    """What would be sent for the sweep with every option."""
    file = scratch / "options.yaml"
    file.write_text(OPTIONS_SWEEP)
    record_submission(program, watch, file, scratch / "options-store", out, questions=questions)


@contextmanager
def watched_cluster(scratch: Path) -> Iterator["Watch"]:
    """A cluster for jobs of every shipped sweep; it starts none."""
    scratch.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="sw-") as root:
        lab = Lab(Path(root) / "lab", NODES)
        try:
            lab.up()
            drain(lab)
            yield Watch(scratch / "watch", lab.env)
        finally:
            lab.down()


def drain(lab: Lab) -> None:
    """No node takes a job."""
    names = ",".join(lab.options.node_names)
    lab.output("scontrol", "update", f"nodename={names}", "state=drain", "reason=record")


@dataclass(frozen=True)
class Watch:
    """Programs that note their calls below `folder`."""

    folder: Path
    lab: Mapping[str, str]
    """The environment in which the cluster is found."""

    def program(self, program: Program) -> Program:
        """`program`, whose Slurm is watched."""
        programs, calls = self.folder / "programs", self.folder / "calls"
        programs.mkdir(parents=True, exist_ok=True)
        calls.mkdir(exist_ok=True)
        for name in WATCHED:
            real = shutil.which(name)
            assert real, f"{name} is not installed"
            text = WATCHER.format(python=sys.executable, real=Path(real).parent, folder=calls)
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        own = {"PATH": f"{programs}:{os.environ['PATH']}", "SWEEP_SLURM_PATIENCE": PATIENCE}
        return replace(program, environment={**program.environment, **self.lab, **PERSONAL, **own})

    def calls(self) -> list[dict[str, Any]]:
        """In the order of time, and forgets them."""
        files = sorted((self.folder / "calls").glob("*.json"))
        found = [json.loads(file.read_text()) for file in files]
        for file in files:
            file.unlink()
        return found


@dataclass
class Cleaner:
    """Numbers and names that differ from run to run, by the order in which they came up."""

    program: Program
    store: Path
    batches: dict[str, str]
    ids: dict[str, str]

    def sbatch(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """One call to sbatch, and a number for its answer."""
        number = len(self.ids) + 1
        for identity in re.findall(r"\bsw-([0-9a-f]{12})-", " ".join(call["arguments"])):
            self.batches.setdefault(identity, f"IDENTITY{len(self.batches) + 1:04d}")
        made = {
            "arguments": [self.argument(word) for word in call["arguments"]],
            "script": self.text(call["script"]).splitlines(),
            **self.environment(call["environment"]),
        }
        self.ids[call["answer"].strip().partition(";")[0]] = f"JOB{number:04d}"
        return made

    def asked(self, calls: Sequence[Mapping[str, Any]]) -> list[str]:
        """Questions, each once: how often and in which order they are put is a matter of time."""
        return sorted({self.asked_once(call) for call in calls})

    def asked_once(self, call: Mapping[str, Any]) -> str:
        words = [call["program"], *map(self.question, call["arguments"])]
        if call["program"] == "scancel":
            words = [words[0], *sorted(words[1:])]  # ids come in any order
        return json.dumps({"words": words, **self.environment(call["environment"])})

    def argument(self, word: str) -> str:
        if word.startswith("--dependency="):
            return re.sub(r"(?<=:)\d+", lambda found: self.ids.get(found[0], "UNKNOWN"), word)
        return self.text(word)

    def question(self, word: str) -> str:
        if word.startswith(("--jobs=", "--job=", "--name=")):
            return word.partition("=")[0] + "=SOME"
        if re.fullmatch(r"[\d_,\[\]-]+", word):  # scancel's
            return re.sub(r"^\d+", lambda found: self.ids.get(found[0], "UNKNOWN"), word)
        word = re.sub(r"^(--user=|user=|name=)\S+", r"\1USER", word)
        return re.sub(r"^(--starttime=|--endtime=)\S+", r"\1TIME", self.text(word))

    def environment(self, found: Mapping[str, str]) -> dict[str, Any]:
        """What was added to the caller's variables or changed, and which of the planted ones were kept from it.

        The other variables that are kept back are the machine's own, and differ from one to the next.
        """
        given = self.program.variables
        changed = {name: self.text(value) for name, value in sorted(found.items()) if given.get(name) != value}
        return {"environment": changed, "kept_back": sorted(PERSONAL.keys() - found.keys())}

    def text(self, text: str) -> str:
        for identity, name in self.batches.items():
            text = text.replace(f"sw-{identity}-", f"sw-{name}-").replace(f'}}-{identity[:6]}"', f'}}-{name}"')
        text = re.sub(r"/code/[0-9a-f]+\.zip", "/code/DIGEST.zip", self.program.cleaned(text, store=self.store))
        text = re.sub(r"== [0-9a-f]{64}\*", "== SHA256*", text)
        return re.sub(r"--revision=[0-9a-z.+]+", "--revision=REVISION", text)


def record_submission(
    program: Program, watch: Watch, file: Path, store: Path, out: Path, *, questions: bool = True
) -> None:
    """Plans a sweep, sends all of it, sends again, takes all of it out.

    `questions`: with what Slurm's other programs are asked, and with commands that do nothing but ask.
    """
    watched = watch.program(program)
    cleaner = Cleaner(watched, store, {}, {})
    planned = watched.run("plan", file, store=store)
    assert planned.code == 0, planned.text
    watch.calls()
    steps = (
        ("dry", ("submit", file.stem, "--ignore-data", "--dry-run", "--json")),
        ("submit", ("submit", file.stem, "--ignore-data", "--json")),
        ("again", ("submit", file.stem, "--json")),
        ("status", ("status", file.stem, "--json", "--fresh")),
        ("cancel", ("cancel", file.stem)),
    )
    for step, words in steps if questions else steps[1:3]:
        told = re.sub(r"\b\d+ nodes of partition", "SOME nodes of partition", watched.run(*words, store=store).text)
        told = re.sub(r"(?m)^(sweep: accepted: |limits: --ignore-data ).*\n", "", told)  # its data are nowhere
        write(out / f"{step}.txt", told)  # without what the cluster at hand has
        calls = watch.calls()
        # what is only asked sends nothing, and depends on what the cluster offers
        calls = [call for call in calls if "--test-only" not in call["arguments"]]
        sent = [cleaner.sbatch(call) for call in calls if call["program"] == "sbatch"]
        asked = cleaner.asked([call for call in calls if call["program"] != "sbatch"])
        if sent:
            write(out / f"{step}.sbatch.json", json.dumps(sent, indent=1))
        if questions:
            write(out / f"{step}.asked.txt", "\n".join(asked))
