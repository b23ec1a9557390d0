"""Metrics: their names and types, what is absent, names that somebody else chose, other exporters'
names; read back by prometheus_client's own parsers."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.pages import sections
from tests.unit.builders import BARE, HELD, MEMORY, METADATA, NOW, UNREACHED, report
from tests.unit.builders import READ as READ_HOST
from tests.unit.sizing_histories import NOW as ENDED
from tests.unit.sizing_histories import history, steady
from virtballoon import (
    Busy,
    Figures,
    MemoryStats,
    SharedReader,
    Snapshot,
    Source,
    State,
    Verdict,
)
from virtballoon.errors import BusyReason
from virtballoon.exporter import metrics
from virtballoon.exporter.metrics import Collector, exposition
from virtballoon.model.clock import ClockOffset
from virtballoon.model.hostmemory import HostMemory
from virtballoon.model.statistics import STATISTICS
from virtballoon.sizing.rule import advise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from virtballoon import DomainReport

Key = tuple[str, frozenset[tuple[str, str]]]

FULL = report(
    figures=Figures(
        stats=MemoryStats.from_qemu(
            {f"stat-{name.replace('_', '-')}": 1000 + i for i, name in enumerate(STATISTICS)}
            | {"stat-total-memory": 5000, "stat-available-memory": 1, "stat-new-figure": 7}
        ),
        last_update=1_700_000_000,
        current_bytes=6000,
        maximum_bytes=7000,
        rss_bytes=8000,
    ),
    source=Source.QOM,
)
LIES = report(
    figures=Figures(stats=MemoryStats(total_memory=10, free_memory=11), last_update=1_700_000_000)
)


def snapshot_of(*rows: DomainReport) -> Snapshot:
    """A round over one host, whose domains have UUIDs of their own."""
    domains = tuple(
        replace(row, uuid=f"00000000-0000-0000-0000-{number:012}")
        for number, row in enumerate(rows)
    )
    hosts = {"hv1": replace(READ_HOST, domains=domains)}
    return Snapshot(hosts=hosts, begun_at=NOW, age_seconds=0.5)


def series(text: bytes, parse: Callable[[str], Iterable[Any]] = parse_text) -> dict[Key, float]:
    """Every series that a parser finds, each once."""
    found: dict[Key, float] = {}
    for family in parse(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def values(found: dict[Key, float], name: str, **labels: str) -> list[float]:
    return [v for (n, have), v in found.items() if n == name and labels.items() <= set(have)]


def types(text: bytes) -> dict[str, str]:
    return dict(re.findall(r"^# TYPE (\S+) (\w+)$", text.decode(), re.MULTILINE))


def test_figures() -> None:
    found = series(exposition(snapshot_of(FULL)))
    for index, name in enumerate(STATISTICS):
        ((full, value),) = (
            (n, v)
            for (n, _), v in found.items()
            if re.fullmatch(f"virtballoon_domain_{name}(_bytes)?(_total)?", n)
        )
        expected = {"total_memory": 5000, "available_memory": 1}
        assert value == expected.get(name, 1000 + index)
        assert full.endswith(("_bytes", "_total"))
    of_domain = "virtballoon_domain_"
    assert values(found, f"{of_domain}used_bytes", formula="total-available") == [4999]
    assert values(found, f"{of_domain}used_ratio") == [4999 / 5000]
    assert values(found, f"{of_domain}polling_interval_seconds") == [10]
    assert values(found, f"{of_domain}last_update_timestamp_seconds") == [1_700_000_000]
    assert values(found, f"{of_domain}age_seconds") == [pytest.approx(3.14)]
    assert values(found, f"{of_domain}current_bytes") == [6000]
    assert values(found, f"{of_domain}maximum_bytes") == [7000]
    assert values(found, f"{of_domain}rss_bytes") == [8000]
    assert values(found, f"{of_domain}other_statistic", statistic="new_figure") == [7]
    info = {"machine": "pc-q35-8.2", "model": "virtio", "source": "qom"}
    assert values(found, f"{of_domain}info", host="hv1", domain="web1", **info) == [1]


def test_memory_of_hosts() -> None:
    assert list(metrics._HOST_MEMORY) == list(HostMemory.field_names)
    hosts = {"hv1": replace(READ_HOST, memory=MEMORY), "hv2": READ_HOST}
    found = series(exposition(Snapshot(hosts=hosts, begun_at=NOW)))
    memory = {name: value for (name, _), value in found.items() if "_host_memory_" in name}
    known = {name: getattr(MEMORY, name) for name in HostMemory.field_names}
    assert memory == {
        f"virtballoon_host_memory_{name}": value
        for name, value in known.items()
        if value is not None
    }


def test_counters_and_gauges() -> None:
    found = types(exposition(snapshot_of(FULL), libvirt_exporter=True))
    for name, kind in found.items():
        expected = "counter" if name.endswith("_total") else "gauge"
        assert kind == ("untyped" if name.endswith("_other_statistic") else expected), name
    assert sum(kind == "counter" for kind in found.values()) == 12 + 4


def test_what_is_absent_has_no_series() -> None:
    found = series(exposition(snapshot_of(BARE), libvirt_exporter=True))
    assert {name for name, labels in found if ("domain", "off") in labels} == {
        "virtballoon_domain_info",
        "virtballoon_domain_state",
        "virtballoon_domain_verdict",
        "libvirt_domain_info_meta",
        "libvirt_domain_info_state",
        "libvirt_domain_info_vstate",
        "libvirt_domain_openstack_info",
    }
    assert not any(math.isnan(value) for value in found.values())


def test_a_host_that_is_not_reached() -> None:
    snapshot = Snapshot(hosts={"hv2": UNREACHED}, begun_at=NOW)
    found = series(exposition(snapshot, libvirt_exporter=True))
    assert values(found, "virtballoon_up", host="hv2") == [0]
    assert values(found, "libvirt_up", host="hv2") == [0]
    assert values(found, "virtballoon_domains", host="hv2") == []
    assert values(found, "virtballoon_host_info", uri=UNREACHED.uri, hostname="") == [1]


def test_a_verdict_is_one_series() -> None:
    found = series(exposition(snapshot_of(FULL, BARE, HELD)))
    assert values(found, "virtballoon_domain_verdict", domain="off") == [1]
    assert values(found, "virtballoon_domain_verdict", domain="off", verdict="shutoff") == [1]
    counts = {v: values(found, "virtballoon_domains", host="hv1", verdict=v)[0] for v in Verdict}
    assert counts[Verdict.SHUTOFF] == counts[Verdict.BUSY] == 1
    assert sum(counts.values()) == 3


def test_state_and_what_holds_a_domain() -> None:
    incoming = report(name="new", state=State.PAUSED, is_incoming=True)
    held = replace(HELD, name="held")
    hung = report(name="hung", error=Busy("held", reason=BusyReason.MONITOR))
    found = series(exposition(snapshot_of(FULL, BARE, held, incoming, hung)))

    def shown(name: str, key: str) -> dict[str, str]:
        series = [dict(have) for n, have in found if n == f"virtballoon_domain_{name}"]
        return {labels["domain"]: labels[key] for labels in series}

    assert shown("state", "state") == {
        "web1": "running",
        "off": "shutoff",
        "held": "running",
        "new": "paused",
        "hung": "running",
    }
    assert shown("busy", "reason") == {"held": "job", "new": "job", "hung": "monitor"}


def labelled(*rows: DomainReport, **options: Any) -> dict[str, dict[str, str]]:
    found = series(exposition(snapshot_of(*rows), **options))
    of_domains = [dict(have) for n, have in found if n == "virtballoon_domain_labels"]
    assert all(labels.pop("host") == "hv1" for labels in of_domains)
    return {labels.pop("domain"): labels for labels in of_domains}


def test_labels() -> None:
    assert labelled(FULL, BARE) == {}
    nova = METADATA["nova"][1] | {"title": 'a "b"\n\udc80', "team": "blue"}
    rows = (replace(FULL, labels=nova), BARE, replace(FULL, name="x", labels={"team": "red"}))
    default = labelled(*rows)
    shown = {key: text for key, text in nova.items() if key != "team"}
    # Those of the configuration are there if they are chosen.
    assert default == {"web1": shown | {"title": 'a "b"\n\\udc80'}, "off": {}, "x": {}}
    assert labelled(*rows, labels=["team", "project"]) == {
        "web1": {"team": "blue", "project": "acme"},
        "off": {},
        "x": {"team": "red"},
    }
    assert labelled(*rows, labels=["group"]) == {}


def test_labels_with_reserved_names() -> None:
    own = {"host": "a", "label_host": "b", "job": "c", "domain": "d", "instance": "e"}
    assert labelled(replace(FULL, labels=own), labels=list(own)) == {
        "web1": {
            "label_label_host": "a",
            "label_host": "b",
            "label_job": "c",
            "label_domain": "d",
            "label_instance": "e",
        }
    }


def test_openmetrics_has_the_same() -> None:
    snapshot = snapshot_of(replace(FULL, labels=METADATA["nova"][1]), BARE, HELD)
    text = exposition(snapshot, openmetrics=True, libvirt_exporter=True)
    assert series(text, parse_openmetrics) == series(exposition(snapshot, libvirt_exporter=True))


@pytest.mark.parametrize("parse", [parse_text, parse_openmetrics])
@given(names=st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1, max_size=4))
def test_any_names_read_back(parse: Callable[[str], Iterable[Any]], names: list[str]) -> None:
    rows = [replace(FULL, name=name) for name in names]
    text = exposition(snapshot_of(*rows), openmetrics=parse is parse_openmetrics)
    found = series(text, parse)
    shown = {dict(labels)["domain"] for n, labels in found if n == "virtballoon_domain_info"}
    assert shown >= {name.encode("utf-8", "backslashreplace").decode() for name in names}
    assert len(shown) == len(names)
    assert all(len(line.split(" ")) > 1 for line in text.decode().split("\n")[:-2])


@pytest.mark.parametrize(
    "name", ['a"b', "a\\", "a\nb", 'x"} 1\nvirtballoon_up{host="z', "\u202ea", "\udc80"]
)
def test_a_name_makes_no_line(name: str) -> None:
    text = exposition(snapshot_of(replace(FULL, name=name))).decode()
    plain = exposition(snapshot_of(FULL)).decode()
    assert text.count("\n") == plain.count("\n")
    assert "\nvirtballoon_up" in text
    assert text.count("\nvirtballoon_up{") == 1


def test_the_same_name_twice_is_two_series() -> None:
    found = series(exposition(snapshot_of(FULL, FULL), libvirt_exporter=True))
    assert len(values(found, "virtballoon_domain_rss_bytes")) == 2
    assert len(values(found, "libvirt_domain_memory_stats_rss_bytes")) == 2


def test_other_exporters_names() -> None:
    found = series(exposition(snapshot_of(FULL), libvirt_exporter=True))

    def value(name: str) -> float:
        (only,) = values(found, name)
        return only

    # The words are libvirt's.
    for name, here in {
        "info_memory_usage_bytes": "current_bytes",
        "memory_stats_unused_bytes": "free_memory_bytes",
        "memory_stats_available_bytes": "total_memory_bytes",
        "memory_stats_usable_bytes": "available_memory_bytes",
        "memory_stats_hugetlb_pgalloc_total": "htlb_pgalloc_total",
    }.items():
        assert value(f"libvirt_domain_{name}") == value(f"virtballoon_domain_{here}")
    ratio = value("virtballoon_domain_used_ratio")
    assert value("libvirt_domain_memory_stats_used_percent") == ratio * 100
    # Nobody else has this formula.
    old = replace(FULL.figures, stats=MemoryStats(total_memory=10, free_memory=4))
    found = series(exposition(snapshot_of(report(figures=old)), libvirt_exporter=True))
    assert values(found, "virtballoon_domain_used_ratio", formula="total-free") == [0.6]
    assert values(found, "libvirt_domain_memory_stats_used_percent") == []


def test_other_exporters_series_to_join_with() -> None:
    nova = report(labels=METADATA["nova"][1])
    titled = report(name="vm", state=State.PMSUSPENDED, labels={"title": "Shop"})
    found = series(exposition(snapshot_of(nova, BARE, titled), libvirt_exporter=True))
    uuids = [f"00000000-0000-0000-0000-{number:012}" for number in range(3)]

    def shown(name: str) -> dict[str, dict[str, str]]:
        of_name = [dict(have) for n, have in found if n == name]
        assert all(labels.pop("host") == "hv1" for labels in of_name)
        return {labels.pop("domain"): labels for labels in of_name}

    assert shown("libvirt_domain_openstack_info") == {
        "web1": {
            "instance_name": "shop-web-1",
            "instance_id": uuids[0],
            "flavor_name": "m1.large",
            "user_name": "alice",
            "user_id": "96e9d2b749ea48fcb5a911e6f0e144f2",
            "project_name": "acme",
            "project_id": "5a50e9d0d19746158958be0c759793fb",
        },
        "off": {"instance_id": uuids[1]},
        "vm": {"instance_id": uuids[2], "instance_name": "Shop"},
    }
    assert shown("libvirt_domain_info_meta") == {
        "web1": {
            "uuid": uuids[0],
            "instance_name": "shop-web-1",
            "flavor": "m1.large",
            "user_name": "alice",
            "user_uuid": "96e9d2b749ea48fcb5a911e6f0e144f2",
            "project_name": "acme",
            "project_uuid": "5a50e9d0d19746158958be0c759793fb",
        },
        "off": {"uuid": uuids[1]},
        "vm": {"uuid": uuids[2], "instance_name": "Shop"},
    }
    desc = {"state_desc": "the domain is suspended by guest power management"}
    for name, labels in (("state", desc), ("vstate", {})):
        number = values(found, f"libvirt_domain_info_{name}", domain="vm", **labels)
        assert number == [libvirt.VIR_DOMAIN_PMSUSPENDED]
    assert values(found, "libvirt_up", host="hv1") == [1]


def test_impossible_values() -> None:
    found = series(exposition(snapshot_of(FULL, LIES)))
    name = "virtballoon_domain_anomaly"
    anomalies = [dict(labels)["anomaly"] for found_name, labels in found if found_name == name]
    assert anomalies == ["free-above-total"]
    assert len(values(found, "virtballoon_domain_used_bytes")) == 1


def test_the_page_has_every_metric() -> None:
    page = "\n".join(section.astext() for section in sections("virtballoon-export").values())
    named = set(re.findall(r"\b(?:virtballoon|libvirt)_\w+", page))
    snapshot = snapshot_of(replace(FULL, labels={"title": "x"}), LIES, HELD)
    memory = HostMemory(**dict.fromkeys(HostMemory.field_names, 1))
    hosts = {
        name: replace(host, clock=ClockOffset(9, 9), memory=memory)
        for name, host in snapshot.hosts.items()
    }
    snapshot = replace(snapshot, hosts=hosts)
    advised = advise(history(steady(2**30)), now=ENDED)
    advice = {row.uuid: advised for host in hosts.values() for row in host.domains}
    found = series(exposition(snapshot, libvirt_exporter=True, advice=advice))
    assert {name for name, _ in found} == named


def test_a_registry_of_the_callers(node: str) -> None:
    registry = CollectorRegistry()
    read: list[object] = []
    reader = SharedReader({"mine": node}, on_read=lambda *what: read.append(what))
    registry.register(Collector(reader))
    assert read == []
    assert registry.get_sample_value("virtballoon_up", {"host": "mine"}) == 1
    with pytest.raises(ValueError, match="virtballoon_"):
        registry.register(Collector(SharedReader({})))
