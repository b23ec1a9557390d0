"""Labels of real domains: the metadata of each platform as libvirt keeps it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from tests.lab import Hypervisor
from tests.lab.guest import GuestSpec, domain_xml
from tests.running import on_a_terminal, run
from tests.unit.builders import METADATA, OTHER_METADATA, VALIDATOR
from virtballoon import read_domain

APP = "<acme:app xmlns:acme='urn:acme' team='blue'/>"
LONG = f"<x:x xmlns:x='urn:x'>{'y' * 100_000}</x:x>"
#: By the domain's name: what its definition has besides, and its labels.
DOMAINS = {
    "instance-0000000e": (
        f"<title>Shop</title><metadata>{METADATA['nova'][0]}{METADATA['libosinfo'][0]}</metadata>",
        {"title": "Shop", **METADATA["nova"][1], **METADATA["libosinfo"][1]},
    ),
    "one-7": (f"<metadata>{METADATA['opennebula'][0]}{APP}</metadata>", METADATA["opennebula"][1]),
    "mynamespace_testvm": (
        f"<metadata>{METADATA['kubevirt'][0]}{OTHER_METADATA}</metadata>",
        METADATA["kubevirt"][1],
    ),
    "hostile": (
        f"<title>\u202eevil\u2066</title><metadata>{LONG}</metadata>",
        {"title": "\u202eevil\u2066"},
    ),
}
RUNNING = "instance-0000000e"


def definition(name: str) -> str:
    xml = domain_xml(GuestSpec(name, memory_mib=16))
    return xml.replace("</name>", f"</name>{DOMAINS[name][0]}", 1)


@pytest.fixture(scope="module")
def labelled(hypervisor: Hypervisor) -> Iterator[Hypervisor]:
    """Domains with metadata, of which one runs, paused."""
    domains = {name: hypervisor.connection.defineXML(definition(name)) for name in DOMAINS}
    try:
        domains[RUNNING].createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
        yield hypervisor
    finally:
        domains[RUNNING].destroy()
        for domain in domains.values():
            domain.undefine()


def listed(hypervisor: Hypervisor, *words: str, **environment: str) -> str:
    result = run(hypervisor, "list", *words, *DOMAINS, **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_labels_in_every_format(labelled: Hypervisor) -> None:
    document = json.loads(listed(labelled, "--format=json"))
    VALIDATOR.validate(document)
    (host,) = document["hosts"]
    read = {domain["name"]: domain["labels"] for domain in host["domains"]}
    assert read == {name: expected for name, (_, expected) in DOMAINS.items()}

    lines = csv.DictReader(io.StringIO(listed(labelled, "--format=csv"), newline=""))
    for line in lines:
        cells = {key: text for key, text in line.items() if key.startswith("labels.") and text}
        assert cells == {f"labels.{key}": text for key, text in read[line["name"]].items()}


def test_tables(labelled: Hypervisor) -> None:
    rows = {line.split()[0]: line for line in listed(labelled).splitlines()}
    assert rows["DOMAIN"].split()[1] == "TITLE"
    assert rows[RUNNING].split()[1] == "Shop"
    assert rows["mynamespace_testvm"].split()[1] == "testvm"
    assert rows["hostile"].split()[1] == "\\u202eevil\\u2066"
    assert "PROJECT ID" in listed(labelled, "--wide").splitlines()[0]
    by_project = listed(labelled, "--columns=project,labels.name,group", "--sort=-project")
    assert [line.split() for line in by_project.splitlines()[:2]] == [
        ["PROJECT", "NAME", "GROUP"],
        ["acme", "shop-web-1", "-"],
    ]
    screen = on_a_terminal(labelled, 80, "list", *DOMAINS)
    assert "TITLE" in screen
    assert "TOTAL" not in screen


def test_conditions_and_groups(labelled: Hypervisor) -> None:
    assert listed(labelled, "--name", "--where=project=acme") == f"{RUNNING}\n"
    assert listed(labelled, "--name", "--where=title=", "--where=project=") == (
        "mynamespace_testvm\none-7\n"
    )
    by_os = csv.DictReader(listed(labelled, "--group-by=os", "--format=csv").splitlines())
    system = DOMAINS[RUNNING][1]["os"]
    assert [(row["value"], row["domains"], row["unknown_domains"]) for row in by_os] == [
        (system, "1", "1"),
        ("", "3", "0"),
    ]
    # Exactly those are set.
    names = {domain.name() for domain in labelled.connection.listAllDomains()}
    words = ("set-interval", "60", "--all", "--config", f"--where=os={system}", "--format=csv")
    result = run(labelled, *words)
    assert result.returncode == 0, result.stderr
    changed = list(csv.DictReader(result.stdout.splitlines()))
    assert [(row["name"], row["outcome"]) for row in changed] == [(RUNNING, "changed")]
    for name in names:
        inactive = labelled.connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        assert ("<stats period='60'/>" in inactive) is (name == RUNNING)
    result = run(labelled, "set-interval", "60", "--all", "--where=os=nothing")
    assert (result.returncode, result.stdout) == (1, "")
    result = run(labelled, "list", "--where=projekt=acme")
    assert (result.returncode, result.stdout) == (2, "")
    assert "did you mean 'project'?" in result.stderr


def test_labels_of_the_configuration(labelled: Hypervisor, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        "[labels]\nteam = '/domain/metadata/acme:app/@team'\n[labels.namespaces]\nacme = 'urn:acme'"
    )
    words = ("--columns=name,team", "--format=csv", "--no-header")
    shown = listed(labelled, *words, VIRTBALLOON_CONFIG_FILE=str(file))
    assert "one-7,blue\n" in shown
    assert f"{RUNNING},\n" in shown

    file.write_text("[labels]\nteam = 'none()'")
    result = run(labelled, "list", VIRTBALLOON_CONFIG_FILE=str(file))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"virtballoon: {file}: labels.team: invalid XPath: ")


@pytest.mark.once
def test_metadata_that_virsh_sets(labelled: Hypervisor) -> None:
    domain = labelled.connection.lookupByName(RUNNING)
    uri = "http://openstack.org/xmlns/libvirt/nova/1.1"
    # libvirt adds the namespace.
    changed = METADATA["nova"][0].replace(f' xmlns:nova="{uri}"', "").replace("nova:", "")
    changed = changed.replace("shop-web-1", "renamed")
    for flag in ("--live", "--config"):
        labelled.virsh("metadata", RUNNING, uri, "--key=nova", flag, f"--set={changed}")
    labelled.virsh("desc", RUNNING, "--live", "--title", "--new-desc=a & b")
    labels = read_domain(domain).labels
    assert labels["title"] == "a & b"
    assert labels["name"] == "renamed"
    assert labels["project"] == "acme"
