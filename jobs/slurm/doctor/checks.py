"""What a cluster offers and lacks for a sweep, in words: findings from what `read_site` read."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence

from jobs.job import Job
from jobs.slurm.commands import ignored_variables
from jobs.slurm.limits import CLUSTER, lane_names, measure_room, misfit, partitions_of_job
from jobs.slurm.site import NO_ACCOUNTING, Client, NodeShape, Site
from jobs.store.checks import Check, note, ok, problem

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
ACCOUNTING_PROGRAMS = ("sacct", "sacctmgr")
OLDEST = (22, 5)
SHORT_JOB_AGE_SECONDS = 60
MEBIBYTE = 2**20
SHELL_SECONDS = 10


def has_slurm() -> bool:
    """Whether this machine has Slurm's programs at all."""
    return shutil.which("sbatch") is not None


def client_checks(client: Client, environment: dict[str, str]) -> Iterator[Check]:
    """The programs that are needed, their version, and variables that would have changed what they do."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        yield problem("clients", f"{', '.join(missing)} not found", "load Slurm's module, or go to a login node")
        return
    asked = client.run("sbatch", "--version")
    version = asked.text.strip()
    match = re.search(r"(\d+)\.(\d+)", version)
    if asked.problem or match is None:
        yield problem("clients", f"sbatch does not start: {asked.problem or version}", "see slurm.conf(5), SLURM_CONF")
    elif (int(match[1]), int(match[2])) < OLDEST:
        yield problem("clients", f"{version} is older than 22.05", "use a cluster with Slurm 22.05 or newer")
    else:
        lacking = [name for name in ACCOUNTING_PROGRAMS if shutil.which(name) is None]
        without = f", without {', '.join(lacking)}" if lacking else ""
        yield ok("clients", f"{version}{without}")
    if names := ignored_variables(environment):
        yield note("environment", f"{', '.join(names)} set here and kept from Slurm's programs; use the sweep file")


def site_checks(site: Site) -> Iterator[Check]:
    """What holds for any sweep."""
    if site.problem:
        yield problem("controller", site.problem, "try again; if it stays so, ask the cluster's administrators")
        return
    yield ok("controller", f"cluster {site.cluster}, Slurm {site.version}")
    for remark in site.remarks:
        yield note("not known", remark, "what it would have told is taken to be without limit")
    yield partitions_check(site)
    yield from limit_checks(site)
    yield accounting_check(site)
    yield from ending_checks(site)


def partitions_check(site: Site) -> Check:
    """One line for all of them."""
    if not site.partitions:
        return note("partitions", "not known")
    words = [
        f"{each.name}{' (default)' if each.is_default else ''}: {each.nodes} nodes"
        f"{', ' + kinds if (kinds := gpu_words(each.shapes)) else ''}"
        f", {f'{each.max_minutes} min' if each.max_minutes is not None else 'no time limit'}"
        f"{'' if each.state == 'UP' else ', ' + each.state.lower()}"
        for each in site.partitions
    ]
    return ok("partitions", "; ".join(words))


def gpu_words(shapes: Sequence[NodeShape]) -> str:
    """`8 a100 or 4 h100`: a node's GPUs, for each kind of node."""
    return " or ".join(
        dict.fromkeys(f"{count} {kind or 'GPUs'}" for shape in shapes for kind, count in shape.gpus.items())
    )


def limit_checks(site: Site) -> Iterator[Check]:
    """Arrays, and how many jobs may be in the queue."""
    yield ok("arrays", f"up to {site.array_limit:,} tasks each; larger ones are split")
    small = {lane: left for lane, left in measure_room(site, (), site.user).items() if lane != CLUSTER}
    words = [f"{left:,} under {lane}" for lane, left in small.items()]
    whole = f"the cluster holds {site.max_jobs:,} jobs of everybody"
    if words:
        yield ok("queue", f"at most {'; '.join(words)}; {whole}")
    else:
        yield ok("queue", f"no limit on your jobs; {whole}")
    if not site.enforces_partition_limits:
        advice = "sweep submit refuses what would never start, so nothing needs doing"
        yield note("partition limits", "jobs beyond a partition's limits wait for ever (EnforcePartLimits=NO)", advice)
    if site.min_job_age_seconds < SHORT_JOB_AGE_SECONDS:
        text = f"Slurm forgets a job {site.min_job_age_seconds} s after its end (MinJobAge)"
        yield note("memory of jobs", text, "chains go out more slowly: children wait until their parent's end is seen")
    else:
        yield ok("memory of jobs", f"ended jobs are known for {site.min_job_age_seconds} s (MinJobAge)")


def accounting_check(site: Site) -> Check:
    """Whether used A100-hours can be had from sacct."""
    instead = "hours are then summed from what attempts noted themselves, and marked so"
    if site.accounting_type == NO_ACCOUNTING:
        return note("accounting", "there is none", instead)
    if not site.accounting_answers:
        return note("accounting", f"{site.accounting_type} does not answer", f"{instead}, until it answers")
    if not site.accounts_gpus:
        return note("accounting", "answers, without GPUs (AccountingStorageTRES lacks gres/gpu)", instead)
    return ok("accounting", "answers, with GPUs")


def ending_checks(site: Site) -> Iterator[Check]:
    """Requeue, preemption, and the time between SIGTERM and SIGKILL."""
    if site.requeues:
        yield ok("requeue", "jobs may be requeued")
    else:
        yield note("requeue", "is off unless asked for (JobRequeue=0)", "jobs of a sweep ask for it")
    if not site.preempts:
        yield ok("preemption", "there is none")
    elif site.sends_user_signal:
        yield ok("preemption", f"{site.preempt_type}, {site.preempt_mode}; jobs are told before, and save")
    else:
        text = f"{site.preempt_type}, {site.preempt_mode}; jobs are not told before (no preempt_send_user_signal)"
        yield note(
            "preemption", text, f"what a job cannot save in {site.kill_wait_seconds} s is lost: checkpoints.minutes"
        )


def plan_checks(site: Site, jobs: Sequence[Job], *, largest_save_bytes: int = 0) -> Iterator[Check]:
    """What holds for one plan. `largest_save_bytes`: its largest checkpoint while training."""
    if not site.problem:
        yield from fit_checks(site, jobs)
        yield from drain_checks(site, jobs)
    yield from setup_checks(jobs)
    if largest_save_bytes and not site.problem:
        yield saving_check(site, largest_save_bytes)


def fit_checks(site: Site, jobs: Sequence[Job]) -> Iterator[Check]:
    """Jobs that could never run, by reason."""
    found = Counter(reason for job in jobs if (reason := misfit(job, site)))
    for reason, number in found.items():
        yield problem("plan", f"{number:,} of {len(jobs):,} jobs could never run: {reason}", "change `resources`")
    if jobs and not found:
        names = sorted({each.name for job in jobs for each in partitions_of_job(job, site)})
        yield ok("plan", f"all {len(jobs):,} jobs can run{f' in {chr(44).join(names)}' if names else ''}")


def drain_checks(site: Site, jobs: Sequence[Job]) -> Iterator[Check]:
    """Limits that let the plan in only part by part."""
    room = measure_room(site, (), site.user)
    counted = Counter(lane for job in jobs for lane in lane_names(job, site, site.user))
    for lane, number in counted.items():
        if number > room.get(lane, number):
            text = f"{number:,} jobs, of which {room[lane]:,} may be in the queue at once ({lane})"
            yield note("refill", text, "have `sweep tick` run by cron or scrontab: it sends more as the queue drains")


def setup_checks(jobs: Sequence[Job]) -> Iterator[Check]:
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
            yield note("setup", f"not looked at: {error}")
            continue
        said = read.stderr.strip().splitlines()
        if read.returncode or said:
            yield problem("setup", f"bash cannot read it: {said[0] if said else 'no reason given'}", "change `setup`")
        else:
            yield ok("setup", f"{len(lines)} lines, which bash can read")


def saving_check(site: Site, largest_save_bytes: int) -> Check:
    """Whether a checkpoint can be written between SIGTERM and SIGKILL."""
    wait = max(1, site.kill_wait_seconds)
    text = (
        f"{wait} s from SIGTERM to SIGKILL (KillWait); the plan's largest checkpoint, {largest_save_bytes / 2**30:.1f} "
        f"GiB, needs {largest_save_bytes / wait / MEBIBYTE:,.0f} MiB/s for that"
    )
    if largest_save_bytes / wait > 1024 * MEBIBYTE:  # C: what one writer seldom gets of a shared file system
        return note("time to save", text, "a preempted or cancelled job may lose up to checkpoints.minutes of work")
    return ok("time to save", text)
