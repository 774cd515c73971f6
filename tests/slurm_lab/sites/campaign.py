"""One campaign on one site's cluster: plan, submit, ticks until all is done, tables, and what is wrong with them."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet

from tests.slurm_lab import Accounting, Lab, LabError, Options
from tests.slurm_lab.clients import CLIENT_VARIABLES
from tests.slurm_lab.group_mates import GroupMate, find_group_mates, share
from tests.slurm_lab.processes import BUSY
from tests.slurm_lab.sites.hours import (
    SOON_SECONDS,
    Sum,
    list_job_ids,
    list_rows,
    sum_attempts,
    sum_completion_log,
    sum_rows,
)

ROOT = Path(__file__).parent.parent.parent.parent
SWEEP = "site"
PATIENCE = "call=20 submit=20 doubt=8 absent=4 late=120 look_again=1 cache=0 pace=0"
"""As the usual one in its proportions (jobs/slurm/timeouts.py)."""
CAMPAIGN_SECONDS = 240.0
COMMAND_SECONDS = 120.0
USUAL_UMASK = 0o022
SETTLED_SECONDS = 60.0
SPEC = """\
name: site
backend: slurm
data:
  words: {kind: text, path: data/words}
  pictures: {kind: captions, path: data/pictures}
  talks: {kind: conversations, path: data/talks}
  bpe: {kind: tokenizer, path: data/tokenizer.json}
  exams: {kind: tasks, path: data/exams}
models:
  tiny: {d_model: 64, layers: 2, heads: 2, vocabulary: 512}
defaults:
  model: tiny
  encoder: patches-16-64
  trunk: {context: 64, batch_sequences: 8, unit_tokens: 51200, peak_lr: 3e-3, warmup_steps: 4}
  pretrain: {context: 64, batch_sequences: 8, unit_tokens: 25600, restart_lr: 2e-3, restart_warmup_steps: 3}
  finetune: {batch_sequences: 8}
  evaluate: {text_tasks: [cloze], vision_tasks: [shapes]}
blocks:
  - axes: {branch: [50, 100], image_share: [0.2]}
epochs: [1, 2]
"""
"""A trunk of two segments, an image-text run on each, two fine-tunes of both and their evaluations: twelve jobs."""
MODELS, JOBS = 4, 12
GPU = "{gpus_per_node: 1, gpu_type: a100}"
RESOURCES = f"{{memory_gib: 0.25, phases: {{trunk: {GPU}, pretrain: {GPU}, finetune: {GPU}}}}}"


def do_nothing(_campaign: "SiteCampaign") -> None:
    """The settings alone are the test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSettings:
    """How one site differs from the test cluster, and what happens there."""

    name: str
    options: Options
    sacctmgr: tuple[str, ...] = ()
    """What `sacctmgr --immediate` is told once the cluster is up, a call each."""
    resources: str = RESOURCES
    """Of the sweep file."""
    stage: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `planned_stage`."""
    submit: tuple[str, ...] = ()
    """Further words of `sweep submit`."""
    pause: float = 0.5
    """Seconds between two ticks."""
    two_people: bool = False
    meddle: Callable[["SiteCampaign"], None] = do_nothing
    """Called after each tick."""
    happened: Callable[["SiteCampaign"], bool] = lambda _campaign: True
    """Whether the site's peculiarity showed, seen at the end: a campaign that never met it proves nothing."""


@dataclass(slots=True)
class SiteCampaign:
    """One campaign under way."""

    site: SiteSettings
    lab: Lab
    folder: Path
    people: Sequence[GroupMate]
    seen: Counter[str] = field(default_factory=Counter)
    """What `meddle` has done and met, by its own words."""
    most_queued: int = 0
    ticks: int = 0
    told: list[str] = field(default_factory=list)
    """What all commands said on stderr."""

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def sweep(self, command: str, *words: str, who: int = 0) -> "subprocess.CompletedProcess[str]":
        """A `sweep` command in a process of its own, as the person of that number."""
        person = self.people[who % len(self.people)]
        argv = [person.python, "-m", "sweep", command, *words, "--store", str(self.store)]
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with person.start(argv, self._environment(), cwd=ROOT, **options) as process:
            out, err = process.communicate(timeout=COMMAND_SECONDS)
        self.told.append(f"--- {time.time():.1f} {person.name} {command} -> {process.returncode}\n{err}")
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(CLIENT_VARIABLES)}
        program = [self.people[0].python, "-S", str(Path(__file__).with_name("planned_stage.py")), str(self._settings)]
        return {
            **kept,
            **self.lab.env,
            "SWEEP_SLURM_PATIENCE": PATIENCE,
            "SWEEP_STAGE_PROGRAM": " ".join(program),
            "SWEEP_TAKEOVER_SECONDS": "3",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def _settings(self) -> Path:
        return self.folder / "stage.json"

    def run(self) -> list[str]:
        """From plan to table; everything that is wrong, in words."""
        stage = {"steps": 3, "step_seconds": 0.25, "raises_once": []} | dict(self.site.stage)
        self._settings.write_text(json.dumps(stage))
        file = self.folder / "site.yaml"
        file.write_text(f"{SPEC}resources: {self.site.resources}\n")
        planned = self.sweep("plan", str(file))
        if planned.returncode:
            return [f"plan: {planned.stderr}"]
        sent = self.sweep("submit", SWEEP, "--ignore-data", *self.site.submit)
        if sent.returncode:
            return [f"submit: {sent.stderr}"]
        if stuck := self._tick_until_done():
            return [stuck]
        return list(self._find_problems())

    def _tick_until_done(self) -> str:
        """Nothing, or where it stands after a long time."""
        until = time.monotonic() + CAMPAIGN_SECONDS
        report: dict[str, Any] = {}
        while time.monotonic() < until:
            self.site.meddle(self)
            time.sleep(self.site.pause)
            self.most_queued = max(self.most_queued, len(self.queue()))
            done = self.sweep("tick", SWEEP, "--json", who=self.ticks)
            self.ticks += 1
            report = json.loads(done.stdout) if done.stdout.startswith("{") else {"stderr": done.stderr}
            if report.get("complete"):
                return ""
        return f"not done after {CAMPAIGN_SECONDS:g} s; the last tick: {report}; queue: {self.queue()}"

    def queue(self) -> list[tuple[str, str, str]]:
        """Id, state and reason of what is queued, seen by an administrator."""
        text = self.lab.run("squeue", "-h", "-r", "-a", "-o", "%i %T %r %j").stdout
        rows = [line.split() for line in text.splitlines() if line.endswith(f"-{SWEEP}")]
        return [(row[0], row[1], row[2]) for row in rows]

    def _find_problems(self) -> Iterator[str]:
        with_accounting = self.lab.options.accounting is Accounting.SLURMDBD
        self._wait_until_settled()
        written = self.sweep("results", SWEEP, "--json", "--no-figures", who=1)
        if written.returncode:
            yield f"results: {written.stderr}"
            return
        tables = self.store / "sweeps" / SWEEP / "results"
        jobs = pyarrow.parquet.read_table(tables / "jobs.parquet").to_pylist()
        models = pyarrow.parquet.read_table(tables / "results.parquet").to_pylist()
        yield from find_missing_rows(jobs, models, json.loads(written.stdout))
        yield from find_repeated_work(self.store)
        ours = Sum(
            0.0,
            3600 * sum(job["used_gpu_hours"] + job["wasted_gpu_hours"] for job in jobs),
            3600 * sum(job["used_cpu_hours"] + job["wasted_cpu_hours"] for job in jobs),
        )
        by_model = Sum(
            0.0,
            3600 * sum(model["gpu_hours_own"] + model["gpu_hours_shared"] for model in models),
            3600 * sum(model["cpu_hours_own"] + model["cpu_hours_shared"] for model in models),
        )
        if not ours.is_near(by_model):
            yield f"jobs.parquet sums to {ours}, results.parquet to {by_model}"
        compare = self._compare_with_slurm if with_accounting else self._compare_with_records
        yield from compare(ours, jobs)
        if not self.site.happened(self):
            yield f"what this site is like did not show: {dict(self.seen)}, at most {self.most_queued} queued"

    def _wait_until_settled(self) -> None:
        """Until sacct has a row of every job that ran, and each is closed: a row may come after its job's end."""
        if self.lab.options.accounting is Accounting.NONE:
            return
        ran, until = list_job_ids(self.store), time.monotonic() + SETTLED_SECONDS
        while time.monotonic() < until:
            rows = list_rows(self.lab, SWEEP)
            if all(row["End"] != "Unknown" for row in rows) and ran <= {row["JobID"] for row in rows}:
                return
            time.sleep(0.5)

    def _compare_with_slurm(self, ours: Sum, jobs: list[dict[str, Any]]) -> Iterator[str]:
        rows = list_rows(self.lab, SWEEP)
        theirs = sum_rows(rows)
        if not theirs.executions:
            yield "sacct has no row with any time"
        if not ours.is_near(theirs):
            yield f"our tables sum to {ours}, sacct to {theirs}: {rows}"
        if others := {job["key"]: job["hours_source"] for job in jobs if job["hours_source"] != "slurm"}:
            yield f"hours that are said to be from another source than Slurm: {others}"

    def _compare_with_records(self, ours: Sum, jobs: list[dict[str, Any]]) -> Iterator[str]:
        """Without accounting: attempts' own records, held against the wall time of Slurm's completion log."""
        records = sum_attempts(self.store)
        if not ours.is_near(records):
            yield f"our tables sum to {ours}, the attempts' records to {records}"
        logged = sum_completion_log(completion_log(self.lab), SWEEP)
        late = logged.seconds - records.seconds
        if (
            logged.executions != records.executions
            or not -1 <= late / max(1, records.executions) <= BUSY * SOON_SECONDS
        ):
            yield f"the attempts' records sum to {records}, Slurm's completion log to {logged}"
        if any(job["hours_source"] != "attempts" for job in jobs):
            yield "hours of a cluster without accounting are not marked as such"
        printed = self.sweep("results", SWEEP, "--no-figures").stdout
        if "not Slurm's" not in printed:
            yield f"the printed table does not say whose hours these are:\n{printed}"


def completion_log(lab: Lab) -> Path:
    """Of a cluster whose settings have `JobCompType=jobcomp/filetxt`."""
    return lab.layout.root / "completed.log"


def find_missing_rows(
    jobs: list[dict[str, Any]], models: list[dict[str, Any]], printed: Mapping[str, Any]
) -> Iterator[str]:
    """Rows that are not there, or not done."""
    if len(jobs) != JOBS or len(models) != MODELS or len(printed["rows"]) != MODELS:
        yield f"{len(jobs)} jobs and {len(models)} models in the tables, {len(printed['rows'])} rows printed"
    if undone := [row["key"] for row in [*jobs, *models] if row["state"] != "done"]:
        yield f"in the tables, not done: {undone}"
    if any(row["cloze"] is None for row in map(_flatten_scores, models)):
        yield "a model without its score"


def _flatten_scores(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"cloze": None} | {task["task"]: task["score"] for task in row["scores"] or ()}


def find_repeated_work(store: Path) -> Iterator[str]:
    """Jobs that did not run to their end exactly once, or ran twice at the same time."""
    runs = sorted(store.glob("runs/*/*"))
    if len(runs) != JOBS:
        yield f"{len(runs)} jobs have begun, of {JOBS}"
    for run in runs:
        path = run / "executions.jsonl"
        events = Counter(json.loads(line)["event"] for line in path.read_text().splitlines()) if path.exists() else {}
        if events.get("completed") != 1 or events.get("overlap"):
            yield f"{run.parent.name} {run.name}: {dict(events)}"


def run_campaign(site: SiteSettings, *, keep: bool = False) -> tuple[list[str], SiteCampaign]:
    """On a cluster of its own, which ends with it. The folder stays if something is wrong, or with `keep`."""
    people: Sequence[GroupMate] = (GroupMate(),)
    if site.two_people:
        people = [replace(each, umask=USUAL_UMASK) for each in find_group_mates()]
    if not people:
        raise LabError("this machine cannot start processes for two other users")
    with cluster_of(site) as lab:
        folder = Path(tempfile.mkdtemp(prefix=f"sweep-site-{site.name}-"))
        folder.chmod(0o755)
        if site.two_people:
            share(folder / "store")
        campaign = SiteCampaign(site, lab, folder, people)
        problems = campaign.run()
    if problems or keep:
        (folder / "commands.log").write_text("".join(campaign.told))
        problems = [f"{problem} (see {folder})" for problem in problems]
    else:
        shutil.rmtree(folder)
    return problems, campaign


@contextmanager
def cluster_of(site: SiteSettings) -> Iterator[Lab]:
    """The site's cluster, with its rules told."""
    root = Path(tempfile.gettempdir()) / f"sw-test-site-{site.name}-{os.getpid()}"
    lab = Lab(root, replace(site.options, extra=site.options.extra.replace("$ROOT", str(root))))
    try:
        lab.up()
        for words in site.sacctmgr:
            lab.output("sacctmgr", "--immediate", *words.split())
        yield lab
    finally:
        lab.down()
