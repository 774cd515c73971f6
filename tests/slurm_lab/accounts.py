"""The accounts, users and QOS of a cluster with accounting, and a copy of the database that holds them.

sacctmgr takes seconds, for each message of slurmdbd's protocol waits 40 ms for a delayed TCP ACK. So the first cluster
on a machine leaves a copy of the finished data folder in /tmp, and later ones begin with that.
"""

import hashlib
import os
import shutil
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.slurm_lab.clients import Clients
from tests.slurm_lab.config import CLUSTER, Options
from tests.slurm_lab.daemons import Daemons
from tests.slurm_lab.database import bootstrap
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.packages import find_program
from tests.slurm_lab.processes import wait_for

QOS = {
    "low": "PreemptMode=requeue",
    "high": "Priority=100 Preempt=low",
    "capped": "MaxSubmitJobsPerUser=5 MaxJobsPerUser=2",
    "gpucap": "MaxTRESPerUser=gres/gpu=8",
    "deny": "MaxWall=00:01:00 Flags=DenyOnLimit",
}
"""What sacctmgr(1) is told of each QOS beside `normal`, the default of all."""
ACCOUNTS = {
    "lab": "",
    "tight": "MaxSubmitJobs=5",
}
"""Accounts with the limits of their users' associations; `lab` is the default account."""


def make_database(daemons: Daemons, clients: Clients, *, user: str) -> None:
    """A database with the accounts, from the copy in /tmp, or from nothing and then copied there. munge must run."""
    layout = daemons.layout
    rounds = account_commands(user, daemons.options)
    template = template_folder(repr(rounds))
    if copy_template(template, layout.database):
        return
    bootstrap(layout)
    try:
        for name in ("db", "dbd", "ctld"):  # slurmctld tells slurmdbd of the cluster and of gres/gpu
            daemons.start(name)
        # which it does a moment after it listens; until then sacctmgr may find no cluster to add accounts to
        wait_for("the cluster and its GPUs in its accounting", partial(_knows_cluster, clients))
        with ThreadPoolExecutor() as pool:
            for scripts in rounds:
                list(pool.map(partial(_tell, clients), scripts))
        daemons.stop("ctld", signal.SIGKILL)  # it would save its state for seconds, and it will start with none
        daemons.stop("dbd")
        daemons.stop("db")
    except LabError:
        shutil.rmtree(layout.database)  # or the next start would take it for a whole one
        raise
    shutil.rmtree(layout.state)
    layout.state.mkdir()
    keep_template(layout.database, template)


def account_commands(user: str, options: Options) -> list[list[str]]:
    """All that a new database is told, as inputs of sacctmgr(1): rounds of what can be said at the same time."""
    accounts = [
        f"add account {name} Description={name} Organization=lab {limits}".strip() for name, limits in ACCOUNTS.items()
    ]
    users = ",".join(dict.fromkeys([user, *options.users]))
    people = [*accounts, f"add user {users} account={','.join(ACCOUNTS)} DefaultAccount={next(iter(ACCOUNTS))}"]
    qos = {name: f"add qos {name} {settings}" for name, settings in QOS.items()}
    names_another = qos.pop("high")
    everyone = f"modify account root set qos=normal,{','.join(QOS)}"  # all others are below root, and inherit
    return [["\n".join(people), *qos.values()], [names_another], [everyone]]


def _knows_cluster(clients: Clients) -> bool:
    clusters = clients.run("sacctmgr", "--noheader", "show", "cluster", "format=Cluster").stdout.split()
    kinds = clients.run("sacctmgr", "--noheader", "--parsable2", "show", "tres", "format=Type,Name").stdout.split()
    return CLUSTER in clusters and "gres|gpu" in kinds  # of the GPUs it tells after the cluster


def _tell(clients: Clients, script: str) -> None:
    done = clients.run("sacctmgr", "--immediate", stdin=script + "\n")
    if done.returncode or "error" in (done.stdout + done.stderr).lower():  # it goes on after an error, and exits with 0
        raise LabError(f"sacctmgr: {done.stdout}{done.stderr}")


def template_folder(commands: str) -> Path:
    """Where the copy is: another one for other commands, another user, or another release of the programs."""
    programs = [Path(find_program(name)).stat() for name in ("mariadbd", "slurmdbd")]
    facts = [commands, *(f"{program.st_size} {program.st_mtime_ns}" for program in programs)]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"sweep-lab-accounts-{os.geteuid()}" / digest


def copy_template(template: Path, database: Path) -> bool:
    """Puts the copy in the place of a cluster's data folder; False if there is none."""
    if not _is_own(template):
        return False
    shutil.copytree(template, database)
    return True


def keep_template(database: Path, template: Path) -> None:
    """Keeps a copy of the data folder of a database that is not running. The first one stays."""
    template.parent.mkdir(mode=0o700, exist_ok=True)
    if not _is_own(template.parent):
        return
    unfinished = Path(tempfile.mkdtemp(dir=template.parent))
    shutil.copytree(database, unfinished, dirs_exist_ok=True)
    try:
        unfinished.rename(template)
    except OSError:  # another cluster was first
        shutil.rmtree(unfinished)


def _is_own(folder: Path) -> bool:
    """In /tmp anyone may make a folder of any name."""
    return folder.is_dir() and folder.stat().st_uid == os.geteuid()
