"""The Debian package on a booted Debian 13: rights, units, upgrade and purge."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import virtballoon
from tests.conftest import available
from tests.lab import GuestSpec, wait_until
from tests.lab.machine import Machine
from tests.process import finished
from tests.running import EXAMPLES, program

pytestmark = [pytest.mark.guest, pytest.mark.once]

GUESTS = (GuestSpec("polled", period=1), GuestSpec("unpolled"))
#: The users of the tests and their groups.
USERS = {
    "member": "libvirt",
    "reader": "virtballoon",
    "both": "libvirt,virtballoon",
    "stranger": "nogroup",
}
HERE = ("-c", "qemu:///system", "--timeout", "60")
COLLECTOR = "/var/lib/prometheus/node-exporter"
REPORT = "/var/lib/virtballoon/report.json"
#: Rounds of the test that restarts libvirtd.
ROUNDS = int(os.environ.get("VIRTBALLOON_RESTARTS", "10"))
OLD = "0.0.1"
SCRAPE = """
import urllib.request
request = urllib.request.Request("http://127.0.0.1:9177/metrics")
print(urllib.request.urlopen(request, timeout=120).read().decode())
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The package, and one of an older version."""
    program("dh")
    folder = tmp_path_factory.mktemp("packages")
    built = finished([EXAMPLES / "packaging/build-deb", folder], timeout=600)
    assert built.returncode == 0, built.stderr
    (name,) = built.stdout.split()
    tree = folder / "tree"
    finished(["dpkg-deb", "--raw-extract", name, tree], check=True)
    for file, before in (
        (tree / "DEBIAN/control", f"Version: {virtballoon.__version__}"),
        (
            tree / "usr/lib/python3/dist-packages/virtballoon/__init__.py",
            f'__version__ = "{virtballoon.__version__}"',
        ),
    ):
        text = file.read_text()
        assert before in text
        after = before.replace(virtballoon.__version__, OLD)
        file.write_text(text.replace(before, after))
    old = folder / f"virtballoon_{OLD}_all.deb"
    finished(["dpkg-deb", "--root-owner-group", "--build", tree, old], check=True)
    return {virtballoon.__version__: Path(name), OLD: old}


@pytest.fixture(scope="module")
def machine(
    packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """The machine, with users and guests, and without the package."""
    folder = tmp_path_factory.mktemp("machine")
    for version, path in packages.items():
        shutil.copy(path, folder / f"{version}.deb")
    with available(Machine(folder)) as machine:
        machine.do("groupadd", "--system", "virtballoon")
        for user, groups in USERS.items():
            machine.do("useradd", "--groups", groups, user)
        for guest in GUESTS:
            machine.boot(guest)
        yield machine


def install(machine: Machine, version: str = virtballoon.__version__) -> None:
    machine.do("apt-get", "install", "--yes", f"/lab/{version}.deb")


@pytest.fixture
def installed(machine: Machine) -> Machine:
    """The machine with the package and guests that answer."""
    install(machine)
    wait_until(
        lambda: rows(machine)["polled"]["verdict"] == "fresh", 300, "the polled guest's answer"
    )
    return machine


def rows(machine: Machine, *words: str, user: str = "root") -> dict[str, dict[str, Any]]:
    """The domains as they are listed."""
    text = machine.do("virtballoon", "list", *HERE, "--format", "json", *words, user=user)
    (host,) = json.loads(text)["hosts"]
    return {row["name"]: row for row in host["domains"]}


def interval(machine: Machine, name: str) -> int:
    """The interval in the live XML."""
    xml = machine.do("virsh", "dumpxml", name)
    found = re.search(r"<stats period='(\d+)'/>", xml)
    return int(found[1]) if found else 0


def is_tainted(machine: Machine, name: str) -> bool:
    return "tainted" in machine.do("virsh", "dominfo", name)


def scrape(machine: Machine) -> dict[str, dict[str | None, float]]:
    """The series by name, then by domain."""
    found: dict[str, dict[str | None, float]] = {}
    for family in text_string_to_metric_families(machine.do("python3", "-c", SCRAPE)):
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels.get("domain")] = sample.value
    return found


def shown(machine: Machine, unit: str, name: str) -> str:
    """A property of a unit."""
    return machine.do("systemctl", "show", "--value", "--property", name, unit).strip()


def journal(machine: Machine, unit: str) -> str:
    return machine.do("journalctl", "--output", "cat", "--unit", unit)


def paths(machine: Machine) -> set[str]:
    """Everything that a package or its units could leave."""
    places = ("/etc", "/usr", "/var/lib", "/var/cache", "/run", "/root", "/home", "/tmp")
    return set(machine.do("find", *places, "-xdev", "-name", "*virtballoon*").split("\n")) - {""}


def test_lintian_has_no_complaint(packages: dict[str, Path]) -> None:
    package = packages[virtballoon.__version__]
    result = finished(
        [program("lintian"), "--profile", "debian", "--fail-on", "error,warning", package]
    )
    assert result.returncode == 0, result.stdout


def test_package_contents(packages: dict[str, Path]) -> None:
    package = packages[virtballoon.__version__]
    listing = finished(["dpkg-deb", "--contents", package], check=True).stdout
    contents = set(re.findall(r" \./(\S+)$", listing, re.M))
    for path in (
        "etc/virtballoon/config.toml",
        "usr/share/bash-completion/completions/virtballoon",
        "usr/share/doc/virtballoon/examples/grafana/virtballoon.json",
        "usr/share/doc/virtballoon/examples/prometheus/virtballoon.rules.yml",
        "usr/share/fish/vendor_completions.d/virtballoon.fish",
        "usr/share/man/man1/virtballoon-list.1.gz",
        "usr/share/polkit-1/rules.d/10-virtballoon.rules",
        "usr/share/zsh/vendor-completions/_virtballoon",
    ):
        assert path in contents
    dates = set(re.findall(r" (\d{4}-\d\d-\d\d) ", listing))
    assert len(dates) == 1, "not from the changelog, so two builds differ"
    control = finished(["dpkg-deb", "--field", package, "Depends"], check=True).stdout
    needed = {"python3-click", "python3-libvirt", "python3-lxml", "python3-rich"}
    assert needed <= set(re.findall(r"[\w-]+", control))


def test_upgrade(machine: Machine) -> None:
    before = paths(machine)
    install(machine, OLD)
    files = machine.do("systemctl", "list-unit-files", "--no-legend", "virtballoon*")
    assert set(re.findall(r"^\S+ +(\w+)", files, re.M)) == {"disabled", "static"}
    assert not machine.do("systemctl", "list-units", "--no-legend", "virtballoon*")
    configuration = machine.do("cat", "/etc/virtballoon/config.toml")
    assert configuration
    assert all(line.startswith("#") for line in configuration.splitlines() if line)
    passwd = machine.do("getent", "passwd", "virtballoon-exporter")
    assert passwd.strip().endswith(":/usr/sbin/nologin")

    # What is enabled and edited stays so, and what runs is the new version.
    enabled = ("virtballoon-exporter.socket", "virtballoon-report.timer")
    machine.do("systemctl", "enable", "--now", *enabled)
    machine.do("sed", "-i", "1i # Edited.", "/etc/virtballoon/config.toml")
    assert versions(machine) == {OLD}
    install(machine)
    assert machine.do("virtballoon", "--version").split()[1] == virtballoon.__version__
    assert versions(machine) == {virtballoon.__version__}
    assert machine.do("head", "-n", "1", "/etc/virtballoon/config.toml") == "# Edited.\n"
    assert {shown(machine, unit, "ActiveState") for unit in enabled} == {"active"}
    assert shown(machine, "virtballoon-textfile.timer", "ActiveState") == "inactive"
    assert not machine.do("systemctl", "list-units", "--failed", "--no-legend", "virtballoon*")
    machine.do("apt-get", "purge", "--yes", "virtballoon")
    wait_until(lambda: paths(machine) == before, 60, "nothing to be left")


def versions(machine: Machine) -> set[str]:
    """The exporter's version, of itself."""
    text = machine.do("python3", "-c", SCRAPE)
    return set(re.findall(r'virtballoon_build_info\{version="([^"]+)"\}', text))


def test_rights(installed: Machine) -> None:
    machine = installed
    every = {"polled", "unpolled"}
    set_interval = ("virtballoon", "set-interval", *HERE)
    for user in ("root", *USERS):
        assert rows(machine, user=user).keys() == every
    for user in ("root", "member"):
        for seconds in ("7", "1"):
            machine.do(*set_interval, seconds, "polled", user=user)
            assert interval(machine, "polled") == int(seconds)
    # The group of the rule may not write, even where another group may.
    for user in ("stranger", "reader", "both"):
        for words in (
            (*set_interval, "7", "polled"),
            ("virtballoon", "list", *HERE, "--via", "qom"),
        ):
            refused = machine.run(*words, user=user)
            assert refused.returncode == 1
            assert not refused.stdout
            assert "Traceback" not in refused.stderr
            assert "authentication" in refused.stderr
    assert interval(machine, "polled") == 1
    # No one of them has left a mark; who may write and asks for it does.
    assert not any(is_tainted(machine, name) for name in every)
    assert rows(machine, "--via", "qom", "unpolled", user="member")["unpolled"]["source"] == "qom"
    assert (is_tainted(machine, "polled"), is_tainted(machine, "unpolled")) == (False, True)


def test_rule_lets_its_group_read_where_others_may_not(installed: Machine) -> None:
    machine = installed
    rule = "/etc/polkit-1/rules.d/50-nobody.rules"
    text = "polkit.addRule(function(action) { return polkit.Result.NO; });"

    def may_read(user: str) -> bool:
        return machine.run("virtballoon", "list", *HERE, user=user).returncode == 0

    machine.do("sh", "-c", f"echo '{text}' >{rule}")
    try:
        wait_until(lambda: not may_read("stranger"), 60, "the rule to be in force")
        assert may_read("reader")
    finally:
        machine.do("rm", rule)
    wait_until(lambda: may_read("stranger"), 60, "the rule to be gone")


def test_exporter(installed: Machine) -> None:
    machine = installed
    unit = "virtballoon-exporter.service"
    machine.do("systemctl", "enable", "--now", "virtballoon-exporter.socket")
    assert shown(machine, unit, "ActiveState") == "inactive"
    series = scrape(machine)
    assert series["virtballoon_up"] == {None: 1}
    assert series["virtballoon_domain_polling_interval_seconds"] == {"polled": 1, "unpolled": 0}
    pid = shown(machine, unit, "MainPID")
    assert machine.do("ps", "-o", "user:32=", pid).strip() == "virtballoon-exporter"
    daemon = shown(machine, "libvirtd.service", "MainPID")
    machine.do("systemctl", "restart", "libvirtd.service")
    assert shown(machine, "libvirtd.service", "MainPID") != daemon
    wait_until(lambda: scrape(machine)["virtballoon_up"] == {None: 1}, 120, "libvirtd to be read")
    assert shown(machine, unit, "MainPID") == pid
    assert "Traceback" not in journal(machine, unit)

    # Polling is turned on by the drop-in, and only with the right that it names.
    folder = f"/etc/systemd/system/{unit}.d"
    drop_in = (EXAMPLES / "systemd/virtballoon-exporter-ensure-interval.conf").read_text()
    (machine.folder / "drop-in").write_text(drop_in)
    machine.do("install", "-D", "-m", "644", "/lab/drop-in", f"{folder}/ensure-interval.conf")
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "try-restart", unit)
    scrape(machine)
    wait_until(lambda: "authentication" in journal(machine, unit), 60, "the refusal to be reported")
    assert interval(machine, "unpolled") == 0
    machine.do("usermod", "--append", "--groups", "libvirt", "virtballoon-exporter")
    machine.do("systemctl", "try-restart", unit)
    wait_until(
        lambda: scrape(machine) and interval(machine, "unpolled") == 10, 60, "polling to be on"
    )
    machine.do("rm", "-r", folder)
    machine.do("gpasswd", "--delete", "virtballoon-exporter", "libvirt")
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "try-restart", unit)
    machine.do("virtballoon", "set-interval", "0", "unpolled")


def test_report(installed: Machine) -> None:
    machine = installed
    machine.do("systemctl", "start", "virtballoon-report.service")
    report = json.loads(machine.do("cat", REPORT))
    names = [[row["name"] for row in host["domains"]] for host in report["hosts"]]
    assert names == [["polled", "unpolled"]]
    assert interval(machine, "unpolled") == 60
    machine.do("virtballoon", "set-interval", "0", "unpolled")
    machine.do("systemctl", "enable", "--now", "virtballoon-report.timer")
    assert shown(machine, "virtballoon-report.timer", "NextElapseUSecRealtime")


def test_record(installed: Machine) -> None:
    machine = installed
    machine.do("systemctl", "start", "virtballoon-record.service")
    history = machine.do("virtballoon", "record", "--export")
    assert [json.loads(line)["name"] for line in history.splitlines()] == ["polled"]
    machine.do("systemctl", "enable", "--now", "virtballoon-record.timer")
    assert shown(machine, "virtballoon-record.timer", "NextElapseUSecRealtime")
    machine.do("systemctl", "disable", "--now", "virtballoon-record.timer")


def test_textfile(installed: Machine) -> None:
    machine = installed
    unit = "virtballoon-textfile.service"
    machine.do("systemctl", "start", unit)
    assert shown(machine, unit, "ConditionResult") == "no"
    assert not machine.do("systemctl", "list-units", "--failed", "--no-legend", "virtballoon*")
    machine.do("mkdir", "-p", COLLECTOR)
    # Its timer, in a hurry.
    hurry = "/run/systemd/system/virtballoon-textfile.timer.d"
    machine.do("mkdir", "-p", hurry)
    machine.do("sh", "-c", f"printf '[Timer]\\nOnActiveSec=1\\n' >{hurry}/hurry.conf")
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "enable", "--now", "virtballoon-textfile.timer")
    file = f"{COLLECTOR}/virtballoon.prom"
    wait_until(lambda: machine.run("test", "-e", file).returncode == 0, 60, "the timer to elapse")
    machine.do("rm", "-r", hurry)
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "start", unit)
    assert "\nvirtballoon_up{" in machine.do("cat", file, user="stranger")


@pytest.mark.parametrize("name", ["exporter", "report", "textfile", "record"])
def test_exposure(installed: Machine, name: str) -> None:
    machine = installed
    unit = f"virtballoon-{name}.service"
    if name == "exporter":
        machine.do("systemctl", "start", unit)
    text = machine.do("systemd-analyze", "security", "--no-pager", unit)
    level = re.search(r"exposure level for \S+: ([\d.]+)", text)
    stated = re.search(
        r"^# systemd-analyze security: ([\d.]+) of 10 on Debian 13",
        (EXAMPLES / "systemd" / unit).read_text(),
        re.M,
    )
    assert level
    assert stated
    assert level[1] == stated[1]


def restart(machine: Machine) -> None:
    # Without the first, not more than some starts in ten seconds are allowed.
    machine.do("systemctl", "reset-failed", "libvirtd.service")
    machine.do("systemctl", "restart", "libvirtd.service")


def lists(machine: Machine, figures: tuple[int, int]) -> bool:
    """Whether a list has the polled guest's figures; it has no other ones."""
    result = machine.run("virtballoon", "list", *HERE, "--format", "json")
    assert "Traceback" not in result.stderr
    assert result.returncode in {0, 1, 3}, result.stderr
    assert result.stderr or not result.returncode
    (host,) = json.loads(result.stdout)["hosts"]
    assert (host["status"] == "ok") == (result.returncode == 0)
    shown = [row for row in host["domains"] if row["name"] == "polled" and row["used_bytes"]]
    for row in shown:
        assert (row["maximum_bytes"], row["stats"]["total_memory"]) == figures
    return bool(shown)


def scrapes(machine: Machine, figures: tuple[int, int]) -> bool:
    """Whether a scrape has the polled guest's figures; it has no other ones."""
    series = scrape(machine)
    totals = [
        series.get(f"virtballoon_domain_{name}_bytes", {}).get("polled")
        for name in ("maximum", "total_memory")
    ]
    assert totals[1] in {None, figures[1]}
    assert totals[0] in {None, figures[0]}
    assert series["virtballoon_up"][None] or totals == [None, None]
    return totals[1] is not None


def sets(machine: Machine, seconds: int) -> bool:
    """Whether setting the polled guest's interval succeeds, or fails with a message."""
    result = machine.run("virtballoon", "set-interval", *HERE, str(seconds), "polled")
    assert "Traceback" not in result.stderr
    assert result.returncode in {0, 1, 3}, result.stderr
    assert not result.returncode or result.stderr.startswith("virtballoon: ")
    return result.returncode == 0


def holds(machine: Machine, unit: str) -> list[int]:
    """How many file descriptors and threads a service has."""
    pid = shown(machine, unit, "MainPID")
    return [len(machine.do("ls", f"/proc/{pid}/{kind}").split()) for kind in ("fd", "task")]


def test_restarts_of_libvirtd(installed: Machine) -> None:
    machine = installed
    exporter = "virtballoon-exporter.service"
    machine.do("systemctl", "start", exporter)
    processes = machine.do("pgrep", "qemu").split()
    known = rows(machine)["polled"]
    figures = (known["maximum_bytes"], known["stats"]["total_memory"])
    marks = [is_tainted(machine, guest.name) for guest in GUESTS]
    counts = dict.fromkeys(("listed", "scraped", "set"), 0)
    # The first time that it connects again starts threads that stay.
    restart(machine)
    wait_until(lambda: scrapes(machine, figures), 120, "libvirtd to be read")
    held = holds(machine, exporter)
    with ThreadPoolExecutor() as pool:
        for number in range(ROUNDS):
            restarting = pool.submit(restart, machine)
            listing = pool.submit(lists, machine, figures)
            scraping = pool.submit(scrapes, machine, figures)
            is_set = sets(machine, 1 + number % 2)
            restarting.result()
            assert not is_set or interval(machine, "polled") == 1 + number % 2
            counts["set"] += is_set
            counts["listed"] += listing.result()
            counts["scraped"] += scraping.result()
    print(f"of {ROUNDS} rounds: {counts}; held before: {held}")

    # Afterwards all is as it was.
    machine.do("virtballoon", "set-interval", *HERE, "1", "polled")
    wait_until(lambda: rows(machine)["polled"]["verdict"] == "fresh", 60, "the guest to be polled")
    wait_until(lambda: scrapes(machine, figures), 120, "libvirtd to be read")
    assert machine.do("pgrep", "qemu").split() == processes
    assert [is_tainted(machine, guest.name) for guest in GUESTS] == marks
    assert "Traceback" not in journal(machine, exporter)
    now = holds(machine, exporter)
    print(f"held afterwards: {now}")
    # A leak would be one for each round; how many calls are made at a time varies.
    few = max(4, ROUNDS // 2)
    assert all(after <= before + few for before, after in zip(held, now, strict=True)), now
    assert not re.findall("^Z.*", machine.do("ps", "-e", "-o", "state=,comm="), re.M)


def test_purge(installed: Machine) -> None:
    machine = installed
    machine.do("mkdir", "-p", COLLECTOR)
    machine.do("systemctl", "enable", "--now", "virtballoon-exporter.socket")
    machine.do("systemctl", "start", "virtballoon-report.timer", "virtballoon-report.service")
    machine.do("systemctl", "start", "virtballoon-textfile.service", "virtballoon-exporter.service")
    machine.do("apt-get", "remove", "--yes", "virtballoon")
    # Old figures are not scraped; configuration and reports stay.
    left = paths(machine)
    assert f"{COLLECTOR}/virtballoon.prom" not in left
    assert {"/etc/virtballoon", "/var/lib/virtballoon"} <= left
    assert not machine.do("systemctl", "list-units", "--no-legend", "virtballoon*")
    machine.do("apt-get", "purge", "--yes", "virtballoon")
    wait_until(lambda: not paths(machine), 60, "nothing to be left")
    # The user stays, as Debian's policy has it: a later one must not get its number.
    machine.do("getent", "passwd", "virtballoon-exporter")
