"""The examples, each run_example as its reader would run_example it, on real guests."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import virtballoon
from tests.conftest import GuestFactory, started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from tests.process import finished
from tests.running import EXAMPLES, NOBODY_LISTENS, fields, program, run_example

COMMAND = Path(sys.executable).with_name("virtballoon")

pytestmark = pytest.mark.once


Fleet = tuple[Hypervisor, Hypervisor]


def test_existing_connection(hypervisor: Hypervisor, guests: dict[str, Guest]) -> None:
    wait_until(
        lambda: virtballoon.read_domain(guests["classic"].domain).verdict == "fresh", 30, "figures"
    )
    result = run_example(
        hypervisor, sys.executable, EXAMPLES / "existing_connection.py", "classic", "off"
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"classic: \d+% used, \d+ s ago\noff: shutoff\n", result.stdout)


def test_set_and_read(hypervisor: Hypervisor, guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("example"))
    result = run_example(hypervisor, sys.executable, EXAMPLES / "set_and_read.py", "example", "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("example: changed, 1\n")
    assert f"total_memory         {guest.meminfo()['MemTotal']}\n" in result.stdout
    result = run_example(hypervisor, sys.executable, EXAMPLES / "set_and_read.py", "nobody")
    assert result.returncode == 1


def test_memory_report(hypervisor: Hypervisor, guests: dict[str, Guest]) -> None:
    result = run_example(hypervisor, sys.executable, EXAMPLES / "memory_report.py")
    assert (result.returncode, result.stderr) == (3, "")
    assert re.search(r"\d+ of \d+ domains have fresh figures", result.stdout)
    assert re.search(r"^  'nodevice': no-device$", result.stdout, re.MULTILINE)


@pytest.mark.usefixtures("hypervisor")
def test_quickstart() -> None:
    """Its guests and what it shows; the README's command sets them up first."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.lab", "--", EXAMPLES / "quickstart", "demonstrate"],
        cwd=EXAMPLES.parent,
        env={**os.environ, "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    shown = [line.split() for line in result.stdout.splitlines() if line.startswith("db1 ")]
    assert ["polling-off" in words for words in shown] == [True, False, False]
    assert ["fresh" in words for words in shown] == [False, False, True]


@pytest.fixture(scope="module")
def _two() -> Iterator[Fleet]:
    with started() as first, started() as second:
        for hypervisor in (first, second):
            hypervisor.add(GuestSpec("example-on", paused=True))
            hypervisor.add(GuestSpec("example-off", start=False))
        yield first, second


@pytest.fixture
def fleet(_two: Fleet) -> Fleet:
    """Two hypervisors, of these tests alone since the examples set every guest's interval; nobody
    is polled yet."""
    for hypervisor in _two:
        hypervisor.connection.lookupByName("example-on").setMemoryStatsPeriod(0)
    return _two


def period(hypervisor: Hypervisor, name: str = "example-on") -> int:
    """The interval in a guest's live XML."""
    found = re.search(r"<stats period='(\d+)'/>", hypervisor.virsh("dumpxml", name).stdout)
    return int(found[1]) if found else 0


def configured(directory: Path, **uris: str) -> Path:
    """The example's configuration with the URIs of hosts replaced."""
    text = (EXAMPLES / "config.toml").read_text()
    for name, uri in uris.items():
        text, number = re.subn(
            rf'(?<=\[hosts\.{name}\]\n)uri = ".*"$', f'uri = "{uri}"', text, flags=re.MULTILINE
        )
        assert number == 1
    file = directory / "config.toml"
    file.write_text(text)
    return file


def test_configuration(fleet: Fleet, tmp_path: Path) -> None:
    configuration = virtballoon.load_configuration(EXAMPLES / "config.toml")
    schemes = {urlsplit(host.uri).scheme for host in configuration.hosts}
    assert schemes == {"qemu", "qemu+ssh", "qemu+tls"}
    assert None not in {configuration.timeout, configuration.jobs}
    here = configured(
        tmp_path, local=fleet[0].uri, hv1=fleet[1].uri, hv2="test:///default", hv3=NOBODY_LISTENS
    )
    result = run_example(fleet[0], "virtballoon", "hosts", "--format", "csv", configuration=here)
    assert result.returncode == 3
    hosts = {row["name"]: row["status"] for row in csv.DictReader(result.stdout.splitlines())}
    assert hosts == {"local": "ok", "hv1": "ok", "hv2": "ok", "hv3": "unreachable"}
    # The commands that the file itself tells of.
    told = re.findall(r"^#   virtballoon (list -H @\w+)", here.read_text(), re.MULTILINE)
    assert told
    for words in told:
        result = run_example(
            fleet[0], "virtballoon", *words.split(), "--format", "jsonl", configuration=here
        )
        assert (result.returncode, result.stderr) == (0, "")
        uris = [json.loads(line)["uri"] for line in result.stdout.splitlines()]
        assert uris == [fleet[0].uri, fleet[1].uri, "test:///default"]


def test_crontab(fleet: Fleet, tmp_path: Path) -> None:
    crontab = EXAMPLES / "cron" / "virtballoon.crontab"
    checked = finished([program("crontab"), "-n", crontab])
    assert checked.returncode == 0, checked.stderr
    (line,) = [x for x in crontab.read_text().splitlines() if x.startswith("*/")]
    command = line.split(maxsplit=5)[5]
    assert "%" not in command
    state = tmp_path / "state"
    here = ("/bin/sh", "-c", command.replace("/var/lib/virtballoon", str(state)))

    def reported() -> set[tuple[str, str, str, str]]:
        assert {path.name for path in state.iterdir()} == {"report.csv", "lock"}
        with (state / "report.csv").open(newline="") as lines:
            return {
                (row["uri"], row["name"], row["verdict"], row["interval.live"])
                for row in csv.DictReader(lines)
            }

    def rows(hypervisor: Hypervisor) -> set[tuple[str, str, str, str]]:
        return {
            (hypervisor.uri, "example-on", "suspended", "60"),
            (hypervisor.uri, "example-off", "shutoff", ""),
        }

    # Without a configuration, this host.
    first, second = fleet
    result = run_example(first, *here)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert reported() == rows(first)
    assert (period(first), period(second)) == (60, 0)
    # With one, all of its hosts.
    hosts = {"local": first.uri, "hv1": second.uri, "hv2": first.uri, "hv3": second.uri}
    many = configured(tmp_path, **hosts)
    result = run_example(first, *here, configuration=many)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert reported() == rows(first) | rows(second)
    assert period(second) == 60
    # What is not well is mailed, and the report is there all the same.
    silent = second.add(GuestSpec("example-silent", period=1, driver=False))
    silent.wait_booted()
    many = configured(tmp_path, **(hosts | {"hv3": NOBODY_LISTENS}))
    result = run_example(first, *here, configuration=many)
    assert (result.returncode, result.stdout) == (3, "")
    mailed = result.stderr.splitlines()
    assert [x for x in mailed if NOBODY_LISTENS not in x] == [
        f"virtballoon: domain 'example-silent' on {second.uri}: unanswered"
    ]
    assert any(NOBODY_LISTENS in x for x in mailed)
    silent_row = (second.uri, "example-silent", "unanswered", "1")
    assert reported() == rows(first) | rows(second) | {silent_row}
    second.remove(silent)
    # While another run_example is at it, there is a line of each command and no new report.
    before = (state / "report.csv").stat()
    with (state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run_example(first, *here, configuration=many)
    assert (result.returncode, result.stdout) == (75, "")
    assert result.stderr.count("is locked by process") == 2
    assert (state / "report.csv").stat() == before


SERVICE = EXAMPLES / "systemd" / "virtballoon-report.service"


def test_systemd_units(tmp_path: Path) -> None:
    units = [tmp_path / path.name for path in SERVICE.parent.glob("*.[st]*")]
    assert len(units) == 8
    drop_in = tmp_path / "virtballoon-exporter.service.d" / "ensure-interval.conf"
    drop_in.parent.mkdir()
    for unit in (*units, drop_in):
        name = unit.name.replace("ensure", "virtballoon-exporter-ensure")
        text = (SERVICE.parent / name).read_text()
        # The verification sees to it that what is started is there.
        unit.write_text(re.sub("^(ExecStart=-?)(?=v)", rf"\1{COMMAND.parent}/", text, flags=re.M))
    checked = finished([program("systemd-analyze"), "verify", "--man=no", *units])
    assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize(("name", "most"), [("exporter", 1.0), ("textfile", 1.5), ("record", 1.5)])
def test_systemd_exposure(name: str, most: float) -> None:
    unit = SERVICE.with_name(f"virtballoon-{name}.service")
    text = unit.read_text()
    checked = finished(
        [program("systemd-analyze"), "security", "--offline=true", unit],
        env={**os.environ, "LANG": "C"},
    )
    level = re.search(r"exposure level for \S+: ([\d.]+)", checked.stdout)
    assert level is not None, checked.stderr
    assert float(level[1]) <= most
    # What the unit says of it is so, by the systemd that it names: others weigh differently.
    stated = re.search(r"^# systemd-analyze .*: ([\d.]+) of 10 \(systemd (\d+)\)\.$", text, re.M)
    assert stated is not None
    version = finished([program("systemd-analyze"), "--version"], check=True)
    if version.stdout.split()[1] == stated[2]:
        assert level[1] == stated[1]


def test_systemd_exporter(hypervisor: Hypervisor, guests: dict[str, Guest], tmp_path: Path) -> None:
    # No systemd runs in a test's sandbox: what the units would start is started here.
    units = SERVICE.parent
    service = (units / "virtballoon-exporter.service").read_text()
    (command,) = re.findall(r"^ExecStart=virtballoon (.*)$", service, re.M)
    address = re.search(
        r"^ListenStream=(.*)$", (units / "virtballoon-exporter.socket").read_text(), re.M
    )
    scraped = (EXAMPLES / "prometheus" / "prometheus.yml").read_text()
    assert address is not None
    assert f'targets: ["{address[1]}"]' in scraped
    words = shlex.split(command.replace("qemu:///system", hypervisor.uri))
    assert words[-2:] == ["--listen", "systemd"]
    result = run_example(hypervisor, "virtballoon", *words)
    assert result.returncode == 2
    assert result.stderr.startswith("virtballoon: systemd has passed no socket ")
    oneshot = (units / "virtballoon-textfile.service").read_text()
    (command,) = re.findall(r"^ExecStart=virtballoon (.*)$", oneshot, re.M)
    here = command.replace("qemu:///system", hypervisor.uri)
    here = here.replace("/var/lib/prometheus/node-exporter", str(tmp_path))
    result = run_example(hypervisor, "virtballoon", *shlex.split(here))
    assert (result.returncode, result.stderr) == (0, "")
    assert "\nvirtballoon_up{" in (tmp_path / "virtballoon.prom").read_text()


def test_systemd_service(fleet: Fleet, tmp_path: Path) -> None:
    # No systemd runs in a test's sandbox: the service's commands are started here.
    state = tmp_path / "state"
    state.mkdir()
    service = SERVICE.read_text().replace("${STATE_DIRECTORY}", str(state))
    setting, listing = [
        shlex.split(command)
        for command in re.findall(r"^ExecStart=-?virtballoon (.*)$", service, re.M)
    ]
    first, second = fleet
    hosts = {"local": first.uri, "hv1": second.uri, "hv2": first.uri, "hv3": NOBODY_LISTENS}
    configuration = configured(tmp_path, **hosts)
    for words in (setting, listing):
        result = run_example(first, "virtballoon", *words, configuration=configuration)
        records = [fields(line) for line in result.stderr.splitlines()]
        assert (result.returncode, result.stdout) == (3, "")
        logged = {(record["host"], record["level"]) for record in records}
        assert logged == {(uri, "info") for uri in hosts.values()} | {(NOBODY_LISTENS, "warning")}
    assert (period(first), period(second)) == (60, 60)
    report = json.loads((state / "report.json").read_text())
    assert [(host["uri"], host["status"]) for host in report["hosts"]] == [
        (first.uri, "ok"),
        (second.uri, "ok"),
        (NOBODY_LISTENS, "unreachable"),
    ]
    assert {path.name for path in state.iterdir()} == {"report.json", "lock"}
    # A run_example that finds another one does nothing, and that is no failure of the service.
    with (state / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run_example(first, "virtballoon", *listing, configuration=configuration)
    (complaint,) = result.stderr.splitlines()
    assert "is locked by process" in complaint
    assert f"\nSuccessExitStatus={result.returncode}\n" in service


def test_ansible(fleet: Fleet, tmp_path: Path) -> None:
    playbook = program("ansible-playbook")
    example = EXAMPLES / "ansible"
    report = tmp_path / "report.json"
    # Beside the example's inventory: where its hosts really are.
    here = tmp_path / "here.json"
    names = ("hv1.example.net", "hv2.example.net")
    places = {
        name: {"virtballoon_uri": hypervisor.uri}
        for name, hypervisor in zip(names, fleet, strict=True)
    }
    variables: dict[str, Any] = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_remote_tmp": str(tmp_path / "remote"),
        "virtballoon_command": str(COMMAND),
        "virtballoon_report": str(report),
        "virtballoon_timeout": 5,
    }
    here.write_text(json.dumps({"hypervisors": {"hosts": places, "vars": variables}}))

    def play(*options: str) -> tuple[dict[str, dict[str, str]], str]:
        inventories = ("-i", example / "inventory.yml", "-i", here)
        result = subprocess.run(
            [playbook, *inventories, *options, example / "virtballoon.yml"],
            cwd=tmp_path,
            env={
                "PATH": f"{Path(playbook).parent}:/usr/bin:/bin",
                "HOME": str(tmp_path),
                "LANG": "C.UTF-8",
                # It would be visited in place of the host that the playbook names.
                "VIRTBALLOON_CONFIG_FILE": str(EXAMPLES / "config.toml"),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, ""), result.stdout
        recap = result.stdout.partition("PLAY RECAP")[2]
        lines = re.findall(r"^(\S+) +: (.*)$", recap, re.MULTILINE)
        return {
            name: dict(figure.split("=", 1) for figure in figures.split())
            for name, figures in lines
        }, result.stdout

    first, second = fleet
    # A name comes from outside: it must not be taken for a template.
    guest = second.add(GuestSpec("{{ 6 * 7 }}", paused=True, period=9))
    try:
        recap, _ = play("--check")
        assert {name: recap[name]["changed"] for name in recap} == dict.fromkeys(names, "1")
        assert (period(first), period(second)) == (0, 0)
        assert not report.exists()

        recap, _ = play()
        assert {name: recap[name]["changed"] for name in recap} == dict.fromkeys(names, "1")
        assert (period(first), period(second), period(second, guest.name)) == (60, 30, 9)
        hosts = json.loads(report.read_text())["hosts"]
        assert [host["uri"] for host in hosts] == [first.uri, second.uri]
        assert [{row["name"] for row in host["domains"]} for host in hosts] == [
            {"example-on", "example-off"},
            {"example-on", "example-off", guest.name},
        ]

        # What could not be read is no failure and is told; what is as it should be, no change.
        guest.stop_process()
        recap, output = play()
        assert {name: recap[name]["changed"] for name in recap} == dict.fromkeys(names, "0")
        assert f"virtballoon: domain '{guest.name}' on {second.uri}: " in output
        _, host = json.loads(report.read_text())["hosts"]
        assert host["status"] == "partial"
        assert {row["name"] for row in host["domains"] if row["verdict"] == "busy"} == {guest.name}
    finally:
        second.remove(guest)


#: What polkitd gives a rule, as far as this one needs it (polkit(8)).
POLKIT = """
var rules = [];
var polkit = {
    Result: { NOT_HANDLED: null, YES: "yes", NO: "no" },
    addRule: function (rule) { rules.push(rule); }
};
"""
ASKED = """
["virtballoon", "others"].forEach(function (group) {
    var subject = { isInGroup: function (name) { return name === group; } };
    ["unix.monitor", "unix.manage", "api.domain.read"].forEach(function (name) {
        print(group, name, String(rules[0]({ id: "org.libvirt." + name }, subject)));
    });
});
print(rules.length);
"""


def test_polkit_rule(tmp_path: Path) -> None:
    # Polkitd's own JavaScript.
    duk = program("duk")
    rule = (EXAMPLES / "polkit/10-virtballoon.rules").read_text()
    # The exporter's user becomes a member of the group that it is for.
    unit = SERVICE.with_name("virtballoon-exporter.service").read_text()
    (user,) = re.findall(r"^User=(.*)$", unit, re.M)
    assert f"#   usermod --append --groups virtballoon {user}\n" in unit
    assert 'isInGroup("virtballoon")' in rule
    assert user in rule
    script = tmp_path / "script.js"
    script.write_text(POLKIT + rule + ASKED)
    result = finished([duk, script])
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "virtballoon unix.monitor yes",
        "virtballoon unix.manage no",
        "virtballoon api.domain.read null",
        "others unix.monitor null",
        "others unix.manage null",
        "others api.domain.read null",
        "1",
    ]
