"""Snapshots: what is shared, what is not, and what does not pile up; and ensuring intervals."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.lab.waiting import wait_until
from tests.unit.check_builders import report
from tests.unit.silence import SilentHost, held
from virtballoon import (
    ConnectError,
    HostChanges,
    HostReport,
    HostStatus,
    Interval,
    IntervalChange,
    IntervalEnsurer,
    InvalidInterval,
    LibvirtFailure,
    Outcome,
    SharedReader,
    VirtballoonError,
)
from virtballoon.exporter.snapshots import by_label
from virtballoon.hypervisor.uri import named_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[SilentHost]:
    with SilentHost(tmp_path / "socket") as host:
        yield host


def test_snapshot(node: str) -> None:
    snapshot = SharedReader(
        {"one": node, "gone": "qemu+unix:///system?socket=/no/such/sock"}
    ).read()
    assert {name: report.status for name, report in snapshot.hosts.items()} == {
        "one": HostStatus.OK,
        "gone": HostStatus.UNREACHABLE,
    }
    assert snapshot.hosts["gone"].error is not None
    assert len(snapshot.hosts["one"].domains) > 1


def host_report(uri: str, hostname: str | None) -> HostReport:
    return HostReport(
        uri=uri,
        hostname=hostname,
        status=HostStatus.OK if hostname else HostStatus.UNREACHABLE,
        error=None,
        elapsed_seconds=0.0,
    )


def test_local_hosts_go_by_their_own_names() -> None:
    system, session = "qemu:///system", "qemu:///session"
    remote = "qemu+ssh://me@[::1]:22/system"
    assert [named_host(uri) for uri in (system, remote)] == [None, "::1"]
    known: dict[str, str] = {}

    def labels(hostname: str | None) -> list[str]:
        uris = {"here": system, "mine": session, "away": remote, "other": system}
        hosts = {name: host_report(uri, hostname) for name, uri in uris.items()}
        return list(by_label(hosts, known))

    up = ["hv1", "hv1 (mine)", "away", "hv1 (other)"]
    assert labels("hv1") == up
    # While it is down, and not for another exporter.
    assert labels(None) == up
    (unknown,) = by_label({"here": host_report(system, None)})
    assert unknown == libvirt.open("test:///default").getHostname()
    assert list(by_label({"hv1": host_report(remote, "b"), "x": host_report(system, "hv1")})) == [
        "hv1",
        "hv1 (x)",
    ]


def test_reader_remembers_own_names(tmp_path: Path) -> None:
    file = tmp_path / "node.xml"
    file.write_text("<node/>")
    reader = SharedReader({"one": f"test://{file}"}, own_names=True)
    name = libvirt.open("test:///default").getHostname()
    (first,) = reader.read().hosts
    assert first == name
    assert list(SharedReader({"one": "test:///default"}).read().hosts) == ["one"]


def test_host_that_others_leave_no_time_for(silent: SilentHost, tmp_path: Path) -> None:
    with SilentHost(tmp_path / "other") as other:
        hosts = {"one": silent.uri, "two": other.uri}
        snapshot = SharedReader(hosts, timeout=0.5, jobs=1).read()
    error = snapshot.hosts["two"].error
    assert error is not None
    assert (error.message, error.hint) == (
        "not read, because other hosts took all the time",
        "raise --jobs",
    )


def test_concurrent_requests_share_a_snapshot(node: str, silent: SilentHost) -> None:
    reader = SharedReader({"one": node, "silent": silent.uri}, timeout=2)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda _: reader.read(), range(4)))
    assert len({snapshot.begun_at for snapshot in read}) == 1
    assert {snapshot.hosts["one"].status for snapshot in read} == {HostStatus.OK}


@pytest.mark.parametrize(("max_age", "is_shared"), [(3600, True), (0, False)])
def test_snapshot_is_shared_up_to_its_max_age(node: str, max_age: float, is_shared: bool) -> None:
    reader = SharedReader({"one": node}, max_age=max_age)
    first, second = reader.read(), reader.read()
    assert (second.begun_at == first.begun_at) is is_shared
    assert second.age_seconds > 0


def test_shortened_snapshot_is_not_for_requests_with_more_time(silent: SilentHost) -> None:
    reader = SharedReader({"silent": silent.uri}, timeout=0.4, max_age=3600)
    short = [reader.read(0.1), reader.read(0.1)]
    assert short[0].begun_at == short[1].begun_at
    assert reader.read().begun_at > short[0].begun_at


def test_silent_host_is_not_connected_to_again(node: str, silent: SilentHost) -> None:
    before = held()
    reader = SharedReader({"silent": silent.uri, "one": node}, timeout=0.2)
    first = reader.read()
    for _ in range(4):
        snapshot = reader.read()
    # Those of the other host have ended.
    wait_until(lambda: held()[0] <= before[0] + 1, 30, "one thread to be left")
    errors = [str(r.hosts["silent"].error) for r in (first, snapshot)]
    # On a busy machine, starting takes some of the time.
    assert re.search(r"no answer within 0\.\d s", errors[0])
    assert "no answer for" in errors[1]
    assert snapshot.hosts["one"].status is HostStatus.OK
    silent.close()
    wait_until(
        lambda: "no answer" not in str(reader.read().hosts["silent"].error), 30, "another visit"
    )
    wait_until(lambda: held()[0] <= before[0], 30, "the threads to end")


def test_no_time_is_left_for_a_host(node: str, silent: SilentHost) -> None:
    reader = SharedReader({"silent": silent.uri, "one": node}, timeout=0.2, jobs=1)
    report = reader.read().hosts["one"]
    assert report.status is HostStatus.UNREACHABLE
    assert "not" in str(report.error)


def test_rejects_invalid_interval() -> None:
    with pytest.raises(InvalidInterval):
        IntervalEnsurer(-1)


class FailingHost:
    """A host that can be read and not written to, which no real libvirtd does at will."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, pause: float) -> None:
        self.error: VirtballoonError = ConnectError("libvirtd is being restarted", host="hv1")
        self.is_reached = False
        self.tries = 0
        monkeypatch.setattr("virtballoon.exporter.ensuring.set_intervals", self._set)
        self._ensurer = IntervalEnsurer(5, pause=pause)

    def ensure(self) -> int:
        """The number of tries after another reading."""
        host = HostReport(
            uri="test:///default",
            hostname="hv1",
            status=HostStatus.OK,
            error=None,
            elapsed_seconds=0.0,
            domains=(report(uuid="uuid-off", interval=Interval(live=0)),),
        )
        self._ensurer.ensure({"one": "test:///default"}, {"one": host})
        return self.tries

    def _set(self, *_what: object, **_how: object) -> HostChanges:
        self.tries += 1
        change = IntervalChange(
            name="web1",
            uuid="uuid-off",
            outcome=Outcome.FAILED,
            changed=False,
            before=Interval(live=0),
            after=Interval(live=0),
            error=self.error,
        )
        return HostChanges(
            uri="test:///default",
            hostname=None,
            status=HostStatus.PARTIAL if self.is_reached else HostStatus.UNREACHABLE,
            error=None if self.is_reached else self.error,
            elapsed_seconds=0.0,
            domains=(change,) if self.is_reached else (),
        )


def test_failing_host_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    host = FailingHost(monkeypatch, pause=3600)
    assert [host.ensure() for _ in range(3)] == [1, 1, 1]


def test_domain_is_tried_once_in_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    host = FailingHost(monkeypatch, pause=0)
    # An error of the host does not count.
    assert [host.ensure() for _ in range(3)] == [1, 2, 3]
    host.error = LibvirtFailure("no")
    host.is_reached = True
    assert [host.ensure() for _ in range(3)] == [4, 4, 4]


def test_on_read_gets_the_reports(node: str) -> None:
    read: list[tuple[dict[str, object], dict[str, HostReport]]] = []
    reader = SharedReader(
        {"one": node}, on_read=lambda hosts, reports: read.append((dict(hosts), dict(reports)))
    )
    snapshot = reader.read()
    wait_until(lambda: read, 30, "the call")
    assert read == [({"one": node}, dict(snapshot.hosts))]


def test_connection_is_kept(node: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "virtballoon.hypervisor")
    reader = SharedReader({"one": node})
    for _ in range(3):
        assert reader.read().hosts["one"].status is HostStatus.OK

    def opened() -> int:
        return sum("openAuth(read-only)" in record.getMessage() for record in caplog.records)

    assert opened() == 1
    reader.close()
