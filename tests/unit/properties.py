"""What holds of any input, for tests with generated input and for fuzzing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tests.unit.builders import (
    READ,
    VALIDATOR,
    document,
)
from virtballoon.errors import DomainXMLError, MonitorError
from virtballoon.hypervisor.domainxml import DomainXML, parse
from virtballoon.hypervisor.qmp import Monitor
from virtballoon.model.memory import Figures, Usage, contradictions
from virtballoon.model.report import DomainReport
from virtballoon.model.statistics import STATISTICS, MemoryStats
from virtballoon.render import columns, documents, formats

#: What ``virDomainMemoryStats`` gives of a guest that says everything.
MEMORY_STATS = {
    "actual": 131072,
    "swap_in": 1,
    "swap_out": 2,
    "major_fault": 3,
    "minor_fault": 4,
    "unused": 71000,
    "available": 110000,
    "usable": 90000,
    "last_update": 1700000000,
    "disk_caches": 8,
    "hugetlb_pgalloc": 9,
    "hugetlb_pgfail": 10,
    "rss": 213200,
}

#: The same by the bulk call, without its ``balloon.``.
BULK = {key: value for key, value in MEMORY_STATS.items() if key not in {"actual", "last_update"}}

BULK |= {"current": 131072, "maximum": 262144, "last-update": 1700000000}

QEMU = {
    "stat-swap-in": 1,
    "stat-swap-out": 2,
    "stat-major-faults": 3,
    "stat-minor-faults": 4,
    "stat-free-memory": 5,
    "stat-total-memory": 6,
    "stat-available-memory": 7,
    "stat-disk-caches": 8,
    "stat-htlb-pgalloc": 9,
    "stat-htlb-pgfail": 10,
    "stat-oom-kills": 11,
    "stat-alloc-stalls": 12,
    "stat-async-scans": 13,
    "stat-direct-scans": 14,
    "stat-async-reclaims": 15,
    "stat-direct-reclaims": 16,
}


def assert_sane(answer: Mapping[str, Any]) -> None:
    """Hold what is made of a guest's figures, whatever they are, to be sane."""
    for figures in (
        Figures(stats=MemoryStats.from_libvirt(answer)),
        Figures(stats=MemoryStats.from_qemu(answer)),
        Figures.from_libvirt(answer),
    ):
        stats = figures.stats
        values = stats.as_dict()
        assert list(values)[: len(STATISTICS)] == list(STATISTICS)
        given = [value for value in values.values() if value is not None]
        assert all(0 <= value < 2**63 for value in given)
        assert stats.is_empty == (not given and not stats.too_large)
        assert all(values.get(name) is None for name in stats.too_large)
        usage = Usage.of(figures)
        if contradictions(figures):
            assert usage == Usage()
        if usage.formula is None:
            assert usage == Usage()
        else:
            assert stats.total_memory is not None
            assert usage.used_bytes is not None
            assert usage.ratio is not None
            assert usage.total_bytes is not None
            assert 0 <= usage.used_bytes <= usage.total_bytes <= stats.total_memory
            assert 0 <= usage.ratio <= 1


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def assert_fits_every_format(read: DomainReport) -> None:
    """Hold a domain, whatever was read of it, to come back from every format as it went in."""
    host = replace(READ, domains=(read,))

    VALIDATOR.validate(document(host))
    (record,) = documents.domain_records(host)
    assert document(host)["hosts"][0]["domains"] == [record]
    assert json.loads(formats.to_jsonl([record])) == record
    if "\0" not in read.name:
        # Python's csv cannot read it.
        (cells,) = read_csv(formats.to_csv([record], documents.domain_columns()))
        assert (cells["name"], cells["uuid"]) == (read.name, read.uuid)
    for key in documents.domain_columns():
        for exact in (True, False):
            assert columns.column(key).cell(read, exact=exact).isprintable()


#: XML that refers to something else.
LEADS = {
    "entity": "<!DOCTYPE domain [<!ENTITY x SYSTEM 'PLACE'>]><domain><name>&x;</name></domain>",
    "parameter-entity": "<!DOCTYPE domain [<!ENTITY % x SYSTEM 'PLACE'> %x;]><domain/>",
    "dtd": "<!DOCTYPE domain SYSTEM 'PLACE'><domain/>",
    "public-dtd": "<!DOCTYPE domain PUBLIC 'x' 'PLACE'><domain/>",
    "xinclude": "<domain xmlns:i='http://www.w3.org/2001/XInclude'><name>web1</name>"
    "<i:include href='PLACE' parse='text'/></domain>",
    "stylesheet": "<?xml-stylesheet href='PLACE'?><domain><name>web1</name></domain>",
    "schema": "<domain xmlns:s='http://www.w3.org/2001/XMLSchema-instance'"
    " s:noNamespaceSchemaLocation='PLACE'><name>web1</name></domain>",
}


def assert_xml_read_or_refused(text: str) -> None:
    refused = None
    try:
        xml = parse(text)
    except DomainXMLError as error:
        refused = error
    if refused is not None:
        assert refused.message
        return
    assert isinstance(xml, DomainXML)
    assert all(0 < len(text) <= 200 for text in xml.labels.values())
    assert xml.id is None or xml.id >= 0
    assert xml.period >= 0
    balloon = xml.balloon
    if balloon is not None:
        assert balloon.model not in {"", "none"}
        assert balloon.alias != ""
        if balloon.qom_path is not None:
            assert balloon.qom_path == f"/machine/peripheral/{balloon.alias}"


PERIPHERAL = "/machine/peripheral"

BALLOON0 = f"{PERIPHERAL}/balloon0"

ORIGIN: dict[str, Any] = {"host": "qemu:///system", "domain": "web1"}


def with_list_get(monitor: Monitor) -> object:
    return Monitor(monitor._send, has_list_get=True, **ORIGIN).interval_and_stats(BALLOON0)


METHODS: dict[str, Callable[[Monitor], object]] = {
    "children": lambda monitor: monitor.children(PERIPHERAL),
    "guest_stats": lambda monitor: monitor.guest_stats(BALLOON0),
    "polling_interval": lambda monitor: monitor.polling_interval(BALLOON0),
    "set_polling_interval": lambda monitor: monitor.set_polling_interval(BALLOON0, 5),
    "version": lambda monitor: monitor.version(),
    "interval_and_stats": lambda monitor: monitor.interval_and_stats(BALLOON0),
    "interval_and_stats, qom-list-get": with_list_get,
    "find_balloon": lambda monitor: monitor.find_balloon("balloon0"),
}

ALLOWED = {"qom-list", "qom-get", "qom-list-get", "qom-set", "query-version"}


def assert_answers_read_or_refused(answers: list[str]) -> None:
    """Any answers, in this order, are read or refused with a MonitorError."""
    for method in METHODS.values():
        left = list(answers)

        def send(command: str, left: list[str] = left) -> str:
            json.loads(command)
            return left.pop(0) if left else '{"return": []}'

        error: MonitorError | None = None
        try:
            method(Monitor(send))
        except MonitorError as raised:
            error = raised
        if error is not None:
            assert error.message
            if error.received is None:
                # An answer contained an invalid path.
                assert "not a command" in error.message
                continue
            assert error.received == '{"return": []}' or any(
                answer.startswith(error.received) for answer in answers
            )
            assert json.loads(error.sent)["execute"] in ALLOWED
