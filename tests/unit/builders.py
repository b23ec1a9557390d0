"""Reports, documents and definitions of domains for tests."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any
from xml.sax.saxutils import quoteattr

import jsonschema  # type: ignore[import-untyped]
import pytest

from virtballoon.errors import Busy, ConnectError, NoBalloon
from virtballoon.model.balloon import Balloon
from virtballoon.model.hostmemory import HostMemory
from virtballoon.model.memory import Figures
from virtballoon.model.outcome import HostChanges, IntervalChange, Outcome
from virtballoon.model.report import DomainReport, HostReport, HostStatus, Interval
from virtballoon.model.source import Source
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State
from virtballoon.render import documents, formats

UUID = "1d0f2f13-99f9-48fa-8fd5-33ad220a5ac5"
HOST = "qemu:///system"
NOW = 1_700_000_003.14
STATS = MemoryStats.from_qemu(
    {
        "stat-swap-in": 0,
        "stat-total-memory": 97_222_656,
        "stat-available-memory": 75_649_024,
        "stat-new-figure": 7,
    }
)


def report(*, host: str = "qemu:///system", **facts: Any) -> DomainReport:
    """A running guest, but for these facts."""
    running: dict[str, Any] = {
        "name": "web1",
        "uuid": UUID,
        "id": 7,
        "state": State.RUNNING,
        "machine": "pc-q35-8.2",
        "balloon": Balloon(
            model="virtio", alias="balloon0", qom_path="/machine/peripheral/balloon0"
        ),
        "interval": Interval(live=10, config=10),
        "source": Source.LIBVIRT,
        "figures": Figures(
            stats=STATS,
            last_update=1_700_000_000,
            current_bytes=134217728,
            maximum_bytes=134217728,
            rss_bytes=218316800,
        ),
        "read_at": NOW,
    }
    return DomainReport(**(running | facts)).explained(host)


BARE = report(
    name="off",
    id=None,
    state=State.SHUTOFF,
    balloon=None,
    interval=Interval(config=0),
    figures=Figures(),
)
HELD = report(error=Busy("held", host=HOST, domain="web1", code=68, hint="wait"))
GIB = 1024**3
MEMORY = HostMemory(
    total_bytes=64 * GIB,
    free_bytes=10 * GIB,
    available_bytes=30 * GIB,
    unknown_domains=3,
    maximum_bytes=32 * GIB,
    current_bytes=24 * GIB,
    used_min_bytes=10 * GIB,
    used_max_bytes=14 * GIB,
)
READ = HostReport(
    uri=HOST,
    hostname="hv1",
    status=HostStatus.PARTIAL,
    error=None,
    elapsed_seconds=0.123456,
    domains=(report(), BARE, HELD),
)
UNREACHED = HostReport(
    uri="qemu+ssh://hv2/system",
    hostname=None,
    status=HostStatus.UNREACHABLE,
    error=ConnectError("no route", host="qemu+ssh://hv2/system", code=38),
    elapsed_seconds=10.0004,
)
CHANGES = HostChanges(
    uri=HOST,
    hostname="hv1",
    status=HostStatus.PARTIAL,
    error=None,
    elapsed_seconds=0.5,
    domains=(
        IntervalChange(
            name="web1",
            uuid=UUID,
            outcome=Outcome.CHANGED,
            changed=True,
            before=Interval(live=0),
            after=Interval(live=10),
        ),
        IntervalChange(
            name="bare",
            uuid=UUID,
            outcome=Outcome.FAILED,
            changed=False,
            before=Interval(live=0, config=0),
            after=Interval(live=0, config=0),
            error=NoBalloon("it has no balloon device", host=HOST, domain="bare"),
        ),
    ),
)


def document(*hosts: HostReport | HostChanges) -> dict[str, Any]:
    """What a program reads: written as JSON and read back."""
    records = [documents.host_record(host) for host in hosts]
    text = formats.to_json(documents.document(records, generated_at=NOW))
    value: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return value


SCHEMA: dict[str, Any] = json.loads(
    (resources.files("virtballoon") / "schema.json").read_text(encoding="utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

CONFIGURATION_FILE = """
[defaults]
timeout = 5
via = "qom"
jobs = 8

[hosts.hv1]
uri = "qemu+ssh://root@hv1/system"
groups = ["prod", "rack 1", "prod"]

[hosts."hv 2"]
uri = "qemu+ssh://root@hv2/system"
groups = ["prod"]

[hosts.lab]
uri = "qemu:///session"

[labels]
team = "/domain/metadata/acme:app/@team"

[labels.namespaces]
acme = "urn:acme"
"""

#: By the platform: what is in ``<metadata>`` of its domains, and the labels.
METADATA = {
    "libosinfo": (
        """<libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
  <libosinfo:os id="http://microsoft.com/win/2k22"/>
</libosinfo:libosinfo>""",
        {"os_id": "http://microsoft.com/win/2k22", "os": "windows"},
    ),
    "nova": (
        """<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
  <nova:package version="25.1.0"/>
  <nova:name>shop-web-1</nova:name>
  <nova:creationTime>2023-03-14 10:09:13</nova:creationTime>
  <nova:flavor name="m1.large">
    <nova:memory>8192</nova:memory>
    <nova:disk>80</nova:disk>
    <nova:swap>0</nova:swap>
    <nova:ephemeral>0</nova:ephemeral>
    <nova:vcpus>4</nova:vcpus>
  </nova:flavor>
  <nova:owner>
    <nova:user uuid="96e9d2b749ea48fcb5a911e6f0e144f2">alice</nova:user>
    <nova:project uuid="5a50e9d0d19746158958be0c759793fb">acme</nova:project>
  </nova:owner>
  <nova:root type="image" uuid="1a05a423-dfae-428a-ae54-1614d8024e76"/>
  <nova:ports>
    <nova:port uuid="2b0b3c2c-0b0c-4d0e-8f0a-0b0c0d0e0f10">
      <nova:ip type="fixed" address="10.0.0.5" ipVersion="4"/>
    </nova:port>
  </nova:ports>
</nova:instance>""",
        {
            "name": "shop-web-1",
            "flavor": "m1.large",
            "project": "acme",
            "project_id": "5a50e9d0d19746158958be0c759793fb",
            "user": "alice",
            "user_id": "96e9d2b749ea48fcb5a911e6f0e144f2",
        },
    ),
    "opennebula": (
        """<one:vm xmlns:one="http://opennebula.org/xmlns/libvirt/1.0">
  <one:system_datastore>/var/lib/one//datastores/0/7</one:system_datastore>
  <one:name>shop &amp; web</one:name>
  <one:uname>oneadmin</one:uname>
  <one:uid>0</one:uid>
  <one:gname>acme</one:gname>
  <one:gid>101</one:gid>
  <one:opennebula_version>6.8.0</one:opennebula_version>
  <one:stime>1700000000</one:stime>
  <one:deployment_time>1700000001</one:deployment_time>
</one:vm>""",
        {
            "name": "shop & web",
            "user": "oneadmin",
            "user_id": "0",
            "group": "acme",
            "group_id": "101",
        },
    ),
    "kubevirt": (
        """<kubevirt xmlns="http://kubevirt.io">
  <uid>f4686d2c-6e8d-4335-b8fd-81bee22f4814</uid>
  <graceperiod>
    <deletionGracePeriodSeconds>5</deletionGracePeriodSeconds>
  </graceperiod>
</kubevirt>""",
        {"name": "testvm", "namespace": "mynamespace"},
    ),
}
#: Metadata of other programs, or in another version's namespace: no labels.
OTHER_METADATA = """<ovirt-tune:qos xmlns:ovirt-tune="http://ovirt.org/vm/tune/1.0"/>
<ovirt-vm:vm xmlns:ovirt-vm="http://ovirt.org/vm/1.0">
  <ovirt-vm:clusterVersion>4.2</ovirt-vm:clusterVersion>
</ovirt-vm:vm>
<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/9.0"><nova:name>x</nova:name>
</nova:instance>
<one:app xmlns:one="http://opennebula.org/xmlns/libvirt/1.0"><one:name>x</one:name></one:app>"""


def domain(devices: str, *, attributes: str = "type='kvm' id='7'", before: str = "") -> str:
    """A domain's XML as libvirt prints it."""
    return f"""<domain {attributes}>
  <name>web1</name>
  <uuid>1d0f2f13-99f9-48fa-8fd5-33ad220a5ac5</uuid>
  {before}<memory unit='KiB'>131072</memory>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    {devices}
  </devices>
</domain>
"""


def memballoon(model: str = "virtio", inside: str = "<alias name='balloon0'/>") -> str:
    return f"<memballoon model={quoteattr(model)}>{inside}</memballoon>"
