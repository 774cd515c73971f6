"""The sites: settings that clusters out there have and the test cluster does not, and how each shows itself."""

import time
from dataclasses import replace

from tests.slurm_lab import Accounting, Options
from tests.slurm_lab.group_mates import NAMES
from tests.slurm_lab.sites.campaign import RESOURCES, SiteCampaign, SiteSettings
from tests.slurm_lab.sites.hours import list_rows

PLAIN = Options(nodes=2)
SLOW = {"steps": 5, "step_seconds": 0.5}
"""Long enough for something to happen to it."""


def look_as_a_stranger(campaign: SiteCampaign) -> None:
    """Whether the second person sees the first one's jobs."""
    if not campaign.queue():
        return
    words = ["squeue", "-h", "-a", "-o", "%i"]
    with campaign.people[1].start(words, {**campaign.lab.env, "PATH": "/usr/bin:/bin"}, stdout=-1, text=True) as asked:
        seen = asked.communicate()[0].split()
    campaign.seen["hidden from the second person" if not seen else "seen by the second person"] += 1


def preempt_once(campaign: SiteCampaign) -> None:
    """A job of a higher QOS takes the node of a running job, which may have ended before: then once more."""
    if campaign.seen["urgent jobs"] > 3 or ended_as(campaign, "PREEMPTED"):
        return
    rows = campaign.lab.output("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i %N %q").splitlines()
    low = [line.split() for line in rows if line.endswith(" low")]
    if not low:
        return
    options = ("--qos=high", "--exclusive", f"--nodelist={low[0][1]}", "--time=1", "--output=/dev/null")
    campaign.lab.output("sbatch", "--job-name=urgent", *options, "--wrap=sleep 1")
    campaign.seen["urgent jobs"] += 1


def take_partition_down(campaign: SiteCampaign) -> None:
    """As soon as something runs, DOWN for three ticks."""
    down, ticks = campaign.seen["down at tick"], campaign.ticks
    if not down and any(state == "RUNNING" for _, state, _ in campaign.queue()):
        campaign.lab.output("scontrol", "update", "partitionname=main", "state=down")
        campaign.seen["down at tick"] = max(1, ticks)
    elif down and not campaign.seen["up"]:
        campaign.seen["held by the partition"] += sum(reason == "PartitionDown" for *_, reason in campaign.queue())
        if ticks >= down + 3:
            campaign.lab.output("scontrol", "update", "partitionname=main", "state=up")
            campaign.seen["up"] += 1


def count_special_exits(campaign: SiteCampaign) -> None:
    """Jobs that the site has put aside. The next tick takes them out again, so the first is waited for."""
    until = time.monotonic() + (0 if campaign.seen["special exit"] else 20)
    while True:
        found = sum(state == "SPECIAL_EXIT" for _, state, _ in campaign.queue())
        if found or time.monotonic() > until or not campaign.queue():
            break
        time.sleep(0.2)
    campaign.seen["special exit"] += found


def count_forgotten(campaign: SiteCampaign) -> None:
    """Ended jobs that the controller has forgotten while others still run."""
    remembered = campaign.lab.run("squeue", "-h", "-r", "-t", "all", "-o", "%i %j").stdout.splitlines()
    known = {line.split()[0] for line in remembered}
    over = {row["JobID"] for row in list_rows(campaign.lab, "site") if row["State"] == "COMPLETED"}
    campaign.seen["forgotten"] = max(campaign.seen["forgotten"], len(over - known))


def allocated_types(campaign: SiteCampaign) -> set[str]:
    """Of GPUs, "" for those without a type."""
    words = [row["AllocTRES"].split(",") for row in list_rows(campaign.lab, "site") if "gres/gpu" in row["AllocTRES"]]
    typed = [[word for word in each if word.startswith("gres/gpu:")] for each in words]
    return {each[0].removeprefix("gres/gpu:").partition("=")[0] if each else "" for each in typed}


def ended_as(campaign: SiteCampaign, state: str) -> bool:
    """Whether any execution ended so."""
    return any(row["State"].startswith(state) for row in list_rows(campaign.lab, "site"))


LOW_QOS = RESOURCES.replace("{", "{qos: low, ", 1)
BY_NODE = "PartitionName=untyped Nodes=n1\nPartitionName=mixed Nodes=n2\nPartitionName=slices Nodes=n3"
ODD_GPUS = (
    "{memory_gib: 0.25, phases: {trunk: {gpus_per_node: 1, gpu_type: a100, partition: untyped}, "
    "pretrain: {gpus_per_node: 1, gpu_type: l40s, partition: mixed}, "
    "finetune: {gpus_per_node: 1, gpu_type: a100-1g.5gb, partition: slices}}}"
)
RAISES = {"raises_once": ["finetune"]}

SITES = (
    SiteSettings(
        name="no-accounting",
        options=replace(
            PLAIN, accounting=Accounting.NONE, extra="JobCompType=jobcomp/filetxt\nJobCompLoc=$ROOT/completed.log"
        ),
    ),
    SiteSettings(
        name="no-comment",
        options=replace(PLAIN, extra="AccountingStoreFlags=job_env"),
        happened=lambda campaign: not campaign.lab.output("sacct", "-n", "-P", "-X", "-a", "-o", "Comment").strip(),
    ),
    SiteSettings(
        name="hidden",
        options=replace(PLAIN, users=NAMES, extra="PrivateData=jobs,usage"),
        two_people=True,
        meddle=look_as_a_stranger,
        happened=lambda campaign: campaign.seen["hidden from the second person"] > 0,
    ),
    SiteSettings(
        name="few-jobs",
        options=replace(PLAIN, max_array_size=4),
        sacctmgr=("modify user root set MaxSubmitJobs=7",),
        happened=lambda campaign: 4 < campaign.most_queued <= 7,
    ),
    SiteSettings(
        name="preempt-cancel",
        options=replace(PLAIN, extra="JobRequeue=0\nPreemptMode=CANCEL"),
        sacctmgr=("modify qos low set PreemptMode=cancel",),
        resources=LOW_QOS,
        stage=SLOW,
        meddle=preempt_once,
        happened=lambda campaign: ended_as(campaign, "PREEMPTED"),
    ),
    SiteSettings(
        name="requeue-exit",
        options=replace(PLAIN, extra="RequeueExit=1"),
        stage=RAISES,
        happened=lambda campaign: ended_as(campaign, "REQUEUED"),
    ),
    SiteSettings(
        name="requeue-exit-hold",
        options=replace(PLAIN, extra="RequeueExitHold=1"),
        stage=RAISES,
        meddle=count_special_exits,
        happened=lambda campaign: campaign.seen["special exit"] > 0,
    ),
    SiteSettings(
        name="no-memory",
        options=replace(PLAIN, memory_mb=0),
    ),
    SiteSettings(
        name="odd-gpus",
        options=replace(
            PLAIN, nodes=3, node_gres=("gpu:4", "gpu:a100:2,gpu:l40s:2", "gpu:a100_1g.5gb:7"), extra=BY_NODE
        ),
        resources=ODD_GPUS,
        happened=lambda campaign: {"a100_1g.5gb", "l40s", ""} == allocated_types(campaign),
    ),
    SiteSettings(
        name="partition-down",
        options=PLAIN,
        stage=SLOW,
        submit=("--max-queued", "4"),
        meddle=take_partition_down,
        happened=lambda campaign: campaign.seen["up"] > 0 and campaign.seen["held by the partition"] > 0,
    ),
    SiteSettings(
        name="short-memory",
        options=replace(PLAIN, min_job_age=2),
        submit=("--max-queued", "3"),
        pause=2.0,
        meddle=count_forgotten,
        happened=lambda campaign: campaign.seen["forgotten"] > 1,
    ),
)
