"""A private MariaDB for slurmdbd: one folder and one unix socket, no network, no password, nothing that is fsynced.

It holds the accounts of tests only, so speed goes before safety against a power cut; a killed server loses nothing.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.slurm_lab.config import ACCOUNTING_DATABASE
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.layout import Layout
from tests.slurm_lab.packages import find_program

SYSTEM_TABLES = (
    Path("/usr/share/mysql/mysql_system_tables.sql"),
    Path("/usr/share/mariadb/mysql_system_tables.sql"),
    Path("/usr/share/mariadb/mariadb_system_tables.sql"),
)
"""Where the releases of MariaDB have them: 10, and 11 from Debian 13 on."""


def server_command(layout: Layout) -> list[str]:
    """The server on the cluster's data folder; it stays in the foreground."""
    return [
        *_basics(layout.database, layout.temporary),
        f"--socket={layout.database_socket}",
        f"--pid-file={layout.pid_file('db')}",
        f"--log-error={layout.log_file('db')}",
        "--skip-networking",
        "--skip-grant-tables",  # who reaches the socket is trusted: the folder is the user's own
        "--innodb-lock-wait-timeout=900",  # slurmdbd asks for this
        "--loose-innodb-snapshot-isolation=OFF",  # on in MariaDB 11, where slurmdbd's transactions then fail; new in 10
        "--max-allowed-packet=64M",
        "--performance-schema=off",
    ]


def bootstrap(layout: Layout) -> None:
    """Makes an empty database: the system tables alone, a tenth of what mariadb-install-db does, and enough."""
    tables = next((path for path in SYSTEM_TABLES if path.exists()), None)
    if tables is None:
        raise LabError(f"{SYSTEM_TABLES[0]} is not there: is mariadb-server installed whole?")
    unfinished = layout.database.with_name("db.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700)
    prelude = (
        # slurmdbd would make the second one itself; with MariaDB's connector 3.4.10 it dies after its failed first look
        f"create database mysql;\ncreate database {ACCOUNTING_DATABASE};\n"
        "use mysql;\nset @auth_root_socket=NULL;\nset @skip_auth_anonymous=1;\n"  # one a line
    )
    done = subprocess.run(
        [*_basics(unfinished, layout.temporary), "--bootstrap", "--skip-grant-tables"],
        input=prelude + tables.read_text(),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        raise LabError(f"mariadbd made no database (exit {done.returncode}): {done.stderr[-2000:]}")
    unfinished.rename(layout.database)


def _basics(data: Path, temporary: Path) -> list[str]:
    return [
        find_program("mariadbd"),
        "--no-defaults",  # first of all, mariadbd(8)
        f"--datadir={data}",
        f"--tmpdir={temporary}",  # in a shared one, the start of a server removes the temporary tables of all others
        *(["--user=root"] if os.geteuid() == 0 else []),
        "--innodb-flush-method=nosync",
        "--innodb-flush-log-at-trx-commit=2",  # to the kernel at each commit: survives a kill of the server
        "--innodb-doublewrite=0",
        "--innodb-log-file-size=8M",
        "--innodb-buffer-pool-size=64M",
        "--innodb-autoextend-increment=1",  # MiB: small files, for they are copied
        "--skip-log-bin",
    ]
