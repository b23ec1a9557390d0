"""Domain XML: where the balloon is, its period, and what cannot be read."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree as ET
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import domain, memballoon
from tests.unit.properties import LEADS, assert_xml_read_or_refused
from virtballoon import Connection
from virtballoon.errors import DomainXMLError
from virtballoon.hypervisor import domainxml
from virtballoon.hypervisor.domainxml import MAX_XML_BYTES, DomainXML, parse
from virtballoon.model.balloon import Balloon


@pytest.fixture(scope="module", autouse=True, params=["lxml", "expat"])
def parser(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(domainxml, "_use_expat", threading.Event())
        if request.param == "expat":
            domainxml.use_expat()
        patch.setattr(domainxml, "_parsed", {})
        yield


PCI = "<address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0'/>"
CCW = "<address type='ccw' cssid='0xfe' ssid='0x0' devno='0x0002'/>"
MMIO = "<address type='virtio-mmio'/>"


@pytest.mark.parametrize("address", [PCI, CCW, MMIO, ""], ids=["pci", "ccw", "mmio", "none"])
@pytest.mark.parametrize("model", ["virtio", "virtio-transitional", "virtio-non-transitional"])
def test_balloon_of_a_running_domain(model: str, address: str) -> None:
    inside = f"<stats period='10'/><alias name='balloon0'/>{address}"

    assert parse(domain(memballoon(model, inside))) == DomainXML(
        id=7,
        balloon=Balloon(model=model, alias="balloon0", qom_path="/machine/peripheral/balloon0"),
        period=10,
        free_page_reporting="off",
    )


def test_user_defined_alias() -> None:
    xml = parse(domain(memballoon(inside="<alias name='ua-memory.1_x'/>")))

    assert xml.balloon is not None
    assert xml.balloon.alias == "ua-memory.1_x"
    assert xml.balloon.qom_path == "/machine/peripheral/ua-memory.1_x"


@pytest.mark.parametrize("alias", ["a/b", "../x", "a b", "é", "a'b", '"', "*", "a[0]"])
def test_invalid_alias_gives_no_path(alias: str) -> None:
    xml = parse(domain(memballoon(inside=f"<alias name={quoteattr(alias)}/>")))

    assert xml.balloon == Balloon(model="virtio", alias=alias, qom_path=None)


@pytest.mark.parametrize("alias", ["", "<alias/>", "<alias name=''/>"])
def test_balloon_without_an_alias(alias: str) -> None:
    xml = parse(domain(memballoon(inside=alias)))

    assert xml.balloon == Balloon(model="virtio", alias=None, qom_path=None)


def test_live_and_inactive_xml_have_their_own_periods() -> None:
    live = parse(domain(memballoon(inside="<stats period='5'/><alias name='balloon0'/>")))
    inactive = parse(domain(memballoon(inside="<stats period='30'/>"), attributes="type='kvm'"))

    assert (live.id, live.period) == (7, 5)
    assert (inactive.id, inactive.period) == (None, 30)
    assert inactive.balloon == Balloon(model="virtio")


def test_inactive_domain_has_no_qom_path() -> None:
    # libvirt keeps a user's own alias in the inactive XML, too.
    inside = "<alias name='ua-memory'/>"
    xml = parse(domain(memballoon(inside=inside), attributes="type='kvm'"))

    assert xml.id is None
    assert xml.balloon is not None
    assert xml.balloon.qom_path is None


@pytest.mark.parametrize(
    ("stats", "period"),
    [
        ("", 0),
        ("<stats/>", 0),
        ("<stats period='0'/>", 0),
        ("<stats period='1'/>", 1),
        ("<stats period='2147483647'/>", 2147483647),
        ("<stats period='4294967295'/>", 4294967295),
    ],
)
@pytest.mark.parametrize("model", ["virtio", "none"])
def test_period(model: str, stats: str, period: int) -> None:
    assert parse(domain(memballoon(model, stats))).period == period


@pytest.mark.parametrize("period", ["", " ", "-1", "+1", "2.5", "ten", "1_0", "٣", "9" * 5000])
@pytest.mark.parametrize("model", ["virtio", "none"])
def test_invalid_period(model: str, period: str) -> None:
    with pytest.raises(DomainXMLError, match="period"):
        parse(domain(memballoon(model, f"<stats period='{period}'/>")))


def test_model_none_keeps_its_period() -> None:
    xml = parse(domain(memballoon("none", "<stats period='10'/>")))

    assert (xml.balloon, xml.period) == (None, 10)


@pytest.mark.parametrize("devices", ["", "<controller type='usb'/>"])
def test_no_memballoon(devices: str) -> None:
    xml = parse(domain(devices))
    assert (xml.balloon, xml.period) == (None, 0)


def test_default_model_is_virtio() -> None:
    assert parse(domain("<memballoon/>")).balloon == Balloon(model="virtio")


def test_only_the_domains_own_devices_count() -> None:
    # Any program can write metadata.
    metadata = f"<metadata><x:y xmlns:x='urn:x'><devices>{memballoon()}</devices></x:y></metadata>"

    assert parse(domain("", before=metadata)).balloon is None
    nested = f"<disk><devices>{memballoon()}</devices></disk>"
    assert parse(domain(nested)).balloon is None


def test_comments_are_ignored() -> None:
    devices = f"<!-- {memballoon('none')} --><?x y?>{memballoon('virtio-transitional')}"

    balloon = parse(domain(devices)).balloon
    assert balloon is not None
    assert balloon.model == "virtio-transitional"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\0",
        "garbage",
        "<",
        "<domain>",
        "<domain/><domain/>",
        "<domain></devices>",
        "<network/>",
        "<x:domain xmlns:x='urn:x'/>",
        "<domain xmlns='urn:x'/>",
        "<!-- only a comment -->",
        "<domain>&undefined;</domain>",
        "<domain a='1' a='2'/>",
        "<domain>\x1b</domain>",
        "<domain>\ud800</domain>",
        "<?xml version='1.0' encoding='no-such'?><domain/>",
        "<?xml version='1.0' encoding='utf-16'?><domain/>",
        "{}",
    ],
)
def test_malformed_xml(text: str) -> None:
    with pytest.raises(DomainXMLError) as caught:
        parse(text)
    assert caught.value.message


def test_truncated_xml() -> None:
    whole = domain(memballoon(inside="<stats period='10'/><alias name='balloon0'/>")).rstrip()

    for length in range(len(whole)):
        with pytest.raises(DomainXMLError):
            parse(whole[:length])
    assert parse(whole).period == 10


BILLION_LAUGHS = (
    "<!DOCTYPE domain ["
    + "<!ENTITY a0 'ha'>"
    + "".join(f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 10))
    + "]>"
)


@pytest.mark.parametrize(
    "text",
    [
        BILLION_LAUGHS + domain("").replace("web1", "&a9;"),
        BILLION_LAUGHS + domain(memballoon(inside="<stats period='&a9;'/>")),
        "<!DOCTYPE domain [<!ENTITY a '&b;'><!ENTITY b '&a;'>]><domain><name>&a;</name></domain>",
        "<!DOCTYPE domain><domain/>",
    ],
    ids=["text", "attribute", "loop", "unused"],
)
def test_entities_are_refused(text: str) -> None:
    with pytest.raises(DomainXMLError):
        parse(text)


def told_in_time(text: str) -> str:
    """The result of parsing, in a thread, because reading something else could block."""
    told: list[str] = []

    def read() -> None:
        try:
            told.append(repr(parse(text)))
        except DomainXMLError as error:
            told.append(str(error))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert len(told) == 1
    return told[0]


@pytest.mark.parametrize("kind", LEADS)
def test_external_entities_are_not_read(tmp_path: Path, kind: str) -> None:
    # What is read from a pipe is no longer in it.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    both_ends = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(both_ends, b"secret")
        for place in (str(pipe), f"file://{pipe}"):
            assert "secret" not in told_in_time(LEADS[kind].replace("PLACE", place))
        assert os.read(both_ends, 100) == b"secret"
    finally:
        os.close(both_ends)


@pytest.mark.parametrize("kind", LEADS)
def test_no_network_access(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for scheme in ("http", "ftp"):
            place = f"{scheme}://127.0.0.1:{server.getsockname()[1]}/x"
            told_in_time(LEADS[kind].replace("PLACE", place))
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-7", "cp037", "shift_jis"])
def test_wrong_encoding_declaration(encoding: str) -> None:
    text = f"<?xml version='1.0' encoding='{encoding}'?>{domain(memballoon('none'))}"
    hidden = f"<?xml version='1.0' encoding='utf-7'?><domain>{'+ADw-name+AD4-'}</domain>"

    for xml in (text, hidden):
        with suppress(DomainXMLError):
            assert parse(xml).balloon is None


def test_deep_xml() -> None:
    depth = 100_000
    deep = domain("", before="<x>" * depth + "</x>" * depth)

    if domainxml._use_expat.is_set():
        assert parse(deep).id == 7
    else:
        with pytest.raises(DomainXMLError):
            parse(deep)


def test_too_much_xml() -> None:
    with pytest.raises(DomainXMLError, match=str(MAX_XML_BYTES + 1)):
        parse("x" * (MAX_XML_BYTES + 1))


def test_many_devices() -> None:
    disks = "<disk type='file'><source file='/a'/></disk>" * 20_000

    assert parse(domain(disks + memballoon())).balloon is not None


@given(st.text(st.characters()))
def test_any_text(text: str) -> None:
    assert_xml_read_or_refused(text)
    assert_xml_read_or_refused(
        f"<domain id='1'><devices><memballoon>{text}</memballoon></devices></domain>"
    )


NAMES = st.sampled_from(
    ["domain", "devices", "memballoon", "stats", "alias", "name", "id", "model", "period", "x"]
)
VALUES = st.sampled_from(["0", "7", "none", "virtio", "balloon0", ""]) | st.text(
    st.characters(), max_size=5
)
# One element each: how deep it stands, its tag, one attribute and its text.
ELEMENTS = st.tuples(st.integers(0, 5), NAMES, NAMES, VALUES, VALUES)


@given(st.lists(ELEMENTS, max_size=8))
def test_any_tree(elements: list[tuple[int, str, str, str, str]]) -> None:
    root = ET.Element("domain", {"id": "1"})
    devices = ET.SubElement(root, "devices")
    path = [root, devices, ET.SubElement(devices, "memballoon")]
    for depth, tag, attribute, value, text in elements:
        del path[depth + 1 :]
        path.append(ET.SubElement(path[-1], tag, {attribute: value}))
        path[-1].text = text
    assert_xml_read_or_refused(ET.tostring(root, encoding="unicode"))
    if len(root) > 1:
        assert_xml_read_or_refused(ET.tostring(root[-1], encoding="unicode"))


@pytest.mark.parametrize("opened", ["here", "by the caller"])
def test_driver_in_this_process_that_reads_files(
    node: str, opened: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domainxml, "_use_expat", threading.Event())
    Connection.open("test:///default").close()
    assert not domainxml._use_expat.is_set()

    if opened == "here":
        Connection.open(node).close()
    else:
        Connection(Mock(getURI=lambda: "qemu:///embed?root=/tmp/x"))
    assert domainxml._use_expat.is_set()


def test_expat_begins_after_lxml_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domainxml, "_use_expat", threading.Event())
    thread = threading.Thread(target=domainxml.use_expat, daemon=True)
    with domainxml._lxml_parses:
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    thread.join(30)
    assert domainxml._use_expat.is_set()


@pytest.mark.parametrize(
    ("system", "machine"),
    [
        ("<os><type arch='x86_64' machine='pc-q35-8.2'>hvm</type></os>", "pc-q35-8.2"),
        ("<os><type machine=''>hvm</type></os>", None),
        ("<os><type>hvm</type></os>", None),
        ("", None),
    ],
)
def test_machine(system: str, machine: str | None) -> None:
    assert parse(f"<domain type='kvm'><name>web1</name>{system}</domain>").machine == machine


DOMAIN = "<domain type='kvm' id='1'><name>web1</name>{}</domain>"
TARGET = "<size unit='KiB'>524288</size><requested unit='KiB'>1024</requested>"


@pytest.mark.parametrize(
    ("backing", "has_hugepages"),
    [
        ("", False),
        ("<memoryBacking><source type='memfd'/></memoryBacking>", False),
        ("<memoryBacking><hugepages/></memoryBacking>", True),
        ("<memoryBacking><hugepages><page size='2048'/></hugepages></memoryBacking>", True),
    ],
)
def test_hugepages(backing: str, has_hugepages: bool) -> None:
    assert parse(DOMAIN.format(backing)).has_hugepages is has_hugepages


@pytest.mark.parametrize(
    ("part", "is_pinned"),
    [
        ("", False),
        ("<memoryBacking><locked/></memoryBacking>", True),
        ("<devices><hostdev mode='subsystem' type='pci'/></devices>", True),
        ("<devices><interface type='hostdev'/></devices>", True),
        ("<devices><interface type='vdpa'/></devices>", True),
        ("<devices><interface type='bridge'/><disk/></devices>", False),
    ],
)
def test_memory_that_the_host_cannot_take_back(part: str, is_pinned: bool) -> None:
    assert parse(DOMAIN.format(part)).is_pinned is is_pinned


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("", None),
        ("<memballoon model='none'/>", None),
        ("<memballoon model='virtio'/>", "off"),
        ("<memballoon model='virtio' freePageReporting='off'/>", "off"),
        ("<memballoon model='virtio' freePageReporting='on'/>", "on"),
    ],
)
def test_free_page_reporting(device: str, expected: str | None) -> None:
    found = parse(DOMAIN.format(f"<devices>{device}</devices>")).free_page_reporting
    assert found == expected


@pytest.mark.parametrize(
    ("devices", "unplugged"),
    [
        ("", 0),
        ("<memory model='dimm'><target><size unit='KiB'>524288</size></target></memory>", 0),
        # libvirt gives no current size in the XML of a domain that does not run.
        (f"<memory model='virtio-mem'><target>{TARGET}</target></memory>", 0),
        (
            f"<memory model='virtio-mem'><target>{TARGET}<current unit='KiB'>524288</current>"
            "</target></memory>",
            0,
        ),
        (
            f"<memory model='virtio-mem'><target>{TARGET}<current unit='KiB'>262144</current>"
            "</target></memory>" * 2,
            512 * 1024**2,
        ),
    ],
)
def test_memory_that_is_not_plugged(devices: str, unplugged: int) -> None:
    xml = parse(DOMAIN.format(f"<devices>{devices}</devices>"))
    assert xml.unplugged_bytes == unplugged
