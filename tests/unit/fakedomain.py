"""A domain that is not one, for the operations that set its interval."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from virtballoon.errors import LibvirtFailure, VirtballoonError
from virtballoon.hypervisor.connection import Connection
from virtballoon.hypervisor.domain import Control, Domain
from virtballoon.hypervisor.domainxml import DomainXML
from virtballoon.model.balloon import Balloon

PATH = "/machine/peripheral/balloon0"
BALLOON = Balloon(model="virtio", alias="balloon0", qom_path=PATH)
FREE = Control(free=True, seconds=0, waiting=False)
HELD = Control(free=False, seconds=60, waiting=True)


class FakeDomain(Domain):
    """A domain with the intervals of its XML documents and of its QEMU.

    :ivar live: that of the live XML; None for a domain that does not run
    :ivar config: that of the persistent XML; None for a transient domain
    :ivar qemu: QEMU's own
    :ivar sent: what was set, in order
    :ivar failing: which call fails: "live", after it took effect, or "config"
    :ivar error: what the live call raises before it takes effect
    :ivar id: libvirt's ID while it runs
    """

    def __init__(
        self,
        live: int | None = 0,
        config: int | None = 0,
        *,
        qemu: int | None = None,
        balloon: Balloon | None = BALLOON,
        config_balloon: Balloon | None = BALLOON,
        failing: str = "",
        error: VirtballoonError | None = None,
        control: Control = FREE,
    ) -> None:
        self.name, self.uuid = "web1", "1d0f2f13-99f9-48fa-8fd5-33ad220a5ac5"
        self.active, self.persistent = live is not None, config is not None
        self.connection = cast(
            "Connection", SimpleNamespace(uri="qemu:///system", link=lambda: None)
        )
        self.live, self.config = live, config
        self.qemu = live if qemu is None else qemu
        self.balloon, self.config_balloon = balloon, config_balloon
        self.failing, self.error, self.held, self.id = failing, error, control, 7
        self.sent: list[tuple[str, int]] = []
        self._raw = SimpleNamespace(controlInfo=self._control_info)

    def xml(self, *, inactive: bool = False) -> DomainXML:
        period, balloon = self.live, self.balloon
        if inactive or period is None:
            period, balloon = self.config, self.config_balloon
        number = self.id if self.live is not None else None
        return DomainXML(id=number, balloon=balloon, period=period or 0)

    def saved_xml(self) -> DomainXML | None:
        return None

    def hold(self) -> Control:
        return self.held

    def _is_incoming(self) -> bool:
        return False

    def _control_info(self, _flags: int) -> list[int]:
        return [0 if self.held.free else 2, 0, int(1000 * self.held.seconds)]

    def set_period(self, seconds: int, *, config: bool = False) -> None:
        live = not config
        if live and self.error is not None:
            raise self.error
        if live:
            self.sent.append(("live", seconds))
            self.live = self.qemu = seconds
        if self.failing == ("live" if live else "config"):
            raise LibvirtFailure("no space left", host=self.connection.uri, domain=self.name)
        if config:
            self.sent.append(("config", seconds))
            self.config = seconds

    def monitor(self) -> Any:
        def set_polling_interval(path: str, seconds: int) -> None:
            assert path == PATH
            self.sent.append(("qemu", seconds))
            self.qemu = seconds

        return SimpleNamespace(
            polling_interval=lambda _path: self.qemu, set_polling_interval=set_polling_interval
        )
