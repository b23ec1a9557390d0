"""Causes of missing or stale statistics on real guests: each is brought about, and found.

Not here, since nothing on a test machine brings them about, but with made-up answers in
``tests/unit/test_diagnosis.py``: a driver without statistics (a Windows guest without its balloon
service), a guest agent's channel, a disk that fails, a watchdog, a job that holds a guest, an old
libvirt, and clocks.
"""

from __future__ import annotations

import json
import os
import shlex
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import jsonschema  # type: ignore[import-untyped]
import pytest

import virtballoon
from tests.conftest import GuestFactory, cannot_run, started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from tests.running import COMMAND, in_qemu, run, set_in_qemu
from tests.unit.builders import SCHEMA
from virtballoon import (
    Cause,
    Diagnosis,
    Sign,
    Source,
    Verdict,
    diagnose_domain,
    diagnose_host,
)

#: A crash that the kernel neither survives nor reboots from.
PANIC = "(sleep 0.2; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &"


def causes(found: Diagnosis) -> list[Cause]:
    return [each.cause for each in found.possible_causes]


def answers(found: Diagnosis) -> dict[str, str]:
    return {each.asked: each.answer for each in found.evidence}


def diagnosed(guest: Guest, via: Source = Source.LIBVIRT, timeout: float = 20) -> Diagnosis:
    return diagnose_domain(guest.domain, via=via, timeout=timeout)


def wait_for(guest: Guest, verdict: Verdict) -> None:
    wait_until(
        lambda: virtballoon.read_domain(guest.domain).verdict is verdict,
        60,
        f"{guest.name!r} to be {verdict.value}",
    )


def is_tainted(guest: Guest) -> bool:
    return "custom monitor" in guest.hypervisor.virsh("dominfo", guest.uuid).stdout


@pytest.fixture(scope="module")
def ward(alone: Hypervisor) -> dict[str, Guest]:
    """Guests with one problem each, which they keep."""
    specs = [
        GuestSpec("unloaded", period=1),
        GuestSpec("panicked", period=1),
        # Its driver is loaded by hand, so that a reset leaves the guest without it.
        GuestSpec("reset", period=1, driver=False),
        GuestSpec("driverless", period=1, driver=False),
        GuestSpec("bare", model="none", paused=True),
        GuestSpec("behind", qemu_commandline="id"),
        GuestSpec("unpolled"),
        GuestSpec("well", period=2),
        GuestSpec("rare", period=3600),
        GuestSpec("paused", paused=True),
        GuestSpec("off", start=False),
    ]
    ward = alone.boot(specs)
    ward["unloaded"].unload_driver()
    ward["panicked"].run(PANIC)
    ward["reset"].load_driver()
    wait_for(ward["reset"], Verdict.FRESH)
    ward["reset"].domain.reset(0)
    for name in ("unloaded", "panicked"):
        wait_for(ward[name], Verdict.STALE)
    wait_for(ward["reset"], Verdict.UNANSWERED if forgets(alone) else Verdict.STALE)
    return ward


@pytest.fixture(autouse=True)
def _guests_still_run(request: pytest.FixtureRequest) -> Iterator[None]:
    """A diagnosed guest is the same running process afterwards."""
    ward: dict[str, Guest] = (
        request.getfixturevalue("ward") if "ward" in request.fixturenames else {}
    )
    running = {name: guest.pid for name, guest in ward.items() if guest.spec.start}
    yield
    assert {name: ward[name].pid for name in running} == running


def forgets(hypervisor: Hypervisor) -> bool:
    """Whether the installed QEMU clears the figures at a reset."""
    version: int = hypervisor.connection.getVersion()
    return version >= 10_000_000


@pytest.fixture(scope="module")
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of this module's own, since its guests have problems."""
    with started() as hypervisor:
        yield hypervisor


@pytest.fixture(scope="module")
def by_libvirt(ward: dict[str, Guest], alone: Hypervisor) -> dict[str, Diagnosis]:
    """The diagnoses by libvirt, before any guest was tainted."""
    host = diagnose_host(alone.uri, inactive=True, timeout=20)
    assert host.error is None
    assert not any(is_tainted(guest) for guest in ward.values() if guest.spec.start)
    return {row.name: row for row in host.domains}


@pytest.fixture(scope="module")
def by_qemu(
    by_libvirt: dict[str, Diagnosis], ward: dict[str, Guest], alone: Hypervisor
) -> dict[str, Diagnosis]:
    """The diagnoses by QOM."""
    set_in_qemu(ward["well"], 3)
    host = diagnose_host(alone.uri, via=Source.QOM, timeout=20)
    assert host.error is None
    return {row.name: row for row in host.domains}


STALE = [Cause.DRIVER_UNLOADED, Cause.GUEST_HUNG, Cause.JUST_RESET, Cause.INTERVAL_DIFFERS]
UNANSWERED = [Cause.NO_DRIVER, Cause.NO_STATISTICS, Cause.BOOTING, Cause.INTERVAL_DIFFERS]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unloaded", STALE),
        ("panicked", STALE),
        ("reset", STALE),
        ("driverless", UNANSWERED),
        ("bare", [Cause.NO_DEVICE]),
        ("behind", [Cause.UNKNOWN_TO_LIBVIRT]),
        ("unpolled", [Cause.POLLING_OFF]),
        ("well", [Cause.WELL]),
        ("paused", [Cause.PAUSED]),
        ("off", [Cause.SHUTOFF]),
    ],
)
def test_possible_causes_by_libvirt(
    alone: Hypervisor, by_libvirt: dict[str, Diagnosis], name: str, expected: list[Cause]
) -> None:
    found = by_libvirt[name]
    if name == "reset" and forgets(alone):
        expected = UNANSWERED
    # The likeliest is tested below; it depends on the processor time that the machine gives.
    assert set(causes(found)) == set(expected)
    assert found.cause is found.possible_causes[0].cause
    assert found.evidence
    assert all(each.by is Source.LIBVIRT for each in found.evidence)
    assert (found.remedy is None) == (found.cause in {Cause.WELL, Cause.SHUTOFF})
    checks = [each.check for each in found.possible_causes]
    assert all(checks) if len(expected) > 1 else checks == [None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unloaded", STALE[:3]),
        ("panicked", STALE[:3]),
        ("reset", STALE[:3]),
        ("driverless", UNANSWERED[:3]),
        ("bare", [Cause.NO_DEVICE]),
        ("behind", [Cause.POLLING_OFF]),
        ("unpolled", [Cause.POLLING_OFF]),
        ("well", [Cause.WELL]),
        ("paused", [Cause.PAUSED]),
    ],
)
def test_possible_causes_by_qom(
    alone: Hypervisor, by_qemu: dict[str, Diagnosis], name: str, expected: list[Cause]
) -> None:
    found = by_qemu[name]
    if forgets(alone):
        now = {"unloaded": STALE[:2], "panicked": STALE[:2], "reset": UNANSWERED[:3]}
        expected = now.get(name, expected)
    assert set(causes(found)) == set(expected)
    told = answers(found)
    if name == "behind":
        assert found.findings[0].cause is Cause.UNKNOWN_TO_LIBVIRT
        assert "set-interval --via qom 10 behind" in (found.remedy or "")
    elif name == "well":
        assert Cause.INTERVAL_DIFFERS in {each.cause for each in found.findings}
        assert (told["interval of live XML"], told["interval of QEMU"]) == ("2 s", "3 s")
        # What its QEMU lacks is reported for a healthy domain, too.
        version = tuple(map(int, told["query-version"].split(".")))
        lacking = [each.meaning for each in found.findings if each.cause is Cause.TOO_OLD]
        assert bool(lacking) == (version < (9, 2))
        assert all("oom_kills" in meaning for meaning in lacking)


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        # A Linux that has crashed uses all of a CPU, others in these guests use next to nothing.
        ("panicked", Cause.GUEST_HUNG),
        ("unloaded", Cause.DRIVER_UNLOADED),
        ("driverless", Cause.NO_DRIVER),
    ],
)
def test_likeliest_cause(
    by_qemu: dict[str, Diagnosis], ward: dict[str, Guest], name: str, cause: Cause
) -> None:
    found = diagnosed(ward[name])
    if cause is Cause.GUEST_HUNG and Sign.SPINNING not in found.seen:
        # A loaded machine has no processor time for the guest.
        cause = Cause.DRIVER_UNLOADED
    assert found.cause is cause


def test_crashed_kernel_uses_more_processor_time_than_an_idle_guest(
    by_libvirt: dict[str, Diagnosis],
) -> None:
    def processor_seconds(name: str) -> float:
        asked = "processor time of its QEMU over"
        (told,) = (v for k, v in answers(by_libvirt[name]).items() if k.startswith(asked))
        return float(told.split()[0])

    # On a loaded machine both get little time, but still different amounts.
    assert processor_seconds("panicked") > processor_seconds("unloaded")


def test_booting_guest(alone: Hypervisor, guest_maker: GuestFactory) -> None:
    guest = guest_maker(GuestSpec("booting", period=1, start=False))
    guest.domain.create()
    found = diagnosed(guest, timeout=4)
    # On a fast machine it has booted by then.
    if found.verdict is Verdict.UNANSWERED:
        assert Cause.BOOTING in causes(found)
        assert (found.cause is Cause.BOOTING) == (Sign.SPINNING in found.seen)
    else:
        assert found.cause in {Cause.JUST_ANSWERED, Cause.WELL}


def test_guest_agent_shows_that_a_guest_has_booted(
    alone: Hypervisor, guest_maker: GuestFactory
) -> None:
    if alone.kernel.agent is None:
        cannot_run("the guest kernel has no virtio_console: run tests/lab/setup")
    guest = guest_maker(GuestSpec("agent", period=1, driver=False, agent=True))
    guest.wait_booted()
    found = diagnosed(guest)
    assert Sign.AGENT_DISCONNECTED in found.seen
    assert Cause.BOOTING in causes(found)
    # As the agent does it: what opens the channel keeps it open.
    guest.run("load_modules agent; until ls /dev/vport*; do sleep 0.1; done")
    guest.run('for port in /dev/vport*; do sleep 600 <>"$port" >/dev/null 2>&1 & done')
    wait_until(lambda: "state='connected'" in guest.domain.XMLDesc(), 60, "the open channel")
    found = diagnosed(guest)
    assert Sign.AGENT_CONNECTED in found.seen
    assert found.cause is Cause.NO_DRIVER
    assert Cause.BOOTING not in causes(found)


def test_iommu_on(alone: Hypervisor, guest_maker: GuestFactory) -> None:
    guest = guest_maker(
        GuestSpec("iommu", model="virtio-non-transitional", machine="q35", period=1, start=False)
    )
    xml = guest.domain.XMLDesc()
    alone.connection.defineXML(xml.replace("<stats period", "<driver iommu='on'/><stats period"))
    guest.domain.create()
    guest.wait_booted()
    found = diagnosed(guest)
    assert (found.verdict, found.cause) == (Verdict.UNANSWERED, Cause.IOMMU_ON)
    assert "iommu='on'" in (found.remedy or "")


@pytest.mark.parametrize("form", ["short", "json"])
def test_balloon_from_the_commandline(
    guest_maker: GuestFactory, form: Literal["short", "json"]
) -> None:
    guest = guest_maker(GuestSpec(f"commandline {form}", qemu_commandline=form))
    found = diagnosed(guest)
    assert found.cause is Cause.UNKNOWN_TO_LIBVIRT
    assert f"set-interval --via qom 10 'commandline {form}'" in (found.remedy or "")
    guest.wait_booted()
    shell((found.remedy or "").partition(": ")[2].partition(";")[0])
    assert virtballoon.read_domain(guest.domain, via=Source.QOM).interval.qemu == 10


def test_guest_without_an_operating_system(alone: Hypervisor) -> None:
    from tests.lab.guest import domain_xml

    spec = GuestSpec("kernelless", memory_mib=16, period=1)
    domain = alone.connection.createXML(domain_xml(spec))
    try:
        found = diagnose_domain(domain)
    finally:
        domain.destroy()
    assert {Cause.BOOTING, Cause.NO_DRIVER} <= set(causes(found))


def test_qemu_that_clears_figures_at_a_reset(newest_hypervisor: Hypervisor) -> None:
    guest = newest_hypervisor.add(GuestSpec("forgetful", period=1, driver=False))
    try:
        guest.wait_booted()
        guest.load_driver()
        wait_for(guest, Verdict.FRESH)
        guest.unload_driver()
        wait_for(guest, Verdict.STALE)
        # Old figures cannot be from before a reset.
        found = diagnosed(guest, Source.QOM)
        assert set(causes(found)) == {Cause.DRIVER_UNLOADED, Cause.GUEST_HUNG}
        assert Sign.RESET_CLEARS in found.seen
        assert Sign.OLD_QEMU in found.absent
        guest.domain.reset(0)
        wait_for(guest, Verdict.UNANSWERED)
        found = diagnosed(guest, Source.QOM)
        assert set(causes(found)) == {Cause.BOOTING, Cause.NO_DRIVER, Cause.NO_STATISTICS}
    finally:
        newest_hypervisor.remove(guest)


def test_just_shortened_interval(ward: dict[str, Guest]) -> None:
    guest = ward["rare"]

    def shorten() -> None:
        # Its timer has an hour left; the second call sets it to 4 s.
        virtballoon.set_interval(guest.domain, 3600)
        virtballoon.set_interval(guest.domain, 4)

    def age() -> float:
        return virtballoon.read_domain(guest.domain).age_seconds or 0

    wait_until(lambda: age() > 2 * 4 + 6, 60, "figures to be old enough")
    shorten()
    # Watching it for one interval shows it.
    found = diagnosed(guest)
    assert (found.verdict, found.cause) == (Verdict.FRESH, Cause.JUST_ANSWERED)
    assert found.remedy is None
    assert [k for k in answers(found) if k.startswith("statistics, watched")]


def test_too_short_a_watch_excludes_nothing(ward: dict[str, Guest]) -> None:
    guest = ward["unloaded"]
    virtballoon.set_interval(guest.domain, 10)
    try:
        wait_for(guest, Verdict.STALE)
        assert Cause.NOT_DUE in causes(diagnosed(guest, timeout=9))
        assert Cause.NOT_DUE not in causes(diagnosed(guest, timeout=40))
    finally:
        virtballoon.set_interval(guest.domain, 1)


def test_polling_turned_off_in_qemu_only(
    by_qemu: dict[str, Diagnosis], ward: dict[str, Guest]
) -> None:
    guest = ward["well"]
    set_in_qemu(guest, 0)
    found = diagnosed(guest, Source.QOM)
    assert (found.verdict, found.cause) == (Verdict.POLLING_OFF, Cause.INTERVAL_DIFFERS)
    assert found.remedy is not None
    shell(found.remedy)
    assert in_qemu(guest) == 2


def test_polling_turned_on_in_qemu_only(
    by_qemu: dict[str, Diagnosis], ward: dict[str, Guest]
) -> None:
    guest = ward["unpolled"]
    set_in_qemu(guest, 2)
    try:
        before = int(guest.domain.memoryStats()["last_update"])
        wait_until(lambda: int(guest.domain.memoryStats()["last_update"]) > before, 60, "an answer")
        found = diagnosed(guest)
        assert (found.verdict, found.cause) == (Verdict.POLLING_OFF, Cause.INTERVAL_DIFFERS)
        shell(found.remedy or "")
        assert in_qemu(guest) == 10
    finally:
        virtballoon.set_interval(guest.domain, 0)


def shell(command: str) -> None:
    """Run a remedy in a shell, with more time than usual: a busy machine may be slow."""
    path = f"{COMMAND.parent}:{os.environ['PATH']}"
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        print("[defaults]\ntimeout = 60", file=file, flush=True)
        env = {**os.environ, "PATH": path, "VIRTBALLOON_CONFIG_FILE": file.name}
        subprocess.run(["sh", "-euc", command], env=env, check=True)


@pytest.mark.parametrize(("ahead", "cause"), [(-300, Cause.CLOCK_AHEAD), (300, Cause.CLOCK_BEHIND)])
def test_host_with_another_time(
    ward: dict[str, Guest],
    alone: Hypervisor,
    monkeypatch: pytest.MonkeyPatch,
    ahead: int,
    cause: Cause,
) -> None:
    wait_for(ward["well"], Verdict.FRESH)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    host = diagnose_host(alone.uri, ["well"], timeout=20)
    (found,) = host.domains
    assert (found.cause, found.verdict) == (cause, Verdict.FRESH)
    assert 0 <= (found.age_seconds or 0) < 2 * 2 + 5
    assert host.clock is not None
    assert abs(host.clock.seconds + ahead) < 5


def test_live_and_persistent_xml_differ(ward: dict[str, Guest]) -> None:
    guest = ward["well"]
    wait_for(guest, Verdict.FRESH)
    assert diagnosed(guest).findings == ()
    virtballoon.set_interval(guest.domain, virtballoon.IntervalRequest(3, live=True))
    found = diagnosed(guest)
    assert (found.cause, found.is_well) == (Cause.WELL, False)
    (finding,) = found.findings
    assert finding.cause is Cause.CONFIG_DIFFERS
    shell(finding.remedy or "")
    assert diagnosed(guest).interval == virtballoon.Interval(live=3, config=3)


def test_balloon_of_the_next_start(ward: dict[str, Guest]) -> None:
    guest = ward["bare"]
    xml = guest.domain.XMLDesc(2)
    guest.hypervisor.connection.defineXML(
        xml.replace("balloon model='none'", "balloon model='virtio'")
    )
    found = diagnosed(guest)
    guest.hypervisor.connection.defineXML(xml)
    assert (found.verdict, found.cause) == (Verdict.NO_DEVICE, Cause.RESTART_PENDING)
    assert "shutdown bare" in (found.remedy or "")


@pytest.mark.parametrize("name", ["-it's $(x) 'y'", "two\nlines", "another one's number"])
def test_remedies_apply_to_domains_with_any_name(
    alone: Hypervisor, guest_maker: GuestFactory, name: str
) -> None:
    if name == "another one's number":
        name = str(guest_maker(GuestSpec("another", paused=True)).domain.ID())
    guest = guest_maker(GuestSpec(name, paused=True, persistent=False))
    (found,) = diagnose_host(alone.uri, [guest.uuid]).domains
    assert found.cause is Cause.PAUSED
    (unpolled,) = found.findings
    assert unpolled.cause is Cause.POLLING_OFF
    for remedy in (found.remedy, unpolled.remedy):
        assert (remedy or "").isprintable()
        shell(remedy or "")
    row = virtballoon.read_domain(guest.domain)
    assert (row.state, row.interval.live) == (virtballoon.State.RUNNING, 10)


@pytest.fixture
def guest_maker(alone: Hypervisor) -> Iterator[GuestFactory]:
    made: list[Guest] = []

    def make(spec: GuestSpec) -> Guest:
        made.append(alone.add(spec))
        return made[-1]

    yield make
    for guest in made:
        alone.remove(guest)


def panic_program() -> bytes:
    """A program that writes 1 to port 0x505, as the kernel's driver of a panic device does when it
    panics; a small kernel has no such driver, and no /dev/port."""
    code = bytes.fromhex(
        "bf03000000 b8ac000000 0f05"  # iopl(3)
        "ba05050000 b001 ee"  # outb(1, 0x505)
        "b83c000000 31ff 0f05"  # exit(0)
    )
    at, headers = 0x400000, 64 + 56
    size = headers + len(code)
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 2, 62, 1, at + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, at, at, size, size, 0x1000) + code


def test_crash_reported_to_a_panic_device(alone: Hypervisor, guest_maker: GuestFactory) -> None:
    guest = guest_maker(GuestSpec("told", period=1, start=False))
    xml = guest.domain.XMLDesc()
    xml = xml.replace("<on_crash>destroy<", "<on_crash>preserve<")
    xml = xml.replace("</devices>", "<panic model='isa'/></devices>")
    alone.connection.defineXML(xml)
    guest.domain.create()
    guest.wait_booted()
    octal = "".join(f"\\{byte:03o}" for byte in panic_program())
    guest.run(f"printf '{octal}' >/tmp/panic && chmod +x /tmp/panic")
    guest.run("(sleep 0.2; /tmp/panic) >/dev/null 2>&1 &")
    wait_for(guest, Verdict.SUSPENDED)
    found = diagnosed(guest)
    assert found.cause is Cause.CRASHED
    assert answers(found)["reason of its state"] == "crashed, panicked"


def test_guest_that_has_suspended_itself(alone: Hypervisor, guest_maker: GuestFactory) -> None:
    guest = guest_maker(GuestSpec("sleeper", period=1))
    guest.wait_booted()
    guest.run("(sleep 0.2; echo mem >/sys/power/state) >/dev/null 2>&1 &")
    wait_for(guest, Verdict.SUSPENDED)
    found = diagnosed(guest)
    assert (found.cause, found.state) == (Cause.ASLEEP, virtballoon.State.PMSUSPENDED)
    shell(found.remedy or "")
    wait_for(guest, Verdict.FRESH)


@pytest.mark.parametrize("via", Source)
def test_hung_qemu_affects_its_own_domain_only(
    ward: dict[str, Guest], alone: Hypervisor, via: Source
) -> None:
    guest = ward["driverless"]
    names = ["driverless", "unloaded", "panicked", "unpolled"]
    guest.stop_process()
    try:
        host = diagnose_host(alone.uri, names, via=via, timeout=6)
    finally:
        guest.cont_process()
    rows = {row.name: row for row in host.domains}
    assert host.status is virtballoon.HostStatus.PARTIAL
    # The timeout covers questions and watching.
    assert host.elapsed_seconds < 12
    hung = rows["driverless"]
    assert (hung.verdict, hung.cause) == (Verdict.BUSY, Cause.QEMU_HUNG)
    held = answers(hung)["holder of its monitor"]
    assert "a call that waits for QEMU, for " in held
    assert ", since " in held
    assert causes(rows["unpolled"]) == [Cause.POLLING_OFF]
    assert set(STALE) >= set(causes(rows["panicked"])) - {Cause.NOT_DUE}
    wait_for(guest, Verdict.UNANSWERED)


def test_qemu_that_hangs_while_it_is_watched(ward: dict[str, Guest]) -> None:
    guest = ward["unloaded"]
    found: list[Diagnosis] = []
    thread = threading.Thread(target=lambda: found.append(diagnosed(guest, timeout=4)))
    thread.start()
    guest.stop_process()
    try:
        thread.join(30)
    finally:
        guest.cont_process()
    assert [row.name for row in found] == ["unloaded"]
    wait_for(guest, Verdict.STALE)


def test_daemon_that_ends_while_a_domain_is_watched(
    ward: dict[str, Guest], alone: Hypervisor
) -> None:
    # The caller's connection cannot be opened again.
    theirs = alone.conn()
    found: list[virtballoon.HostDiagnosis] = []
    names = ["unloaded", "unpolled"]
    thread = threading.Thread(target=lambda: found.append(diagnose_host(theirs, names)))
    thread.start()
    alone.kill_daemon()
    try:
        thread.join(60)
    finally:
        alone.start_daemon()
    (host,) = found
    assert isinstance(host.error, virtballoon.HostError)
    for row in host.domains:
        assert row.possible_causes


def test_read_only_connection(alone: Hypervisor) -> None:
    with virtballoon.Connection.open(alone.uri, readonly=True) as connection:
        host = diagnose_host(connection, ["unpolled"])
        assert [causes(row) for row in host.domains] == [[Cause.POLLING_OFF]]
        host = diagnose_host(connection, ["unpolled"], via=Source.QOM)
        assert isinstance(host.error, virtballoon.ReadOnly)


def test_command(ward: dict[str, Guest], alone: Hypervisor) -> None:
    words = ("unloaded", "unpolled", "panicked", "paused")
    table = run(alone, "doctor", *words)
    assert (table.returncode, table.stderr) == (0, "")
    blocks = [line for line in table.stdout.splitlines() if not line.startswith(" ")]
    assert [line.partition(":")[0] for line in blocks] == sorted(words)
    assert "  cause     polling-off: " in table.stdout
    assert "  remedy    virtballoon set-interval 10 unpolled" in table.stdout
    assert "evidence" not in table.stdout
    assert "\n  evidence  libvirt, state: running\n" in run(alone, "-v", "doctor", *words).stdout
    document = json.loads(run(alone, "doctor", *words, "--format", "json").stdout)
    jsonschema.validate(document, SCHEMA)
    rows = {row["name"]: row for row in document["hosts"][0]["domains"]}
    assert rows["unpolled"]["possible_causes"][0]["cause"] == "polling-off"
    assert rows["unpolled"]["remedy"] == "virtballoon set-interval 10 unpolled"
    assert rows["panicked"]["cause"] == rows["panicked"]["possible_causes"][0]["cause"]
    assert {"asked", "by", "answer"} == set(rows["panicked"]["evidence"][0])
    qom = run(alone, "doctor", "--via", "qom", "panicked", "--format", "jsonl")
    line: dict[str, Any] = json.loads(qom.stdout)
    assert "query-version" in {each["asked"] for each in line["evidence"]}
    assert line["signs"]["seen"] == sorted(line["signs"]["seen"], key=list(map(str, Sign)).index)
    quiet = run(alone, "doctor", "-q", "--format", "csv", *words)
    assert quiet.stdout.splitlines()[0].endswith("findings,signs.seen,signs.absent")
    assert run(alone, "doctor", "-q", "off").stdout == ""
    assert run(alone, "doctor", "nobody").returncode == 1


def test_commands_in_remedies_reach_the_same_host(
    ward: dict[str, Guest], alone: Hypervisor
) -> None:
    words = ["virtballoon", "-c", alone.uri, "set-interval", "10", "unpolled"]
    for default, expected in (
        (alone.uri, "remedy    virtballoon set-interval 10 unpolled"),
        ("test:///default", f"remedy    {shlex.join(words)}"),
    ):
        environment = {"LIBVIRT_DEFAULT_URI": default}
        result = run(alone, "-c", alone.uri, "doctor", "unpolled", **environment)
        assert expected in result.stdout
