"""Names of real domains that are anything but names: each is meant alone, and harms nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import libvirt
import pytest

from tests import journal
from tests.lab import Hypervisor
from tests.test_command import COMMAND
from tests.unit.test_documents import VALIDATOR
from tests.unit.test_log import fields
from virtballoon import Outcome, find_qom_path, read_host, set_intervals

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
    "two\nlines",
    "\n",
    "a\nPRIORITY=0\n",
    "cr\rlf\r\n",
    "-c",
    'a\nb,"c"\r\n=1+1',
    "🎈\x7f",
)
NAMES = (*DEFINED, *TRANSIENT)


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
def named(hypervisor: Hypervisor) -> Iterator[dict[str, str]]:
    """The UUIDs of the domains by their names."""
    connection = hypervisor.connection
    uuids = {name: str(uuid4()) for name in NAMES} | {"plain": NAMESAKE}
    try:
        for name in DEFINED:
            connection.defineXML(xml_of(name, uuids[name]))
        for name in TRANSIENT:
            connection.createXML(xml_of(name, uuids[name]), libvirt.VIR_DOMAIN_START_PAUSED)
        yield uuids
    finally:
        for domain in connection.listAllDomains():
            if domain.UUIDString() in uuids.values():
                (domain.destroy if domain.isActive() else domain.undefine)()


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
@pytest.mark.parametrize("command", [("list", "--all"), ("stats", "*")])
def test_names_come_back_from_every_format(
    hypervisor: Hypervisor, named: dict[str, str], command: tuple[str, ...], format_: str
) -> None:
    words = command if command[0] == "list" else ("stats", "--", *NAMES)
    text, _ = run(hypervisor, "--format", format_, *words)
    # Those of other tests may be there, too.
    found = {row["name"]: row["uuid"] for row in rows(text, format_)}
    assert found.items() >= named.items()
    if format_ != "csv":
        assert text.isascii()


def test_a_file_holds_them_as_they_are(
    hypervisor: Hypervisor, named: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "report"
    run(hypervisor, "list", "--all", "--format", "csv", "--output", str(file))
    found = {row["name"]: row["uuid"] for row in rows(file.read_bytes().decode(), "csv")}
    assert found.items() >= named.items()


@pytest.mark.parametrize("name", NAMES)
def test_each_is_meant_alone(hypervisor: Hypervisor, named: dict[str, str], name: str) -> None:
    found = read_host(hypervisor.connection, [name]).domains
    assert [(row.name, row.uuid) for row in found] == [(name, named[name])]
    found = read_host(hypervisor.connection, [named[name].upper()]).domains
    assert [row.name for row in found] == [name]


def test_on_the_command_line_all_are_meant_and_nobody_else(
    hypervisor: Hypervisor, named: dict[str, str]
) -> None:
    text, complaints = run(hypervisor, "list", "--format", "json", "--", *NAMES)
    assert {row["name"]: row["uuid"] for row in rows(text, "json")} == named
    assert complaints == []
    # The word is one's name and the other's UUID; in capitals it is a UUID alone.
    for word, name in ((NAMESAKE, NAMESAKE), (NAMESAKE.upper(), "plain")):
        text, _ = run(hypervisor, "list", "--format", "json", word)
        assert [row["name"] for row in rows(text, "json")] == [name]
    refused = run(hypervisor, "list", "--no-such-domain", status=2)
    assert refused[0] == ""


def test_a_table_has_a_line_each(hypervisor: Hypervisor, named: dict[str, str]) -> None:
    text, complaints = run(hypervisor, "list", "--", *NAMES)
    lines = text.split("\n")
    assert lines.pop() == ""
    assert len(lines) == 1 + len(NAMES)
    assert all(line.isprintable() for line in lines)
    assert {line.split()[-1] for line in lines[1:]} == {"shutoff", "suspended"}
    # The running ones are not polled, and the advice names them for a shell.
    assert [line for line in complaints if "set-interval" in line] == complaints
    text, _ = run(hypervisor, "stats", "--", *NAMES)
    assert text.count("\n\n") == len(NAMES) - 1
    assert all(line.isprintable() for line in text.split("\n"))


def test_intervals_and_paths(hypervisor: Hypervisor, named: dict[str, str]) -> None:
    text, _ = run(hypervisor, "set-interval", "7", "--format", "json", "--", *NAMES)
    changes = rows(text, "json")
    assert {row["name"]: row["uuid"] for row in changes} == named
    assert {row["outcome"] for row in changes} == {Outcome.CHANGED}
    for name, uuid in named.items():
        domain = hypervisor.connection.lookupByUUIDString(uuid)
        assert domain.name() == name
        assert "<stats period='7'/>" in domain.XMLDesc()
    text, _ = run(hypervisor, "set-interval", "8", "--", *NAMES)
    assert text.count("\n") == 1 + len(NAMES)
    assert all(line.isprintable() for line in text.split("\n"))
    (change,) = set_intervals(hypervisor.connection, 9, ["*"]).changes
    assert change.name == "*"
    for name in TRANSIENT:
        place = find_qom_path(hypervisor.uri, name)
        assert (place.name, place.uuid) == (name, named[name])
        assert place.qom_path == "/machine/peripheral/balloon0"
    text, _ = run(hypervisor, "qom-path", "--format", "csv", "--", TRANSIENT[-2])
    assert [row["name"] for row in rows(text, "csv")] == [TRANSIENT[-2]]


def test_the_passthrough_is_asked_of_the_right_one(
    hypervisor: Hypervisor, named: dict[str, str]
) -> None:
    text, _ = run(hypervisor, "--via", "qom", "list", "--format", "json", "--", *TRANSIENT)
    found = rows(text, "json")
    assert {row["name"]: row["uuid"] for row in found} == {n: named[n] for n in TRANSIENT}
    assert all(row["interval"]["qemu"] == row["interval"]["live"] for row in found)


def test_a_line_of_the_log_cannot_be_forged(hypervisor: Hypervisor, named: dict[str, str]) -> None:
    words = ("--log", "stderr", "set-interval", "5", "--live", "--", *DEFINED)
    text, complaints = run(hypervisor, *words, status=1)
    lines = [fields(line) for line in complaints]
    assert all(line.startswith("time=") for line in complaints)
    warnings = {line["uuid"]: line["domain"] for line in lines if line["level"] == "warning"}
    assert warnings.keys() == {named[name] for name in DEFINED}
    assert warnings[named["plain"]] == "plain"
    assert warnings[named["a\tb"]] == "a\\tb"
    assert all(line["host"] == hypervisor.uri for line in lines)
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_field_of_the_journal_cannot_be_forged(
    hypervisor: Hypervisor, named: dict[str, str]
) -> None:
    journal.require()
    words = ("-c", hypervisor.uri, "--log", "journald", "set-interval", "5", "--config")
    result, entries = journal.run(*words, "--", *TRANSIENT)
    assert result.returncode == 1
    assert {entry["PRIORITY"] for entry in entries} == {"4", "6"}
    told = {
        # What is not printable is an array of bytes in journalctl's JSON.
        entry["VIRTBALLOON_UUID"]: name if isinstance(name, str) else bytes(name).decode()
        for entry in entries
        if (name := entry.get("VIRTBALLOON_DOMAIN")) is not None
    }
    assert told == {named[name]: name for name in TRANSIENT}
    assert all(entry["MESSAGE"].isprintable() for entry in entries)


def test_hosts_counts_them(hypervisor: Hypervisor, named: dict[str, str]) -> None:
    text, _ = run(hypervisor, "hosts", "--format", "json")
    (host,) = json.loads(text)["hosts"]
    assert host["defined"] >= len(DEFINED)
    assert host["running"] >= len(TRANSIENT)


def test_completion_offers_what_no_shell_minds(
    hypervisor: Hypervisor, named: dict[str, str]
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
