"""Where a cluster keeps its files: the one class that knows their names."""

from dataclasses import dataclass
from pathlib import Path

from tests.slurm_lab.errors import LabError

SOCKET_PATH_LIMIT = 107
"""Characters in the path of a unix socket, unix(7)."""
REFUSED_CHARACTERS = frozenset(" \t\n#,%[]\"'\\=")
"""What slurm.conf(5) gives a meaning of its own."""


@dataclass(frozen=True, slots=True)
class Layout:
    """All paths of one cluster, below its root."""

    root: Path

    def check(self) -> None:
        """Refuses a root whose sockets no process could open, or that slurm.conf cannot hold."""
        longest = len(str(self.spool("n99") / "n99_1234567.4294967291"))  # slurmstepd's socket of a batch step
        if longest > SOCKET_PATH_LIMIT:
            raise LabError(
                f"{self.root} is {longest - SOCKET_PATH_LIMIT} characters too long for unix sockets below it"
            )
        if bad := REFUSED_CHARACTERS & set(str(self.root)):
            raise LabError(f"{self.root}: slurm.conf cannot hold {''.join(sorted(bad))!r}")

    def make(self, nodes: list[str]) -> None:
        """Makes the folders that the daemons expect to find."""
        for folder in (self.etc, self.run, self.log, self.state, self.devices, self.temporary, *map(self.spool, nodes)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)  # munge clients of other users pass through, whatever the umask

    @property
    def etc(self) -> Path:
        return self.root / "etc"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def log(self) -> Path:
        return self.root / "log"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def devices(self) -> Path:
        return self.root / "dev"

    @property
    def database(self) -> Path:
        return self.root / "db"

    @property
    def temporary(self) -> Path:
        """For the database server alone."""
        return self.root / "tmp"

    @property
    def slurm_conf(self) -> Path:
        return self.etc / "slurm.conf"

    @property
    def slurmdbd_conf(self) -> Path:
        return self.etc / "slurmdbd.conf"

    @property
    def gres_conf(self) -> Path:
        return self.etc / "gres.conf"

    @property
    def cgroup_conf(self) -> Path:
        return self.etc / "cgroup.conf"

    @property
    def settings(self) -> Path:
        """Options and ports of a running cluster, so that another process can find it."""
        return self.etc / "lab.json"

    @property
    def munge_key(self) -> Path:
        return self.etc / "munge.key"

    @property
    def munge_socket(self) -> Path:
        return self.run / "munge.socket"

    @property
    def database_socket(self) -> Path:
        return self.run / "db.socket"

    def spool(self, node: str) -> Path:
        """The folder of one slurmd, which holds the sockets of its steps."""
        return self.root / "spool" / node

    def pid_file(self, daemon: str) -> Path:
        return self.run / f"{daemon}.pid"

    def log_file(self, daemon: str) -> Path:
        return self.log / f"{daemon}.log"

    def output(self, daemon: str) -> Path:
        """What a daemon prints before it has opened its log."""
        return self.log / f"{daemon}.out"
