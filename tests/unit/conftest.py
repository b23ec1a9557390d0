"""The command in processes of its own, shared by these tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.command import Command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command line, each run a process of its own."""
    with Command(tmp_path_factory.mktemp("command")) as command:
        yield command


#: Domains of libvirt's test driver: it reads them from a file, into each process anew.
NODE = """<node>
  <domain type='test'>
    <name>polled</name>
    <uuid>6d993224-cd88-40b8-a312-e40709c38e72</uuid>
    <memory>65536</memory>
    <os><type>hvm</type></os>
    <devices>
      <memballoon model='virtio'><stats period='7'/><alias name='ua-memory'/></memballoon>
    </devices>
  </domain>
  <domain type='test'>
    <name>bare</name>
    <memory>65536</memory>
    <os><type>hvm</type></os>
    <devices><memballoon model='none'/></devices>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>off</name>
    <memory>65536</memory>
    <os><type>hvm</type></os>
    <devices>
      <memballoon model='virtio'><stats period='3'/><alias name='ua-memory'/></memballoon>
    </devices>
    <test:runstate>5</test:runstate>
  </domain>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>passing</name>
    <memory>65536</memory>
    <os><type>hvm</type></os>
    <devices><memballoon model='virtio'/></devices>
    <test:transient/>
  </domain>
  <domain type='test'>
    <name>-\u202eevil "x", y</name>
    <uuid>8f2e7b7a-33a4-4d0a-9c56-0f8f0b2f7d11</uuid>
    <memory>65536</memory>
    <os><type>hvm</type></os>
    <devices><memballoon model='virtio'/></devices>
  </domain>
</node>
"""


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of libvirt's test driver with the domains of ``NODE``."""
    path: Path = tmp_path_factory.mktemp("node") / "node.xml"
    path.write_text(NODE, encoding="utf-8")
    return f"test://{path}"
