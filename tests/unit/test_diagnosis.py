"""The causes: which are possible with which signs, and what is said of each.

The answers here are made up; those of real guests are in ``tests/test_doctor.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from itertools import product
from string import Formatter
from typing import TYPE_CHECKING

import jsonschema  # type: ignore[import-untyped]
import pytest

import virtballoon
from tests.pages import sections, tags
from tests.unit.builders import HOST, SCHEMA, domain, report
from tests.unit.command import EVIL
from virtballoon import Source
from virtballoon.doctor import probes
from virtballoon.doctor.causes import Cause, Row, Sign, lacking, other_problems, possible_causes
from virtballoon.doctor.examination import DomainExamination
from virtballoon.doctor.results import CommandPrefixes
from virtballoon.hypervisor import domainxml
from virtballoon.model.clock import ClockOffset
from virtballoon.model.memory import Figures
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.command import Command

STOPPERS = (Sign.IN_TRANSIT, Sign.ASLEEP, Sign.IO_ERROR, Sign.WATCHDOG, Sign.CRASHED)
#: What can be distinguished from another cause only inside the guest or at its console.
NEVER_ALONE = {
    *(Cause.BOOTING, Cause.JUST_RESET, Cause.GUEST_HUNG, Cause.DRIVER_UNLOADED, Cause.NO_DRIVER),
    *(Cause.IOMMU_ON, Cause.INTERVAL_DIFFERS, Cause.NOT_DUE, Cause.NO_STATISTICS),
    Cause.CLOCK_AHEAD,
}


def rows_of(verdict: Verdict) -> list[Row]:
    return [row for cause in Cause for row in cause.info.rows if row.verdict is verdict]


def signs_of(row: Row) -> tuple[Sign, ...]:
    return (*row.seen, *row.has, *row.lacks)


def assignments(verdict: Verdict) -> list[dict[Sign, bool]]:
    """All that can be known of the signs in this verdict's rows."""
    signs = sorted({sign for row in rows_of(verdict) for sign in signs_of(row)})
    return [
        {sign: known for sign, known in zip(signs, values, strict=True) if known is not None}
        for values in product((None, False, True), repeat=len(signs))
    ]


@pytest.mark.parametrize("verdict", Verdict)
def test_knowing_more_excludes_more(verdict: Verdict) -> None:
    unknown = set(possible_causes(verdict, {}))
    assert unknown
    suggested = {
        cause
        for cause in Cause
        if any(row.verdict is verdict and row.seen for row in cause.info.rows)
    }
    alone: set[Cause] = set()
    for signs in assignments(verdict):
        causes = possible_causes(verdict, signs)
        assert len(causes) == len(set(causes))
        assert set(causes) <= unknown | suggested
        alone.update(causes if len(causes) == 1 else ())
    assert (unknown | suggested) - alone <= NEVER_ALONE


def test_every_sign_is_used_and_every_text_can_be_filled_in() -> None:
    rows = [row for cause in Cause for row in (*cause.info.rows, *cause.info.also)]
    assert {sign for row in rows for sign in signs_of(row)} == set(Sign)
    known = {"virtballoon", "set_interval", "virsh", "name", "domain"}
    known |= {"interval", "wanted", "watch", "lacks"}
    for cause in Cause:
        assert cause.info.rows or cause.info.also
        for text in (cause.info.meaning, cause.info.remedy or "", cause.info.check or ""):
            assert {field for _, field, *_ in Formatter().parse(text) if field} <= known, cause
    for verdict in (Verdict.STALE, Verdict.UNANSWERED, Verdict.NO_DEVICE):
        # Where several causes are possible, each says how to check it.
        assert all(cause.info.check for cause in possible_causes(verdict, {}))


SOME = MemoryStats(total_memory=2**27, free_memory=2**26)
WATCHED = {Sign.UPDATED: False, Sign.OVERDUE: True}
SPINNING = {Sign.SPINNING: True}


@pytest.mark.parametrize(
    ("verdict", "signs", "causes"),
    [
        (Verdict.FRESH, {Sign.UPDATED: False}, "well"),
        (Verdict.FRESH, {Sign.UPDATED: True}, "just-answered"),
        # A stale domain.
        (
            Verdict.STALE,
            {Sign.UPDATED: False},
            "driver-unloaded guest-hung just-reset not-due interval-differs",
        ),
        (Verdict.STALE, WATCHED, "driver-unloaded guest-hung just-reset interval-differs"),
        (
            Verdict.STALE,
            WATCHED | {Sign.QEMU_INTERVAL: True},
            "driver-unloaded guest-hung just-reset",
        ),
        (
            Verdict.STALE,
            WATCHED | SPINNING | {Sign.QEMU_INTERVAL: True},
            "guest-hung driver-unloaded just-reset",
        ),
        (
            Verdict.STALE,
            WATCHED | {Sign.LOW_MEMORY: True, Sign.RESET_CLEARS: True, Sign.QEMU_INTERVAL: True},
            "guest-hung driver-unloaded",
        ),
        # A guest agent that has a channel and has not opened it, in a guest that uses all of a CPU.
        (
            Verdict.STALE,
            WATCHED | SPINNING | {Sign.AGENT_CONNECTED: False, Sign.AGENT_DISCONNECTED: True},
            "just-reset guest-hung driver-unloaded interval-differs",
        ),
        (
            Verdict.STALE,
            WATCHED | {Sign.AGENT_CONNECTED: True, Sign.AGENT_DISCONNECTED: False},
            "driver-unloaded guest-hung interval-differs",
        ),
        # A clock: a new update that is old at once, or every domain late by the same time.
        (Verdict.STALE, {Sign.UPDATED: True}, "clock-behind"),
        (
            Verdict.STALE,
            {Sign.UPDATED: False, Sign.CLOCK_BEHIND: True, Sign.QEMU_INTERVAL: True},
            "clock-behind driver-unloaded guest-hung just-reset not-due",
        ),
        (
            Verdict.STALE,
            WATCHED | {Sign.FUTURE: True, Sign.QEMU_INTERVAL: True},
            "clock-ahead driver-unloaded guest-hung just-reset",
        ),
        # A domain that was never updated.
        (Verdict.UNANSWERED, {}, "no-driver no-statistics booting interval-differs"),
        (Verdict.UNANSWERED, SPINNING, "booting no-driver no-statistics interval-differs"),
        (
            Verdict.UNANSWERED,
            SPINNING | {Sign.LONG_RUN: True},
            "no-driver no-statistics booting interval-differs",
        ),
        (
            Verdict.UNANSWERED,
            SPINNING | {Sign.AGENT_CONNECTED: True, Sign.QEMU_INTERVAL: True},
            "no-driver no-statistics",
        ),
        (
            Verdict.UNANSWERED,
            {Sign.BALLOONED: True, Sign.AGENT_CONNECTED: True},
            "no-statistics no-driver interval-differs",
        ),
        (
            Verdict.UNANSWERED,
            {Sign.IOMMU: True},
            "iommu-on no-driver no-statistics booting interval-differs",
        ),
        # Windows without the balloon service.
        (Verdict.EMPTY, {}, "no-statistics"),
        # Polling.
        (Verdict.POLLING_OFF, {}, "polling-off"),
        (Verdict.POLLING_OFF, {Sign.XML_POLLS: False, Sign.UPDATED: False}, "polling-off"),
        (Verdict.POLLING_OFF, {Sign.XML_POLLS: False, Sign.UPDATED: True}, "interval-differs"),
        (Verdict.POLLING_OFF, {Sign.XML_POLLS: True}, "interval-differs"),
        # What stops a guest.
        (Verdict.SUSPENDED, dict.fromkeys((Sign.STOPPED, *STOPPERS), False), ""),
        (Verdict.SUSPENDED, {Sign.STOPPED: True} | dict.fromkeys(STOPPERS, False), "paused"),
        *(
            (
                Verdict.SUSPENDED,
                {Sign.STOPPED: True} | {sign: sign is stopper for sign in STOPPERS},
                stopper.value,
            )
            for stopper in STOPPERS
        ),
        # No balloon.
        (Verdict.NO_DEVICE, {}, "no-device unknown-to-libvirt"),
        (Verdict.NO_DEVICE, {Sign.BEHIND_LIBVIRT: False}, "no-device"),
        (Verdict.NO_DEVICE, {Sign.BEHIND_LIBVIRT: True}, "unknown-to-libvirt"),
        (
            Verdict.NO_DEVICE,
            {Sign.BEHIND_LIBVIRT: False, Sign.CONFIG_BALLOON: True},
            "restart-pending",
        ),
        (Verdict.SHUTOFF, {}, "shutoff"),
        # A monitor that does not answer, a job, and a daemon that hung domains would use up.
        *(
            (
                Verdict.BUSY,
                dict(zip((Sign.MONITOR, Sign.JOB, Sign.LIMIT), held, strict=True)),
                cause,
            )
            for held, cause in (
                ((True, False, False), "qemu-hung"),
                ((False, True, False), "job-running"),
                ((False, False, True), "not-read"),
            )
        ),
        # virtio-mmio.
        (Verdict.FAILED, {Sign.NOT_GIVEN: True}, "not-passed-on"),
        (Verdict.FAILED, {Sign.NOT_GIVEN: False}, "unreadable"),
    ],
)
def test_possible_causes(verdict: Verdict, signs: Mapping[Sign, bool], causes: str) -> None:
    assert list(possible_causes(verdict, signs)) == causes.split()


def test_libvirt_gives_no_statistics() -> None:
    found = report(figures=Figures(current_bytes=1))
    diagnosis = DomainExamination(found, uri=HOST).diagnosis(PREFIXES)
    assert (found.verdict, diagnosis.cause) == (Verdict.FAILED, Cause.NOT_PASSED_ON)
    assert "stats --via qom" in str(diagnosis.remedy)


def test_other_problems() -> None:
    signs = {Sign.DRIFT: True, Sign.CONFIG_DRIFT: True, Sign.OLD_QEMU: False}
    found = other_problems(Verdict.FRESH, signs, [Cause.WELL])
    assert found == (Cause.INTERVAL_DIFFERS, Cause.CONFIG_DIFFERS)
    assert other_problems(Verdict.STALE, signs, [Cause.INTERVAL_DIFFERS]) == (Cause.CONFIG_DIFFERS,)


def test_statistics_that_an_old_qemu_lacks() -> None:
    assert "htlb_pgalloc" not in lacking((9, 1))
    assert lacking((9, 1))[0] == "oom_kills"
    assert lacking((9, 2)) == ()


def commandline(*arguments: str) -> str:
    """The live XML of a domain with these arguments for QEMU."""
    namespace = "http://libvirt.org/schemas/domain/qemu/1.0"
    args = "".join(f"<q:arg value={quoted(argument)}/>" for argument in arguments)
    xml = domain("<memballoon model='none'/>")
    inside = f"<q:commandline xmlns:q='{namespace}'>{args}</q:commandline></domain>"
    return xml.replace("</domain>", inside)


def quoted(value: str) -> str:
    return "'" + value.replace("'", "&apos;") + "'"


NAMES = (
    *("virtio-balloon", "virtio-balloon-pci", "virtio-balloon-pci-transitional"),
    *("virtio-balloon-pci-non-transitional", "virtio-balloon-ccw", "virtio-balloon-device"),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "{},id=x",
        "{},bus=pci.0,addr=0x1d",
        "driver={}",
        "driver={},id=x",
        "id=x,driver={}",
        '{{"driver":"{}"}}',
        '{{"id": "x", "driver" : "{}"}}',
        "{{'driver': '{}', 'id': 'x'}}",
    ],
)
def test_balloon_in_the_commandline(name: str, form: str) -> None:
    for option in ("-device", "--device"):
        xml = commandline("-name", "x", option, form.format(name))
        assert domainxml.hints(xml).balloon_in_commandline is True


@pytest.mark.parametrize(
    ("arguments", "present"),
    [
        ([], False),
        (["-device", '{"driver":"virtio-net-pci"}'], False),
        (["-device", '{"driver":"virtio-net-pci","id":"virtio-balloon"}'], False),
        (["-device", "{virtio-balloon-pci"], False),
        (["-device", "virtio-net-pci,id=virtio-balloon-pci"], False),
        (["-device", "virtio-balloon-x"], False),
        (["-global", "virtio-balloon-pci.deflate-on-oom=on"], False),
        (["-device", "virtio-net-pci", "-name", "virtio-balloon-pci"], False),
        (["-device", ""], False),
        (["-readconfig", "/etc/qemu.cfg"], None),
        (["-readconfig", "/etc/qemu.cfg", "-device", "virtio-balloon"], True),
        (["-device"], False),
    ],
)
def test_commandline_without_a_balloon(arguments: list[str], present: bool | None) -> None:
    assert domainxml.hints(commandline(*arguments)).balloon_in_commandline is present


@pytest.mark.parametrize(
    ("driver", "iommu"),
    [("", False), ("<driver iommu='on'/>", True), ("<driver iommu='off' ats='on'/>", False)],
)
def test_iommu_option_of_a_balloon(driver: str, iommu: bool) -> None:
    xml = domain(f"<memballoon model='virtio'>{driver}</memballoon>")
    assert domainxml.hints(xml).balloon_iommu is iommu


@pytest.mark.parametrize(
    ("channels", "connected"),
    [
        ("", None),
        ("<channel><target type='virtio' name='com.example.0' state='connected'/></channel>", None),
        ("<channel><target name='org.qemu.guest_agent.0' state='connected'/></channel>", True),
        ("<channel><target name='org.qemu.guest_agent.0' state='disconnected'/></channel>", False),
        ("<channel><target name='org.qemu.guest_agent.0'/></channel>", False),
    ],
)
def test_channel_of_a_guest_agent(channels: str, connected: bool | None) -> None:
    assert domainxml.hints(domain(channels)).agent_connected is connected


def test_driver_without_a_monitor(command: Command, node: str) -> None:
    names = ["bare", "off", "passing"]
    result = command("-c", node, "doctor", *names, "--format", "json")
    assert (result.status, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    jsonschema.validate(document, SCHEMA | {"anyOf": [{"$ref": "#/$defs/diagnoses"}]})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA | {"anyOf": [{"$ref": "#/$defs/readings"}]})
    rows = document["hosts"][0]["domains"]
    assert [row["cause"] for row in rows] == ["no-device", "shutoff", "polling-off"]
    assert [each["cause"] for each in rows[2]["possible_causes"]] == ["polling-off"]


def test_schema_has_every_cause_and_every_sign() -> None:
    assert SCHEMA["$defs"]["cause"]["enum"] == [cause.value for cause in Cause]
    assert SCHEMA["$defs"]["sign"]["enum"] == [sign.value for sign in Sign]


def test_man_page_has_every_cause() -> None:
    assert tags(sections("virtballoon-doctor")["CAUSES"]) == [cause.value for cause in Cause]


def test_report_is_short_and_safe_for_a_terminal(command: Command, node: str) -> None:
    words = ["-c", node, "doctor", "--", EVIL, "passing", "off"]
    short, full = command.each([words, [*words[:3], "-v", *words[3:]]])
    assert (short.status, short.stderr) == (0, "")
    assert all(line.isprintable() for line in short.stdout.splitlines())
    blocks = short.stdout.split("off: shutoff\n")[1].splitlines()
    assert blocks[0] == "  cause     shutoff: it is not running"
    labels = [line[2:10].strip() for line in blocks if line.startswith(" ")]
    assert labels == ["cause", "cause", "remedy"]
    assert "  evidence  libvirt, state: running\n" in full.stdout


def test_quiet_names_the_causes_where_data_is_in_a_file(
    command: Command, node: str, tmp_path: Path
) -> None:
    words = ["-c", node, "doctor", "-q", "passing", "off", "bare"]
    shown, filed = command.each([words, [*words, "--output", str(tmp_path / "report")]])
    heads = [line for line in shown.stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["passing: polling-off, " + heads[0].partition(", ")[2]]
    (line,) = filed.complaints
    assert "polling-off" in line
    assert line.endswith("(polling-off)")


def test_library_gives_what_the_command_prints(node: str) -> None:
    host = virtballoon.diagnose_host(node, ["passing"])
    (row,) = host.domains
    assert isinstance(host, virtballoon.HostReport)
    assert isinstance(row, virtballoon.DomainReport)
    assert row.cause is Cause.POLLING_OFF
    assert row.remedy == f"virtballoon -c {node} set-interval 10 passing"
    assert not row.is_well
    diagnose = partial(virtballoon.diagnose_host, domains=["bare"])
    hosts = virtballoon.on_hosts([node, "test:///no-such-file"], diagnose)
    assert [each.error is None for each in hosts] == [True, False]
    assert hosts[0].domains[0].is_well
    assert hosts[1].domains == ()


@pytest.mark.parametrize("option", [[], ["-c", "NODE"]])
@pytest.mark.parametrize("default", ["NODE", "test:///default"])
def test_commands_have_the_uri_only_where_it_is_needed(
    command: Command, node: str, option: list[str], default: str
) -> None:
    environment = {"LIBVIRT_DEFAULT_URI": default.replace("NODE", node)}
    words = [word.replace("NODE", node) for word in option]
    name = "passing" if option or default == "NODE" else "test"
    result = command(*words, "doctor", name, env=environment)
    needed = f"-c {node} " if option and default != "NODE" else ""
    assert f"virtballoon {needed}set-interval 10 {name}\n" in result.stdout


# Watching a domain.

NOW = 1_700_000_000
PREFIXES = CommandPrefixes.by_uri("test:///default")


def examined(**changes: object) -> DomainExamination:
    """A domain that is polled every second and was updated a minute ago."""
    values = {"interval": virtballoon.Interval(live=1, config=1), "last_update": NOW - 60}
    values |= changes
    figures = values.get("figures") or Figures(stats=SOME, last_update=values["last_update"])  # type: ignore[arg-type]
    report = virtballoon.DomainReport(
        name="looked-at",
        uuid="00000000-0000-0000-0000-000000000001",
        id=1,
        state=State.RUNNING,
        balloon=virtballoon.Balloon(model="virtio", alias="balloon0"),
        interval=values["interval"],  # type: ignore[arg-type]
        source=Source.LIBVIRT,
        figures=figures,  # type: ignore[arg-type]
        read_at=values.get("read_at", NOW),  # type: ignore[arg-type]
    )
    return DomainExamination(report, uri="qemu:///system")


def watched(
    last_update: int | None, read_at: int = NOW, processor_seconds: float = 0.0
) -> tuple[virtballoon.Diagnosis, bool]:
    """That domain, with this last update after three seconds of watching it."""
    domain = examined()
    assert domain.report.verdict is Verdict.STALE
    domain.begun -= 3
    begun = probes.ProcessorTime(domain.begun, 100.0, 1)
    domain.add([(probes.PROCESSOR_TIME, probes.Answer("y", {}, begun))])
    stats = SOME if last_update else MemoryStats()
    later = examined(figures=Figures(stats=stats, last_update=last_update), read_at=read_at).report
    domain.add_watch(later)
    has_new_update = domain.report is later
    now = probes.ProcessorTime(domain.begun + 3, 100.0 + processor_seconds, 1)
    domain.add([(probes.PROCESSOR_TIME, probes.Answer("y", {}, now))])
    return domain.diagnosis(PREFIXES), has_new_update


@pytest.mark.parametrize(
    ("processor_seconds", "cause"),
    [(0.1, Cause.DRIVER_UNLOADED), (2.9, Cause.GUEST_HUNG), (9, Cause.DRIVER_UNLOADED)],
)
def test_no_update_while_it_is_watched(processor_seconds: float, cause: Cause) -> None:
    found, has_new_update = watched(NOW - 60, processor_seconds=processor_seconds)
    assert (has_new_update, found.verdict, found.cause) == (False, Verdict.STALE, cause)
    assert Sign.OVERDUE in found.seen
    assert found.evidence[-2].answer == "no new update"


def test_no_answer_while_it_is_watched() -> None:
    found, has_new_update = watched(None)
    assert (has_new_update, found.verdict) == (False, Verdict.STALE)
    assert Sign.OVERDUE not in found.seen
    assert found.evidence[-2].answer == "no answer in time"


@pytest.mark.parametrize("back", [0, 3600])
def test_update_while_it_is_watched(back: int) -> None:
    """Also an earlier one, where the host's clock was set back in between."""
    found, has_new_update = watched(NOW - back - 1, NOW - back)
    assert (has_new_update, found.cause) == (True, Cause.JUST_ANSWERED)
    assert Sign.OVERDUE not in found.seen


def test_update_that_is_old_at_once() -> None:
    found, has_new_update = watched(NOW - 57, NOW + 3)
    assert (has_new_update, found.verdict) == (True, Verdict.STALE)
    assert [each.cause for each in found.possible_causes] == [Cause.CLOCK_BEHIND]


@pytest.mark.parametrize("seconds", [-58, -30, 0])
def test_clock_that_is_behind(seconds: int) -> None:
    """The verdict and the age are by the host's clock where that is the likeliest cause."""
    domain = examined()
    domain.add_clock(ClockOffset(seconds, seconds))
    found = domain.diagnosis(PREFIXES)
    is_cause = seconds == -58
    assert (found.cause is Cause.CLOCK_BEHIND) is is_cause
    assert (found.verdict is Verdict.FRESH, found.age_seconds) == (is_cause, 2 if is_cause else 60)
    assert not found.is_well


@pytest.mark.parametrize("is_updated", [False, True])
def test_clock_that_is_ahead(is_updated: bool) -> None:
    domain = examined(last_update=NOW + 60)
    domain.signs[Sign.UPDATED] = is_updated
    domain.add_clock(ClockOffset(61, 63))
    found = domain.diagnosis(PREFIXES)
    assert (found.cause, found.verdict, found.age_seconds) == (Cause.CLOCK_AHEAD, Verdict.FRESH, 2)


def test_reset_while_it_is_watched() -> None:
    """With QEMU 10, which clears the last update."""
    found, has_new_update = watched(0)
    assert (has_new_update, found.verdict) == (True, Verdict.UNANSWERED)
    assert {Sign.UPDATED, Sign.OVERDUE}.isdisjoint(found.seen)
    assert Cause.BOOTING in {each.cause for each in found.possible_causes}
    assert found.evidence[-2].answer.startswith("no update since")


def test_figures_are_signs() -> None:
    low = MemoryStats(total_memory=100, available_memory=4)
    figures = Figures(stats=low, last_update=NOW - 60, maximum_bytes=200, current_bytes=100)
    signs = examined(figures=figures).signs
    assert (signs[Sign.LOW_MEMORY], signs[Sign.BALLOONED]) == (True, True)
    assert examined().signs.get(Sign.BALLOONED) is None


def test_qom_is_suggested_only_where_the_driver_is_qemus() -> None:
    for uri, expected in (("qemu+ssh://hv1/system", True), ("hv1", True), ("xen:///system", False)):
        found = DomainExamination(examined().report, uri=uri).diagnosis(PREFIXES)
        assert ("--via qom" in str(found.possible_causes)) is expected
