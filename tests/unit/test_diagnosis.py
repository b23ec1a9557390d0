"""The table of signs: what fits what, what is said of it, and that the man page has the same.

The answers here are made up; those of real guests are in ``tests/test_doctor.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import product
from string import Formatter
from typing import TYPE_CHECKING

import jsonschema  # type: ignore[import-untyped]
import pytest

import virtballoon
from tests.test_man import blocks, sections, tags
from tests.unit.test_cli import EVIL
from tests.unit.test_documents import SCHEMA
from tests.unit.test_domainxml import domain
from virtballoon import Source
from virtballoon.doctor import causes, examination
from virtballoon.doctor.causes import BESIDE, SIGNS, TABLE, WORDINGS, Cause, Row, Sign, fitting
from virtballoon.hypervisor import domainxml
from virtballoon.model.memory import Figures, MemoryStats
from virtballoon.model.verdict import State, Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.command import Command

#: What can only be told from another cause by waiting, or by a look at its console.
NEVER_ALONE = {Cause.BOOTING, Cause.JUST_RESET}


def rows_of(verdict: Verdict) -> list[Row]:
    return [row for row in TABLE if row.verdict is verdict]


def assignments(verdict: Verdict) -> list[dict[Sign, bool]]:
    """Whatever can be known of the signs that this verdict's rows are judged by."""
    signs = sorted({sign for row in rows_of(verdict) for sign in row.signs})
    return [
        {sign: known for sign, known in zip(signs, values, strict=True) if known is not None}
        for values in product((None, False, True), repeat=len(signs))
    ]


@pytest.mark.parametrize("verdict", Verdict)
def test_knowing_more_leaves_less(verdict: Verdict) -> None:
    rows = rows_of(verdict)
    assert rows
    unknown = fitting(verdict, {})
    # Without a sign nothing is excluded but what nobody would think of.
    assert list(unknown) == [row for row in rows if not row.seen]
    everything = assignments(verdict)
    for signs in everything:
        fits = fitting(verdict, signs)
        extra = set(fits) - set(unknown)
        assert all(all(signs[sign] for sign in row.seen) for row in extra)
    alone = {fits[0].cause for signs in everything if len(fits := fitting(verdict, signs)) == 1}
    assert {row.cause for row in rows} - alone <= NEVER_ALONE


@pytest.mark.parametrize("verdict", [v for v in Verdict if len(rows_of(v)) > 1])
def test_no_cause_follows_from_a_verdict_alone(verdict: Verdict) -> None:
    assert len(fitting(verdict, {})) > 1


def test_every_word_has_its_meaning_and_its_use() -> None:
    used = {row.cause for row in (*TABLE, *BESIDE)}
    assert used | {Cause.CONTRADICTORY} == set(Cause)
    assert set(WORDINGS) == set(Cause)
    assert set(SIGNS) == set(Sign) == {sign for row in (*TABLE, *BESIDE) for sign in row.signs}
    assert set(causes.QEMU_QUESTIONS.values()) == set(causes.WOULD_TELL)
    known = {"virtballoon", "set_interval", "virsh", "name", "domain"}
    known |= {"interval", "wanted", "lacks"}
    for cause, wording in WORDINGS.items():
        for text in (wording.meaning, wording.remedy or "", wording.tell):
            assert {field for _, field, *_ in Formatter().parse(text) if field} <= known, cause
    for verdict in Verdict:
        # Of causes that may stand side by side, each says by what it is told from the others.
        fits = fitting(verdict, {})
        told = [row.cause for row in fits if WORDINGS[row.cause].tell]
        if verdict in {
            *(Verdict.STALE, Verdict.UNANSWERED, Verdict.NO_DEVICE, Verdict.POLLING_OFF),
        }:
            assert told == [row.cause for row in fits]


SOME = MemoryStats(total_memory=2**27, free_memory=2**26)
READY = {Sign.DRIVER_OK: True, Sign.STATISTICS: True}


@pytest.mark.parametrize(
    ("verdict", "signs", "causes"),
    [
        # A guest agent's channel that is open: no test kernel has the driver.
        (Verdict.UNANSWERED, {Sign.AGENT_CONNECTED: True, Sign.DRIVER_OK: False}, ["no-driver"]),
        (Verdict.UNANSWERED, {Sign.AGENT_CONNECTED: True}, ["no-driver", "no-statistics"]),
        (
            Verdict.STALE,
            {Sign.AGENT_CONNECTED: True, Sign.DRIVER_OK: False, Sign.QEMU_INTERVAL: True},
            ["driver-unloaded"],
        ),
        # One that is closed, or that never was, may mean anything.
        (
            Verdict.UNANSWERED,
            {Sign.AGENT_CONNECTED: False, Sign.DRIVER_OK: False},
            ["booting", "no-driver"],
        ),
        # QEMU 10.
        (
            Verdict.STALE,
            {Sign.RESET_CLEARS: True, Sign.DRIVER_OK: False, Sign.QEMU_INTERVAL: True},
            ["driver-unloaded"],
        ),
        # Windows without the balloon service; a driver that never took the statistics queue.
        (Verdict.EMPTY, {}, ["no-statistics"]),
        (
            Verdict.UNANSWERED,
            {Sign.DRIVER_OK: True, Sign.STATISTICS: False},
            ["no-statistics"],
        ),
        (
            Verdict.STALE,
            {Sign.DRIVER_OK: True, Sign.STATISTICS: False, Sign.QEMU_INTERVAL: True},
            ["no-statistics"],
        ),
        (Verdict.UNANSWERED, READY | {Sign.BUFFER_HELD: False}, ["guest-hung"]),
        (Verdict.UNANSWERED, READY | {Sign.BUFFER_HELD: True}, ["just-answered"]),
        # QEMU has the buffer, and yet does not ask.
        (
            Verdict.STALE,
            READY | {Sign.BUFFER_HELD: True, Sign.OVERDUE: True, Sign.QEMU_INTERVAL: True},
            [],
        ),
        # An interval that somebody may have set behind libvirt's back.
        (Verdict.POLLING_OFF, {Sign.XML_POLLS: True}, ["interval-differs"]),
        (Verdict.POLLING_OFF, {Sign.XML_POLLS: False, Sign.QEMU_INTERVAL: True}, ["polling-off"]),
        (Verdict.POLLING_OFF, {Sign.XML_POLLS: False, Sign.AWAITED: True}, ["interval-differs"]),
        (
            Verdict.POLLING_OFF,
            {Sign.XML_POLLS: False, Sign.AWAITED: False},
            ["polling-off", "interval-differs"],
        ),
        # What stops a guest.
        (Verdict.SUSPENDED, dict.fromkeys((Sign.STOPPED, *causes.STOPPERS), False), []),
        *(
            (
                Verdict.SUSPENDED,
                {Sign.STOPPED: True} | {sign: sign is stopper for sign in causes.STOPPERS},
                [stopper.value],
            )
            for stopper in causes.STOPPERS
        ),
        # A daemon that many hung guests would use up; a monitor that is free again; a job.
        (
            Verdict.BUSY,
            {Sign.BARRED: True, Sign.OCCUPIED: False, Sign.JOB: False},
            ["not-asked"],
        ),
        (
            Verdict.BUSY,
            {Sign.BARRED: False, Sign.OCCUPIED: False, Sign.JOB: False},
            ["was-busy"],
        ),
        (
            Verdict.BUSY,
            {Sign.BARRED: False, Sign.OCCUPIED: False, Sign.JOB: True},
            ["job-running"],
        ),
        # A libvirt before 2.1, virtio-mmio, and clocks.
        (
            Verdict.FAILED,
            {Sign.NOT_GIVEN: True, Sign.OLD_LIBVIRT: True, Sign.AHEAD: False},
            ["too-old"],
        ),
        (
            Verdict.FAILED,
            {Sign.NOT_GIVEN: True, Sign.OLD_LIBVIRT: False, Sign.AHEAD: False},
            ["not-passed-on"],
        ),
        (Verdict.FAILED, {Sign.NOT_GIVEN: False, Sign.AHEAD: True}, ["clock-ahead"]),
        (Verdict.FAILED, {Sign.NOT_GIVEN: False, Sign.AHEAD: False}, ["unreadable"]),
    ],
)
def test_what_fits(verdict: Verdict, signs: Mapping[Sign, bool], causes: list[str]) -> None:
    assert [row.cause.value for row in fitting(verdict, signs)] == causes


def test_what_only_qemu_could_tell() -> None:
    rows = fitting(Verdict.UNANSWERED, {})
    assert causes.unasked(rows, {}) == ("x-query-virtio-status",)
    assert causes.unasked(rows, READY) == ()
    assert causes.unasked(fitting(Verdict.EMPTY, {}), {}) == ()
    assert causes.unasked(fitting(Verdict.NO_DEVICE, {}), {}) == ("qom-list",)


def test_what_an_old_qemu_lacks() -> None:
    assert len(causes.lacking((7, 1))) == 2
    assert [text.partition(",")[0] for text in causes.lacking((9, 1))] == ["oom_kills"]
    assert causes.lacking((9, 2)) == ()


def commandline(*arguments: str) -> str:
    """The live XML of a domain with these arguments for QEMU."""
    namespace = "http://libvirt.org/schemas/domain/qemu/1.0"
    args = "".join(f"<q:arg value='{argument}'/>" for argument in arguments)
    xml = domain("<memballoon model='none'/>")
    inside = f"<q:commandline xmlns:q='{namespace}'>{args}</q:commandline></domain>"
    return xml.replace("</domain>", inside)


@pytest.mark.parametrize(
    ("arguments", "there"),
    [
        ([], False),
        (["-device", "virtio-balloon-pci,id=x"], True),
        (["--device", "driver=virtio-balloon-ccw"], True),
        (["-device", "id=x,driver=virtio-balloon-device"], True),
        (["-device", '{"driver":"virtio-balloon-pci","id":"x"}'], True),
        (["-device", '{"driver":"virtio-net-pci"}'], False),
        (["-device", "{virtio-balloon-pci"], False),
        (["-device", "virtio-net-pci,id=virtio-balloon-pci"], False),
        (["-global", "virtio-balloon-pci.deflate-on-oom=on"], False),
        (["-device", "virtio-net-pci", "-name", "virtio-balloon-pci"], False),
        (["-readconfig", "/etc/qemu.cfg"], None),
        (["-device"], False),
    ],
)
def test_a_balloon_in_the_commandline(arguments: list[str], there: bool | None) -> None:
    assert domainxml.hints(commandline(*arguments)).balloon_in_commandline is there


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
def test_a_guest_agents_channel(channels: str, connected: bool | None) -> None:
    assert domainxml.hints(domain(channels)).agent_connected is connected


def test_a_driver_of_libvirts_that_has_no_monitor(command: Command, node: str) -> None:
    names = ["bare", "off", "passing"]
    result = command("-c", node, "doctor", *names, "--format", "json")
    assert (result.status, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    jsonschema.validate(document, SCHEMA | {"anyOf": [{"$ref": "#/$defs/diagnoses"}]})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMA | {"anyOf": [{"$ref": "#/$defs/readings"}]})
    rows = document["hosts"][0]["domains"]
    assert [row["cause"] for row in rows] == ["no-device", "shutoff", None]
    causes = [each["cause"] for each in rows[2]["possible_causes"]]
    assert causes == ["polling-off", "interval-differs"]


def test_the_schema_knows_every_cause_and_every_sign() -> None:
    assert SCHEMA["$defs"]["cause"]["enum"] == [cause.value for cause in Cause]
    assert SCHEMA["$defs"]["sign"]["enum"] == [sign.value for sign in Sign]


def test_a_report_is_safe_for_a_terminal(command: Command, node: str) -> None:
    result = command("-c", node, "doctor", "--", EVIL, "off")
    assert (result.status, result.stderr) == (0, "")
    assert all(line.isprintable() for line in result.stdout.splitlines())
    # A line for one that is well, and more for one that is not.
    heads = [line for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert len(heads) == 2
    assert heads[1] == "off: shutoff"


def test_quiet_names_the_causes_where_data_is_in_a_file(
    command: Command, node: str, tmp_path: Path
) -> None:
    words = ["-c", node, "doctor", "-q", "passing", "off", "bare"]
    shown, filed = command.each([words, [*words, "--output", str(tmp_path / "report")]])
    heads = [line for line in shown.stdout.splitlines() if not line.startswith(" ")]
    assert heads == ["passing: polling-off, " + heads[0].partition(", ")[2]]
    (line,) = filed.complaints
    assert "polling-off" in line
    assert line.endswith("(polling-off, interval-differs)")


def test_the_library_gives_what_the_command_prints(node: str) -> None:
    host = virtballoon.diagnose_host(node, ["passing"])
    (row,) = host.domains
    assert isinstance(host, virtballoon.HostReport)
    assert isinstance(row, virtballoon.DomainReport)
    assert row.remedy == f"virtballoon -c {node} set-interval 10 passing"
    assert not row.is_well
    hosts = virtballoon.diagnose_hosts([node, "test:///no-such-file"], ["bare"])
    assert [each.error is None for each in hosts] == [True, False]
    assert hosts[0].domains[0].is_well
    assert hosts[1].domains == ()


# A second look.

NOW = 1_700_000_000


def watched(last_update: int | None, read_at: int = NOW) -> tuple[virtballoon.Diagnosis, bool]:
    """A guest that was stale at the first look, and has this last update at a second one."""
    row = virtballoon.DomainReport.of(
        name="looked-at",
        uuid="00000000-0000-0000-0000-000000000001",
        id=1,
        state=State.RUNNING,
        balloon=virtballoon.Balloon(model="virtio", alias="balloon0"),
        interval=virtballoon.Interval(live=1, config=1),
        source=Source.LIBVIRT,
        figures=Figures(stats=SOME, last_update=NOW - 60),
        host="test:///default",
        now=NOW,
    )
    assert row.verdict is Verdict.STALE
    patient = examination._Patient(row, None)
    patient.take_row()
    patient.signs |= READY
    figures = Figures(stats=SOME if last_update else MemoryStats(), last_update=last_update)
    moved = patient.take_look(
        examination._Look(figures, State.RUNNING, read_at, 3.0, None), "test:///"
    )
    patient.tell_of_watching()
    return patient.diagnosis(Source.QOM, examination.Reach.by_uri("test:///")), moved


@pytest.mark.parametrize("last_update", [None, NOW - 60])
def test_a_second_look_that_sees_nothing_new(last_update: int | None) -> None:
    found, moved = watched(last_update)
    assert (moved, found.verdict) == (False, Verdict.STALE)
    assert Sign.OVERDUE in found.seen
    assert found.evidence[-1].answer == "no new answer"


@pytest.mark.parametrize("back", [0, 3600])
def test_a_second_look_that_sees_an_answer(back: int) -> None:
    """Also an earlier one, as the host's clock was set back meanwhile."""
    found, moved = watched(NOW - back - 1, NOW - back)
    assert (moved, found.cause) == (True, Cause.JUST_ANSWERED)
    assert Sign.OVERDUE not in found.seen


def test_a_second_look_that_sees_a_reset() -> None:
    """As QEMU 10 tells of it, which forgets the last update."""
    found, moved = watched(0)
    assert (moved, found.verdict) == (True, Verdict.UNANSWERED)
    # What the driver had set up before is gone.
    assert {Sign.AWAITED, Sign.OVERDUE, *READY}.isdisjoint(found.seen)
    assert found.possible_causes[0].cause is Cause.BOOTING
    assert found.evidence[-1].answer.startswith("no update since")


# The man page.


def test_the_man_page_has_every_cause_and_every_sign() -> None:
    page = sections("virtballoon-doctor")
    assert tags(page["CAUSES"]) == [cause.value for cause in Cause]
    assert tags(page["SIGNS"]) == [sign.value for sign in Sign]


def line_of(row: Row) -> list[str]:
    """A row as it stands in the man page."""
    signs = [f"+{s}" for s in row.seen] + [f"{s}" for s in row.has] + [f"-{s}" for s in row.lacks]
    return [row.verdict.value if row.verdict is not None else "any", *signs, row.cause.value]


def test_the_man_page_has_the_table() -> None:
    tables = blocks(sections("virtballoon-doctor")["TABLE"])
    for block, rows in zip(tables, (TABLE, BESIDE), strict=True):
        # A row that is too long goes on below, further in.
        lines = re.sub(r"\n {4,}", " ", block).splitlines()
        assert [line.replace(":", "").split() for line in lines] == [
            [line_of(row)[0], line_of(row)[-1], *line_of(row)[1:-1]] for row in rows
        ]
