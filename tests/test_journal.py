"""``--log journald``, with a real journal that is private to the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.journal import require, run

NOBODY_LISTENS = "qemu+unix:///system?socket=/no/such/sock"


@pytest.fixture(autouse=True)
def _possible() -> None:
    require()


def test_hosts_and_failures_are_in_the_journal() -> None:
    hosts = ("-c", "test:///default", "-c", NOBODY_LISTENS)
    result, entries = run(*hosts, "list", "--log", "journald")
    assert result.returncode == 3
    assert "No such file" not in result.stderr
    well = next(entry for entry in entries if entry.get("VIRTBALLOON_HOST") == "test:///default")
    assert (well["PRIORITY"], well["_TRANSPORT"]) == ("6", "journal")
    assert well["MESSAGE"].startswith("test:///default: ok, 1 domain, ")
    assert (well["VIRTBALLOON_STATUS"], well["VIRTBALLOON_DOMAINS"]) == ("ok", "1")
    assert float(well["VIRTBALLOON_ELAPSED_SECONDS"]) > 0
    failure, unreachable = (
        entry for entry in entries if entry.get("VIRTBALLOON_HOST") == NOBODY_LISTENS
    )
    assert (failure["PRIORITY"], failure["VIRTBALLOON_CODE"]) == ("4", "38")
    assert "No such file" in failure["MESSAGE"]
    assert unreachable["VIRTBALLOON_STATUS"] == "unreachable"


def test_a_name_forges_no_field(tmp_path: Path) -> None:
    name = "a\nPRIORITY=0\nVIRTBALLOON_HOST=forged\n\t\x7f\u202e"
    node = tmp_path / "node.xml"
    node.write_text(
        "<node><domain type='test'>"
        f"<name>{name.encode('ascii', 'xmlcharrefreplace').decode()}</name>"
        "<memory>65536</memory><os><type>hvm</type></os>"
        "<devices><memballoon model='none'/></devices></domain></node>".replace("\n", "&#10;")
    )
    uri = f"test://{node}"
    forged = "test:///x\nPRIORITY=0\n"
    hosts = ("-c", uri, "-c", forged)
    result, entries = run(*hosts, "--log", "journald", "set-interval", "9", "--", name)
    assert result.returncode == 1, result.stderr
    assert {entry["PRIORITY"] for entry in entries} == {"4", "6"}
    assert all(entry["MESSAGE"].isprintable() for entry in entries)
    hosts_named = {entry["VIRTBALLOON_HOST"] for entry in entries}
    assert hosts_named == {uri, forged}
    (failure,) = [entry for entry in entries if "VIRTBALLOON_DOMAIN" in entry]
    domain = failure["VIRTBALLOON_DOMAIN"]
    # What is not printable is an array of bytes in journalctl's JSON.
    assert (domain if isinstance(domain, str) else bytes(domain).decode()) == name
    assert failure["VIRTBALLOON_HOST"] == uri
