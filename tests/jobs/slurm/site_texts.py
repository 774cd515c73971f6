"""What Slurm's clients print of a cluster, and a client that prints it.

`V22` was recorded from a cluster of Slurm 22.05.8, shortened. `V24` is put together from published output of 23.11 and
24.11: columns and keys that came or went, types of GPUs as NVML names them, units and flags that `V22` does not show.
"""

from collections.abc import Mapping

from jobs.slurm.commands import ProgramOutput

V22: dict[str, str] = {
    "config": """Configuration data as of 2026-11-23T02:40:48
AccountingStorageBackupHost = (null)
AccountingStorageEnforce = associations,limits,qos
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages,gres/gpu,gres/gpu:a100
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = lab
DefMemPerNode           = 1024
EnforcePartLimits       = NO
ExtSensorsType          = ext_sensors/none
JobRequeue              = 1
KillWait                = 3 sec
MaxArraySize            = 10001
MaxJobCount             = 60000
MessageTimeout          = 10 sec
MinJobAge               = 300 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/qos
SchedulerParameters     = batch_sched_delay=0,max_array_tasks=5000,preempt_youngest_first
SlurmctldParameters     = (null)
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
""",
    "partition": """PartitionName=main AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES \
QoS=N/A DefaultTime=01:00:00 DisableRootJobs=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 Nodes=n[1-4] \
PreemptMode=REQUEUE State=UP TotalCPUs=256 TotalNodes=4 TRES=cpu=256,mem=2000G,node=4,gres/gpu=32
PartitionName=short AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=NO QoS=part3 \
DefaultTime=00:01:00 MaxNodes=2 MaxTime=00:01:00 MinNodes=0 Nodes=n[1-4] State=UP TotalCPUs=256 TotalNodes=4
""",
    "sinfo": """main|4|64|512000|gpu:a100:8|idle
short|3|64|512000|gpu:a100:8|mixed
short|1|64|512000|gpu:a100:8|idle
""",
    "qos": """Name|Priority|GraceTime|Preempt|PreemptExemptTime|PreemptMode|Flags|UsageThres|UsageFactor|GrpTRES|\
GrpTRESMins|GrpTRESRunMins|GrpJobs|GrpSubmit|GrpWall|MaxTRES|MaxTRESPerNode|MaxTRESMins|MaxWall|MaxTRESPU|MaxJobsPU|\
MaxSubmitPU|MaxTRESPA|MaxJobsPA|MaxSubmitPA|MinTRES
normal|0|00:00:00|||cluster|||1.000000|||||||||||||||||
high|100|00:00:00|low,normal||cluster|||1.000000|||||||||||||||||
capped|0|00:00:00|||cluster|||1.000000||||||||||||2|5||||
gpucap|0|00:00:00|||cluster|||1.000000|||||||||||gres/gpu=8||||||
deny|0|00:00:00|||cluster|DenyOnLimit||1.000000||||||||||00:01:00|||||||
part3|0|00:00:00|||cluster|||1.000000|||||||||||||3||||
over|0|00:00:00|||cluster|OverPartQOS||1.000000|||||||||||||6||||
""",
    "own": """Account|User|Partition|ParentName|QOS|Def QOS|MaxSubmit|GrpSubmit|MaxWall
sub|ann|||capped,deny,gpucap,high,normal,over||20||
solo|ann|short||normal||||
""",
    "accounts": """Account|User|Partition|ParentName|QOS|Def QOS|MaxSubmit|GrpSubmit|MaxWall
root||||capped,deny,gpucap,high,low,normal||||
phys|||root|capped,deny,gpucap,high,low,normal||20|50|
sub|||phys|capped,deny,gpucap,high,low,normal||20||
solo|||root|normal||||
""",
    "user": "User|Def Acct\nann|sub\n",
}

V24: dict[str, str] = {
    "config": """Configuration data as of 1795401648
AccountingStorageEnforce = associations,limits,qos,safe
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages,gres/gpu
AccountingStorageType   = accounting_storage/slurmdbd
ClusterName             = big
DefMemPerCPU            = 4000
EnforcePartLimits       = ALL
JobRequeue              = 0
KillWait                = 30 sec
MaxArraySize            = 1001
MaxJobCount             = 10000
MessageTimeout          = 60 sec
MinJobAge               = 20 sec
PreemptMode             = GANG,SUSPEND
PreemptParameters       = send_user_signal
PreemptType             = preempt/partition_prio
SchedulerParameters     = (null)
SlurmctldParameters     = enable_configless,preempt_send_user_signal
SLURM_VERSION           = 24.11.3

Cgroup Support Configuration:
AllowedRAMSpace         = 100.0%
CgroupPlugin            = autodetect

Slurmctld(primary) at mgmt1 is UP
Slurmctld(backup) at mgmt2 is UP
""",
    "partition": """PartitionName=gpu AllowGroups=ALL AllowAccounts=phys,chem AllowQos=normal,long Default=NO QoS=gpu \
DefaultTime=01:00:00 ExclusiveTopo=NO MaxNodes=8 MaxTime=2-00:00:00 MaxCPUsPerSocket=UNLIMITED Nodes=g[1-12] State=UP \
TotalCPUs=768 TotalNodes=12 ResumeTimeout=GLOBAL
PartitionName=cpu AllowGroups=ALL DenyAccounts=guest DenyQos=long Default=YES QoS=N/A MaxNodes=UNLIMITED \
MaxTime=7-12:30:00 Nodes=c[1-9] State=DOWN TotalNodes=9
""",
    "sinfo": """gpu|9|64|515000|gpu:nvidia_a100-sxm4-80gb:4(S:0-1),nvme:1|allocated
gpu|1|64|515000|gpu:nvidia_a100-sxm4-80gb:4(S:0-1),nvme:1|drained*
gpu|2|128|1031000|gpu:h100:8(S:0,1),gpu:1g.10gb:7|idle~
cpu|9|48|192000|(null)|mixed
""",
    "qos": """Name|Priority|GraceTime|Preempt|Flags|GrpTRES|GrpJobs|GrpSubmit|GrpWall|MaxTRES|MaxWall|MaxTRESPU|\
MaxJobsPU|MaxSubmitPU|MaxTRESPA|MaxTRESRunMinsPA|MaxTRESRunMinsPU|MaxJobsPA|MaxSubmitPA|MinTRES
normal|100|00:00:00||DenyOnLimit|||4000|||||128|1024|||||2000|
long|0|00:00:00||DenyOnLimit,PartitionTimeLimit|||||mem=1.50T,node=4|7-00:00:00|||||||||
gpu|500|00:00:00|||||||gres/gpu=16||||||||||
""",
    "own": """Account|User|Partition|ParentName|QOS|Def QOS|MaxSubmit|GrpSubmit|MaxWall
phys|ann|||normal,long|normal||10|3-00:00:00
""",
    "accounts": """Account|User|Partition|ParentName|QOS|Def QOS|MaxSubmit|GrpSubmit|MaxWall
root||||normal|||9000|
phys|||root|normal,long||||
""",
    "user": "User|Def Acct\nann|phys\n",
}


class Told:
    """A client that gives recorded texts; a problem where a text is missing."""

    def __init__(self, texts: Mapping[str, str], problems: Mapping[str, str] | None = None) -> None:
        self.texts = texts
        self.problems = problems or {}
        self.asked: list[str] = []

    def run(self, program: str, *arguments: str) -> ProgramOutput:
        words = (program, *arguments)
        keys = {"config": "config", "partition": "partition", "qos": "qos", "name=ann": "user", "user=": "accounts"}
        keys |= {"user=ann": "own"}
        part = "sinfo" if program == "sinfo" else next(key for word, key in keys.items() if word in words)
        self.asked.append(part)
        if part in self.problems:
            return ProgramOutput(problem=self.problems[part], returncode=1, started=True)
        return ProgramOutput(text=self.texts[part], returncode=0, started=True)
