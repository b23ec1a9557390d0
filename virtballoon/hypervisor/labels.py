"""Labels: what the XML of a domain says about it for people, such as its title."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lxml import etree

#: A longer text is cut.
MOST_CHARACTERS: Final = 200

#: By the namespace of an element in ``<metadata>``: the labels, and the XPath of each from there.
PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "http://libosinfo.org/xmlns/libvirt/domain/1.0": {"os_id": "string(p:os/@id)"},
}

_OS: Final = re.compile(r"https?://[^/]+/([^/]+)")


def names() -> tuple[str, ...]:
    """The names that labels can have."""
    preset = (name for labels in PRESETS.values() for name in labels)
    return tuple(dict.fromkeys(("title", "os", *preset)))


def read(root: etree._Element) -> dict[str, str]:
    """The labels of a domain, from the root of its XML."""
    title_or_metadata, presets = _compiled()
    labels: dict[str, str] = {}
    for element in title_or_metadata(root):
        tag = element.tag
        if tag == "title":
            labels.setdefault("title", _text(element.text))
        elif expressions := presets.get(tag[1:].partition("}")[0]):
            for name, expression in expressions.items():
                labels.setdefault(name, _text(expression(element)))
    labels = {name: text for name, text in labels.items() if text}
    if os := _OS.match(labels.get("os_id", "")):
        labels["os"] = "windows" if os[1] == "win" else os[1]
    return labels


def _text(value: object) -> str:
    return value.strip()[:MOST_CHARACTERS].rstrip() if isinstance(value, str) else ""


_Expression = Callable[["etree._Element"], Any]


@cache
def _compiled() -> tuple[_Expression, Mapping[str, Mapping[str, _Expression]]]:
    from lxml.etree import XPath

    def compiled(expression: str, namespace: str) -> _Expression:
        prefixes = {"p": namespace}
        return XPath(expression, namespaces=prefixes, regexp=False, smart_strings=False)

    presets = {
        namespace: {name: compiled(expression, namespace) for name, expression in labels.items()}
        for namespace, labels in PRESETS.items()
    }
    return XPath("title | metadata/*"), presets
