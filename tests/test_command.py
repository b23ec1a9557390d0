"""The command on real guests: what it prints, what it says on stderr, and its exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest

import virtballoon
from tests.conftest import GuestFactory
from tests.lab import GuestSpec, Hypervisor
from tests.process import finished
from tests.running import COMMAND, on_a_terminal, run, take_advice

pytestmark = pytest.mark.once


def test_list_shows_every_running_domain(fresh: Hypervisor) -> None:
    result = run(fresh, "list")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert re.fullmatch("DOMAIN +INTERVAL +AGE +USED +USED% +TOTAL +BALLOON +VERDICT", lines[0])
    verdicts = {line.split()[0]: line.split()[-1] for line in lines[1:]}
    assert verdicts.items() >= {
        ("classic", "fresh"),
        ("nodevice", "no-device"),
        ("nodriver", "unanswered"),
        ("unpolled", "polling-off"),
        ("suspended", "suspended"),
    }
    assert "off" not in verdicts
    assert "\x1b" not in result.stdout
    assert all(line == line.rstrip() for line in lines)
    assert re.search(r"^virtballoon: .*virtballoon set-interval 10 .*unpolled", result.stderr)
    assert run(fresh, "list", "--all", "--no-totals").stdout.splitlines()[-4:] != lines[-5:-1]


def test_the_advice_on_stderr_does_what_it_says(
    fresh: Hypervisor, guest_factory: GuestFactory
) -> None:
    guest_factory(GuestSpec("needs polling; $(false) &", period=None))
    done = take_advice(fresh, run(fresh, "list", "needs*").stderr)
    assert (done.returncode, done.stderr) == (0, "")
    assert "changed" in done.stdout
    assert run(fresh, "list", "needs*").stderr == ""


def test_json_is_what_the_library_gives(fresh: Hypervisor) -> None:
    document = json.loads(run(fresh, "list", "classic", "--format", "json").stdout)
    (host,) = document["hosts"]
    (domain,) = host["domains"]
    assert (document["schema"], host["uri"], host["status"]) == (1, fresh.uri, "ok")
    (row,) = virtballoon.read_host(fresh.uri, ["classic"]).domains
    assert domain["uuid"] == row.uuid
    assert domain["stats"]["total_memory"] == row.stats.total_memory
    assert domain["stats"]["oom_kills"] is None
    assert domain["interval"] == {
        "live": 2,
        "config": 2,
        "saved": None,
        "qemu": None,
        "in_force": 2,
    }
    assert domain["verdict"] == "fresh"
    assert domain["used_formula"] == "total-available"


def test_jsonl_and_csv_have_a_domain_a_line_with_its_host(fresh: Hypervisor) -> None:
    lines = run(fresh, "list", "--format", "jsonl", "--all").stdout.splitlines()
    records = {record["name"]: record for record in map(json.loads, lines)}
    assert {record["uri"] for record in records.values()} == {fresh.uri}
    text = run(fresh, "list", "--all", "--format=csv").stdout
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows.keys() == records.keys()
    assert rows["off"]["interval.live"] == ""
    assert rows["off"]["interval.config"] == "5"
    assert rows["nodriver"]["stats.total_memory"] == ""
    assert rows["classic"]["balloon.qom_path"] == "/machine/peripheral/balloon0"


def test_columns_and_order(fresh: Hypervisor) -> None:
    words = ("list", "modern", "nodriver", "classic", "--columns", "name,free_memory,interval")
    result = run(fresh, *words, "--sort", "-name", "--units", "bytes")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert rows[0] == ["DOMAIN", "FREE", "MEMORY", "INTERVAL"]
    assert [row[0] for row in rows[1:]] == ["nodriver", "modern", "classic"]
    assert rows[1][1:] == ["-", "2", "s"]
    assert int(rows[2][1]) > 1024**2
    by_use = run(fresh, *words, "--sort", "used", "--format", "csv").stdout.splitlines()
    assert by_use[0] == "name,stats.free_memory,interval.in_force"
    assert by_use[-1].split(",")[0] == "nodriver", "what has no value comes last"


def test_wide_adds_device_and_intervals(fresh: Hypervisor) -> None:
    result = run(fresh, "list", "--wide", "aliased", "--via", "qom")
    heading, row = result.stdout.splitlines()
    assert heading.split()[-7:] == ["RSS", "LIBVIRT", "QEMU", "MODEL", "ALIAS", "QOM", "PATH"]
    assert re.search(r"2 s +2 s +virtio +ua-memory +/machine/peripheral/ua-memory$", row)


def test_stats_shows_every_statistic(fresh: Hypervisor) -> None:
    result = run(fresh, "stats", "classic", "off")
    assert result.returncode == 0
    blocks = result.stdout.split("\n\n")
    assert blocks[0].startswith("classic: fresh, from libvirt, interval 2 s")
    assert blocks[1].startswith("off: shutoff")
    names = [line.split()[0] for line in blocks[0].splitlines()[1:]]
    assert names[: len(virtballoon.STATISTICS)] == list(virtballoon.STATISTICS)
    exact = run(fresh, "stats", "classic", "--units", "bytes", "--via", "qom").stdout
    total = re.search(r"total_memory +(\d+)", exact)
    assert total is not None
    assert int(total[1]) % 4096 == 0
    everyone = run(fresh, "stats").stdout
    assert "\n\nclassic: fresh" in everyone
    assert "off: shutoff" not in everyone


def test_set_interval(fresh: Hypervisor, guest_factory: GuestFactory) -> None:
    guest_factory(GuestSpec("set-me", paused=True))
    dry = run(fresh, "set-interval", "7", "set-me", "--dry-run")
    assert dry.stdout.splitlines()[1].split() == ["set-me", "changed", "off", "->", "7", "s", "off"]
    assert fresh.virsh("dumpxml", "set-me").stdout.count("period=") == 0
    result = run(fresh, "set-interval", "7", "set-me", "--format", "json")
    (domain,) = json.loads(result.stdout)["hosts"][0]["domains"]
    assert (domain["outcome"], domain["changed"], domain["error"]) == ("changed", True, None)
    assert domain["before"]["live"] == 0
    assert domain["after"]["live"] == 7
    assert fresh.virsh("dumpxml", "set-me").stdout.count("period='7'") == 1
    again = run(fresh, "set-interval", "7", "set-me")
    assert (again.returncode, "unchanged" in again.stdout) == (0, True)


def test_qom_path_stands_alone_on_its_line(fresh: Hypervisor) -> None:
    result = run(fresh, "qom-path", "aliased")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "/machine/peripheral/ua-memory\n"
    assert run(fresh, "qom-path", "--via=qom", "cmdline-id").stdout == (
        "/machine/peripheral/extra-balloon\n"
    )


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["set-interval", "5", "classic", "nobody"], 1, "nothing was changed"),
        (["set-interval", "2147483648", "classic"], 2, "0 to 2147483647"),
        (["set-interval", "4294967296", "classic", "--via", "qom"], 2, "0 to 4294967295"),
        (["set-interval", "5", "off", "--live"], 1, "domain 'off' on .*does not run"),
        (["set-interval", "5", "nodevice"], 1, "no balloon"),
        (["set-interval", "5", "transient", "--config"], 1, "transient"),
        (["set-interval", "5", "off", "--via", "qom", "--live"], 1, "does not run"),
        (["qom-path", "off"], 1, "does not run"),
        (["qom-path", "nodevice"], 1, "no balloon"),
        (["qom-path", "c*"], 1, "domains match"),
    ],
)
def test_bad_input(
    fresh: Hypervisor,
    module_guest_factory: GuestFactory,
    words: list[str],
    status: int,
    complaint: str,
) -> None:
    if "transient" in words:
        module_guest_factory(GuestSpec("transient", persistent=False, paused=True))
    result = run(fresh, *words)
    assert result.returncode == status
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("virtballoon: ")
    assert re.search(complaint, result.stderr)
    for name, period in (("classic", "2"), ("off", "5")):
        xml = fresh.virsh("dumpxml", name, "--inactive").stdout
        assert f"period='{period}'" in xml


def test_part_of_it(fresh: Hypervisor) -> None:
    result = run(fresh, "set-interval", "2", "classic", "nodevice")
    assert result.returncode == 3
    assert "unchanged" in result.stdout
    assert result.stderr.count("\n") == 1
    # By a pattern a domain that cannot be polled is passed over.
    result = run(fresh, "set-interval", "2", "classic", "nodev*")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^nodevice +skipped", result.stdout, re.MULTILINE)


def test_a_host_that_is_not_there_costs_its_own_part(fresh: Hypervisor) -> None:
    dead = "qemu:///session?socket=/nonexistent/libvirt-sock"
    result = run(fresh, "-c", dead, "list", "-c", fresh.uri, "--format", "json")
    # Behind the command's name wins: one host alone.
    assert [host["uri"] for host in json.loads(result.stdout)["hosts"]] == [fresh.uri]
    result = run(fresh, "-c", dead, "-c", fresh.uri, "list", "classic", "--format", "json")
    hosts = json.loads(result.stdout)["hosts"]
    assert result.returncode == 3
    assert [(host["uri"], host["status"]) for host in hosts] == [
        (dead, "unreachable"),
        (fresh.uri, "ok"),
    ]
    assert re.fullmatch(r"virtballoon: on qemu.*nonexistent.*\n", result.stderr)
    assert run(fresh, "-c", dead, "list").returncode == 1


def test_a_name_on_one_of_two_hosts_is_enough(fresh: Hypervisor) -> None:
    hosts = ("-c", fresh.uri, "-c", "test:///default")
    result = run(fresh, *hosts, "set-interval", "3", "test", "off", "--format", "jsonl")
    assert result.returncode == 0
    outcomes = {
        (r["uri"], r["name"]): r["outcome"] for r in map(json.loads, result.stdout.split("\n")[:-1])
    }
    assert outcomes == {
        (fresh.uri, "off"): "changed",
        ("test:///default", "test"): "changed",
    }
    run(fresh, "set-interval", "5", "off")
    result = run(fresh, *hosts, "set-interval", "3", "test", "off", "nobody")
    assert (result.returncode, result.stdout) == (1, "")
    assert "period='5'" in fresh.virsh("dumpxml", "off").stdout


def test_verbose_shows_what_is_asked_of_libvirt(fresh: Hypervisor) -> None:
    result = run(fresh, "-v", "list", "classic")
    assert result.returncode == 0
    assert "openAuth(read-only)" in result.stderr
    assert re.search(r"domainListGetStats\(1 domains\), [\d.]+ ms", result.stderr)
    assert "qemuMonitorCommand" not in result.stderr
    assert "qemuMonitorCommand" in run(fresh, "list", "-v", "classic", "--via=qom").stderr


def test_the_configuration_rules_and_hosts_taints_no_guest(
    fresh: Hypervisor, guest_factory: GuestFactory, tmp_path: Path
) -> None:
    name = guest_factory(GuestSpec("configured", period=2, driver=False)).name
    guest_factory(GuestSpec("idle", start=False))
    path = tmp_path / "config.toml"
    path.write_text(f'[defaults]\nvia = "qom"\n[hosts.lab]\nuri = "{fresh.uri}"\n')
    words = ("--config-file", str(path))
    form = ("--format", "json")

    def tainted() -> bool:
        return "custom monitor" in fresh.virsh("dominfo", name).stdout

    (host,) = json.loads(run(fresh, *words, "hosts", *form).stdout)["hosts"]
    domains = fresh.connection.listAllDomains()
    assert (host["name"], host["uri"]) == ("lab", fresh.uri)
    assert host["running"] == sum(domain.isActive() for domain in domains)
    assert host["defined"] == sum(domain.isPersistent() for domain in domains)
    assert host["running"] != host["defined"]
    completed = run(
        fresh,
        VIRTBALLOON_CONFIG_FILE=str(path),
        _VIRTBALLOON_COMPLETE="bash_complete",
        COMP_WORDS="virtballoon\nlist\nconf",
        COMP_CWORD="2",
    )
    assert completed.stdout == f"plain,{name}\n"
    asked = run(fresh, *words, "-H", "lab", "list", "--via", "libvirt", *form, name)
    assert json.loads(asked.stdout)["hosts"][0]["domains"][0]["source"] == "libvirt"
    assert not tainted()
    asked = run(fresh, *words, "-H", "lab", "list", *form, name)
    assert json.loads(asked.stdout)["hosts"][0]["domains"][0]["source"] == "qom"
    assert tainted()


def test_on_a_terminal_it_is_coloured_and_cut(fresh: Hypervisor) -> None:
    coloured = on_a_terminal(fresh, 60, "list", "--wide")
    assert "\x1b[32mfresh" in coloured or "\x1b[32m" in on_a_terminal(fresh, 120, "list")
    *plain, total = re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines()
    # The summary is whole.
    assert total.endswith(" available")
    assert max(map(len, plain)) <= 60
    assert any(line.endswith("…") for line in plain)
    assert "\x1b" not in on_a_terminal(fresh, 120, "list", NO_COLOR="1")
    # A pipe is never cut, whatever COLUMNS says.
    assert "…" not in run(fresh, "list", "--wide", COLUMNS="60").stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_domains(fresh: Hypervisor, shell: str) -> None:
    if shutil.which(shell) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {shell} here")
    script = run(fresh, "completion", shell)
    assert script.returncode == 0
    programs = {
        "bash": 'eval "$script"; COMP_WORDS=(virtballoon list c); COMP_CWORD=2; '
        '_virtballoon_completion virtballoon; printf "%s\\n" "${COMPREPLY[@]}"',
        "zsh": "autoload -U compinit; compinit -u -D; compadd() { print -l -- ${(P)@[-1]} }; "
        '_describe() { print -l -- ${(P)@[-1]} }; eval "$script"; words=(virtballoon list c); '
        "CURRENT=3; _virtballoon_completion",
        "fish": "echo $script | source; complete -C 'virtballoon list c'",
    }
    result = finished(
        [shell, "-c", programs[shell]],
        env={
            **os.environ,
            "script": script.stdout,
            "LIBVIRT_DEFAULT_URI": fresh.uri,
            "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
        },
    )
    offered = {line.split()[0] for line in result.stdout.splitlines() if line.strip()}
    assert {"classic", "cmdline-id", "cmdline-anon"} <= offered, result.stderr
    assert "modern" not in offered
