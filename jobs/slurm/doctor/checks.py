"""What a cluster offers and lacks for a sweep, in words: findings from what `query_site` read."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from jobs.counted import format_counted
from jobs.environment import list_launcher_variables
from jobs.errors import ClusterChoiceError
from jobs.job import Job
from jobs.slurm.client import HIDING
from jobs.slurm.commands import ProgramRunner, list_ignored_variables
from jobs.slurm.sbatch_errors import RefusalKind
from jobs.slurm.site.chosen_cluster import read_chosen_cluster
from jobs.slurm.site.feasibility import FeasibilityChecker
from jobs.slurm.site.gpu_choice import choose_gpus
from jobs.slurm.site.limits import (
    CLUSTER,
    compute_queue_capacity,
    describe_limit,
    find_job_partitions,
    list_limit_names,
)
from jobs.slurm.site.site import NO_ACCOUNTING, NodeShape, Site
from jobs.store.checks import Check, report_note, report_ok, report_problem

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
ACCOUNTING_PROGRAMS = ("sacct", "sacctmgr")
OLDEST = (22, 5)
SHORT_JOB_AGE_SECONDS = 60
MEBIBYTE = 2**20
SHELL_SECONDS = 10


def has_slurm() -> bool:
    """Whether this machine has Slurm's programs at all."""
    return shutil.which("sbatch") is not None


def check_client(client: ProgramRunner, environment: dict[str, str]) -> Iterator[Check]:
    """The programs that are needed, their version, and variables that would have changed what they do."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        yield report_problem("clients", f"{', '.join(missing)} not found", "load Slurm's module, or go to a login node")
        return
    asked = client.run("sbatch", "--version")
    version = asked.text.strip()
    match = re.search(r"(\d+)\.(\d+)", version)
    if asked.problem or match is None:
        yield report_problem(
            "clients", f"sbatch does not start: {asked.problem or version}", "see slurm.conf(5), SLURM_CONF"
        )
    elif (int(match[1]), int(match[2])) < OLDEST:
        yield report_problem("clients", f"{version} is older than 22.05", "use a cluster with Slurm 22.05 or newer")
    else:
        lacking = [name for name in ACCOUNTING_PROGRAMS if shutil.which(name) is None]
        without = f", without {', '.join(lacking)}" if lacking else ""
        yield report_ok("clients", f"{version}{without}")
    yield from check_environment(environment)


FIELDS_OF_VARIABLES = {
    "SBATCH_ACCOUNT": "account",
    "SBATCH_CONSTRAINT": "constraint",
    "SBATCH_PARTITION": "partition",
    "SBATCH_QOS": "qos",
    "SBATCH_RESERVATION": "reservation",
    "SBATCH_TIMELIMIT": "time_minutes",
}
"""Variables of sbatch that choose something, and the fields of `resources` in a sweep file that serve instead."""


def check_environment(environment: Mapping[str, str]) -> Iterator[Check]:
    """Variables that would change what Slurm's programs do: the one that is obeyed, and those that are not."""
    try:
        chosen = read_chosen_cluster(environment)
    except ClusterChoiceError as error:
        yield report_problem("cluster", str(error), "a sweep is on one cluster")
    else:
        if chosen:
            yield report_ok("cluster", f"{chosen}, as the environment chooses; every program is asked about it")
    names = list_ignored_variables(environment)
    for name in (each for each in names if each in FIELDS_OF_VARIABLES):
        text = f"{name}={environment[name]} is not used: jobs of a sweep are the same whoever submits them"
        yield report_note(
            "environment", text, f"write `{FIELDS_OF_VARIABLES[name]}` under `resources` of the sweep file"
        )
    if others := [each for each in names if each not in FIELDS_OF_VARIABLES]:
        yield report_note("environment", f"{', '.join(others)} set here and kept from Slurm's programs")
    if names := list_launcher_variables(environment):
        yield report_note("environment", f"{', '.join(names)} set here, as by a launcher, and kept from jobs")


def check_site(site: Site) -> Iterator[Check]:
    """What holds for any sweep."""
    if site.problem:
        yield report_problem("controller", site.problem, "try again; if it stays so, ask the cluster's administrators")
        return
    yield report_ok("controller", f"cluster {site.cluster}, Slurm {site.version}")
    for remark in site.remarks:
        yield report_note("not known", remark, "what it would have said is taken to be without limit")
    yield check_partitions(site)
    if names := [each.name for each in site.partitions or () if not each.knows_memory]:
        text = f"nodes of partition {', '.join(names)} have none in Slurm's configuration (RealMemory)"
        yield report_note("memory", text, "jobs are sent without --mem, and nothing holds them to memory_gib")
    yield from check_limits(site)
    yield check_accounting(site)
    if site.private_data & HIDING:
        text = f"other people's jobs are hidden from you (PrivateData={','.join(sorted(site.private_data))})"
        yield report_note(
            "other users", text, "what a colleague has sent of a sweep, that colleague's `sweep tick` settles"
        )
    yield from check_job_ends(site)


def check_partitions(site: Site) -> Check:
    """One line for all of them."""
    if not site.partitions:
        return report_note("partitions", "not known")
    words = [
        f"{each.name}{' (default)' if each.is_default else ''}: {format_counted(each.nodes, 'node')}"
        f"{', ' + kinds if (kinds := format_gpus(each.shapes)) else ''}"
        f", {f'{each.max_minutes} min' if each.max_minutes is not None else 'no time limit'}"
        f"{'' if each.state == 'UP' else ', ' + each.state.lower()}"
        for each in site.partitions
    ]
    return report_ok("partitions", "; ".join(words))


def format_gpus(shapes: Sequence[NodeShape]) -> str:
    """`8 a100 or 4 h100`: a node's GPUs, for each kind of node; shards count beside the GPUs that they are of."""
    kinds = [(f"{count} {kind or 'GPUs'}", shape.shards) for shape in shapes for kind, count in shape.gpus.items()]
    return " or ".join(dict.fromkeys(f"{gpus} in {shards} shards" if shards else gpus for gpus, shards in kinds))


def check_limits(site: Site) -> Iterator[Check]:
    """Arrays, and how many jobs may be in the queue."""
    if site.array_limit:
        yield report_ok("arrays", f"up to {site.array_limit:,} tasks each; larger ones are split")
    else:
        yield report_note(
            "arrays", "the cluster takes none (MaxArraySize 0)", "each job is sent by an sbatch of its own"
        )
    small = {limit: left for limit, left in compute_queue_capacity(site, (), site.user).items() if limit != CLUSTER}
    words = [f"{left:,} under {describe_limit(limit)}" for limit, left in small.items()]
    whole = f"the cluster holds {site.max_jobs:,} jobs of everybody"
    if words:
        yield report_ok("queue", f"for jobs of these accounts and QOS at most {'; '.join(words)}; {whole}")
    else:
        yield report_ok("queue", f"no limit on your jobs; {whole}")
    if not site.enforces_partition_limits:
        advice = "sweep submit refuses what would never start, so nothing needs doing"
        yield report_note(
            "partition limits", "jobs beyond a partition's limits wait for ever (EnforcePartLimits=NO)", advice
        )
    if site.min_job_age_seconds < SHORT_JOB_AGE_SECONDS:
        text = f"Slurm forgets a job {site.min_job_age_seconds} s after its end (MinJobAge)"
        yield report_note(
            "memory of jobs", text, "chains go out more slowly: children wait until their parent's end is seen"
        )
    else:
        yield report_ok("memory of jobs", f"ended jobs are known for {site.min_job_age_seconds} s (MinJobAge)")


def check_accounting(site: Site) -> Check:
    """Whether used A100-hours can be had from sacct."""
    instead = "hours are then summed from what attempts noted themselves, and marked so"
    if site.accounting_type == NO_ACCOUNTING:
        return report_note("accounting", "there is none", instead)
    if not site.accounting_answers:
        return report_note("accounting", f"{site.accounting_type} does not answer", f"{instead}, until it answers")
    if not site.accounts_gpus:
        return report_note("accounting", "answers, without GPUs (AccountingStorageTRES lacks gres/gpu)", instead)
    return report_ok("accounting", "answers, with GPUs")


def check_job_ends(site: Site) -> Iterator[Check]:
    """Requeue, preemption, and the time between SIGTERM and SIGKILL."""
    if site.requeues:
        yield report_ok("requeue", "jobs may be requeued")
    else:
        yield report_note("requeue", "is off unless asked for (JobRequeue=0)", "jobs of a sweep ask for it")
    if not site.preempts:
        yield report_ok("preemption", "there is none")
    elif site.sends_user_signal:
        yield report_ok("preemption", f"{site.preempt_type}, {site.preempt_mode}; jobs are warned before, and save")
    else:
        text = f"{site.preempt_type}, {site.preempt_mode}; jobs are not warned before (no preempt_send_user_signal)"
        yield report_note(
            "preemption", text, f"what a job cannot save in {site.kill_wait_seconds} s is lost: checkpoints.minutes"
        )


def check_plan(
    site: Site, jobs: Sequence[Job], checker: FeasibilityChecker, *, largest_save_bytes: int = 0
) -> Iterator[Check]:
    """What holds for one plan. `largest_save_bytes`: its largest checkpoint while training."""
    if not site.problem:
        yield from check_feasible(site, jobs, checker)
        yield from check_gpus(site, jobs)
        yield from check_queue_limits(site, jobs)
    yield from check_setup(jobs)
    if largest_save_bytes and not site.problem:
        yield check_save_time(site, largest_save_bytes)


def check_feasible(site: Site, jobs: Sequence[Job], checker: FeasibilityChecker) -> Iterator[Check]:
    """Jobs that Slurm would refuse or never start, by reason."""
    refusals = checker.find_refusals(jobs).values()
    for refusal, number in Counter(refusals).items():
        text = f"{number:,} of {format_counted(len(jobs), 'job')}: {refusal.text}"
        if refusal.kind is RefusalKind.INVALID:
            yield report_problem("plan", text, refusal.advice)
        else:
            yield report_note("plan", text, "they are sent when it takes jobs again")
    if checker.silent:
        yield report_note("plan", f"Slurm does not say what it would take: {checker.silent}", "try again")
    elif jobs and not refusals:
        names = sorted({each.name for job in jobs for each in find_job_partitions(job, site)})
        asked = f" (sbatch --test-only, {checker.asked} asked)" if checker.asked else ""
        yield report_ok(
            "plan",
            f"{'the job' if len(jobs) == 1 else f'all {len(jobs):,} jobs'} can run"
            f"{f' in {chr(44).join(names)}' if names else ''}{asked}",
        )


def check_gpus(site: Site, jobs: Sequence[Job]) -> Iterator[Check]:
    """Which of the site's GPUs the jobs are given, and why."""
    for text in dict.fromkeys(text for job in jobs if (text := choose_gpus(job, site).text)):
        yield report_ok("GPUs", text)


def check_queue_limits(site: Site, jobs: Sequence[Job]) -> Iterator[Check]:
    """Limits that let the plan in only part by part."""
    room = compute_queue_capacity(site, (), site.user)
    counted = Counter(limit for job in jobs for limit in list_limit_names(job, site, site.user))
    if len(room.keys() - {CLUSTER}) and not counted.keys() & (room.keys() - {CLUSTER}):
        yield report_ok("queue", "the plan's jobs have another account and QOS: none of these limits holds for them")
    for limit, number in counted.items():
        if number > room.get(limit, number):
            most = f"{room[limit]:,} may be in the queue at once ({describe_limit(limit)})"
            text = f"{format_counted(number, 'job')}, of which {most}"
            yield report_note(
                "refill", text, "have `sweep tick` run by cron or scrontab: it sends more as the queue drains"
            )


def check_setup(jobs: Sequence[Job]) -> Iterator[Check]:
    """Whether bash can read the set-up lines; nothing of them is run."""
    for lines in dict.fromkeys(job.resources.setup for job in jobs if job.resources.setup):
        text = "\n".join(lines) + "\n"
        try:
            read = subprocess.run(
                ["bash", "-n"],  # noqa: S607 - the user's own
                input=text,
                capture_output=True,
                text=True,
                timeout=SHELL_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            yield report_note("setup", f"not looked at: {error}")
            continue
        said = read.stderr.strip().splitlines()
        if read.returncode or said:
            yield report_problem(
                "setup", f"bash cannot read it: {said[0] if said else 'no reason given'}", "change `setup`"
            )
        else:
            yield report_ok("setup", f"{format_counted(len(lines), 'line')}, which bash can read")


def check_save_time(site: Site, largest_save_bytes: int) -> Check:
    """Whether a checkpoint can be written between SIGTERM and SIGKILL."""
    wait = max(1, site.kill_wait_seconds)
    text = (
        f"{wait} s from SIGTERM to SIGKILL (KillWait); the plan's largest checkpoint, {largest_save_bytes / 2**30:.1f} "
        f"GiB, needs {largest_save_bytes / wait / MEBIBYTE:,.0f} MiB/s for that"
    )
    if largest_save_bytes / wait > 1024 * MEBIBYTE:  # C: what one writer seldom gets of a shared file system
        return report_note(
            "time to save", text, "a preempted or cancelled job may lose up to checkpoints.minutes of work"
        )
    return report_ok("time to save", text)
