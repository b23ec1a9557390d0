"""``virtballoon export``: what it refuses, prints and writes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.unit.command import CONFIGURATION, EVIL, NOBODY_LISTENS, TEST, assert_refused
from tests.unit.sizing_histories import GIB, history, steady, store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.command import Command

USAGE = {
    ("--format", "json"): "No such option",
    ("-q",): "--quiet requires --output",
    ("--max-age", "3"): "--max-age requires --listen",
    ("--ensure-interval", "3"): "--ensure-interval requires --listen",
    ("--compat", "x"): "libvirt-exporter",
    ("--label", "projct"): "no label 'projct'; did you mean 'project'?",
    ("--store", "x"): "--store requires --advice",
    ("--listen", "x"): "invalid address 'x'",
    ("--listen", "systemd"): "systemd has passed no socket",
    ("--listen", "127.0.0.1:0", "--openmetrics"): "--openmetrics cannot be combined with --listen",
    ("--listen", "127.0.0.1:0", "--output", "x"): "--output cannot be combined with --listen",
    ("--listen", "127.0.0.1:0", "--max-age", "-1"): "not a time",
    ("--listen", "127.0.0.1:0", "--ensure-interval", "-1"): "not a time",
    ("--listen", "127.0.0.1:0", "--ensure-interval", "0"): "must be at least 1 s",
    ("--listen", "127.0.0.1:0", "--ensure-interval", "1_0"): "not a time",
}


def test_wrong_usage(command: Command) -> None:
    runs = [["-c", TEST, "export", *words] for words in USAGE]
    for result, fragment in zip(command.each(runs), USAGE.values(), strict=True):
        assert_refused(result, 2, fragment)


def test_address_of_another_host(command: Command) -> None:
    result = command("-c", TEST, "export", "--listen", "192.0.2.1:9177")
    assert_refused(result, 1, "cannot listen on 192.0.2.1:9177")


def test_advice(command: Command, node: str, tmp_path: Path) -> None:
    uuid = libvirt.open(node).lookupByName("polled").UUIDString()
    end = int(time.time())
    path = store(tmp_path / "history.db", [history(steady(GIB), uuid=uuid, end=end)])
    given, missing = command.each(
        ["-c", node, "export", "--advice", "--store", str(where)] for where in (path, tmp_path)
    )
    assert (given.status, given.stderr) == (0, "")
    found = [line for line in given.stdout.splitlines() if "_advice{" in line or "need" in line]
    assert [line.partition("{")[0] for line in found if not line.startswith("#")] == [
        *("virtballoon_domain_advice", "virtballoon_domain_need_bytes")
    ]
    assert 'domain="polled",' in given.stdout
    assert "} 1.610612736e+09" in given.stdout
    assert 'verdict="over"' in given.stdout
    # What is wrong with the history costs no other figure.
    assert missing.status == 0
    assert len(missing.complaints) == 1
    assert "virtballoon_domain_verdict{" in missing.stdout
    assert "_advice{" not in missing.stdout


def test_prints_metrics(command: Command, node: str) -> None:
    plain, openmetrics, everyone = command.each(
        [
            ["-c", node, "export"],
            ["-c", node, "export", "--openmetrics", "--compat", "libvirt-exporter"],
            ["-c", node, "export", "--all"],
        ]
    )
    for result in (plain, openmetrics, everyone):
        assert (result.status, result.stderr) == (0, "")
    # The URI is local.
    name = libvirt.open(node).getHostname()
    assert f'\nvirtballoon_up{{host="{name}"}} 1.0\n' in plain.stdout
    assert EVIL.replace('"', '\\"') in plain.stdout
    assert 'domain="off"' not in plain.stdout
    assert 'domain="off"' in everyone.stdout
    assert openmetrics.stdout.endswith("\n# EOF\n")
    assert "\n# TYPE libvirt_domain_memory_stats_major_fault counter\n" in openmetrics.stdout


def test_names_are_printable_on_a_terminal(command: Command, node: str) -> None:
    result = command("-c", node, "export", before="sys.stdout.isatty = lambda: True")
    assert "\\u202eevil" in result.stdout
    assert all(line.isprintable() for line in result.stdout.splitlines())


def test_hosts_have_the_names_of_the_configuration(command: Command, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    away = '[hosts.away]\nuri = "qemu+tcp://[::1]:1/system"\n'
    config.write_text(CONFIGURATION + away)
    result = command("--config-file", str(config), "export")
    name = libvirt.open(TEST).getHostname()
    assert result.status == 3
    ups = [line for line in result.stdout.splitlines() if line.startswith("virtballoon_up")]
    assert ups == [
        f'virtballoon_up{{host="{name}"}} 1.0',
        f'virtballoon_up{{host="{name} (hv2)"}} 1.0',
        f'virtballoon_up{{host="{name} (gone)"}} 0.0',
        'virtballoon_up{host="away"} 0.0',
    ]


def test_names_of_hosts_without_configuration(command: Command) -> None:
    away, twice = "qemu+tcp://me@[::1]:1/system", "qemu+tcp://[::1]:1/session"
    result = command("-c", away, "-c", twice, "export")
    assert result.status == 1
    assert 'virtballoon_up{host="::1"} 0.0\n' in result.stdout
    assert f'virtballoon_up{{host="{twice}"}} 0.0\n' in result.stdout
    # Of one that does not answer, the name that it would have.
    result = command("export", env={"LIBVIRT_DEFAULT_URI": NOBODY_LISTENS})
    assert result.status == 1
    assert f'virtballoon_up{{host="{libvirt.open(TEST).getHostname()}"}} 0.0\n' in result.stdout


def test_labels_of_the_configuration(command: Command, node: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[labels]\nnick = '/domain/name'\n")
    with_config = ["--config-file", str(config), "-c", node, "export"]
    result = command(*with_config, "--label", "nick", "polled")
    (line,) = (line for line in result.stdout.splitlines() if "_labels{" in line)
    assert ',nick="polled"} 1.0' in line
    assert "_labels{" not in command(*with_config).stdout


def test_file_of_an_unreachable_host(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "virtballoon.prom"
    file.write_text("old\n")
    result = command("-c", NOBODY_LISTENS, "export", "--output", str(file))
    assert (result.status, result.stdout, len(result.complaints)) == (1, "", 1)
    assert "virtballoon_up{" in file.read_text()


@pytest.mark.parametrize("quiet", [[], ["-q"]])
def test_problems_are_printed_next_to_a_file(
    command: Command, node: str, tmp_path: Path, quiet: list[str]
) -> None:
    file = tmp_path / "virtballoon.prom"
    result = command("-c", node, "export", "--output", str(file), *quiet)
    assert result.status == 0
    assert any("polling-off" in line for line in result.complaints) is bool(quiet)
    # The file has everything either way.
    assert 'verdict="no-device"} 1.0' in file.read_text()
