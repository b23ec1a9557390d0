"""Every command on every reference guest, through libvirt and through QEMU.

That each guest is still the same running process is checked after every test of the run.
"""

from __future__ import annotations

import json
from itertools import product

import click
import pytest

from tests.lab import Guest, Hypervisor
from tests.running import run
from virtballoon.cli import cli

pytestmark = pytest.mark.smoke

#: What each command is given before the guest's name. "set-interval" sets what already is.
WORDS = {
    "list": (("--all",),),
    "stats": ((), ("--fresh", "--timeout", "4"), ("--rates", "1")),
    "set-interval": (("--dry-run", "7"), ("PERIOD",)),
    "qom-path": ((),),
    "doctor": (("--all",),),
    "check": ((),),
    "export": ((),),
    "watch": (("--once", "--all"),),
    "hosts": ((),),
    "record": (("--store", "/dev/null"),),
    "advise": ((),),
    "completion": ((),),
}
#: Those that take no domains: all of the host.
WITHOUT_DOMAINS = ("export", "hosts", "advise", "completion")


def test_all_commands_are_here() -> None:
    assert set(WORDS) == set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize("via", ["libvirt", "qom"])
@pytest.mark.parametrize("command", [name for name in WORDS if name not in WITHOUT_DOMAINS])
def test_every_command_on_every_guest(
    hypervisor: Hypervisor, guests: dict[str, Guest], command: str, via: str
) -> None:
    # Most have figures by now, which makes the most of each command.
    for words, (name, guest) in product(WORDS[command], guests.items()):
        given = [str(guest.spec.period or 0) if word == "PERIOD" else word for word in words]
        result = run(hypervisor, command, "--via", via, *given, name)
        assert "Traceback" not in result.stderr, result.stderr
        assert "internal error" not in result.stderr, result.stderr
        # A guest without a balloon or without a driver has no path, or takes no interval.
        assert result.returncode in {0, 1, 3} or command == "check", result


@pytest.mark.parametrize("via", ["libvirt", "qom"])
def test_commands_without_domains(
    hypervisor: Hypervisor, guests: dict[str, Guest], via: str
) -> None:
    (host,) = json.loads(run(hypervisor, "hosts", "--format", "json").stdout)["hosts"]
    assert host["running"] >= sum(guest.spec.start for guest in guests.values())
    exported = run(hypervisor, "export", "--all", "--via", via)
    assert exported.returncode == 0
    assert all(f'domain="{name}"' in exported.stdout for name in guests)
    assert run(hypervisor, "completion", "bash").returncode == 0
