"""The exporter on real guests: scraped by a real Prometheus, beside guests that hang, with nothing
left behind."""

from __future__ import annotations

import base64
import json
import os
import re
import runpy
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from prometheus_client.parser import text_string_to_metric_families

import virtballoon
from tests.conftest import available, started
from tests.lab import Guest, GuestSpec, Hypervisor, Prometheus, wait_until
from tests.lab.keeper import signal_process
from tests.process import finished
from tests.running import COMMAND, EXAMPLES, NOBODY_LISTENS, Exporter, exporting, hanging, program
from tests.unit.builders import METADATA
from tests.unit.sizing_histories import GIB, history, steady, store
from virtballoon.model.statistics import STATISTIC_BY_NAME

pytestmark = pytest.mark.once

HOSTILE = 'a "b"\\\n\u202ec{x="y"} 1'


@pytest.fixture(scope="module")
def scraped(
    hypervisor: Hypervisor, guests: dict[str, Guest], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Exporter, Prometheus]]:
    """An exporter of the private hypervisor, with an instance of OpenStack, and of one that is not
    there, and a Prometheus with the example's rules that scrapes it."""
    uri = "http://openstack.org/xmlns/libvirt/nova/1.1"
    instance = METADATA["nova"][0].replace(f' xmlns:nova="{uri}"', "").replace("nova:", "")

    def set_metadata(metadata: str | None) -> None:
        guests["classic"].domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            metadata,
            "nova",
            uri,
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )

    end = int(time.time())
    of_classic = history(steady(GIB), uuid=guests["classic"].uuid, end=end)
    path = store(tmp_path_factory.mktemp("store") / "history.db", [of_classic])
    words = ["-c", hypervisor.uri, "-c", NOBODY_LISTENS, "--compat", "libvirt-exporter", "--all"]
    words += ["--advice", "--store", str(path)]
    set_metadata(instance)
    with ExitStack() as stack:
        stack.callback(set_metadata, None)
        exporter = stack.enter_context(exporting(*words))
        job = {"job_name": "virtballoon", "static_configs": [{"targets": [exporter.address]}]}
        configuration = {
            "global": {"evaluation_interval": "1s"},
            "scrape_configs": [job | {"scrape_interval": "2s", "scrape_timeout": "2s"}],
            "rule_files": [str(EXAMPLES / "prometheus" / "virtballoon.rules.yml")],
        }
        prometheus = stack.enter_context(available(Prometheus(configuration)))
        wait_until(
            lambda: prometheus.query("up == 1 and on (job) count_over_time(up[1m]) > 3"),
            60,
            "four scrapes",
        )
        yield exporter, prometheus


def test_prometheus_has_every_guest(
    hypervisor: Hypervisor, guests: dict[str, Guest], scraped: tuple[Exporter, Prometheus]
) -> None:
    _, prometheus = scraped
    name = hypervisor.connection.getHostname()
    host = {"host": name}
    assert {labels["host"]: value for labels, value in prometheus.query("virtballoon_up")} == {
        name: 1,
        f"{name} ({NOBODY_LISTENS})": 0,
    }
    rows = {row.uuid: row for row in virtballoon.read_host(hypervisor.uri, inactive=True).domains}
    states = prometheus.query(
        "virtballoon_domain_verdict * on (job, instance, host, domain) group_left (uuid)"
        " virtballoon_domain_info"
    )
    of_guests = {guest.uuid for guest in guests.values()}
    assert of_guests <= {labels["uuid"] for labels, _ in states}
    for labels, _ in states:
        if labels["uuid"] in of_guests:
            row = rows[labels["uuid"]]
            assert labels.items() >= (host | {"domain": row.name, "verdict": row.verdict}).items()
    total = prometheus.query('virtballoon_domain_total_memory_bytes{domain="classic"}')
    assert [value for _, value in total] == [guests["classic"].meminfo()["MemTotal"]]
    # The other exporters' name for the same.
    theirs = prometheus.query('libvirt_domain_memory_stats_available_bytes{domain="classic"}')
    assert [value for _, value in theirs] == [value for _, value in total]
    # Its labels, by the query of the man page.
    joined = prometheus.query(
        'virtballoon_domain_state{domain="classic"} * on (job, instance, host, domain)'
        " group_left (project) virtballoon_domain_labels"
    )
    assert [(labels["state"], labels["project"]) for labels, _ in joined] == [("running", "acme")]
    # Counters are counters to Prometheus.
    metadata = prometheus.api("metadata", metric="virtballoon_domain_minor_faults_total")
    kinds = metadata or prometheus.api("metadata", metric="virtballoon_domain_minor_faults")
    assert [entry["type"] for entries in kinds.values() for entry in entries] == ["counter"]


def test_hostile_name(hypervisor: Hypervisor, scraped: tuple[Exporter, Prometheus]) -> None:
    exporter, prometheus = scraped
    guest = hypervisor.add(GuestSpec(HOSTILE, paused=True, persistent=False))
    try:
        assert exporter.verdicts()[HOSTILE] == "suspended"
        expression = f'virtballoon_domain_info{{uuid="{guest.uuid}"}}'
        ((labels, _),) = wait_until(lambda: prometheus.query(expression), 60, "the guest")
        assert labels["domain"] == HOSTILE
        assert labels["machine"].startswith("pc-i440fx-")
    finally:
        hypervisor.remove(guest)


def test_promtool_accepts_the_metrics(scraped: tuple[Exporter, Prometheus]) -> None:
    exporter, _ = scraped
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=exporter.get(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_dashboard(scraped: tuple[Exporter, Prometheus]) -> None:
    _, prometheus = scraped
    dashboard = json.loads((EXAMPLES / "grafana" / "virtballoon.json").read_text())
    variables: dict[str, str] = {}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert asked is not None
            offered = prometheus.api(
                f"label/{asked[2]}/values", **{"match[]": substituted(asked[1], variables)}
            )
            assert offered
            variables[variable["name"]] = variable["allValue"]
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]
    assert len(expressions) > 10
    for expression in expressions:
        # Of what is counted in time there must be two scrapes.
        query = substituted(expression, variables)
        wait_until(partial(prometheus.query, query), 30, f"data for {query}")


#: Queries of the dashboard of inovex's exporter: dashboards/openstack-libvirt-dashboard/
#: libvirt-openstack.json of commit 8dbcadd (June 2026). Its variables, and all panels but those
#: about processor, disks and network.
THEIR_VARIABLES = {
    "project_name": ("libvirt_domain_openstack_info", "project_name"),
    "vm_name": ('libvirt_domain_openstack_info{project_name="$project_name"}', "instance_name"),
    "vm_id": (
        'libvirt_domain_openstack_info{instance_name="$vm_name", project_name="$project_name"}',
        "instance_id",
    ),
    "dom_id": (
        'libvirt_domain_openstack_info{instance_name="$vm_name", project_name="$project_name",'
        ' instance_id="$vm_id"}',
        "domain",
    ),
}
THEIR_PANELS = (
    'libvirt_domain_info_state{domain="$dom_id"}',
    'libvirt_domain_memory_stats_maximum_bytes{domain="$dom_id"}',
    'libvirt_domain_memory_stats_used_percent{domain="$dom_id"}',
    'sum by (domain)(rate(libvirt_domain_memory_stats_swap_in_bytes{domain="$dom_id"}'
    '[$__rate_interval]) + rate(libvirt_domain_memory_stats_swap_out_bytes{domain="$dom_id"}'
    "[$__rate_interval]))",
)


def test_dashboard_of_another_exporter(
    guests: dict[str, Guest], scraped: tuple[Exporter, Prometheus]
) -> None:
    _, prometheus = scraped
    variables: dict[str, str] = {}
    for name, (series, label) in THEIR_VARIABLES.items():
        match = substituted(series, variables)
        (variables[name],) = prometheus.api(f"label/{label}/values", **{"match[]": match})
    expected = ["acme", "shop-web-1", guests["classic"].uuid, "classic"]
    assert list(variables.values()) == expected
    state, maximum, percent, swapped = (
        wait_until(partial(prometheus.query, query), 30, f"data for {query}")
        for query in (substituted(panel, variables) for panel in THEIR_PANELS)
    )
    assert [(labels["state_desc"], n) for labels, n in state] == [("the domain is running", 1)]
    assert [value for _, value in maximum] == [guests["classic"].domain.maxMemory() * 1024]
    assert 0 < percent[0][1] < 100
    assert len(swapped) == 1
    # What is joined with this has all domains.
    joined = prometheus.query(
        "libvirt_domain_info_maximum_memory_bytes"
        " * on (domain) group_left (instance_name, project_name) libvirt_domain_openstack_info"
    )
    assert {guest.name for guest in guests.values()} <= {row["domain"] for row, _ in joined}


def test_dashboard_picture(scraped: tuple[Exporter, Prometheus]) -> None:
    _, prometheus = scraped
    script = EXAMPLES / "pictures" / "dashboard.py"
    picture = runpy.run_path(str(script))
    dashboard = json.loads((EXAMPLES / "grafana" / "virtballoon.json").read_text())
    now = time.time()
    source = picture["Source"](prometheus, now - 30, now)
    drawn = ElementTree.fromstring(picture["drawn"](dashboard, source))
    words = {text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {panel["title"] for panel in dashboard["panels"]} <= words
    # A guest in the table of those that are not well.
    assert {"unpolled", "polling-off"} <= words


def substituted(expression: str, variables: dict[str, str]) -> str:
    """A query of Grafana's as it sends it."""
    for name, value in {**variables, "__rate_interval": "30s"}.items():
        expression = re.sub(rf"\${name}\b", value, expression)
    assert "$" not in expression
    return expression


def test_rules(scraped: tuple[Exporter, Prometheus]) -> None:
    _, prometheus = scraped
    rules = EXAMPLES / "prometheus"
    for words in (
        ("check", "rules", rules / "virtballoon.rules.yml"),
        ("check", "config", rules / "prometheus.yml"),
        ("test", "rules", rules / "virtballoon.rules.test.yml"),
    ):
        checked = finished([program("promtool"), *words])
        assert checked.returncode == 0, checked.stdout + checked.stderr

    def states() -> dict[str, str]:
        (group,) = prometheus.api("rules")["groups"]
        assert all(rule["health"] != "err" for rule in group["rules"]), group
        return {rule["name"]: rule["state"] for rule in group["rules"]}

    def is_pending(name: str) -> bool:
        return states()[name] == "pending"

    # It takes minutes to fire.
    name = "VirtballoonHostDown"
    wait_until(partial(is_pending, name), 60, f"{name} to be pending")
    (group,) = prometheus.api("rules")["groups"]
    rule_by_name = {rule["name"]: rule["query"] for rule in group["rules"]}
    for name in ("GuestsNotPolled", "GuestFiguresStale"):
        # Minutes ago there was no figure yet.
        query = re.sub(r"offset \d+m", "offset 1s", rule_by_name[name])
        found = wait_until(partial(prometheus.query, query), 60, f"{name} to fire")
        assert all(labels.keys() == {"job", "instance", "host"} for labels, _ in found)
    assert states()["GuestOutOfMemory"] == "inactive"
    tested = (rules / "virtballoon.rules.test.yml").read_text()
    assert set(states()) == set(re.findall(r"alertname: (\w+)", tested))


def test_statistics_that_only_qemu_has(newest_guest: Guest) -> None:
    host = newest_guest.hypervisor.connection.getHostname()
    labels = {"host": host, "domain": "newest"}
    with exporting("-c", newest_guest.hypervisor.uri, "--via", "qom", "--max-age", "0") as exporter:
        wait_until(lambda: exporter.verdicts().get("newest") == "fresh", 60, "its figures")
        found = exporter.scrape()
    for statistic in STATISTIC_BY_NAME.values():
        name = f"virtballoon_domain_{statistic.name}"
        (series,) = [
            found[full] for full in found if re.fullmatch(f"{name}(_bytes)?(_total)?", full)
        ]
        assert [have for have, _ in series if have["domain"] == "newest"] == [labels]
    assert "virtballoon_domain_other_statistic" not in found
    (source,) = [
        have["source"] for have, _ in found["virtballoon_domain_info"] if have["domain"] == "newest"
    ]
    assert source == "qom"


@pytest.fixture(scope="module")
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of this module's own: hung guests burden its daemon."""
    with started() as hypervisor:
        hypervisor.create_blank(6, period=5)
        yield hypervisor


def test_nothing_piles_up(alone: Hypervisor) -> None:
    with exporting("-c", alone.uri, "--max-age", "0", "--timeout", "600") as exporter:
        exporter.get()
        before = exporter.held()
        for _ in range(200):
            exporter.get()
        wait_until(lambda: exporter.held() <= before, 60, "all that was used to be given back")

        # Far less than it is given by itself.
        with hanging(alone, "blank0002"):
            expected = {f"blank{i:04}": "busy" if i == 2 else "suspended" for i in range(6)}
            for _ in range(5):
                assert exporter.verdicts(1.5) == expected
            # The call that hangs, and the connection that it keeps.
            wait_until(lambda: exporter.held()[0] <= before[0] + 1, 60, "one thread to be left")
            wait_until(lambda: exporter.held()[1] <= before[1] + 2, 60, "one connection to be left")
        wait_until(lambda: exporter.held() <= before, 60, "the last of it to be given back")
        assert exporter.end() == 0
        assert exporter.lines == []


def test_hung_domain_delays_one_scrape(alone: Hypervisor) -> None:
    with exporting("-c", alone.uri, "--max-age", "0", "--timeout", "60") as exporter:

        def duration() -> float:
            begun = time.monotonic()
            exporter.get()
            return time.monotonic() - begun

        usual = max(duration() for _ in range(3))
        with hanging(alone, "blank0002"):
            # Far less than the timeout, also on a busy machine.
            assert duration() < 20
            ((labels, _),) = exporter.scrape()["virtballoon_domain_busy"]
            assert (labels["domain"], labels["reason"]) == ("blank0002", "monitor")
            assert min(duration() for _ in range(5)) < max(2 * usual, 1.0)


def test_concurrent_scrapes_share_a_reading(alone: Hypervisor) -> None:
    with (
        exporting("-c", alone.uri, "--max-age", "0") as exporter,
        hanging(alone, "blank0001"),
    ):
        found: list[dict[str, Any]] = []
        threads = [
            threading.Thread(target=lambda: found.append(exporter.scrape(2))) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 6
        assert len({str(read["virtballoon_sweep_timestamp_seconds"]) for read in found}) == 1


def test_answers_are_completed_at_the_end(alone: Hypervisor) -> None:
    with exporting("-c", alone.uri) as exporter, hanging(alone, "blank0001"):
        before = exporter.held()
        found: list[dict[str, str]] = []
        thread = threading.Thread(target=lambda: found.append(exporter.verdicts()))
        thread.start()
        wait_until(lambda: exporter.held()[0] > before[0] + 1, 60, "the hosts to be read")
        assert exporter.end() == 0
        thread.join()
        assert len(found[0]) == 6


def test_host_that_recovers(alone: Hypervisor) -> None:
    with exporting("-c", alone.uri, "--max-age", "0", "--timeout", "5") as exporter:
        label = {"host": alone.connection.getHostname()}
        assert exporter.scrape()["virtballoon_up"] == [(label, 1)]
        before = exporter.held()
        signal_process(alone.pid, signal.SIGSTOP, alone.directory)
        try:
            assert exporter.scrape(1)["virtballoon_up"] == [(label, 0)]
            hanging_calls = exporter.held()
            for _ in range(4):
                assert exporter.scrape(1)["virtballoon_up"] == [(label, 0)]
            # Nothing else is tried while those calls hang.
            wait_until(lambda: exporter.held() <= hanging_calls, 60, "no more to be used")
        finally:
            signal_process(alone.pid, signal.SIGCONT, alone.directory)
        assert exporter.scrape()["virtballoon_up"] == [(label, 1)]
        wait_until(lambda: exporter.held() <= before, 60, "the last of it to be given back")
        alone.kill_daemon()
        wait_until(lambda: exporter.scrape()["virtballoon_up"] == [(label, 0)], 60, "it to be down")
        alone.start_daemon()
        assert exporter.scrape()["virtballoon_up"] == [(label, 1)]
        assert len(exporter.verdicts()) == 6


@pytest.fixture
def unpolled(alone: Hypervisor) -> Iterator[dict[str, Guest]]:
    """Two guests that are not polled; the shared ones would be changed by these tests."""
    guests = alone.boot([GuestSpec("ensured"), GuestSpec("ensured-suspended")])
    guests["ensured-suspended"].domain.suspend()
    try:
        yield guests
    finally:
        for guest in guests.values():
            alone.remove(guest)


def test_turns_polling_on(alone: Hypervisor, unpolled: dict[str, Guest]) -> None:
    uri = alone.uri

    def intervals() -> dict[str, int | None]:
        rows = virtballoon.read_host(uri, ["ensured", "ensured-suspended"]).domains
        return {row.name: row.interval.live for row in rows}

    def said(name: str) -> str:
        return f"virtballoon: domain {name!r} on {uri}: polled every 1 s from now on\n"

    with exporting("-c", uri, "--max-age", "0", "--ensure-interval", "1") as exporter:
        assert exporter.verdicts()["ensured"] == "polling-off"
        wait_until(lambda: exporter.verdicts()["ensured"] == "fresh", 60, "it to be polled")
        wait_until(lambda: said("ensured") in exporter.lines, 60, "a line about it")
        # Not suspended ones, and not one whose polling was turned off again.
        assert intervals() == {"ensured": 1, "ensured-suspended": 0}
        virtballoon.set_intervals(uri, 0, ["ensured"])
        assert exporter.verdicts()["ensured"] == "polling-off"
        unpolled["ensured-suspended"].domain.resume()
        exporter.scrape()
        wait_until(lambda: said("ensured-suspended") in exporter.lines, 60, "a line about it")
        assert intervals() == {"ensured": 0, "ensured-suspended": 1}
        exporter.end()
        assert exporter.lines == [said("ensured"), said("ensured-suspended")]


def test_the_end(alone: Hypervisor, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        before = ("env", f"NOTIFY_SOCKET={tmp_path}/notify")
        for number in (signal.SIGTERM, signal.SIGINT):
            with exporting("-c", alone.uri, before=before) as exporter:
                assert manager.recv(100) == b"READY=1"
                assert "healthy" in exporter.get("/-/healthy")
                assert exporter.end(number) == 0
                assert manager.recv(100) == b"STOPPING=1"
                assert exporter.lines == []


def test_sockets_from_systemd(alone: Hypervisor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    # The program is started when the first client comes, as by a socket unit.
    words = [str(COMMAND), "export", "-c", alone.uri, "--listen", "systemd"]
    activate = [program("systemd-socket-activate"), "-l", f"127.0.0.1:{port}", *words]
    with subprocess.Popen(activate, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "Listening on" in process.stderr.readline()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                assert b"\nvirtballoon_up{" in answer.read()
            process.terminate()
            assert process.wait(60) == 0
        finally:
            process.kill()


def test_reverse_proxy(alone: Hypervisor, tmp_path: Path) -> None:
    nginx, openssl = program("nginx"), program("openssl")
    key, certificate, users = (tmp_path / name for name in ("key.pem", "cert.pem", "users"))
    made = (
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=hv1"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}"
    )
    subprocess.run(made.split(), capture_output=True, check=True)
    hashed = finished([openssl, "passwd", "-apr1", "secret"], check=True).stdout
    users.write_text(f"prometheus:{hashed}")
    with ExitStack() as stack:
        exporter = stack.enter_context(exporting("-c", alone.uri))
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        example = (EXAMPLES / "nginx" / "virtballoon.conf").read_text()
        for text, replacement in (
            ("127.0.0.1:9177", exporter.address),
            ("listen 9178 ", f"listen {address} "),
            ("listen [::]:9178 ssl;", ""),
            ("/etc/virtballoon", str(tmp_path)),
        ):
            assert text in example
            example = example.replace(text, replacement)
        temporary = "".join(
            f"{name}_temp_path {tmp_path}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (tmp_path / "nginx.conf").write_text(
            f"pid {tmp_path}/pid; error_log stderr; daemon off; master_process off; events {{}}"
            f" http {{ access_log off; {temporary} {example} }}"
        )
        proxy = stack.enter_context(
            subprocess.Popen([nginx, "-p", tmp_path, "-c", tmp_path / "nginx.conf"])
        )
        stack.callback(proxy.kill)
        host, _, port = address.partition(":")
        wait_until(lambda: _listens(host, int(port)), 60, "nginx to listen")
        trust = ssl.create_default_context(cafile=str(certificate))

        def ask(path: str, password: str) -> bytes:
            login = base64.b64encode(f"prometheus:{password}".encode()).decode()
            headers = {"Authorization": f"Basic {login}"}
            request = urllib.request.Request(f"https://{address}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=60, context=trust) as answer:
                return bytes(answer.read())

        assert b"\nvirtballoon_up{" in ask("/metrics", "secret")
        for path, password, status in (("/metrics", "wrong", 401), ("/", "secret", 404)):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(path, password)
            with refused.value:
                assert refused.value.code == status


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def test_file_for_the_textfile_collector(alone: Hypervisor, tmp_path: Path) -> None:
    file = tmp_path / "virtballoon.prom"
    for hosts, status, up in (
        ((alone.uri,), 0, [1.0]),
        ((alone.uri, NOBODY_LISTENS), 3, [1.0, 0.0]),
        # That none is there is worth a file.
        ((NOBODY_LISTENS,), 1, [0.0]),
    ):
        words = [word for host in hosts for word in ("-c", host)]
        result = finished([COMMAND, "export", *words, "--output", file], umask=0o022)
        assert (result.returncode, result.stdout) == (status, "")
        found = list(text_string_to_metric_families(file.read_text()))
        (family,) = [family for family in found if family.name == "virtballoon_up"]
        assert [sample.value for sample in family.samples] == up
        assert file.stat().st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == [file.name]  # noqa: PTH208
