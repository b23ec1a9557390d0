"""Advice from a fortnight: figures of real guests at made-up times, and what a real Prometheus has
stored of made-up series."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GuestFactory, available
from tests.lab import Guest, GuestSpec, Prometheus, wait_until
from tests.running import run
from tests.test_short_of_memory import HOG
from tests.unit.command import Command

pytestmark = [pytest.mark.guest, pytest.mark.once]

MIB = 1024**2
GIB = 1024**3
DAY = 24 * 3600
STEP = 200
UUID = "6d1ad6a2-4e2b-4c71-9d1e-8c0b6f5f0a0{}"
#: By the domain's name: current memory, and at which share of it is used.
CURRENT = {"idle": 8 * GIB, "busy": 2 * GIB, "stale": 4 * GIB}
KEPT = 100 * MIB


def figures(name: str, at: int) -> dict[str, int]:
    """A guest's at a time: the busy one is short of memory for ten minutes of each hour."""
    total = CURRENT[name] - KEPT
    is_short = name == "busy" and at % 3600 < 600
    # A peak of a few minutes a day must not be lost.
    used = 1500 * MIB if name == "idle" and at % DAY < 2 * STEP else 600 * MIB
    available = total // 50 if is_short else total - used
    seconds = at % (30 * DAY)
    # While it is short, and none of the rest of the hour: 20 a second.
    faults = 20 * (seconds // 3600 * 600 + min(seconds % 3600, 600)) if name == "busy" else 7
    return {
        "available_memory_bytes": available,
        "total_memory_bytes": total,
        "disk_caches_bytes": 50 * MIB,
        "swap_in_bytes_total": 0,
        "swap_out_bytes_total": 0,
        "major_faults_total": faults,
        "minor_faults_total": seconds * 100,
        "current_bytes": CURRENT[name],
        "maximum_bytes": CURRENT[name],
        "last_update_timestamp_seconds": at - 3 if name != "stale" else 1000,
    }


def past(now: int) -> str:
    """OpenMetrics of our exporter on two hosts, and of another one's names."""
    theirs = {
        "available_memory_bytes": "memory_stats_usable_bytes",
        "total_memory_bytes": "memory_stats_available_bytes",
        "current_bytes": "memory_stats_current_balloon_bytes",
        "maximum_bytes": "memory_stats_maximum_bytes",
        "minor_faults_total": "memory_stats_minor_fault_total",
    }
    families: dict[str, list[str]] = {}

    def add(metric: str, labels: dict[str, str], value: int, at: int) -> None:
        text = ",".join(f'{key}="{word}"' for key, word in labels.items())
        families.setdefault(metric, []).append(f"{metric}{{{text}}} {value} {at}")

    for name in CURRENT:
        of = {"host": f"hv{len(name)}", "domain": name, "job": "v", "instance": "i:9177"}
        host = {key: of[key] for key in ("host", "job", "instance")}
        uuid = UUID.format([*CURRENT].index(name))
        for at in range(now - 14 * DAY, now, STEP):
            for metric, value in figures(name, at).items():
                add(f"virtballoon_domain_{metric}", of, value, at)
                if metric in theirs and name == "idle":
                    add(f"libvirt_domain_{theirs[metric]}", of, value, at)
            verdict = "stale" if name == "stale" else "fresh"
            add("virtballoon_domain_verdict", of | {"verdict": verdict}, 1, at)
            add("virtballoon_domain_info", of | {"uuid": uuid}, 1, at)
            if at % 3600 >= STEP:
                continue
            add("virtballoon_domain_labels", of | {"title": f"the {name}"}, 1, at)
            if name != "busy":
                # Its host is that of the idle one: a series is in order of time.
                add("virtballoon_host_info", host | {"uri": "qemu:///system"}, 1, at)
    lines = []
    for metric, samples in families.items():
        lines += [f"# TYPE {metric} unknown", *samples]
    return "\n".join([*lines, "# EOF\n"])


@pytest.fixture(scope="module")
def prometheus() -> Iterator[Prometheus]:
    with available(Prometheus({}, past=past(int(time.time()) // STEP * STEP))) as started:
        yield started


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with Command(tmp_path) as command:
        yield command


def test_a_fortnight_of_a_prometheus(command: Command, prometheus: Prometheus) -> None:
    words = ("advise", "--prometheus", prometheus.url, "--timeout", "60s")
    document = json.loads(command(*words, "--format", "json").stdout)
    hosts = {host["uri"]: host["domains"] for host in document["hosts"]}
    # Several hosts have this URI.
    assert "qemu:///system" not in hosts
    rows = {row["name"]: row for row in [*hosts["hv4"], *hosts.get("hv5", ())]}
    assert {name: row["verdict"] for name, row in rows.items()} == {"idle": "over", "busy": "under"}
    idle, busy = rows["idle"], rows["busy"]
    assert (idle["uuid"], idle["labels"]) == (UUID.format(0), {"title": "the idle"})
    assert idle["used_max_bytes"] == 1500 * MIB
    assert idle["need_bytes"] == 2 * GIB
    assert idle["coverage_ratio"] > 0.95
    assert busy["pressure_hours"] > 300
    assert busy["used_max_bytes"] == CURRENT["busy"] - KEPT - (CURRENT["busy"] - KEPT) // 50


def test_commands_need_a_host(command: Command, prometheus: Prometheus) -> None:
    words = ("--prometheus", prometheus.url, "--timeout", "60s", "--commands")
    lines = command("advise", *words).stdout.splitlines()
    assert lines
    assert all(line.startswith("# ") for line in lines)


def test_names_of_other_exporters(command: Command, prometheus: Prometheus) -> None:
    words = ("--prometheus", prometheus.url, "--compat", "libvirt-exporter", "--timeout", "60s")
    document = json.loads(command("advise", *words, "--format", "json").stdout)
    ((row,),) = (host["domains"] for host in document["hosts"])
    assert (row["name"], row["verdict"]) == ("idle", "over")
    assert (row["uuid"], row["labels"]) == ("i:9177/idle", {})
    assert row["used_max_bytes"] == 1500 * MIB


# Real guests.


@pytest.fixture(scope="module")
def guests(module_guest_factory: GuestFactory) -> dict[str, Guest]:
    return {
        "hog": module_guest_factory(GuestSpec("hog", period=1, memory_mib=256, swap_mib=128)),
        "idle": module_guest_factory(GuestSpec("idle", period=1, memory_mib=2048)),
    }


def line(guest: Guest) -> dict[str, Any]:
    """What list writes of a guest with fresh figures."""

    def fresh() -> dict[str, Any] | None:
        text = run(guest.hypervisor, "list", "--format", "jsonl", guest.name).stdout
        record: dict[str, Any] = json.loads(text)
        return record if record["verdict"] == "fresh" else None

    return wait_until(fresh, 60, f"fresh figures of {guest.name}")


def seconds(record: dict[str, Any]) -> int:
    return int(datetime.fromisoformat(record["last_update"]).timestamp())


def shortage(guest: Guest) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Two lines between which the guest was short of memory; None if it was not."""
    first = line(guest)
    second = wait_until(
        lambda: new if seconds(new := line(guest)) > seconds(first) else None, 60, "an update"
    )
    stats = second["stats"]
    faults = stats["major_faults"] - first["stats"]["major_faults"]
    is_low = stats["available_memory"] < 0.05 * stats["total_memory"]
    return (first, second) if is_low and faults > 5 * (seconds(second) - seconds(first)) else None


def test_a_fortnight_of_real_guests(
    command: Command, guests: dict[str, Guest], tmp_path: Path
) -> None:
    guests["hog"].run(HOG)
    try:
        first, second = wait_until(lambda: shortage(guests["hog"]), 180, "a shortage of memory")
    finally:
        guests["hog"].run("killall awk", timeout=180, check=False)
    idle = line(guests["idle"])
    lines = []
    now = int(time.time())
    for at in range(now - 14 * DAY, now - 60, 900):
        later = at + seconds(second) - seconds(first)
        for record, moved in ((idle, at), (first, at), (second, later)):
            text = datetime.fromtimestamp(moved, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            lines.append(json.dumps(record | {"last_update": text, "read_at": text}))
    (tmp_path / "lines").write_text("\n".join([*lines, ""]))

    store = ("--store", str(tmp_path / "history.db"))
    done = command("record", *store, "--import", str(tmp_path / "lines"))
    assert done.status == 0, done.stderr
    assert f"{len(lines)} samples added" in done.stderr
    found = map(json.loads, command("advise", *store, "--format", "jsonl").stdout.splitlines())
    rows = {row["name"]: row for row in found}
    assert {name: row["verdict"] for name, row in rows.items()} == {"hog": "under", "idle": "over"}
    assert rows["idle"]["need_bytes"] == 512 * MIB
    assert rows["idle"]["used_max_bytes"] == idle["used_bytes"]
    assert rows["hog"]["pressure_hours"] > 24 * 13
    # Its host would get back what the guest has used at some time, and no more.
    assert rows["idle"]["reclaimable_bytes"] <= idle["rss_bytes"]
