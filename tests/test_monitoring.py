"""The examples for monitoring systems, each read by the system's own program where there is one,
and what it would run_example run_example on real guests."""

from __future__ import annotations

import json
import os
import pwd
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import libvirt
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import GuestFactory
from tests.lab import Guest, GuestSpec, wait_until
from tests.process import finished
from tests.running import EXAMPLES, NOBODY_LISTENS, parsed, program, run_example
from virtballoon import Verdict, read_domain
from virtballoon.cli import check

pytestmark = pytest.mark.once

BINARIES = Path(sys.executable).parent
COMMAND = "/usr/bin/virtballoon"

#: A name that would do harm wherever a system splits what it reads.
HOSTILE = 'a "b",c=d|e'


@pytest.fixture(scope="module")
def guests(module_guest_factory: GuestFactory) -> dict[str, Guest]:
    """A guest with fresh figures, one without any, and one with a hostile name."""
    specs = (
        GuestSpec("watched", period=1),
        GuestSpec("paused", paused=True, period=1),
        GuestSpec(HOSTILE, period=1),
    )
    guests = {spec.name: module_guest_factory(spec) for spec in specs}
    for name in ("watched", HOSTILE):
        wait_until(partial(has_figures, guests[name]), 60, f"figures of {name!r}")
    return guests


def has_figures(guest: Guest) -> bool:
    return read_domain(guest.domain).verdict is Verdict.FRESH


def checked(*command: str | Path, **environment: str) -> str:
    """What a program says of a configuration that it finds nothing wrong with."""
    result = finished(command, env=os.environ | environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def plugin(guest: Guest, command: str, state: Path) -> tuple[int, str]:
    """The status and the status line of what a monitoring system runs, with this host in place of
    the one that the example names."""
    uri = "'qemu+ssh://monitor@$HOSTADDRESS$/system'"
    assert uri in command
    command = command.replace(uri, shlex.quote(guest.hypervisor.uri))
    command = command.replace(COMMAND, f"XDG_STATE_HOME={state} {BINARIES}/virtballoon")
    result = run_example(guest.hypervisor, "/bin/sh", "-c", command)
    assert result.stderr == ""
    return result.returncode, parsed(result.stdout)[0]


NAGIOS = """
define timeperiod {
    timeperiod_name 24x7
    alias           always
    monday          00:00-24:00
}
define command {
    command_name    nothing
    command_line    /bin/true
}
define contact {
    contact_name                    admin
    service_notification_period     24x7
    host_notification_period        24x7
    service_notification_commands   nothing
    host_notification_commands      nothing
}
define contactgroup {
    contactgroup_name   admins
    members             admin
}
define host {
    host_name               hv1
    address                 hv1
    hostgroups              hypervisors
    check_command           nothing
    max_check_attempts      1
    check_period            24x7
    contact_groups          admins
    notification_period     24x7
    notification_interval   60
}
"""


def test_nagios(guests: dict[str, Guest], tmp_path: Path) -> None:
    example = EXAMPLES / "nagios" / "virtballoon.cfg"
    objects = tmp_path / "objects.cfg"
    objects.write_text(NAGIOS)
    main = tmp_path / "nagios.cfg"
    me = pwd.getpwuid(os.geteuid())
    main.write_text(
        f"cfg_file={example}\ncfg_file={objects}\nlog_file={tmp_path}/log\n"
        f"check_result_path={tmp_path}\ntemp_path={tmp_path}\ntemp_file={tmp_path}/temp\n"
        f"lock_file={tmp_path}/lock\nillegal_macro_output_chars=`~$&|'<>\n"
        f"nagios_user={me.pw_name}\nnagios_group={me.pw_gid}\n"
    )
    said = checked(program("nagios4"), "-v", main)
    assert "Checked 2 services." in said
    assert re.search(r"Total Warnings: 0\nTotal Errors: +0\n", said)

    text = example.read_text()
    lines = dict(re.findall(r"command_name +(\S+)\n +command_line +(.*)", text))
    calls = re.findall(r"check_command +(\S+)", text)
    assert len(lines) == len(calls) == 2
    for call in calls:
        name, *arguments = call.split("!")
        command = lines[name]
        for number, argument in enumerate(arguments, 1):
            command = command.replace(f"$ARG{number}$", argument)
        status, said = plugin(guests["watched"], command, tmp_path)
        # The other tests of the run_example have guests of all kinds there.
        assert said.startswith("MEMORY "), said
        assert status in range(4)
        command = f"{command} watched '{HOSTILE}'"
        assert plugin(guests["watched"], command, tmp_path)[0] == 0


def test_icinga(tmp_path: Path) -> None:
    example = EXAMPLES / "nagios" / "icinga2.conf"
    main = tmp_path / "icinga2.conf"
    main.write_text(
        f'include <itl>\ninclude "{example}"\n'
        'object Host "hv1" {\n  check_command = "dummy"\n'
        '  vars.virtballoon_uri = "test:///default"\n}\n'
    )
    directories = ("DataDir", "CacheDir", "LogDir", "SpoolDir", "InitRunDir")
    places = [word for name in directories for word in ("-D", f"{name}={tmp_path}")]
    # It would become a user of its own, who may not read this.
    user = {"ICINGA2_USER": "root", "ICINGA2_GROUP": "root"} if os.geteuid() == 0 else {}
    said = checked(program("icinga2"), "daemon", "-C", "-c", main, *places, **user)
    assert re.search(r"Instantiated 2 Services", said)
    assert "warning" not in said
    # Its arguments are the command's.
    known = {name for parameter in check.command.params for name in parameter.opts}
    options = re.findall(r'^ +"(--[\w-]+)" =', example.read_text(), re.MULTILINE)
    assert len(options) > 5
    assert set(options) <= known


def test_zabbix(guests: dict[str, Guest], tmp_path: Path) -> None:
    program("jq")
    agent = program("zabbix_agentd")
    main = tmp_path / "agent.conf"
    main.write_text(
        f"Server=127.0.0.1\nHostname=hv1\nTimeout=30\nLogFile={tmp_path}/log\n"
        f"Include={EXAMPLES}/zabbix/virtballoon.conf\n"
    )

    hosts = tmp_path / "hosts.toml"

    def said(key: str) -> str:
        result = run_example(
            guests["watched"].hypervisor, agent, "-c", main, "-t", key, configuration=hosts
        )
        found = re.search(r"\[t\|(.*)\]$", result.stdout.strip(), re.DOTALL)
        assert found, result.stdout + result.stderr
        return found[1]

    def item(key: str) -> Any:
        return json.loads(said(key))

    # A host that does not answer is beside the one that does, and takes nothing away.
    alive, dead = guests["watched"].hypervisor.uri, NOBODY_LISTENS
    hosts.write_text(f"[hosts.dead]\nuri = '{dead}'\n[hosts.alive]\nuri = '{alive}'\n")
    discovered = {row["{#DOMAIN}"]: row for row in item("virtballoon.discovery")}
    assert set(guests) <= set(discovered)
    for name, guest in guests.items():
        uri = guest.hypervisor.uri
        assert discovered[name] == {"{#DOMAIN}": name, "{#UUID}": guest.uuid, "{#URI}": uri}
    # What the JSONPaths of the comment lead to is there.
    paths = re.findall(
        r'\$\.hosts\[\*\]\.domains\[\?\(@\.uuid=="\{#UUID\}"\)\]\.(\w+)\.first\(\)',
        (EXAMPLES / "zabbix" / "virtballoon.conf").read_text(),
    )
    assert len(paths) == 3
    rows = [row for host in item("virtballoon.guests")["hosts"] for row in host["domains"]]
    (row,) = (row for row in rows if row["uuid"] == discovered["watched"]["{#UUID}"])
    assert all(row[key] is not None for key in paths)
    # Where none answers no guest is lost.
    hosts.write_text(f"[hosts.dead]\nuri = '{dead}'\n")
    assert said("virtballoon.discovery") == ""
    assert [host["status"] for host in item("virtballoon.guests")["hosts"]] == ["unreachable"]


def test_telegraf(guests: dict[str, Guest]) -> None:
    # Debian has no Telegraf: its file is TOML, and what it would parse is parsed here.
    text = (EXAMPLES / "telegraf" / "virtballoon.conf").read_text()
    (source,) = tomllib.loads(text)["inputs"]["exec"]
    assert source["data_format"] == "prometheus"
    (command,) = source["commands"]

    def read(options: str = "") -> dict[str, dict[str, float]]:
        """What it is given, of each metric by the guest or, where it is of none, the host; of
        the verdicts, whether it is busy."""
        words = [word.replace("export", f"export {options}") for word in shlex.split(command)]
        result = run_example(guests["watched"].hypervisor, *words)
        assert result.returncode == 0, result.stderr
        metrics: dict[str, dict[str, float]] = {}
        for family in text_string_to_metric_families(result.stdout):
            for sample in family.samples:
                if sample.labels.get("verdict", "busy") == "busy":
                    whose = sample.labels.get("domain", sample.labels.get("host", ""))
                    metrics.setdefault(sample.name, {})[whose] = sample.value
        return metrics

    metrics = read()
    assert set(guests) <= set(metrics["virtballoon_domain_info"])
    used = metrics["virtballoon_domain_used_bytes"]
    assert 0 < used["watched"] < guests["watched"].meminfo()["MemTotal"]
    # That some guest or host does not answer takes nothing away.
    stopped = guests["paused"]
    stopped.stop_process()
    try:
        metrics = read("--timeout 3")
    finally:
        stopped.cont_process()
    assert metrics["virtballoon_domain_verdict"]["paused"] == 1
    assert metrics["virtballoon_domain_used_bytes"].keys() >= {"watched", HOSTILE}
    assert read(f"-c {NOBODY_LISTENS}")["virtballoon_up"] == {
        libvirt.open("test:///default").getHostname(): 0
    }
    # A command that says nothing is an error.
    wrong = [word.replace("export", "export --no-such-option") for word in shlex.split(command)]
    result = run_example(stopped.hypervisor, *wrong)
    assert (result.returncode, result.stdout) == (1, "")


def test_pcp(guests: dict[str, Guest]) -> None:
    # Its agent needs a daemon of its own: what the agent would read is read here.
    result = run_example(guests["watched"].hypervisor, EXAMPLES / "pcp" / "virtballoon")
    assert (result.returncode, result.stderr) == (0, "")
    samples = [line for line in result.stdout.splitlines() if not line.startswith("#")]
    assert samples
    sample = re.compile(r'[a-z_]+(\{(\w+="([^"\\]|\\.)*",?)*\})? -?[0-9.e+-]+')
    assert [line for line in samples if not sample.fullmatch(line)] == []
    assert any('"watched"' in line for line in samples)


def test_collectd(guests: dict[str, Guest], tmp_path: Path) -> None:
    daemon = program("collectd")
    folder = EXAMPLES / "collectd"
    main = tmp_path / "collectd.conf"
    main.write_text(
        f'Hostname "hv1"\nBaseDir "{tmp_path}"\nPIDFile "{tmp_path}/pid"\n'
        f'LoadPlugin unixsock\n<Plugin unixsock>\n  SocketFile "{tmp_path}/socket"\n</Plugin>\n'
        f'Include "{folder}/virtballoon.conf"\n'
    )
    said = checked(daemon, "-t", "-C", main)
    assert "rror" not in said

    # It would be started as another user, who may not read this checkout. What it hands over is
    # handed to collectd here.
    wanted = {
        f"virtballoon-{guest}/{kind}"
        for guest in ("watched", guests[HOSTILE].uuid)
        for kind in ("gauge-age", "memory-used", "percent-used")
    }
    script = folder / "collectd_exec.py"
    uri = guests["watched"].hypervisor.uri
    lines = _handed_over([uri], script, wanted, tmp_path / "lines")
    values = {}
    for line in lines:
        found = re.fullmatch(r'PUTVAL "hv1/([^"]+)" interval=1\.000 N:([\d.]+)\n', line)
        assert found, line
        values[found[1]] = float(found[2])
    assert 0 < values["virtballoon-watched/memory-used"] < guests["watched"].meminfo()["MemTotal"]
    # Only its age is told of figures that cannot be trusted.
    assert "virtballoon-paused/memory-used" not in values

    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [daemon, "-f", "-C", main], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_until((tmp_path / "socket").exists, 60, "collectd's socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "socket"))
            with client.makefile("rw") as stream:
                for line in lines:
                    stream.write(line)
                    stream.flush()
                    assert stream.readline() == "0 Success: 1 value has been dispatched.\n"
    finally:
        process.terminate()
        process.wait(60)


def test_collectd_with_several_hosts(tmp_path: Path) -> None:
    # Libvirt's driver for tests, by two URIs: two hosts of one name with a guest of one name.
    wanted = {f"virtballoon-test_{name}-test/gauge-age" for name in ("default", "default_second_1")}
    script = EXAMPLES / "collectd" / "collectd_exec.py"
    uris = ["test:///default", "test:///default?second=1"]
    _handed_over(uris, script, wanted, tmp_path / "lines")


def _handed_over(uris: Sequence[str], script: Path, wanted: set[str], output: Path) -> list[str]:
    """What a script of collectd's exec plugin says, until it has said what is wanted."""

    def lines() -> list[str]:
        return output.read_text().splitlines(keepends=True)

    with output.open("w") as stdout:
        process = subprocess.Popen(
            [sys.executable, script, *uris],
            env=os.environ | {"COLLECTD_HOSTNAME": "hv1", "COLLECTD_INTERVAL": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
        )
    try:
        wait_until(lambda: all(any(w in line for line in lines()) for w in wanted), 60, str(wanted))
    finally:
        process.kill()
        process.wait()
    return lines()
