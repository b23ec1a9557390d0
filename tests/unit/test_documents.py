"""Documents: keys and their order, null, rounding, CSV that reads back, and the JSON Schema."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.unit.builders import (
    CHANGES,
    HELD,
    HOST,
    MEMORY,
    NOW,
    READ,
    SCHEMA,
    UNREACHED,
    UUID,
    VALIDATOR,
    document,
    report,
)
from tests.unit.properties import assert_fits_every_format, read_csv
from virtballoon.cli import cli
from virtballoon.configuration import ConfiguredHost
from virtballoon.errors import ConnectError
from virtballoon.hypervisor import labels
from virtballoon.model.clock import ClockOffset
from virtballoon.model.memory import Anomaly, Figures
from virtballoon.model.outcome import HostProbe, HostQomPath, Outcome, QomPath
from virtballoon.model.report import HostStatus, Interval
from virtballoon.model.source import Source
from virtballoon.model.statistics import STATISTICS, MemoryStats
from virtballoon.model.verdict import State, Verdict
from virtballoon.render import documents, formats
from virtballoon.render.columns import column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.command import Command


def test_a_reading() -> None:
    read = document(READ)
    (host,) = read["hosts"]
    domain = host["domains"][0]

    assert list(read) == ["schema", "generated_at", "hosts"]
    assert (read["schema"], read["generated_at"]) == (1, "2023-11-14T22:13:23Z")
    assert list(host) == [
        *("uri", "hostname", "status", "error", "elapsed_seconds"),
        *("clock_offset_seconds", "memory", "domains"),
    ]
    assert (host["status"], host["elapsed_seconds"]) == ("partial", 0.123)
    assert host["clock_offset_seconds"] is None
    skewed = replace(READ, clock=ClockOffset(-31, -30.5))
    assert documents.host_record(skewed)["clock_offset_seconds"] == -30.8
    expected: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "id": 7,
        "state": "running",
        "machine": "pc-q35-8.2",
        "balloon": {
            "model": "virtio",
            "alias": "balloon0",
            "qom_path": "/machine/peripheral/balloon0",
        },
        "interval": {"live": 10, "config": 10, "saved": None, "qemu": None, "in_force": 10},
        "verdict": "fresh",
        "source": "libvirt",
        "labels": {},
        "excluded": False,
        "read_at": "2023-11-14T22:13:23Z",
        "last_update": "2023-11-14T22:13:20Z",
        "age_seconds": 3.1,
        "maximum_bytes": 134217728,
        "current_bytes": 134217728,
        "ballooned_bytes": 0,
        "rss_bytes": 218316800,
        "reclaimable_bytes": 56204493,
        "free_page_reporting": None,
        "stats": dict.fromkeys(STATISTICS)
        | {
            "swap_in": 0,
            "total_memory": 97_222_656,
            "available_memory": 75_649_024,
            "new_figure": 7,
        },
        "used_bytes": 21573632,
        "used_ratio": 0.2219,
        "used_formula": "total-available",
        "anomalies": [],
        "error": None,
    }
    assert domain == expected
    # Their order counts, too.
    for key in ("balloon", "interval"):
        assert list(domain[key]) == list(expected[key])
    assert list(domain["stats"])[: len(STATISTICS)] == list(STATISTICS)
    assert {tuple(each) for each in host["domains"]} == {tuple(expected)}


def test_what_is_absent_is_null() -> None:
    domain = document(READ)["hosts"][0]["domains"][1]

    assert domain["interval"] == dict.fromkeys(("live", "config", "saved", "qemu", "in_force")) | {
        "config": 0
    }
    given = {key for key, value in domain.items() if value is not None}
    assert given == {
        *(
            "name",
            "uuid",
            "state",
            "machine",
            "interval",
            "verdict",
            "source",
            "labels",
            "excluded",
            "read_at",
            "stats",
            "anomalies",
        ),
    }
    assert domain["anomalies"] == []
    assert set(domain["stats"].values()) == {None}


def test_an_error() -> None:
    read = document(READ, UNREACHED)

    assert read["hosts"][0]["domains"][2]["error"] == {
        "code": 68,
        "message": "held",
        "reason": "job",
        "hint": "wait",
    }
    assert read["hosts"][1]["error"]["message"] == "no route"
    assert read["hosts"][1]["hostname"] is None
    assert read["hosts"][1]["domains"] == []


def test_the_keys_of_a_change_and_their_order() -> None:
    (host,) = document(CHANGES)["hosts"]

    assert list(host) == ["uri", "hostname", "status", "error", "elapsed_seconds", "domains"]
    for domain in host["domains"]:
        assert list(domain) == ["name", "uuid", "outcome", "changed", "before", "after", "error"]
        assert list(domain["before"])[:2] == list(domain["after"])[:2] == ["live", "config"]
    assert host["domains"][0]["outcome"] == "changed"
    assert host["domains"][0]["changed"] is True
    assert host["domains"][1]["error"]["message"] == "it has no balloon device"


NOBODY_LISTENS = "qemu+unix:///system?socket=/no/such/sock"


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [
        (None, None),
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (253_402_300_799, "9999-12-31T23:59:59Z"),
        (253_402_300_800, None),
        (2**63, None),
        (10**400, None),
    ],
)
def test_a_time(seconds: int | None, stamp: str | None) -> None:
    assert documents.timestamp(seconds) == stamp


def test_a_line_of_jsonl_is_a_record() -> None:
    records = [{"uri": HOST} | record for record in documents.domain_records(READ)]
    records[0]["name"] = "a\nb\u2028c"
    lines = formats.to_jsonl(records)

    assert lines.endswith("\n")
    assert lines.isascii()
    assert [json.loads(line) for line in lines.splitlines()] == records
    assert formats.to_jsonl([]) == ""


def test_nested_keys_are_joined_with_a_dot() -> None:
    labelled = report(labels=dict.fromkeys(labels.names(), "x"))
    flat = formats.flattened(documents.domain_record(labelled))

    assert flat["balloon.qom_path"] == "/machine/peripheral/balloon0"
    assert flat["interval.live"] == 10
    assert flat["stats.swap_in"] == 0
    assert flat["stats.new_figure"] == 7
    assert flat["error"] is None
    assert [key for key in flat if key != "stats.new_figure"] == [
        *(key for key in documents.domain_columns() if not key.startswith("error.")),
        "error",
    ]


def test_every_column_of_a_list_is_a_key_of_the_record() -> None:
    labelled = replace(HELD, labels=dict.fromkeys(labels.names(), "x"))
    held = formats.flattened(documents.domain_record(labelled))

    assert set(documents.domain_columns()) == held.keys() - {"stats.new_figure"}


def test_csv() -> None:
    changed, failed = documents.domain_records(CHANGES)
    names = ["name", "changed", "before.live", "before.config", "error.code", "error.message"]
    rows = read_csv(formats.to_csv([changed, failed], names))

    assert rows == [
        dict(zip(names, ["web1", "true", "0", "", "", ""], strict=True)),
        dict(zip(names, ["bare", "false", "0", "0", "", "it has no balloon device"], strict=True)),
    ]


def test_anomalies_are_one_cell() -> None:
    lies = MemoryStats.from_qemu({"total-memory": 0, "free-memory": 1, "swap-in": 2**63})
    absurd = Figures(stats=lies, last_update=None)
    row = documents.domain_record(report(figures=absurd))

    (cells,) = read_csv(formats.to_csv([row], ["name", "anomalies"]))
    assert cells["anomalies"] == "total-zero,free-above-total,figure-too-large"
    assert read_csv(formats.to_csv([documents.domain_record(report())], ["anomalies", "name"])) == [
        {"anomalies": "", "name": "web1"}
    ]


def test_csv_has_a_header_even_without_rows() -> None:
    assert formats.to_csv([], ["name", "uuid"]) == "name,uuid\n"


HOSTILE = ['a,"b"', "a\nb", "a\rb", "a\r\nb", "=1+1", " a ", "", "é🎈", "\u202e", "'", "\t", "a;b"]
NAMES = st.text(st.characters(exclude_characters="\0")) | st.text("a,;\"'\r\n\t =")


@example(HOSTILE)
@given(st.lists(NAMES, max_size=4))
def test_any_names_read_back_from_csv(names: list[str]) -> None:
    text = formats.to_csv([{"name": name, "uuid": UUID} for name in names], ["name", "uuid"])

    assert [row["name"] for row in read_csv(text)] == names
    assert all(row["uuid"] == UUID for row in read_csv(text))


FIGURE = st.none() | st.integers(0, 2**64 - 2) | st.sampled_from([0, 1, 2**64 - 1])


@settings(max_examples=20)
@given(
    figures=st.dictionaries(st.sampled_from(STATISTICS), FIGURE),
    last_update=FIGURE,
    sizes=st.tuples(FIGURE, FIGURE, FIGURE),
    state=st.sampled_from(State),
    period=st.none() | st.integers(0, 2**32 - 1),
    name=st.text(st.characters()),
)
def test_any_reading_fits_every_format(
    *,
    figures: dict[str, int | None],
    last_update: int | None,
    sizes: tuple[int | None, ...],
    state: State,
    period: int | None,
    name: str,
) -> None:
    read = report(
        name=name,
        state=state,
        interval=Interval(live=period),
        figures=Figures(
            stats=MemoryStats.from_qemu({f"stat-{key}": figures[key] for key in figures}),
            last_update=last_update,
            current_bytes=sizes[0],
            maximum_bytes=sizes[1],
            rss_bytes=sizes[2],
        ),
    )
    assert_fits_every_format(read)


# The schema that comes with the package.


def place() -> dict[str, Any]:
    """A document of qom-path."""
    record = {"name": "web1", "uuid": UUID, "qom_path": "/machine/peripheral/balloon0"}
    host = documents.host_record(replace(READ, domains=())) | {"domains": [record]}
    del host["clock_offset_seconds"], host["memory"]
    return documents.document([host], generated_at=NOW)


PROBED = HostProbe(
    uri=HOST,
    hostname="hv1",
    status=HostStatus.OK,
    error=None,
    elapsed_seconds=0.12345,
    running=3,
    defined=5,
    memory=MEMORY,
)
UNPROBED = HostProbe(
    uri=HOST,
    hostname=None,
    status=HostStatus.UNREACHABLE,
    error=ConnectError("no answer within 10 s", host=HOST),
    elapsed_seconds=10.0,
    running=None,
    defined=None,
)


def probes() -> dict[str, Any]:
    """A document of hosts."""
    named = ConfiguredHost(name="hv1", uri=HOST, groups=("prod", "rack 1"))
    records = [documents.probe_record(named, PROBED), documents.probe_record(None, UNPROBED)]
    return documents.document(records, generated_at=NOW)


def groups() -> dict[str, Any]:
    """A document of groups."""
    rows = [report(), report(labels={"project": "acme"}), HELD]
    project = column("labels.project")
    records = documents.group_records(rows, project.value)
    return documents.group_document(records, project.key, generated_at=NOW)


DOCUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "reading": lambda: document(READ, UNREACHED),
    "change": lambda: document(CHANGES),
    "place": place,
    "probe": probes,
    "group": groups,
}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_schema_has_every_enumeration() -> None:
    definitions = SCHEMA["$defs"]
    reading = definitions["domain"]["properties"]

    assert set(reading["verdict"]["enum"]) == set(Verdict)
    assert set(reading["state"]["enum"]) == set(State)
    assert set(reading["source"]["enum"]) == set(Source)
    assert reading["anomalies"]["items"]["enum"] == list(Anomaly)
    assert set(definitions["host"]["properties"]["status"]["enum"]) == set(HostStatus)
    assert set(definitions["change"]["properties"]["outcome"]["enum"]) == set(Outcome)
    assert definitions["stats"]["required"] == list(STATISTICS)
    assert list(definitions["stats"]["properties"]) == list(STATISTICS)


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents_hold_to_the_schema(kind: str) -> None:
    VALIDATOR.validate(DOCUMENTS[kind]())


def objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a document has objects."""
    if isinstance(value, dict):
        yield path
        for key, below in value.items():
            yield from objects(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from objects(below, (*path, index))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


# As little as has every key, since each is broken in turn.
SMALL = DOCUMENTS | {
    "reading": lambda: document(replace(READ, domains=(HELD,), memory=MEMORY)),
}


def validator_of(kind: str) -> jsonschema.Draft202012Validator:
    """One kind of document alone, which is quicker."""
    schema = {key: SCHEMA[key] for key in ("$schema", "$defs")}
    return jsonschema.Draft202012Validator(schema | {"$ref": f"#/$defs/{kind}s"})


# Any text will do for these.
FREE_TEXT = {
    *("uri", "hostname", "name", "machine", "model", "alias", "message", "hint"),
    *("group_by", "value"),
}


@pytest.mark.parametrize("kind", SMALL)
def test_every_key_is_needed_and_no_other_is_known(kind: str) -> None:
    whole = SMALL[kind]()
    validator = validator_of(kind)

    for path in objects(whole):
        is_open = path[-1:] == ("stats",)
        for key in at(whole, path):
            broken = copy.deepcopy(whole)
            del at(broken, path)[key]
            assert validator.is_valid(broken) == (is_open and key not in STATISTICS), (*path, key)
        broken = copy.deepcopy(whole)
        at(broken, path)["further"] = 5
        assert validator.is_valid(broken) == is_open, path


@pytest.mark.parametrize("kind", SMALL)
def test_no_value_may_be_of_another_type(kind: str) -> None:
    whole = SMALL[kind]()
    validator = validator_of(kind)

    for path in objects(whole):
        for key in at(whole, path):
            for wrong in ([5], *["x"] * (key not in FREE_TEXT)):
                broken = copy.deepcopy(whole)
                at(broken, path)[key] = wrong
                assert not validator.is_valid(broken), (*path, key, wrong)


DOMAIN = ("hosts", 0, "domains", 0)


@pytest.mark.parametrize(
    ("kind", "path", "wrong"),
    [
        ("reading", ("schema",), 2),
        ("reading", ("generated_at",), "2023-11-14 22:13:20"),
        ("reading", ("generated_at",), None),
        ("reading", ("hosts", 0, "status"), "unreachable"),
        ("reading", ("hosts", 0, "hostname"), None),
        ("reading", ("hosts", 1, "status"), "ok"),
        ("reading", ("hosts", 0, "elapsed_seconds"), -1),
        ("reading", (*DOMAIN, "uuid"), UUID.upper()),
        ("reading", (*DOMAIN, "id"), -1),
        ("reading", (*DOMAIN, "id"), 1.5),
        ("reading", (*DOMAIN, "verdict"), "failed"),
        ("reading", (*DOMAIN, "verdict"), "busy"),
        ("reading", (*DOMAIN, "used_ratio"), 1.01),
        ("reading", (*DOMAIN, "used_ratio"), -0.1),
        ("reading", (*DOMAIN, "used_formula"), "total_available"),
        ("reading", (*DOMAIN, "rss_bytes"), -1),
        ("reading", (*DOMAIN, "stats", "swap_in"), -1),
        ("reading", (*DOMAIN, "stats", "swap_in"), 0.5),
        ("reading", (*DOMAIN, "stats", "new_figure"), "7"),
        ("reading", (*DOMAIN, "balloon", "qom_path"), "machine"),
        ("reading", ("hosts", 0, "domains", 2, "error", "message"), ""),
        ("reading", ("hosts", 0, "domains", 2, "error"), None),
        ("change", (*DOMAIN, "outcome"), "unchanged"),
        ("change", (*DOMAIN, "outcome"), "skipped"),
        ("change", (*DOMAIN, "outcome"), "failed"),
        ("change", (*DOMAIN, "changed"), False),
        ("change", (*DOMAIN, "after", "live"), -5),
        ("place", (*DOMAIN, "qom_path"), None),
        ("place", (*DOMAIN, "qom_path"), ""),
        ("probe", ("hosts", 0, "status"), "partial"),
        ("probe", ("hosts", 0, "status"), "unreachable"),
        ("probe", ("hosts", 0, "hostname"), None),
        ("probe", ("hosts", 0, "running"), None),
        ("probe", ("hosts", 0, "defined"), -1),
        ("probe", ("hosts", 0, "groups"), [""]),
        ("probe", ("hosts", 1, "running"), 0),
        ("probe", ("hosts", 1, "error"), None),
    ],
)
def test_broken_documents_are_refused(kind: str, path: tuple[Any, ...], wrong: object) -> None:
    broken = DOCUMENTS[kind]()
    at(broken, path[:-1])[path[-1]] = wrong

    assert not VALIDATOR.is_valid(broken)


def test_a_host_that_was_probed() -> None:
    first, second = probes()["hosts"]

    assert list(first.items()) == [
        ("uri", HOST),
        ("name", "hv1"),
        ("groups", ["prod", "rack 1"]),
        ("hostname", "hv1"),
        ("status", "ok"),
        ("error", None),
        ("elapsed_seconds", 0.123),
        ("running", 3),
        ("defined", 5),
        ("memory", documents.memory_record(MEMORY)),
    ]
    assert (second["name"], second["groups"], second["running"]) == (None, [], None)
    columns = ["name", "groups", "running", "error.message"]
    assert formats.to_csv([first, second], columns).splitlines() == [
        "name,groups,running,error.message",
        'hv1,"prod,rack 1",3,',
        ",,,no answer within 10 s",
    ]


def test_groups() -> None:
    first, second = groups()["groups"]
    assert (first["value"], first["domains"], first["unknown_domains"]) == ("acme", 1, 0)
    assert first["used_bytes"] == first["used_min_bytes"] == 21573632
    assert (second["value"], second["domains"], second["unknown_domains"]) == (None, 2, 1)
    assert (second["used_bytes"], second["used_min_bytes"]) == (None, 21573632)
    assert second["used_max_bytes"] == 21573632 + 134217728
    assert documents.group_columns() == tuple(first)
    assert documents.group_records([], lambda row: row.name) == []


def test_kinds_of_documents_do_not_mix() -> None:
    mixed = document(READ, CHANGES)

    assert not VALIDATOR.is_valid(mixed)


@pytest.mark.parametrize(
    "args",
    [
        ("list", "--all"),
        ("stats", "*"),
        ("set-interval", "5", "--all"),
        ("set-interval", "5", "--all", "--config", "--dry-run"),
        ("set-interval", "5", "bare", "off", "--live"),
    ],
    ids=" ".join,
)
def test_what_the_command_prints_holds_to_the_schema(
    command: Command, node: str, args: tuple[str, ...]
) -> None:
    result = command("-c", node, "-c", NOBODY_LISTENS, *args, "--format", "json")

    printed = json.loads(result.stdout)
    VALIDATOR.validate(printed)
    assert [host["uri"] for host in printed["hosts"]] == [node, NOBODY_LISTENS]
    assert printed["hosts"][0]["domains"]
    assert printed["hosts"][1]["status"] == "unreachable"


def test_what_qom_path_prints_holds_to_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    # A path is QEMU's, and here is no QEMU: the finding is stood in for.
    path = QomPath(name="we\nb", uuid=UUID, qom_path="/machine/x")
    found = HostQomPath(
        uri=HOST,
        hostname="hv1",
        status=HostStatus.OK,
        error=None,
        elapsed_seconds=0.1,
        domains=(path,),
    )
    monkeypatch.setattr(
        "virtballoon.operations.reading.find_qom_path", lambda *_args, **_kwargs: found
    )
    # A test run's stderr stays as noisy as it is.
    monkeypatch.setattr("virtballoon.hypervisor.translation.keep_stderr_quiet", lambda: None)

    result = CliRunner().invoke(
        cli, ["qom-path", "--format", "json", "web1"], standalone_mode=False
    )

    assert result.return_value == 0
    VALIDATOR.validate(json.loads(result.stdout))
    assert json.loads(result.stdout)["hosts"][0]["domains"][0]["name"] == "we\nb"
