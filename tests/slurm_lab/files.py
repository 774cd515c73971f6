"""Writing a cluster's configuration below its root, and reading back what another process needs to find it."""

import json
from dataclasses import asdict, replace

from tests.slurm_lab.config import CGROUP_CONF, Accounting, Options, Ports, gres_conf, slurm_conf, slurmdbd_conf
from tests.slurm_lab.errors import LabError
from tests.slurm_lab.layout import Layout


def write_files(options: Options, layout: Layout, ports: Ports, *, user: str) -> None:
    """Everything that must lie there before the first daemon starts."""
    layout.make(options.node_names)
    write_slurm_conf(options, layout, ports, user=user, extra="")
    layout.gres_conf.write_text(gres_conf(options, layout))
    layout.cgroup_conf.write_text(CGROUP_CONF)
    layout.slurmdbd_conf.touch(mode=0o600)
    layout.slurmdbd_conf.write_text(slurmdbd_conf(layout, ports, user=user))
    for number in range(options.devices):
        device = layout.devices / f"gpu{number}"
        if not device.is_symlink():
            device.symlink_to("/dev/null")  # a character device, as Slurm wants, without root's mknod
    settings = {"options": asdict(options), "base_port": ports.base}
    layout.settings.write_text(json.dumps(settings, indent=1))


def write_slurm_conf(options: Options, layout: Layout, ports: Ports, *, user: str, extra: str) -> None:
    """slurm.conf with lines besides those of the options."""
    text = slurm_conf(replace(options, extra=f"{options.extra}\n{extra}"), layout, ports, user=user)
    unfinished = layout.slurm_conf.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.replace(layout.slurm_conf)  # a client that starts just now must not read half of it


def read_settings(layout: Layout) -> tuple[Options, Ports]:
    """What the cluster below this root was started with; LabError if there is none."""
    if not layout.settings.exists():
        raise LabError(f"there is no cluster in {layout.root}")
    found = json.loads(layout.settings.read_text())
    values = found["options"]
    values |= {name: tuple(values[name]) for name in ("users", "node_gres", "node_features")}
    values |= {"accounting": Accounting(values["accounting"])}
    return Options(**values), Ports(found["base_port"])


def saved_ports(layout: Layout) -> Ports | None:
    """Those of an earlier start below this root: its daemons, if any live, listen there."""
    return read_settings(layout)[1] if layout.settings.exists() else None
