"""A private hypervisor with real guests, for tests, demonstrations and playing."""

from .guest import Guest, GuestSpec, domain_xml
from .hypervisor import Hypervisor
from .kernel import LabUnavailable
from .link import Link
from .prometheus import Prometheus
from .shared import SharedGuests
from .ssh import SshServer
from .waiting import wait_until
from .window import Window

__all__ = [
    "Guest",
    "GuestSpec",
    "Hypervisor",
    "LabUnavailable",
    "Link",
    "Prometheus",
    "SharedGuests",
    "SshServer",
    "Window",
    "domain_xml",
    "wait_until",
]
