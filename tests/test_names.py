"""Names of real domains that are anything but names: each is meant alone, and harms nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import libvirt
import pytest

from tests.lab import Hypervisor
from tests.running import COMMAND, fields, take_advice
from tests.unit.builders import VALIDATOR
from virtballoon import (
    Outcome,
    find_qom_path,
    read_host,
    set_intervals,
)

#: A name of one domain, the UUID of another.
NAMESAKE = str(uuid4())
#: Libvirt takes these for a persistent domain, all but NUL, ESC and the like, which XML has not.
DEFINED = (
    *("a\tb", "\t", "DEL\x7f", "C1 \x9b31m red", " ", "   ", " both ends ", "\xa0"),
    *("\u202eevil\u2066", "line\u2028separator", "zero\u200bwidth\ufeff", "🎈", "e\u0301 é"),
    *("-", "--", "-x", "--all", "--format=json", "12345", "0", "...", "@prod", NAMESAKE),
    *("*", "?", "[a]", "[!a]*", "a*", "\\*", "{a,b}", "~", "$HOME", "`id`", "$(id)", "!!"),
    *("'", '"', "''", 'it\'s "q"', "\\", "\\n", "a,b;c", '"a","b"', "a|b", "a&b", "#", "%s%n"),
    *("=cmd|' C calc'!A0", "@SUM(1+1)", "+1", "-2+3", "NaN", "null", "true", "None"),
    *("[bold]x[red]", ":smile:", "<b>&amp;<b>", "]]>", "a=b", "x" * 200, "plain"),
)
#: And these for a transient one, too.
TRANSIENT = (
    "two  blanks",
    "two\nlines",
    "\n",
    "a\nPRIORITY=0\n",
    "cr\rlf\r\n",
    "-c",
    'a\nb,"c"\r\n=1+1',
    "🎈\x7f",
)

pytestmark = pytest.mark.once
NAMES = (*DEFINED, *TRANSIENT)

#: The UUIDs of the domains by their names.
Named = dict[str, str]


def xml_of(name: str, uuid: str) -> str:
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = name
    ET.SubElement(domain, "uuid").text = uuid
    ET.SubElement(domain, "memory", unit="MiB").text = "16"
    ET.SubElement(ET.SubElement(domain, "os"), "type", arch="x86_64").text = "hvm"
    ET.SubElement(ET.SubElement(domain, "devices"), "memballoon", model="virtio")
    # As it is, a carriage return would be the end of a line.
    return ET.tostring(domain, encoding="unicode").replace("\r", "&#13;")


@pytest.fixture(scope="module")
def named(hypervisor: Hypervisor) -> Iterator[Named]:
    """Domains with these names, save the few that another libvirt may refuse."""
    connection = hypervisor.connection
    uuids: Named = {}
    try:
        for name in NAMES:
            uuid = NAMESAKE if name == "plain" else str(uuid4())
            with suppress(libvirt.libvirtError):
                if name in DEFINED:
                    connection.defineXML(xml_of(name, uuid))
                else:
                    connection.createXML(xml_of(name, uuid), libvirt.VIR_DOMAIN_START_PAUSED)
                uuids[name] = uuid
        assert len(uuids) > 0.8 * len(NAMES)
        yield uuids
    finally:
        for domain in connection.listAllDomains():
            if domain.UUIDString() in uuids.values():
                (domain.destroy if domain.isActive() else domain.undefine)()


@pytest.fixture(scope="module")
def running(named: Named) -> Named:
    """Those of them that run."""
    return {name: uuid for name, uuid in named.items() if name in TRANSIENT}


@pytest.fixture(scope="module")
def stopped(named: Named) -> Named:
    """Those of them that do not."""
    return {name: uuid for name, uuid in named.items() if name in DEFINED}


def run(
    hypervisor: Hypervisor, *words: str, status: int = 0, **environment: str
) -> tuple[str, list[str]]:
    """Run the command; what it prints, with the line ends that are in it, and says."""
    result = subprocess.run(
        [COMMAND, *words],
        env={**os.environ, "LIBVIRT_DEFAULT_URI": hypervisor.uri, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    complaints = result.stderr.decode()
    assert result.returncode == status, complaints
    assert all(line.isprintable() for line in complaints.split("\n"))
    return result.stdout.decode(), complaints.split("\n")[:-1]


def rows(text: str, format_: str) -> list[dict[str, Any]]:
    """The domains of a document, read by Python's own modules."""
    match format_:
        case "json":
            document = json.loads(text, parse_constant=pytest.fail)
            VALIDATOR.validate(document)
            (host,) = document["hosts"]
            found: list[dict[str, Any]] = host["domains"]
            return found
        case "jsonl":
            return [json.loads(line) for line in text.splitlines()]
        case _:
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.parametrize("format_", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("command", ["list", "stats"])
def test_names_come_back_from_every_format(
    hypervisor: Hypervisor, named: Named, command: str, format_: str
) -> None:
    words = ("list", "--all") if command == "list" else ("stats", "--", *named)
    text, _ = run(hypervisor, *words[:1], "--format", format_, *words[1:])
    # Those of other tests may be there, too.
    found = {row["name"]: row["uuid"] for row in rows(text, format_)}
    assert found.items() >= named.items()
    if format_ != "csv":
        assert text.isascii()


def test_a_file_holds_them_as_they_are(
    hypervisor: Hypervisor, named: Named, tmp_path: Path
) -> None:
    file = tmp_path / "report"
    run(hypervisor, "list", "--all", "--format", "csv", "--output", str(file))
    found = {row["name"]: row["uuid"] for row in rows(file.read_bytes().decode(), "csv")}
    assert found.items() >= named.items()


@pytest.mark.parametrize("name", NAMES)
def test_each_name_selects_its_domain(hypervisor: Hypervisor, named: Named, name: str) -> None:
    if name not in named:
        pytest.skip("this libvirt refuses the name")
    found = read_host(hypervisor.connection, [name]).domains
    assert [(row.name, row.uuid) for row in found] == [(name, named[name])]
    found = read_host(hypervisor.connection, [named[name].upper()]).domains
    assert [row.name for row in found] == [name]


def test_command_selects_every_domain_and_no_other(hypervisor: Hypervisor, named: Named) -> None:
    text, complaints = run(hypervisor, "list", "--format", "json", "--", *named)
    assert {row["name"]: row["uuid"] for row in rows(text, "json")} == named
    assert complaints == []
    # The word is one's name and the other's UUID; in capitals it is a UUID alone.
    for word, name in ((NAMESAKE, NAMESAKE), (NAMESAKE.upper(), "plain")):
        text, _ = run(hypervisor, "list", "--format", "json", word)
        assert [row["name"] for row in rows(text, "json")] == [name]
    refused = run(hypervisor, "list", "--no-such-domain", status=2)
    assert refused[0] == ""


def test_a_table_has_a_line_each(hypervisor: Hypervisor, named: Named) -> None:
    text, complaints = run(hypervisor, "list", "--", *named)
    lines = text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == 1 + len(named)
    assert all(line.isprintable() for line in lines)
    assert {line.split()[-1] for line in lines[1:]} == {"shutoff", "suspended"}
    # The running ones are not polled, and the advice names them for a shell.
    assert [line for line in complaints if "set-interval" in line] == complaints
    text, _ = run(hypervisor, "stats", "--", *named)
    assert text.count("\n\n") == len(named) - 1
    assert all(line.isprintable() for line in text.split("\n"))


def test_intervals_and_paths(hypervisor: Hypervisor, named: Named, running: Named) -> None:
    text, _ = run(hypervisor, "set-interval", "7", "--format", "json", "--", *named)
    changes = rows(text, "json")
    assert {row["name"]: row["uuid"] for row in changes} == named
    assert {row["outcome"] for row in changes} == {Outcome.CHANGED}
    for name, uuid in named.items():
        domain = hypervisor.connection.lookupByUUIDString(uuid)
        assert domain.name() == name
        assert "<stats period='7'/>" in domain.XMLDesc()
    text, _ = run(hypervisor, "set-interval", "8", "--", *named)
    assert text.count("\n") == 1 + len(named)
    assert all(line.isprintable() for line in text.split("\n"))
    (change,) = set_intervals(hypervisor.connection, 9, ["*"]).domains
    assert change.name == "*"
    for name, uuid in running.items():
        (place,) = find_qom_path(hypervisor.uri, name).domains
        assert (place.name, place.uuid) == (name, uuid)
        assert place.qom_path == "/machine/peripheral/balloon0"
    text, _ = run(hypervisor, "qom-path", "--format", "csv", "--", name)
    assert [row["name"] for row in rows(text, "csv")] == [name]


def test_advice_selects_the_same_domains(hypervisor: Hypervisor, running: Named) -> None:
    def polled() -> set[str]:
        domains = {name: hypervisor.connection.lookupByUUIDString(u) for name, u in running.items()}
        return {name for name, domain in domains.items() if "period='10'" in domain.XMLDesc()}

    for names in (["two  blanks", "-c"], list(running)[1:4]):
        run(hypervisor, "set-interval", "0", "--", *running)
        _, (complaint,) = run(hypervisor, "list", "--", *names)
        done = take_advice(hypervisor, complaint)
        assert (done.returncode, done.stderr) == (0, "")
        assert polled() == set(names)


def test_the_passthrough_is_asked_of_the_right_one(hypervisor: Hypervisor, running: Named) -> None:
    text, _ = run(hypervisor, "list", "--via", "qom", "--format", "json", "--", *running)
    found = rows(text, "json")
    assert {row["name"]: row["uuid"] for row in found} == running
    assert all(row["interval"]["qemu"] == row["interval"]["live"] for row in found)


def test_a_line_of_the_log_cannot_be_forged(hypervisor: Hypervisor, stopped: Named) -> None:
    words = ("set-interval", "--log", "stderr", "5", "--live", "--", *stopped)
    text, complaints = run(hypervisor, *words, status=1)
    lines = [fields(line) for line in complaints]
    assert all(line.startswith("time=") for line in complaints)
    warnings = {line["uuid"]: line["domain"] for line in lines if line["level"] == "warning"}
    assert warnings.keys() == set(stopped.values())
    assert warnings[stopped["plain"]] == "plain"
    assert warnings[stopped["a\tb"]] == "a\\tb"
    assert all(line["host"] == hypervisor.uri for line in lines)
    assert all(line.isprintable() for line in text.split("\n"))


def test_hosts_counts_them(hypervisor: Hypervisor, running: Named, stopped: Named) -> None:
    text, _ = run(hypervisor, "hosts", "--format", "json")
    (host,) = json.loads(text)["hosts"]
    assert host["defined"] >= len(stopped)
    assert host["running"] >= len(running)


def test_completion_offers_only_words_that_need_no_quoting(
    hypervisor: Hypervisor, named: Named
) -> None:
    text, complaints = run(
        hypervisor,
        _VIRTBALLOON_COMPLETE="bash_complete",
        COMP_WORDS="virtballoon\nstats\n",
        COMP_CWORD="2",
    )
    offered = {line.removeprefix("plain,") for line in text.splitlines()}
    assert complaints == []
    assert {"plain", "12345", "a=b", NAMESAKE} <= offered
    harmful = set(" \t\n\r*?[]{}~$`()!'\"\\;|&#<>")
    assert not any(harmful & set(word) or word.startswith("-") for word in offered)
    assert all(word.isprintable() for word in offered)
