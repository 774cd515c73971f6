"""Parts of the cluster that need none to be running: its texts, its ports, its packages."""

import os
import socket
from pathlib import Path

import pytest

from tests.slurm_lab import Lab, LabError, Options, packages, ports
from tests.slurm_lab.config import Ports, gres_conf, merged, needs_restart, slurm_conf
from tests.slurm_lab.files import read_settings, write_files
from tests.slurm_lab.layout import Layout
from tests.slurm_lab.ports import BLOCK, check_network, free_ports
from tests.slurm_lab.releases import (
    INSIDE,
    SOURCES,
    ReleaseCounts,
    copy_sources,
    list_local_paths,
    parse_pip_settings,
    read_counts,
    render_entry,
    render_table,
)
from tests.slurm_lab.text import status_table, welcome


def test_an_extra_line_takes_the_place_of_what_sets_the_same() -> None:
    lines = ["KillWait=3", "PartitionName=main Default=YES", "PartitionName=short MaxTime=1"]
    extra = ["killwait=9", "  PartitionName=short MaxTime=2", "", "RequeueExit=99"]
    assert merged(lines, extra) == [
        "killwait=9",
        "PartitionName=main Default=YES",
        "PartitionName=short MaxTime=2",
        "RequeueExit=99",
    ]


def test_no_setting_stands_twice_in_slurm_conf() -> None:
    options = Options(extra="MinJobAge=5\nAuthInfo=cred_expire=7")
    text = slurm_conf(options, Layout(Path("/tmp/x")), Ports(20_000), user="me")
    keys = [line.partition("=")[0] for line in text.splitlines() if not line.startswith("PartitionName")]
    assert len(keys) == len(set(keys))
    assert "MinJobAge=5\n" in text


@pytest.mark.parametrize(("nodes", "expected"), [(1, "NodeName=n1 "), (3, "NodeName=n[1-3] ")])
def test_nodes_are_named_with_a_port_each(nodes: int, expected: str) -> None:
    text = slurm_conf(Options(nodes=nodes), Layout(Path("/tmp/x")), Ports(20_000), user="me")
    (line,) = [line for line in text.splitlines() if line.startswith("NodeName")]
    assert line.startswith(expected)
    assert ("Port=[20002-20004]" if nodes > 1 else "Port=20002 ") in line


def test_a_cluster_without_gpus_has_no_word_of_them() -> None:
    layout = Layout(Path("/tmp/x"))
    assert "gpu" not in slurm_conf(Options(gpus=0), layout, Ports(20_000), user="me").lower()
    assert gres_conf(Options(gpus=0), layout) == ""


def test_each_node_may_have_generic_resources_and_features_of_its_own() -> None:
    layout = Layout(Path("/tmp/x"))
    options = Options(nodes=3, node_gres=("gpu:a100:2,gpu:1g.5gb:3", "gpu:1,shard:4"), node_features=("ib",))
    text = slurm_conf(options, layout, Ports(20_000), user="me")
    nodes = [line for line in text.splitlines() if line.startswith("NodeName")]
    assert ["Gres=gpu:a100:2,gpu:1g.5gb:3 Feature=ib" in nodes[0], "Gres=gpu:1,shard:4 State" in nodes[1]] == [True] * 2
    assert "NodeName=n3 NodeHostname=localhost NodeAddr=127.0.0.1 Port=20004 " in nodes[2]
    assert "Gres=gpu:a100:8" in nodes[2]
    assert "GresTypes=gpu,shard\n" in text
    assert "AccountingStorageTRES=gres/gpu,gres/gpu:1g.5gb,gres/gpu:a100,gres/shard\n" in text
    assert gres_conf(options, layout).splitlines() == [
        "AutoDetect=off",
        "NodeName=n1 Name=gpu Type=a100 File=/tmp/x/dev/gpu[0-1]",
        "NodeName=n1 Name=gpu Type=1g.5gb File=/tmp/x/dev/gpu[2-4]",
        "NodeName=n2 Name=gpu File=/tmp/x/dev/gpu0",
        "NodeName=n2 Name=shard Count=4",
        "NodeName=n3 Name=gpu Type=a100 File=/tmp/x/dev/gpu[0-7]",
    ]
    assert options.devices == 8


def test_only_what_slurmctld_reads_once_makes_it_restart() -> None:
    assert needs_restart("", "MaxArraySize=10")
    assert needs_restart("MaxArraySize=10\nKillWait=4", "KillWait=4")
    assert not needs_restart("MaxArraySize=10", "MaxArraySize=10\nKillWait=4")


def test_a_folder_too_deep_for_its_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="too long for unix sockets"):
        Lab(tmp_path / ("x" * 80))


def test_a_folder_that_slurm_conf_cannot_hold_is_refused() -> None:
    with pytest.raises(LabError, match="cannot hold"):
        Lab(Path("/tmp/a b"))


def test_what_one_process_starts_another_finds(tmp_path: Path) -> None:
    layout, options = Layout(tmp_path), Options(nodes=2, users=("anna", "bert"), extra="KillWait=4")
    write_files(options, layout, Ports(20_040), user="me")
    assert read_settings(layout) == (options, Ports(20_040))
    with pytest.raises(LabError, match="no cluster"):
        Lab.open(tmp_path / "elsewhere")


def test_ports_in_use_and_those_of_a_cluster_that_is_starting_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_ports(4, hint="some folder")
    assert first.base % BLOCK == 0
    assert free_ports(4, hint="some folder").base != first.base  # it stays reserved for this process
    monkeypatch.setattr(ports, "_reserved", lambda base: base == first.base)
    assert free_ports(4, hint="some folder") == first
    with socket.create_server(("127.0.0.1", first.ctld)), pytest.raises(LabError, match="free TCP ports"):
        free_ports(4, hint="some folder")


def test_a_machine_with_loopback_alone_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_address(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    with pytest.raises(LabError, match="ip addr add"):
        check_network()


def test_who_may_not_install_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "SEARCHED", "/nowhere")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"as root: apt-get install .* slurmctld .* mariadb-server"):
        packages.install()


def test_nothing_is_installed_where_all_is_there() -> None:
    assert packages.install() == []


def test_services_are_held_back_only_while_packages_are_installed(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    with packages.no_services(policy):
        assert policy.read_text().endswith("exit 101\n")
        assert os.access(policy, os.X_OK)
    assert not policy.exists()


def test_a_policy_of_the_machine_itself_stays(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("its own")
    with packages.no_services(policy):
        assert policy.read_text() == "its own"
    assert policy.read_text() == "its own"


def test_the_words_of_welcome_can_be_pasted_into_a_shell() -> None:
    text = welcome(
        Path("/tmp/c/etc/slurm.conf"),
        Options(),
        programs=Path("/venv/bin"),
        seconds=1.23,
        end="sweep-down --dir /tmp/c",
    )
    assert "4 nodes of 64 CPU and 8 pretended A100 (up in 1.2 s)" in text
    assert "\nexport SLURM_CONF=/tmp/c/etc/slurm.conf\nexport PATH=/venv/bin:$PATH\n" in text
    assert "sweep submit demo --backend slurm" in text
    assert text.endswith("\n# and in the end:\nsweep-down --dir /tmp/c")


def test_status_has_a_line_for_each_daemon() -> None:
    table = status_table({"ctld": 123, "n1": 45, "n2": None}, {"n1": "idle", "n2": "down*"})
    assert table == "ctld        123\nn1           45  idle\nn2            -  down*"


PIP_SETTINGS = """
:env:.cert='/etc/ssl/c.crt'
global.extra-index-url='file:///opt/a file:///opt/b'
global.index-url='https://packages.example/simple'
download.quiet='1'
"""


def test_pip_inside_another_debian_has_the_settings_of_this_machine() -> None:
    assert dict(parse_pip_settings(PIP_SETTINGS)) == {
        "PIP_CERT": "/etc/ssl/c.crt",
        "PIP_EXTRA_INDEX_URL": "file:///opt/a file:///opt/b",
        "PIP_INDEX_URL": "https://packages.example/simple",
    }


def test_what_pip_reads_on_this_machine_is_there_inside_too(tmp_path: Path) -> None:
    there = tmp_path / "wheels"
    there.mkdir()
    given = {"PIP_FIND_LINKS": f"file://{there} {tmp_path}/gone", "PIP_INDEX_URL": "https://packages.example/simple"}
    assert list_local_paths(given) == [there]


@pytest.mark.parametrize("alone", [True, False])
def test_the_tests_of_a_release_have_a_network_of_their_own_and_its_setup_has_not(alone: bool) -> None:
    script = render_entry(Path("/r/x"), "make setup", environment={"PIP_CERT": "/c d"}, shared=[SOURCES], alone=alone)
    assert ("ip link set lo up" in script) is alone
    assert f"mount --bind -o ro {SOURCES} /r/x{SOURCES}" in script
    assert script.splitlines()[-1].startswith("exec chroot /r/x env -i ")
    assert "'PIP_CERT=/c d' sh -ec 'cd /project && make setup'" in script


def test_the_tests_of_the_releases_are_counted(tmp_path: Path) -> None:
    results = tmp_path / "x.xml"
    results.write_text('<testsuites><testsuite tests="9" failures="2" errors="1" skipped="1"/></testsuites>')
    counts = read_counts(results, "trixie", "24.11.5", 12.3)
    assert counts == ReleaseCounts(suite="trixie", release="24.11.5", passed=5, failed=3, skipped=1, minutes=12.3)
    assert [line.split() for line in render_table([counts]).splitlines()] == [
        ["Slurm", "Debian", "passed", "failed", "skipped", "minutes"],
        ["24.11.5", "trixie", "5", "3", "1", "12"],
    ]
    with pytest.raises(LabError, match="pytest left no"):
        read_counts(tmp_path / "none.xml", "trixie", "24.11.5", 0.1)


@pytest.mark.skipif(not (SOURCES / ".git").exists(), reason="these sources are such a copy themselves")
def test_the_sources_of_a_release_are_those_of_this_checkout_links_included(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    copy_sources(tmp_path)  # an update goes the same way
    copied = tmp_path / INSIDE.lstrip("/")
    for name in ("Makefile", "sweep/manifests", "sweep/manifests/demo.yaml"):
        assert (copied / name).is_symlink() == (SOURCES / name).is_symlink(), name
        assert (copied / name).exists(), name
