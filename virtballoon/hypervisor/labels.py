"""Labels: what a domain's XML says about it for people, such as its title or project.

Each is an XPath expression. Those of cloud platforms start at the platform's own element in
``<metadata>``, and are only evaluated where a domain has one; those of the configuration start at
the document's root.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from virtballoon.errors import ConfigurationError

if TYPE_CHECKING:
    from lxml import etree

    from virtballoon.configuration import Configuration

#: A longer text is cut.
MOST_CHARACTERS: Final = 200

# nova/virt/libvirt/config.py: LibvirtConfigGuestMetaNovaInstance; 1.1 adds the ports.
_NOVA: Final = {
    "name": "p:name",
    "flavor": "p:flavor/@name",
    "project": "p:owner/p:project",
    "project_id": "p:owner/p:project/@uuid",
    "user": "p:owner/p:user",
    "user_id": "p:owner/p:user/@uuid",
}
#: By the element in ``<metadata>``, in which ``p`` is the prefix of its namespace.
PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    # virt-install and virt-manager (virtinst/domain/metadata.py)
    "{http://libosinfo.org/xmlns/libvirt/domain/1.0}libosinfo": {"os_id": "p:os/@id"},
    "{http://openstack.org/xmlns/libvirt/nova/1.0}instance": _NOVA,
    "{http://openstack.org/xmlns/libvirt/nova/1.1}instance": _NOVA,
    # OpenNebula: src/vmm/LibVirtDriverKVM.cc
    "{http://opennebula.org/xmlns/libvirt/1.0}vm": {
        "name": "p:name",
        "user": "p:uname",
        "user_id": "p:uid",
        "group": "p:gname",
        "group_id": "p:gid",
    },
    # KubeVirt names a domain NAMESPACE_NAME, neither of which can contain an underscore
    # (pkg/virt-launcher/virtwrap/api/schema.go).
    "{http://kubevirt.io}kubevirt": {
        "name": "substring-after(/domain/name, '_')",
        "namespace": "substring-before(/domain/name, '_')",
    },
}

#: Begins an identifier of libosinfo: ``http://debian.org/debian/12``, ``http://microsoft.com/win/10``.
_OS: Final = re.compile(r"https?://[^/]+/([^/]+)")

_Expression = Callable[["etree._Element"], str | None]

#: Those of the configuration.
_own: Final[dict[str, _Expression]] = {}


def names(*, own: bool = True) -> tuple[str, ...]:
    """The names that labels can have, including those of the configuration if ``own``."""
    preset = (name for labels in PRESETS.values() for name in labels)
    return tuple(dict.fromkeys(("title", "os", *preset, *(_own if own else ()))))


def use(configuration: Configuration) -> bool:
    """Read the labels of a configuration, too, in place of those of an earlier one.

    :return: whether that makes a difference
    :raise ConfigurationError: for an invalid XPath expression
    """
    own = {}
    for name, expression in configuration.labels.items():
        from lxml import etree

        try:
            own[name] = _compiled(expression, configuration.namespaces)
        except (etree.XPathError, ValueError) as error:
            where = "".join(f"{file}: " for file in configuration.files[-1:])
            raise ConfigurationError(f"{where}labels.{name}: invalid XPath: {error}") from error
    if not own and not _own:
        return False
    _own.clear()
    _own.update(own)
    return True


def read(root: etree._Element) -> dict[str, str]:
    """The labels of a domain, from the root of its XML. The first of two elements counts, and a
    label of the configuration before another one of this name."""
    found = {name: _cut(expression(root)) for name, expression in _own.items()}
    for part in root.iterchildren("title", "metadata"):
        if part.tag == "title":
            found.setdefault("title", _cut(part.text))
            continue
        for element in part:
            for name, expression in _presets().get(element.tag, {}).items():
                found.setdefault(name, _cut(expression(element)))
    labels = {name: text for name, text in found.items() if text}
    if os := _OS.match(labels.get("os_id", "")):
        labels.setdefault("os", "windows" if os[1] == "win" else os[1])
    return labels


def _cut(text: str | None) -> str:
    return text.strip()[:MOST_CHARACTERS].rstrip() if text else ""


@cache
def _presets() -> Mapping[str, Mapping[str, _Expression]]:
    return {
        tag: {name: _preset(path, tag[1:].partition("}")[0]) for name, path in labels.items()}
        for tag, labels in PRESETS.items()
    }


def _preset(expression: str, namespace: str) -> _Expression:
    if "(" in expression:
        return _compiled(expression, {"p": namespace})
    # While lxml evaluates XPath, another thread runs: with several of them, that takes ten times
    # as long as looking at the elements.
    path, _, attribute = expression.partition("/@")
    tags = [step.replace("p:", f"{{{namespace}}}") for step in path.split("/")]

    def value(element: etree._Element) -> str | None:
        for tag in tags:
            child = next(element.iterchildren(tag), None)
            if child is None:
                return None
            element = child
        return element.get(attribute) if attribute else element.text

    return value


def _compiled(expression: str, namespaces: Mapping[str, str]) -> _Expression:
    """What gives an expression's string value, or None if that fails. It cannot read files or call
    Python."""
    from lxml import etree

    etree.XPath(expression, namespaces=namespaces, regexp=False)
    string = etree.XPath(
        f"string({expression})", namespaces=namespaces, regexp=False, smart_strings=False
    )
    # A prefix or a function that does not exist is not found before.
    string(etree.Element("domain"))

    def value(element: etree._Element) -> str | None:
        try:
            return str(string(element))
        except etree.XPathError:
            return None

    return value
