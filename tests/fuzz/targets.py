"""What is fuzzed: each target takes bytes, and raises when something is the matter."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import atheris

from tests.unit import builders, properties
from tests.unit.builders import CONFIGURATION_FILE
from virtballoon.configuration import load_configuration
from virtballoon.errors import ConfigurationError
from virtballoon.model.memory import Figures
from virtballoon.model.report import Interval
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State

#: A byte that no UTF-8 has, so that texts can be told apart.
_SEPARATOR: Final = b"\xff"
# Lists, since the fuzzer picks from nothing else.
_KEYS: Final = [*properties.MEMORY_STATS, *properties.BULK, *properties.QEMU, "other", "new"]
_EDGES: Final = [0, 1, 1023, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1, 2**64, -1]
_CHARACTERS: Final = list("\0\t\n\r\x1b \"',;=-*[a\x7f\x9b\u2028\u202e\ud800\ufeff🎈")


@dataclass(frozen=True)
class Target:
    """Something that reads what others write.

    :ivar run: reads it
    :ivar seeds: what it should read, for a beginning
    :ivar words: what is likely to matter in it
    """

    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...] = ()
    words: tuple[str, ...] = ()


def _xml(data: bytes) -> None:
    # Libvirt's binding hands over text.
    properties.assert_xml_read_or_refused(data.decode("utf-8", "surrogateescape"))


def _monitor(data: bytes) -> None:
    texts = data.split(_SEPARATOR)
    properties.assert_answers_read_or_refused([text.decode("utf-8", "replace") for text in texts])


def _toml(data: bytes) -> None:
    file = os.memfd_create("configuration")
    try:
        os.write(file, data)
        loaded = load_configuration(f"/proc/self/fd/{file}")
    except ConfigurationError:
        return
    finally:
        os.close(file)
    assert loaded.timeout is None or loaded.timeout > 0
    assert loaded.jobs is None or loaded.jobs >= 1
    for host in loaded.hosts:
        assert host.name
        assert host.uri.strip()
        assert host in loaded.select([host.name])
        for group in host.groups:
            assert host in loaded.select([f"@{group}"])


def _figures(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    properties.assert_sane(dict(_pairs(given)))


def _document(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    name = given.ConsumeUnicode(9) if given.ConsumeBool() else "".join(_characters(given))
    pairs = dict(_pairs(given))
    figures = Figures.from_libvirt(pairs)
    if given.ConsumeBool():
        stats = MemoryStats.from_qemu(pairs)
        figures = Figures(stats=stats, last_update=figures.last_update)
    intervals = [given.PickValueInList([None, 0, 10, 2**32 - 1]) for _ in range(3)]
    read = builders.report(
        state=given.PickValueInList(list(State)),
        interval=Interval(live=intervals[0], config=intervals[1], qemu=intervals[2]),
        figures=figures,
        read_at=given.ConsumeRegularFloat(),
        name=name,
    )
    properties.assert_fits_every_format(read)


def _characters(given: Any) -> Iterator[str]:
    for _ in range(given.ConsumeIntInRange(0, 9)):
        yield given.PickValueInList(_CHARACTERS)


def _pairs(given: Any) -> Iterator[tuple[str, object]]:
    for _ in range(given.ConsumeIntInRange(0, 14)):
        key = given.PickValueInList(_KEYS) if given.ConsumeBool() else given.ConsumeUnicode(8)
        match given.ConsumeIntInRange(0, 3):
            case 0:
                yield key, given.PickValueInList(_EDGES)
            case 1:
                yield key, given.ConsumeIntInRange(0, 2**64 - 1)
            case 2:
                yield key, given.ConsumeInt(12)
            case _:
                yield key, given.PickValueInList([None, True, "7", 1.5, float("nan"), [], {}])


def _answers(*values: object) -> bytes:
    return _SEPARATOR.join(json.dumps(value).encode() for value in values)


TARGETS: Final = {
    "xml": Target(
        _xml,
        seeds=(
            builders.domain(builders.memballoon()).encode(),
            b"<domain><name>a</name><devices><memballoon><stats period='1'/>"
            b"</memballoon></devices></domain>",
            *(text.encode() for text in properties.LEADS.values()),
        ),
        words=(
            *("<domain id='1'>", "</domain>", "<devices>", "</devices>", "<memballoon>"),
            *("<memballoon model='none'/>", "</memballoon>", "<stats period='", "<alias name='"),
            *("<!DOCTYPE domain [", "<!ENTITY b SYSTEM '"),
            *("<!ENTITY a '", "]>", "&a;", "<![CDATA[", "]]>", "<!--", "-->", "<?xml encoding='"),
        ),
    ),
    "monitor": Target(
        _monitor,
        seeds=(
            _answers({"return": [{"name": "balloon0", "type": "child<virtio-balloon-pci>"}]}),
            _answers({"return": {"stats": {"stat-swap-in": 1}, "last-update": 1}}),
            _answers({"return": 10}, {"error": {"class": "GenericError", "desc": "no"}}),
        ),
        words=(
            *('"return":', '"error":', '"class":', '"desc":', '"name":', '"type":', '"stats":'),
            *('"last-update":', '"child<', "virtio-balloon-pci", "NaN", "Infinity", "1e400"),
            *("18446744073709551615", "\\ud800", "null", "true", "{", "}", "[", "]"),
        ),
    ),
    "toml": Target(
        _toml,
        seeds=(
            CONFIGURATION_FILE.encode(),
            b"defaults.jobs = 1\nhosts.a = {uri = 'x', groups = []}\n",
        ),
        words=(
            *("[defaults]", "[hosts.a]", "[[hosts]]", "timeout =", "via =", "jobs =", "uri ="),
            *("groups =", '"""', "'''", "inf", "nan", "1979-05-27", "07:32:00", "0x", "1_0"),
            *("\\u0000", "\\U0001"),
        ),
    ),
    "figures": Target(_figures),
    "document": Target(_document),
}
