"""Reads a domain's XML."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, TypeGuard, cast

from virtballoon.errors import DomainXMLError
from virtballoon.hypervisor import labels
from virtballoon.model.balloon import DEVICE_NAMES, Balloon, qom_path_of
from virtballoon.model.value import Value

if TYPE_CHECKING:
    from lxml import etree

    from virtballoon.configuration import Configuration

# A real domain's XML is a few tens of KiB.
MAX_XML_BYTES: Final = 16 * 1024 * 1024

_QEMU: Final = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_BALLOON_IN_JSON: Final = rf"""["']driver["']\s*:\s*["']({"|".join(sorted(DEVICE_NAMES))})["']"""
#: The channel of QEMU's guest agent; QEMU reports to libvirt when the guest opens or closes it.
_AGENT: Final = "org.qemu.guest_agent.0"

#: This many results of :func:`parse` are kept; each takes less than 1 KiB.
_MOST_PARSED: Final = 10_000
_parsed: Final[dict[tuple[int, int, bool], DomainXML]] = {}

#: What keeps all memory of a guest in that of the host.
_PINNING: Final = (
    "./memoryBacking/locked",
    "./devices/hostdev",
    "./devices/interface[@type='hostdev']",
    "./devices/interface[@type='vdpa']",
)

_DOCTYPE: Final = "it declares a document type, which libvirt's does not"

#: Held while lxml parses.
_lxml_parses: Final = threading.Lock()
_use_expat: Final = threading.Event()


class DomainXML(NamedTuple):
    """What is read from one XML document of a domain.

    :ivar id: libvirt's number of the running domain; None in the XML of one that does not run
    :ivar balloon: the balloon device; None for model ``none`` and for no device at all
    :ivar period: the polling interval in seconds; 0 where the XML has none. libvirt keeps a period
        even under model ``none``.
    :ivar machine: QEMU's machine type, such as ``pc-i440fx-7.2``; None where it has none
    :ivar has_hugepages: whether the guest's memory is in huge pages of the host
    :ivar is_pinned: whether it is locked, or in use by a device of the host
    :ivar free_page_reporting: ``on`` or ``off``; None without a balloon
    :ivar unplugged_bytes: the memory of its virtio-mem devices that is not plugged
    :ivar labels: its labels by their names
    """

    id: int | None
    balloon: Balloon | None
    period: int
    machine: str | None = None
    has_hugepages: bool = False
    is_pinned: bool = False
    free_page_reporting: str | None = None
    unplugged_bytes: int = 0
    labels: Mapping[str, str] = MappingProxyType({})


class DomainHints(Value):
    """What the live XML says about reasons for a missing or silent balloon."""

    #: Whether ``<qemu:commandline>`` adds a balloon; None where it reads a file that may.
    balloon_in_commandline: bool | None
    #: Whether the balloon has ``<driver iommu='on'/>``.
    balloon_iommu: bool
    #: Whether a guest agent has opened its channel; None without a channel.
    agent_connected: bool | None


def hints(xml: str) -> DomainHints:
    """Read what may explain a missing or silent balloon."""
    root = _root(xml)
    arguments = [arg.get("value", "") for arg in root.iterfind(f"{_QEMU}commandline/{_QEMU}arg")]
    options = [argument.lstrip("-") for argument in arguments]
    devices = [value for option, value in pairwise(arguments) if option.lstrip("-") == "device"]
    in_commandline: bool | None = any(map(_is_balloon, devices))
    if not in_commandline and "readconfig" in options:
        in_commandline = None
    driver = root.find("./devices/memballoon/driver")
    states = [
        target.get("state")
        for target in root.iterfind("./devices/channel/target")
        if target.get("name") == _AGENT
    ]
    return DomainHints(
        balloon_in_commandline=in_commandline,
        balloon_iommu=driver is not None and driver.get("iommu") == "on",
        agent_connected="connected" in states if states else None,
    )


def _is_balloon(device: str) -> bool:
    """Whether a value of QEMU's ``-device`` is a balloon: ``DRIVER,key=value,…``,
    ``driver=DRIVER,…`` or JSON, in which QEMU accepts single quotes."""
    if device.startswith("{"):
        return re.search(_BALLOON_IN_JSON, device) is not None
    first, *pairs = (part.strip() for part in device.split(","))
    drivers = {
        pair.removeprefix("driver=") for pair in (first, *pairs) if pair.startswith("driver=")
    }
    return not DEVICE_NAMES.isdisjoint({first, *drivers})


def parse(xml: str, *, with_labels: bool = True) -> DomainXML:
    """Read the balloon from a domain's XML, live or inactive.

    The balloon is ``/domain/devices/memballoon``; model ``none`` means that there is none.
    ``<stats period='N'/>`` below it is the polling interval in seconds, absent for 0 (libvirt:
    docs/formatdomain, "Memory balloon device"). What was read is kept by the text's hash: a process
    that reads a host again and again gets the same texts.

    :raise DomainXMLError: when it is not a domain's XML
    """
    key = hash(xml), len(xml), with_labels
    if (known := _parsed.get(key)) is not None:
        return known
    if len(_parsed) >= _MOST_PARSED:
        _parsed.clear()
    root = _root(xml)
    parsed = _read(root)
    if with_labels:
        parsed = parsed._replace(labels=labels.read(root))
    return _parsed.setdefault(key, parsed)


def _read(root: etree._Element) -> DomainXML:
    # Only the XML of a running domain has an id, and only a running domain has a QEMU.
    number = root.get("id")
    domain_id = int(number) if _is_number(number) else None
    device = root.find("./devices/memballoon")
    stats = device.find("./stats") if device is not None else None
    kind = root.find("./os/type")
    balloon = _balloon(device, running=domain_id is not None)
    reporting = device is not None and device.get("freePageReporting") == "on"
    return DomainXML(
        id=domain_id,
        balloon=balloon,
        period=_period(stats.get("period") if stats is not None else None),
        machine=(kind.get("machine") or None) if kind is not None else None,
        has_hugepages=root.find("./memoryBacking/hugepages") is not None,
        is_pinned=any(root.find(path) is not None for path in _PINNING),
        free_page_reporting=None if balloon is None else "on" if reporting else "off",
        unplugged_bytes=sum(map(_unplugged, root.iterfind("./devices/memory/target"))),
    )


def use_labels(configuration: Configuration) -> None:
    """Read the labels of a configuration from now on, in place of those of an earlier one.

    :raise ConfigurationError: for an invalid XPath expression
    """
    if labels.use(configuration):
        _parsed.clear()


def use_expat() -> None:
    """Have all XML parsed by expat from now on: for a libvirt driver inside this process that reads
    XML files. Expat is slower, and the result is the same.

    While lxml parses, libxml2 has lxml's file loader, which takes the private data of any parser
    for its own: where lxml and libvirt share one libxml2, as on Debian, a file that a thread of the
    driver reads at that time crashes the process.
    """
    with _lxml_parses:
        _use_expat.set()


def _root(xml: str) -> etree._Element:
    from lxml import etree

    if len(xml) > MAX_XML_BYTES:
        raise DomainXMLError(f"the domain's XML is too long: {len(xml)} characters")
    try:
        text = xml.encode("utf-8")
        with _lxml_parses:
            root = None if _use_expat.is_set() else _parsed_by_lxml(text)
        if root is None:
            root = _parsed_by_expat(text)
    except (ValueError, SyntaxError, LookupError, etree.LxmlError) as error:
        raise DomainXMLError(f"the domain's XML cannot be parsed: {error}") from error
    if root.tag != "domain":
        raise DomainXMLError("the XML is not a domain's")
    return root


def _parsed_by_lxml(text: bytes) -> etree._Element:
    from lxml import etree

    # Entities are not resolved: other programs write a domain's metadata.
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    root = etree.fromstring(text, parser)
    if root.getroottree().docinfo.internalDTD is not None:
        raise ValueError(_DOCTYPE)
    return root


def _parsed_by_expat(text: bytes) -> etree._Element:
    from xml.etree import ElementTree

    from lxml import etree

    class Builder(etree.TreeBuilder):
        def doctype(self, *_declared: object) -> None:
            raise ValueError(_DOCTYPE)

    parser = ElementTree.XMLParser(target=Builder(insert_comments=False, insert_pis=False))
    parser.feed(text)
    return cast("etree._Element", parser.close())


def _balloon(element: etree._Element | None, *, running: bool) -> Balloon | None:
    model = (element.get("model") or "virtio") if element is not None else "none"
    if element is None or model == "none":
        return None
    alias_element = element.find("./alias")
    alias = alias_element.get("name") if alias_element is not None else None
    path = qom_path_of(alias) if alias and running else None
    return Balloon(model=model, alias=alias or None, qom_path=path)


def _unplugged(target: etree._Element) -> int:
    # Only virtio-mem has a current size. libvirt prints KiB.
    size, current = target.findtext("./size"), target.findtext("./current")
    if not _is_number(size) or not _is_number(current):
        return 0
    return 1024 * (int(size) - int(current))


def _period(text: str | None) -> int:
    if text is None:
        return 0
    if not _is_number(text):
        raise DomainXMLError(
            f"the balloon's statistics period is not a number of seconds: {text[:40]!r}"
        )
    return int(text)


def _is_number(text: str | None) -> TypeGuard[str]:
    # libvirt prints a C int that is not negative, in decimal.
    return text is not None and text.isascii() and text.isdigit() and len(text) <= len(str(2**32))
