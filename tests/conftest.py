"""Fixtures: a private hypervisor and real guests, shared by the run."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

import pytest
from hypothesis import HealthCheck, settings

import virtballoon
from tests.lab import Guest, GuestSpec, Hypervisor, LabUnavailable, SharedGuests, wait_until
from tests.lab.guest import BOOT_TIMEOUT
from tests.lab.shared import last_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Before any test module is imported, whose decorators take the profile that is loaded.
settings.register_profile(
    "unit",
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unit")

T = TypeVar("T")

#: The stack that tests/run tests; none if pytest was started in another way.
STACK = os.environ.get("VIRTBALLOON_STACK")

GUESTS = (
    GuestSpec("modern", model="virtio-non-transitional", period=2),
    GuestSpec("classic", period=2),
    GuestSpec("transitional", model="virtio-transitional", period=2),
    GuestSpec("aliased", alias="ua-memory", period=2),
    GuestSpec("nodevice", model="none"),
    GuestSpec("cmdline-id", qemu_commandline="id"),
    GuestSpec("cmdline-anon", qemu_commandline="anon"),
    GuestSpec("nodriver", period=2, driver=False),
    GuestSpec("unpolled"),
    GuestSpec("suspended", period=2),
    GuestSpec("off", period=5, start=False),
)
#: Those of them that answer.
POLLED = ("modern", "classic", "transitional", "aliased")


class GuestFactory(Protocol):
    """Boots a guest that a test may mistreat."""

    def __call__(self, spec: GuestSpec) -> Guest: ...


def pytest_configure(config: pytest.Config) -> None:
    # Nor does the configuration of whoever runs the tests count, or the machine's.
    os.environ["VIRTBALLOON_CONFIG_FILE"] = os.devnull
    # A shell starts background commands with SIGINT ignored, which the command would keep.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "guest: needs the private hypervisor (set automatically)")
    config.addinivalue_line("markers", "once: does not depend on the libvirt and QEMU of a stack")
    config.addinivalue_line("markers", "smoke: runs also with the newest libraries")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        hypervisors = {"hypervisor", "newest_hypervisor", "alone", "fleet", "embed"}
        if hypervisors & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.guest)
    elsewhere = [item for item in items if not _is_for_stack(item)]
    if elsewhere:
        config.hook.pytest_deselected(items=elsewhere)
        items[:] = [item for item in items if item not in set(elsewhere)]


def _is_for_stack(item: pytest.Item) -> bool:
    if STACK == "newest":
        return not item.get_closest_marker("guest") or bool(item.get_closest_marker("smoke"))
    is_once = item.get_closest_marker("once") and not any(
        name.startswith("newest_") for name in getattr(item, "fixturenames", ())
    )
    return STACK in {None, "machine"} or not is_once


@contextmanager
def available(part: AbstractContextManager[T]) -> Iterator[T]:
    """A part of the lab; where something of it is missing, no test that needs it can run."""
    with ExitStack() as stack:
        with _needed():
            entered = stack.enter_context(part)
        yield entered


@contextmanager
def _needed() -> Iterator[None]:
    try:
        yield
    except LabUnavailable as error:
        cannot_run(str(error))


def cannot_run(reason: str) -> NoReturn:
    """Skip the test; in CI, where nothing may be missing, it fails."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def started() -> AbstractContextManager[Hypervisor]:
    """A private hypervisor."""
    return available(Hypervisor())


@pytest.fixture(scope="session")
def hypervisor() -> Iterator[Hypervisor]:
    """The private hypervisor of the run."""
    with started() as hypervisor:
        yield hypervisor


@pytest.fixture(scope="session")
def shared_guests() -> SharedGuests:
    """The guests that tests share."""
    return SharedGuests()


@pytest.fixture(autouse=True)
def _shared_guests_still_run(
    request: pytest.FixtureRequest, shared_guests: SharedGuests
) -> Iterator[None]:
    # A dead one is reported with the test that ended it; the tests after it only name it.
    if shared_guests.ended and {"guests", "newest_guest"} & set(request.fixturenames):
        cannot_run(f"shared guests do not run any more: {', '.join(shared_guests.ended)}")
    yield
    if reports := shared_guests.check():
        pytest.fail("\n".join(reports))


@pytest.fixture(scope="session")
def guests(hypervisor: Hypervisor, shared_guests: SharedGuests) -> dict[str, Guest]:
    """Booted guests by name, for reading only: a test that changes one makes its own."""
    guests = hypervisor.boot(GUESTS)
    shared_guests.watch(guests.values())
    suspended = guests["suspended"].domain
    wait_until(
        lambda: suspended.memoryStats().get("last_update"),
        BOOT_TIMEOUT,
        "the guest's first statistics",
    )
    suspended.suspend()
    return guests


def wait_until_fresh(guests: Mapping[str, Guest], timeout: float) -> None:
    """Wait until each polled guest has answered; if one does not, say what stands still: the guest,
    QEMU or the polling."""
    hypervisor = guests[POLLED[0]].hypervisor

    def late(via: virtballoon.Source) -> list[virtballoon.DomainReport]:
        rows = virtballoon.read_host(hypervisor.uri, POLLED, via=via).domains
        return [row for row in rows if row.verdict is not virtballoon.Verdict.FRESH]

    try:
        wait_until(
            lambda: not late(virtballoon.Source.LIBVIRT),
            timeout,
            "the polled guests' first answers",
        )
    except AssertionError as error:
        rows = late(virtballoon.Source.QOM)
        accounts = [f"{row}\n{last_words(guests[row.name])}" for row in rows]
        pytest.fail("\n".join([str(error), *accounts]))


@pytest.fixture(scope="module")
def fresh(hypervisor: Hypervisor, guests: dict[str, Guest]) -> Hypervisor:
    """The hypervisor, once every polled guest has answered."""
    wait_until_fresh(guests, BOOT_TIMEOUT)
    return hypervisor


@pytest.fixture(scope="session")
def newest_hypervisor(hypervisor: Hypervisor) -> Hypervisor:
    """The private hypervisor, where its guests have every statistic that libvirt does not know."""
    qemu = hypervisor.connection.getVersion()
    if qemu < 10_000_000 or hypervisor.kernel.version < (6, 12):
        # Of the stacks that tests/run knows only the machine itself may be that old.
        reason = "needs QEMU 10.0 and a guest kernel 6.12: tests/run --stack trixie"
        (pytest.skip if STACK in {None, "machine", "newest"} else pytest.fail)(reason)
    return hypervisor


@pytest.fixture(scope="session")
def newest_guest(newest_hypervisor: Hypervisor, shared_guests: SharedGuests) -> Guest:
    """A booted and polled guest of the newest QEMU and kernel, for reading only."""
    guests = newest_hypervisor.boot([GuestSpec("newest", period=1)])
    shared_guests.watch(guests.values())
    return guests["newest"]


@contextmanager
def _factory(hypervisor: Hypervisor) -> Iterator[GuestFactory]:
    made: list[Guest] = []

    def make(spec: GuestSpec) -> Guest:
        with _needed():
            guest = hypervisor.add(spec)
        made.append(guest)
        if spec.start and not spec.paused:
            guest.wait_booted()
        return guest

    try:
        yield make
    finally:
        for guest in made:
            hypervisor.remove(guest)


@pytest.fixture
def guest_factory(hypervisor: Hypervisor) -> Iterator[GuestFactory]:
    """Make guests for one test, removed after it whatever became of them."""
    with _factory(hypervisor) as make:
        yield make


@pytest.fixture(scope="module")
def newest_guest_factory(newest_hypervisor: Hypervisor) -> Iterator[GuestFactory]:
    """Make guests of the newest QEMU and kernel for the tests of one module."""
    with _factory(newest_hypervisor) as make:
        yield make


@pytest.fixture(scope="module")
def module_guest_factory(hypervisor: Hypervisor) -> Iterator[GuestFactory]:
    """Make guests for the tests of one module."""
    with _factory(hypervisor) as make:
        yield make
