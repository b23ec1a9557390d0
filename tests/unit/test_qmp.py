"""QMP: what is sent, where the balloon is found, and any answer of QEMU."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.properties import (
    ALLOWED,
    BALLOON0,
    METHODS,
    ORIGIN,
    PERIPHERAL,
    assert_answers_read_or_refused,
)
from virtballoon.errors import MonitorError
from virtballoon.hypervisor.qmp import MAX_INTERVAL, Monitor, is_allowed
from virtballoon.model.memory import Figures
from virtballoon.model.statistics import MemoryStats

if TYPE_CHECKING:
    from collections.abc import Callable

ANON = "/machine/peripheral-anon"
TYPES = (
    "virtio-balloon-pci",
    "virtio-balloon-pci-transitional",
    "virtio-balloon-pci-non-transitional",
    "virtio-balloon-ccw",
    "virtio-balloon-device",
)
AWKWARD = f'{PERIPHERAL}/a "quoted" \\ one\n{{'


class FakeQemu:
    """Answers as QEMU does, from a tree of types by path.

    :ivar sent: the commands that came, decoded
    """

    def __init__(self, *objects: tuple[str, str]) -> None:
        self.types = {"/machine": "pc-q35-7.2-machine", PERIPHERAL: "container", ANON: "container"}
        self.types |= {"/machine/unattached": "container", "/machine/q35": "q35-pcihost"}
        for path, kind in objects:
            self.types[path] = kind
            if kind.startswith("virtio-balloon-") and kind != "virtio-balloon-device":
                self.types[f"{path}/virtio-backend"] = "virtio-balloon-device"
        self.interval = 0
        self.stats: dict[str, Any] = {"stats": {"stat-swap-in": 5}, "last-update": 17}
        self.sent: list[dict[str, Any]] = []

    def __call__(self, text: str) -> str:
        command = json.loads(text, parse_constant=pytest.fail)
        self.sent.append(command)
        assert command.keys() == {"execute", "arguments"}
        arguments = command["arguments"]
        path = arguments["path"]
        if path not in self.types:
            return self._refuse("DeviceNotFound", f"Device '{path}' not found")
        return json.dumps({"return": self._answer(command["execute"], path, arguments), "id": "x"})

    def _answer(self, name: str, path: str, arguments: dict[str, Any]) -> Any:
        match name, arguments.get("property"):
            case "qom-list", None:
                assert arguments.keys() == {"path"}
                return [{"name": "type", "type": "string"}, *self._children(path)]
            case "qom-get", "guest-stats":
                assert arguments.keys() == {"path", "property"}
                return self.stats
            case "qom-get", "guest-stats-polling-interval":
                assert arguments.keys() == {"path", "property"}
                return self.interval
            case "qom-set", "guest-stats-polling-interval":
                assert arguments.keys() == {"path", "property", "value"}
                self.interval = arguments["value"]
                return {}
        pytest.fail(f"{name} {arguments} may not go through")

    def _children(self, path: str) -> list[dict[str, str]]:
        children = [
            {"name": below.removeprefix(f"{path}/"), "type": f"child<{kind}>"}
            for below, kind in self.types.items()
            if below.startswith(f"{path}/") and "/" not in below.removeprefix(f"{path}/")
        ]
        # A link is not the object itself.
        return [{"name": "bus", "type": "link<virtio-balloon-pci>"}, *children]

    @staticmethod
    def _refuse(kind: str, text: str) -> str:
        return json.dumps({"id": "libvirt-9", "error": {"class": kind, "desc": text}})


def answering(answer: str) -> Monitor:
    return Monitor(lambda _command: answer, **ORIGIN)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("alias", ["balloon0", None, "net0"])
def test_balloon_with_an_id(kind: str, alias: str | None) -> None:
    qemu = FakeQemu((f"{PERIPHERAL}/net0", "virtio-net-pci"), (BALLOON0, kind))

    assert Monitor(qemu).find_balloon(alias) == BALLOON0


@pytest.mark.parametrize("alias", ["balloon1", "ua-memory"])
def test_alias_wins_over_another_balloon(alias: str) -> None:
    qemu = FakeQemu(
        (BALLOON0, "virtio-balloon-pci"), (f"{PERIPHERAL}/{alias}", "virtio-balloon-pci")
    )

    assert Monitor(qemu).find_balloon(alias) == f"{PERIPHERAL}/{alias}"


@pytest.mark.parametrize("kind", TYPES)
def test_balloon_without_an_id(kind: str) -> None:
    qemu = FakeQemu((f"{ANON}/device[0]", "virtio-net-pci"), (f"{ANON}/device[1]", kind))

    assert Monitor(qemu).find_balloon("balloon0") == f"{ANON}/device[1]"


def test_no_balloon() -> None:
    qemu = FakeQemu((f"{PERIPHERAL}/net0", "virtio-net-pci"))

    assert Monitor(qemu).find_balloon() is None
    assert Monitor(qemu).find_balloon("net0") is None


def test_children_are_objects_only() -> None:
    qemu = FakeQemu((BALLOON0, "virtio-balloon-pci"))

    assert Monitor(qemu).children(PERIPHERAL) == {"balloon0": "virtio-balloon-pci"}


@pytest.mark.parametrize("path", [BALLOON0, AWKWARD, f"{ANON}/device[0]", f"{PERIPHERAL}/é🎈"])
def test_commands(path: str) -> None:
    qemu = FakeQemu((path, "virtio-balloon-pci"))
    monitor = Monitor(qemu)

    monitor.set_polling_interval(path, 10)
    assert monitor.polling_interval(path) == 10
    monitor.guest_stats(path)
    monitor.children(path)

    interval = {"path": path, "property": "guest-stats-polling-interval"}
    assert qemu.sent == [
        {"execute": "qom-set", "arguments": interval | {"value": 10}},
        {"execute": "qom-get", "arguments": interval},
        {"execute": "qom-get", "arguments": {"path": path, "property": "guest-stats"}},
        {"execute": "qom-list", "arguments": {"path": path}},
    ]


NAMES = st.text(st.characters(exclude_characters="/"), min_size=1)


@given(NAMES, st.integers(0, MAX_INTERVAL))
def test_commands_are_json_on_one_line(name: str, seconds: int) -> None:
    sent: list[str] = []

    def send(command: str) -> str:
        sent.append(command)
        return '{"return": {}}'

    Monitor(send).set_polling_interval(f"{PERIPHERAL}/{name}", seconds)

    (command,) = sent
    assert command.isascii()
    assert command.isprintable()
    assert json.loads(command)["arguments"] == {
        "path": f"{PERIPHERAL}/{name}",
        "property": "guest-stats-polling-interval",
        "value": seconds,
    }


# What must never be sent.

COMMANDS = (
    *("query-version", "qom-list", "qom-list-get", "qom-get", "qom-set"),
    *("x-query-virtio", "x-query-virtio-status", "x-query-virtio-queue-status", "x-", "quit"),
    *("human-monitor-command", "device_del", "balloon", "QOM-SET", "qom-set ", ""),
)
PATHS = (
    *(BALLOON0, AWKWARD, f"{ANON}/device[0]", f"{BALLOON0}/virtio-backend", "/machine", PERIPHERAL),
    *("/", "", "/objects", "/objects/x", "/chardevs", "machine", "peripheral/balloon0", "balloon0"),
    *("/machine/", f"{BALLOON0}/", "/machine//balloon0", "/machinery/x/y", f" {BALLOON0}"),
)
PROPERTIES = (
    *("guest-stats", "guest-stats-polling-interval", "deflate-on-oom", "type", "realized", ""),
    *("x-guest-stats", "guest-stats ", "Guest-Stats", "free-page-hint", "iothread"),
)
VALUES = (0, 1, MAX_INTERVAL, MAX_INTERVAL + 1, -1, 2**64, True, 1.0, "1", None, [1], {"a": 1})
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "path": (*PATHS, None, 1, [BALLOON0]),
    "paths": (*([path] for path in PATHS), [BALLOON0, "/objects"], [1], BALLOON0, None),
    "property": (*PROPERTIES, None, 1, ["guest-stats"]),
    "value": VALUES,
    "id": ("x",),
}
#: The names of arguments that are tried together.
SHAPES = (
    *("", "path", "paths", "path property", "path value", "property value", "path property value"),
    *("id", "path id", "paths id", "path paths", "path property id", "path property value id"),
)
DEVICES = frozenset({BALLOON0, AWKWARD, f"{ANON}/device[0]", f"{BALLOON0}/virtio-backend"})


@pytest.mark.parametrize("command", COMMANDS)
def test_list_of_allowed_commands_is_closed(command: str) -> None:
    for shape in map(str.split, SHAPES):
        for values in product(*(ARGUMENTS[name] for name in shape)):
            arguments = dict(zip(shape, values, strict=True))
            if is_allowed(command, arguments):
                assert_allowed(command, arguments)


def assert_allowed(command: str, arguments: dict[str, Any]) -> None:
    given = dict(arguments)
    match command:
        case "query-version":
            pass
        case "qom-list":
            assert given.pop("path") in {*DEVICES, "/machine", PERIPHERAL}
        case "qom-list-get":
            assert set(given.pop("paths")) <= DEVICES
        case "qom-get":
            assert given.pop("path") in DEVICES
            assert given.pop("property") in {"guest-stats", "guest-stats-polling-interval"}
        case "qom-set":
            value = given.pop("value")
            assert type(value) is int
            assert 0 <= value <= MAX_INTERVAL
            assert given.pop("path") in DEVICES
            assert given.pop("property") == "guest-stats-polling-interval"
        case _:
            pytest.fail(f"{command} may be sent")
    assert given == {}


@pytest.mark.parametrize("has_list_get", [False, True])
def test_public_methods_send_only_allowed_commands(has_list_get: bool) -> None:
    def send(text: str) -> str:
        command = json.loads(text)
        assert not command["execute"].startswith("x-")
        assert is_allowed(command["execute"], command.get("arguments", {}))
        # Invalid names of children must not get into a command.
        child = {"name": "../x", "type": "child<container>"}
        return json.dumps({"return": [child, {"name": "", "type": "child<virtio-balloon-pci>"}]})

    monitor = Monitor(send, has_list_get=has_list_get)
    methods = {name for name in vars(Monitor) if not name.startswith("_")}
    assert methods == {name.partition(",")[0] for name in METHODS}
    calls: list[Callable[[Any, Any], object]] = [
        lambda path, _: monitor.children(path),
        lambda path, _: monitor.guest_stats(path),
        lambda path, _: monitor.polling_interval(path),
        lambda path, _: monitor.interval_and_stats(path),
        monitor.set_polling_interval,
        lambda _path, _: monitor.version(),
        lambda path, _: monitor.find_balloon(path),
    ]
    for call, path, value in product(calls, [*PATHS, *VALUES], VALUES):
        with suppress(MonitorError, AttributeError):
            call(path, value)


def test_refused_command_is_not_sent() -> None:
    with pytest.raises(MonitorError, match="not a command") as caught:
        Monitor(pytest.fail).set_polling_interval(BALLOON0, MAX_INTERVAL + 1)
    assert '"value": 4294967296' in caught.value.sent
    assert caught.value.received is None


def test_find_balloon_sends_only_qom_list() -> None:
    qemu = FakeQemu((f"{ANON}/device[0]", "virtio-balloon-device"))

    Monitor(qemu).find_balloon("balloon0")

    assert {command["execute"] for command in qemu.sent} == {"qom-list"}


def test_guest_stats() -> None:
    qemu = FakeQemu((BALLOON0, "virtio-balloon-pci"))
    unset = 2**64 - 1
    qemu.stats = {
        "stats": {"stat-total-memory": 5, "stat-swap-in": unset, "stat-oom-kills": 2, "stat-x": 3},
        "last-update": 1700000000,
    }

    assert Monitor(qemu).guest_stats(BALLOON0) == Figures(
        stats=MemoryStats(total_memory=5, oom_kills=2, other={"x": 3}), last_update=1700000000
    )


def test_never_updated() -> None:
    qemu = FakeQemu((BALLOON0, "virtio-balloon-pci"))
    qemu.stats = {"stats": dict.fromkeys(["stat-swap-in"], 2**64 - 1), "last-update": 0}

    figures = Monitor(qemu).guest_stats(BALLOON0)
    assert figures.last_update == 0
    assert figures.stats.is_empty


REFUSABLE = sorted(METHODS)


@pytest.mark.parametrize("method", REFUSABLE)
def test_error_in_the_answer(method: str) -> None:
    answer = '{"error": {"class": "GenericError", "desc": "timer value is too big"}, "id": "x"}'

    with pytest.raises(MonitorError) as caught:
        METHODS[method](answering(answer))

    error = caught.value
    assert error.message == "timer value is too big"
    assert error.error_class == "GenericError"
    assert error.received == answer
    assert json.loads(error.sent)["execute"] in ALLOWED
    assert (error.host, error.domain) == ("qemu:///system", "web1")
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        "{",
        "null",
        "5",
        "[]",
        '"return"',
        "{}",
        '{"id": "x"}',
        '{"error": null}',
        '{"error": "no"}',
        '{"error": {}}',
        '{"error": {"class": 5, "desc": ["no"]}}',
        '{"error": {"class": "GenericError", "desc": "  "}}',
        '{"error": {"desc": "no"}, "return": {}}',
        "[" * 100_000,
        '{"return": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"return": ' + "9" * 5000 + "}",
        "x" * (4 * 1024 * 1024 + 1),
        '{"return": 5}\n{"return": 6}',
    ],
    ids=lambda answer: answer[:40],
)
def test_malformed_answers(answer: str) -> None:
    for method in REFUSABLE:
        with pytest.raises(MonitorError) as caught:
            METHODS[method](answering(answer))
        assert caught.value.message
        assert caught.value.received is not None
        assert answer.startswith(caught.value.received)


UNKNOWN_SHAPES: dict[str, list[object]] = {
    "children": [None, {}, "x", [5], [{}], [{"name": "x"}], [{"name": 5, "type": "child<x>"}]],
    "guest_stats": [
        None,
        [],
        5,
        {},
        {"stats": {}},
        {"last-update": 5},
        {"stats": [], "last-update": 5},
        *({"stats": {}, "last-update": late} for late in (None, -5, 1.5, "5", 2**64)),
    ],
    "polling_interval": [None, [], "5", 5.0, True, -1, 2**32],
    "version": [None, [], 5, {}, {"qemu": None}, {"qemu": {"major": 7}}, {"qemu": {"major": "7"}}],
    "interval_and_stats, qom-list-get": [
        *(None, {}, 5, [], [{}], [5], [{"properties": 5}], [{"properties": []}] * 2),
        [{"properties": [5, {}, {"name": "guest-stats-polling-interval", "value": 5}]}],
        [{"properties": [{"name": "guest-stats", "value": {"stats": {}, "last-update": 5}}]}],
    ],
}


@pytest.mark.parametrize("method", UNKNOWN_SHAPES)
def test_malformed_values(method: str) -> None:
    for value in UNKNOWN_SHAPES[method]:
        answer = json.dumps({"return": value})
        with pytest.raises(MonitorError) as caught:
            METHODS[method](answering(answer))
        assert caught.value.received == answer


def test_version() -> None:
    answer = {"return": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}}

    assert answering(json.dumps(answer)).version() == (7, 2)


# QEMU 10.1 has qom-list-get.

PROPERTY_LIST = [
    {"name": "type", "type": "string", "value": "virtio-balloon-pci"},
    {"name": "guest-stats", "type": "guest statistics", "value": {"stats": {}, "last-update": 7}},
    {"name": "rombar", "type": "uint32"},
    {"name": "guest-stats-polling-interval", "type": "int", "value": 10},
]


def dialogue(*exchanges: tuple[dict[str, Any], object]) -> tuple[Monitor, list[object]]:
    """A monitor that expects these commands, in this order, and the answers that are left."""
    left: list[Any] = list(exchanges)

    def send(text: str) -> str:
        expected, answer = left.pop(0)
        assert json.loads(text) == expected
        return json.dumps(answer)

    return Monitor(send, has_list_get=True), left


def test_qom_list_get_reads_interval_and_figures() -> None:
    list_get = {"execute": "qom-list-get", "arguments": {"paths": [BALLOON0]}}
    monitor, left = dialogue((list_get, {"return": [{"properties": PROPERTY_LIST}]}))

    assert monitor.interval_and_stats(BALLOON0) == (10, Figures(last_update=7))
    assert left == []


def test_fallback_without_qom_list_get() -> None:
    list_get = {"execute": "qom-list-get", "arguments": {"paths": [BALLOON0]}}
    unknown = {"class": "CommandNotFound", "desc": "The command qom-list-get has not been found"}
    get = {"execute": "qom-get", "arguments": {"path": BALLOON0, "property": "guest-stats"}}
    interval = get | {"arguments": {"path": BALLOON0, "property": "guest-stats-polling-interval"}}
    singles = [
        (interval, {"return": 10}),
        (get, {"return": {"stats": {}, "last-update": 7}}),
    ]
    # The second time it is not tried again.
    monitor, left = dialogue((list_get, {"error": unknown}), *singles, *singles)

    for _ in range(2):
        assert monitor.interval_and_stats(BALLOON0) == (10, Figures(last_update=7))
    assert left == []


def test_other_errors_of_qom_list_get_propagate() -> None:
    list_get = {"execute": "qom-list-get", "arguments": {"paths": [BALLOON0]}}
    error = {"class": "DeviceNotFound", "desc": "not found"}
    monitor, _ = dialogue((list_get, {"error": error}))

    with pytest.raises(MonitorError, match="not found"):
        monitor.interval_and_stats(BALLOON0)


def test_longest_interval() -> None:
    assert answering('{"return": 4294967295}').polling_interval(BALLOON0) == 4294967295


def test_last_of_duplicate_keys_counts() -> None:
    twice = '{"return": {"stats": {"stat-swap-in": 1, "stat-swap-in": 2}, "last-update": 3}}'

    assert answering(twice).guest_stats(BALLOON0).stats.swap_in == 2
    assert answering('{"return": 1, "return": 2}').polling_interval(BALLOON0) == 2


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "-0", "1.0"])
def test_invalid_numbers(value: str) -> None:
    stats = f'{{"return": {{"stats": {{"stat-swap-in": {value}}}, "last-update": 3}}}}'

    assert answering(stats).guest_stats(BALLOON0).stats.swap_in in {None, 0}
    with pytest.raises(MonitorError):
        answering(stats.replace("3", value.replace("-0", "-1"))).guest_stats(BALLOON0)


def test_errors_of_send_propagate() -> None:
    class GoneError(Exception):
        pass

    def send(_command: str) -> str:
        raise GoneError

    for method in METHODS.values():
        with pytest.raises(GoneError):
            method(Monitor(send))


KEYS = st.sampled_from(["return", "error", "class", "desc", "name", "type", "stats", "last-update"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**400, max_value=10**401)
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["child<virtio-balloon-pci>", "child<>", "child<x>", "GenericError"])
)
ANY_JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
CHILDREN = st.lists(st.fixed_dictionaries({"name": SCALARS, "type": SCALARS}), max_size=3)
STATS = st.fixed_dictionaries(
    {
        "stats": st.dictionaries(st.text(st.characters(), max_size=5), SCALARS, max_size=3),
        "last-update": SCALARS,
    }
)
ANSWERS = (
    st.text(st.characters())
    | ANY_JSON.map(json.dumps)
    | (ANY_JSON | CHILDREN | STATS).map(lambda value: json.dumps({"return": value}))
    | ANY_JSON.map(lambda value: json.dumps({"error": value}))
)


@given(st.lists(ANSWERS, min_size=1, max_size=6))
def test_any_answer(answers: list[str]) -> None:
    assert_answers_read_or_refused(answers)
