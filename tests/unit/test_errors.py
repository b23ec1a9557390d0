"""Errors: the tree, what they say, and that nothing of libvirt's gets through."""

from __future__ import annotations

import copy
import ctypes
import os
import pickle
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import libvirt
import libvirt_qemu
import pytest
from hypothesis import given
from hypothesis import strategies as st

import virtballoon
from virtballoon import errors
from virtballoon.errors import (
    AccessDenied,
    AmbiguousDomain,
    AuthError,
    Busy,
    ConfigurationError,
    ConnectError,
    ConnectionLost,
    DomainError,
    DomainNotFound,
    DomainXMLError,
    HostError,
    HostKeyError,
    HostUnreachable,
    Incoming,
    InvalidInterval,
    LibvirtFailure,
    MonitorError,
    NoBalloon,
    NoDaemon,
    NotRunning,
    NotSupported,
    ReadOnly,
    TransientDomain,
    VirtballoonError,
)
from virtballoon.hypervisor.connection import Connection
from virtballoon.hypervisor.domain import Domain
from virtballoon.hypervisor.uri import default_uri
from virtballoon.model.verdict import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PARENTS: dict[type[VirtballoonError], tuple[type[Exception], ...]] = {
    VirtballoonError: (Exception,),
    InvalidInterval: (VirtballoonError, ValueError),
    ConfigurationError: (VirtballoonError,),
    HostError: (VirtballoonError,),
    ConnectError: (HostError,),
    HostUnreachable: (ConnectError,),
    HostKeyError: (ConnectError,),
    AuthError: (ConnectError,),
    NoDaemon: (ConnectError,),
    ConnectionLost: (HostError,),
    DomainError: (VirtballoonError,),
    DomainNotFound: (DomainError,),
    AmbiguousDomain: (DomainError,),
    NoBalloon: (DomainError,),
    NotRunning: (DomainError,),
    TransientDomain: (DomainError,),
    Busy: (DomainError,),
    Incoming: (Busy,),
    DomainXMLError: (DomainError,),
    MonitorError: (DomainError,),
    ReadOnly: (VirtballoonError,),
    AccessDenied: (VirtballoonError,),
    NotSupported: (VirtballoonError,),
    LibvirtFailure: (VirtballoonError,),
}
PLAIN = sorted(PARENTS.keys() - {MonitorError}, key=lambda kind: kind.__name__)


def test_the_tree() -> None:
    public = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert public == PARENTS.keys()
    for kind, parents in PARENTS.items():
        assert kind.__bases__ == parents
        assert kind.__doc__
        assert getattr(virtballoon, kind.__name__) is kind


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("message", ["", " \n\t"])
def test_no_message_is_empty(kind: type[VirtballoonError], message: str) -> None:
    error = kind(message)

    assert error.message == f"{kind.__name__} without a message"
    assert str(error) == error.message


def test_a_message_is_one_line() -> None:
    assert VirtballoonError(" one\n\ttwo \u2028 three\r").message == "one two three"


def test_the_text_names_domain_host_and_hint() -> None:
    assert str(VirtballoonError("it broke")) == "it broke"
    assert str(VirtballoonError("it broke", hint="mend it")) == "it broke (mend it)"
    assert str(VirtballoonError("it broke", host="qemu:///system")) == "on qemu:///system: it broke"
    assert (
        str(Busy("it hangs", host="qemu:///system", domain="we\nb", code=68, hint="wait"))
        == "domain 'we\\nb' on qemu:///system: it hangs (wait)"
    )


EVERYTHING: dict[str, Any] = {"host": "qemu:///system", "domain": "web1", "hint": "mend it"}
SAMPLES = [
    *(kind("it broke", code=5, **EVERYTHING) for kind in PLAIN),
    *(kind("it broke") for kind in PLAIN),
    MonitorError("no", sent="{}", received="[]", error_class="GenericError", **EVERYTHING),
    MonitorError("no", sent="{}", received=None),
]
COPIERS: dict[str, Callable[[VirtballoonError], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "oldest pickle": lambda error: pickle.loads(pickle.dumps(error, 0)),
    "newest pickle": lambda error: pickle.loads(pickle.dumps(error, pickle.HIGHEST_PROTOCOL)),
}


@pytest.mark.parametrize("copier", COPIERS)
def test_a_copy_has_everything(copier: str) -> None:
    for error in SAMPLES:
        error.extra = ["a caller's own"]  # type: ignore[attr-defined]
        again = COPIERS[copier](error)
        assert again is not error
        assert type(again) is type(error)
        assert vars(again) == vars(error)
        assert str(again) == str(error)
        assert again.args == error.args


def test_a_subclass_of_a_callers_can_be_copied() -> None:
    error = _CallersOwn(7)

    again = pickle.loads(pickle.dumps(error))
    assert type(again) is _CallersOwn
    assert (again.number, again.message) == (7, "number 7")


class _CallersOwn(VirtballoonError):
    def __init__(self, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


# From here on: what libvirt raises. Most of its errors cannot be brought about, so its handles are
# stood in for by ones that raise them; those that can are tried for real below.

CODES = sorted(
    {
        number
        for name, number in vars(libvirt).items()
        if name.startswith("VIR_ERR_") and isinstance(number, int)
    }
)
HOST = "qemu+ssh://hv1/system"
EACCES, EPERM, ENOENT = 13, 1, 2


def libvirt_error(code: int, *, int1: int = -1, message: str | None = None) -> libvirt.libvirtError:
    error = libvirt.libvirtError("virSomeCall() failed")
    text = f"message {code}" if message is None else message
    error.err = (code, 10, text, 2, None, None, None, int1, -1)
    error.args = (text,)
    return error


class Refusing:
    """A handle of libvirt's every call of which fails, but for those given here."""

    def __init__(self, error: libvirt.libvirtError, **works: Callable[..., Any]) -> None:
        self._error = error
        self._works: dict[str, Callable[..., Any]] = {
            "name": lambda: "web1",
            "UUIDString": lambda: "1d0f2f13-99f9-48fa-8fd5-33ad220a5ac5",
            "ID": lambda: 7,
            "isAlive": lambda: 1,
            **works,
        }

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def refuse(*_: object) -> None:
            raise self._error

        return self._works.get(name, refuse)


def connection(error: libvirt.libvirtError, **works: Callable[..., Any]) -> Connection:
    return Connection(Refusing(error, **works), uri=HOST)


def domain(error: libvirt.libvirtError, **works: Callable[..., Any]) -> Domain:
    alive = {"isAlive": works.pop("isAlive")} if "isAlive" in works else {}
    return Domain(Refusing(error, **works), connection(error, **alive), persistent=True)


def second_listing_fails(error: libvirt.libvirtError, **works: Callable[..., Any]) -> object:
    def list_all(flags: int) -> list[Any]:
        if flags:
            raise error
        return []

    return connection(error, listAllDomains=list_all, **works).domains()


def statistics(error: libvirt.libvirtError, **works: Callable[..., Any]) -> object:
    return connection(error, **works).statistics([domain(error, **works)])


def take_a_callers_connection(error: libvirt.libvirtError, **works: Callable[..., Any]) -> object:
    return Connection.of(Refusing(error, **works))


def take_a_callers_domain(error: libvirt.libvirtError, **works: Callable[..., Any]) -> object:
    host = Refusing(error, getURI=lambda: HOST, **works)
    return Domain.of(Refusing(error, connect=lambda: host))


#: Every call that goes out to a host, with whether it concerns a domain, and what libvirt's
#: "operation invalid" means for it.
CALLS: dict[str, tuple[Callable[..., object], bool, type[VirtballoonError]]] = {
    "Connection.of": (take_a_callers_connection, False, LibvirtFailure),
    "Connection.hostname": (lambda e, **w: connection(e, **w).hostname(), False, LibvirtFailure),
    "Connection.link": (lambda e, **w: connection(e, **w).link(), False, LibvirtFailure),
    "Connection.memory": (lambda e, **w: connection(e, **w).memory(), False, LibvirtFailure),
    "Connection.version": (lambda e, **w: connection(e, **w).version(), False, LibvirtFailure),
    "Connection.require_monitor": (
        lambda e, **w: connection(e, **w).require_monitor(),
        False,
        LibvirtFailure,
    ),
    "Connection.domains": (lambda e, **w: connection(e, **w).domains(), False, LibvirtFailure),
    "Connection.list_all": (lambda e, **w: connection(e, **w).list_all(), False, LibvirtFailure),
    "Connection.domains, transient": (second_listing_fails, False, LibvirtFailure),
    "Connection.statistics": (statistics, False, LibvirtFailure),
    "Domain.of": (take_a_callers_domain, True, LibvirtFailure),
    "Domain.xml": (lambda e, **w: domain(e, **w).xml(), True, LibvirtFailure),
    "Domain.xml, inactive": (
        lambda e, **w: domain(e, **w).xml(inactive=True),
        True,
        LibvirtFailure,
    ),
    "Domain.saved_xml": (
        lambda e, **w: domain(e, hasManagedSaveImage=lambda _: 1, **w).saved_xml(),
        True,
        LibvirtFailure,
    ),
    "Domain.hints": (lambda e, **w: domain(e, **w).hints(), True, LibvirtFailure),
    "Domain.reason": (lambda e, **w: domain(e, **w).reason(), True, LibvirtFailure),
    "Domain.processor_time": (
        lambda e, **w: domain(e, **w).processor_time(),
        True,
        LibvirtFailure,
    ),
    "Domain.state": (lambda e, **w: domain(e, **w).state(), True, LibvirtFailure),
    "Domain.hold": (lambda e, **w: domain(e, **w).hold(), True, NotRunning),
    "Domain.hold, state": (
        lambda e, **w: domain(e, controlInfo=lambda _flags: [0, 0, 0], **w).hold(),
        True,
        LibvirtFailure,
    ),
    "Domain.control": (lambda e, **w: domain(e, **w).control(), True, NotRunning),
    "Domain.figures": (lambda e, **w: domain(e, **w).figures(), True, NotRunning),
    "Domain.figures, info": (
        lambda e, **w: domain(e, memoryStats=dict, **w).figures(),
        True,
        LibvirtFailure,
    ),
    "Domain.set_period, live": (
        lambda e, **w: domain(e, **w).set_period(5),
        True,
        NotRunning,
    ),
    "Domain.set_period, config": (
        lambda e, **w: domain(e, **w).set_period(5, config=True),
        True,
        TransientDomain,
    ),
    "Domain.monitor": (
        lambda e, **w: domain(e, **w).monitor().polling_interval("/machine/peripheral/balloon0"),
        True,
        NotRunning,
    ),
}


@pytest.fixture
def _passthrough(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(raw: Refusing, _command: str, _flags: int) -> None:
        raw.qemuMonitorCommand()

    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", refuse)


def test_every_method_that_calls_libvirt_is_tried() -> None:
    methods = {
        f"{kind.__name__}.{name}"
        for kind in (Connection, Domain)
        for name in vars(kind)
        if not name.startswith("_")
    }
    # Opening and closing have tests of their own.
    others = {
        "Connection.open",
        "Connection.close",
        "Connection.domains_of",
        "Domain.release",
    }
    tried = {name.partition(",")[0] for name in CALLS} | others
    assert tried == methods - {"Connection.raw", "Domain.raw"}


def test_closed_connection_is_unusable() -> None:
    host = Connection.open("test:///default")
    (domain,) = host.domains()
    host.close()
    for call in (host.hostname, host.domains, domain.state, domain.xml):
        with pytest.raises(virtballoon.ConnectionLost, match="closed"):
            call()


def raised(call: Callable[..., object], error: Any, **works: Any) -> Any:
    with pytest.raises(VirtballoonError) as caught:
        call(error, **works)
    assert caught.value.code == error.get_error_code()
    assert caught.value.message
    assert caught.value.__cause__ is error
    return caught.value


@pytest.mark.usefixtures("_passthrough")
@pytest.mark.parametrize("name", CALLS)
def test_every_libvirt_error_is_translated(name: str) -> None:
    call, of_domain, _ = CALLS[name]
    for code in CODES:
        for message in (None, ""):
            error = raised(call, libvirt_error(code, message=message))
            assert error.host in {HOST, default_uri()}
            assert error.domain == ("web1" if of_domain else None)
            assert str(code) in error.message or not message


@pytest.mark.usefixtures("_passthrough")
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (3, NotSupported),
        (29, ReadOnly),
        (42, DomainNotFound),
        (67, NotSupported),
        (68, Busy),
        (74, NotSupported),
        (84, NotSupported),
        (88, AccessDenied),
        (1, LibvirtFailure),
        (38, LibvirtFailure),
        (55, None),
    ],
)
def test_translation_of_errors_in_use(code: int, kind: type[VirtballoonError] | None) -> None:
    for name, (call, _, invalid) in CALLS.items():
        assert type(raised(call, libvirt_error(code))) is (kind or invalid), name


@pytest.mark.usefixtures("_passthrough")
@pytest.mark.parametrize("code", [1, 38, 39, 42, 55, 68])
def test_dead_connection_is_the_reported_error(code: int) -> None:
    for call, of_domain, _ in CALLS.values():
        error = raised(call, libvirt_error(code), isAlive=lambda: 0)
        assert type(error) is ConnectionLost
        assert (error.domain is not None) == of_domain
        assert f"message {code}" in error.message


def test_driver_without_is_alive_is_not_dead() -> None:
    error = libvirt_error(68)

    def cannot_tell() -> int:
        raise libvirt_error(3)

    assert type(raised(CALLS["Domain.state"][0], error, isAlive=cannot_tell)) is Busy


def test_an_error_without_a_number() -> None:
    error = libvirt_error(1)
    error.err = None

    assert type(raised(CALLS["Domain.state"][0], error)) is LibvirtFailure


@pytest.mark.usefixtures("_passthrough")
def test_an_answer_that_is_no_text() -> None:
    error: Any = UnicodeDecodeError("utf-8", b"\xc3\xa9t\xe9\n", 3, 4, "invalid")
    for call, of_domain, _ in CALLS.values():
        with pytest.raises(LibvirtFailure, match="UTF-8") as caught:
            call(error)
        assert caught.value.domain == ("web1" if of_domain else None)
        assert caught.value.message.isprintable()


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)
ANY_KEY = st.text(max_size=5) | st.sampled_from(
    [
        *("state.state", "balloon.current", "balloon.maximum", "balloon.rss", "balloon.unused"),
        *("balloon.available", "balloon.usable", "balloon.last-update", "balloon.last_update"),
        *("balloon.", "balloon.other", "balloon.swap_in"),
    ]
)


@given(st.dictionaries(ANY_KEY, ANY_VALUE, max_size=6))
def test_whatever_the_bulk_call_answers_is_read(answer: dict[str, Any]) -> None:
    raw = Refusing(libvirt_error(1))
    asked = connection(libvirt_error(1), domainListGetStats=lambda *_: [(raw, answer)])
    (statistics,) = asked.statistics([Domain(raw, asked, persistent=True)]).values()

    assert isinstance(statistics.state, State)
    found = statistics.figures
    if found is not None:
        sizes = (found.current_bytes, found.maximum_bytes, found.rss_bytes, found.last_update)
        for value in (*sizes, *found.stats.as_dict().values()):
            assert value is None or (type(value) is int and value >= 0)


def test_a_dead_connection_closes_in_silence() -> None:
    closing = Connection(Refusing(libvirt_error(38)), uri=HOST, owned=True)

    closing.close()
    closing.close()
    assert closing.uri == HOST


@pytest.mark.parametrize("readonly", [True, False])
def test_every_connect_error_is_translated(monkeypatch: pytest.MonkeyPatch, readonly: bool) -> None:
    for code in CODES:
        error = libvirt_error(code)
        monkeypatch.setattr(libvirt, "openAuth", _raising(error))
        for uri in (HOST, None):
            with pytest.raises(ConnectError) as caught:
                Connection.open(uri, readonly=readonly)
            assert caught.value.__cause__ is error
            assert caught.value.code == code
            assert caught.value.host == (uri or default_uri())
            assert caught.value.domain is None
            assert caught.value.message == f"message {code}"
            assert caught.value.hint


def _raising(error: libvirt.libvirtError) -> Callable[..., Any]:
    def opener(*_: object) -> Any:
        raise error

    return opener


@pytest.mark.parametrize(
    ("code", "int1", "kind"),
    [
        (45, -1, AuthError),
        (79, -1, AuthError),
        (94, -1, AuthError),
        (38, EACCES, AuthError),
        (38, EPERM, AuthError),
        # The host's own access rules, asked by the hypervisor driver when it opens.
        (88, -1, AuthError),
        (38, ENOENT, ConnectError),
        (38, -1, ConnectError),
        (5, EACCES, ConnectError),
        (1, -1, ConnectError),
        (3, -1, ConnectError),
    ],
)
def test_translation_of_connect_errors(
    monkeypatch: pytest.MonkeyPatch, code: int, int1: int, kind: type[ConnectError]
) -> None:
    monkeypatch.setattr(libvirt, "openAuth", _raising(libvirt_error(code, int1=int1)))

    with pytest.raises(ConnectError) as caught:
        Connection.open(HOST)
    assert type(caught.value) is kind


# What can be brought about for real.


# Not from a file: libvirt must not read one in a process that has lxml in it, see domainxml.
TEST = "test:///default"
DOMAIN = """
<domain type='test'>
  <name>{}</name>
  <memory>65536</memory>
  <os><type>hvm</type></os>
  <devices><memballoon model='virtio'><stats period='7'/></memballoon></devices>
</domain>
"""


@pytest.fixture
def host() -> Iterator[Connection]:
    """The test driver with domains to change."""
    with Connection.open(TEST, readonly=False) as connection:
        connection.raw.defineXML(DOMAIN.format("polled")).create()
        connection.raw.defineXML(DOMAIN.format("off"))
        connection.raw.createXML(DOMAIN.format("passing"))
        yield connection
        for domain in connection.domains():
            if domain.name in {"polled", "off", "passing"}:
                if domain.raw.isActive():
                    domain.raw.destroy()
                if domain.persistent:
                    domain.raw.undefine()


def named(connection: Connection, name: str) -> Domain:
    return next(domain for domain in connection.domains() if domain.name == name)


def test_no_such_socket(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/none"

    with pytest.raises(ConnectError) as caught:
        Connection.open(uri)
    assert type(caught.value) is NoDaemon
    assert (caught.value.code, caught.value.host) == (38, uri)
    assert "No such file or directory" in caught.value.message


def test_without_listener(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(tmp_path / "sock"))
        with pytest.raises(ConnectError) as caught:
            Connection.open(f"qemu+unix:///system?socket={tmp_path}/sock")
    assert type(caught.value) is NoDaemon


def test_socket_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    libc = ctypes.CDLL(None)
    with socket.socket(socket.AF_UNIX) as unused:
        unused.bind(str(path))
        unused.listen()
        path.chmod(0)
        # Root may open everything; this lets go of that, for this thread and files only.
        libc.setfsuid(os.getuid() or 65534)
        try:
            with pytest.raises(AuthError) as caught:
                Connection.open(f"qemu+unix:///system?socket={path}")
        finally:
            libc.setfsuid(os.geteuid())
    assert caught.value.code == 38


@pytest.mark.parametrize("uri", ["::", "http://[", "a b", "\0", "test:///\0", "\udcff"])
@pytest.mark.parametrize("readonly", [True, False])
def test_a_bad_uri(uri: str, readonly: bool) -> None:
    with pytest.raises(ConnectError) as caught:
        Connection.open(uri, readonly=readonly)
    assert caught.value.host == uri


def test_a_read_only_connection_does_not_write() -> None:
    with (
        Connection.open(TEST) as connection,
        pytest.raises(ReadOnly) as caught,
    ):
        named(connection, "test").set_period(5)
    assert (caught.value.code, caught.value.domain, caught.value.host) == (29, "test", TEST)
    assert caught.value.hint


def test_a_driver_without_a_monitor(host: Connection) -> None:
    with pytest.raises(NotSupported) as caught:
        named(host, "polled").monitor().polling_interval("/machine/peripheral/balloon0")
    assert caught.value.code == 3
    with pytest.raises(NotSupported):
        host.require_monitor()


def test_a_domain_that_is_shut_off(host: Connection) -> None:
    off = named(host, "off")

    with pytest.raises(NotRunning):
        off.figures()
    with pytest.raises(NotRunning):
        off.set_period(5)


def test_a_transient_domain_has_no_configuration(host: Connection) -> None:
    passing = named(host, "passing")

    assert not passing.persistent
    with pytest.raises(TransientDomain):
        passing.set_period(5, config=True)


def test_a_domain_that_has_lost_its_configuration(host: Connection) -> None:
    polled = named(host, "polled")
    polled.raw.undefine()

    with pytest.raises(TransientDomain):
        polled.set_period(5, config=True)


@pytest.mark.parametrize(("active", "kind"), [(True, LibvirtFailure), (False, NotRunning)])
def test_invalid_operation_on_a_running_domain_is_not_called_not_running(
    active: bool, kind: type[VirtballoonError]
) -> None:
    # "unable to set balloon driver collection period"
    error = libvirt_error(55)
    meant = Domain(Refusing(error, isActive=lambda: active), connection(error), persistent=True)

    with pytest.raises(VirtballoonError) as caught:
        meant.set_period(5)
    assert type(caught.value) is kind
    assert caught.value.code == 55


def test_driver_without_saved_images() -> None:
    error = libvirt_error(libvirt.VIR_ERR_NO_SUPPORT)
    assert domain(error).saved_xml() is None
    assert domain(error, hasManagedSaveImage=lambda _: 0).saved_xml() is None


def test_a_domain_that_is_gone(host: Connection) -> None:
    passing = named(host, "passing")
    passing.raw.destroy()

    for call in (passing.xml, passing.state, passing.figures):
        with pytest.raises(DomainNotFound) as caught:
            call()
        assert (caught.value.code, caught.value.domain) == (42, "passing")


@pytest.mark.parametrize("seconds", [-1, -(2**31), 2**31, 2**32, 2**64, -(2**64)])
def test_interval_above_libvirts_limit(host: Connection, seconds: int) -> None:
    with pytest.raises(InvalidInterval) as caught:
        named(host, "polled").set_period(seconds)
    assert (caught.value.domain, caught.value.host) == ("polled", host.uri)


def test_closed_connection_of_the_caller() -> None:
    closed = libvirt.open(TEST)
    closed.close()

    report = virtballoon.read_host(closed)
    assert report.status is virtballoon.HostStatus.UNREACHABLE
    assert report.error is not None
    with pytest.raises(HostError):
        list(virtballoon.iter_domains(closed))


def test_xml_that_cannot_be_read_names_host_and_domain() -> None:
    # No libvirt gives such XML.
    raw = Refusing(libvirt_error(1), XMLDesc=lambda _flags: "<domain>")
    garbled = Domain(raw, Connection(SimpleNamespace(), uri=HOST), persistent=True)

    with pytest.raises(DomainXMLError) as caught:
        garbled.xml()
    assert (caught.value.host, caught.value.domain) == (HOST, "web1")
