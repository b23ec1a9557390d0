#!/usr/bin/env python3
"""Read domains on an existing libvirt connection.

usage: existing_connection.py DOMAIN...
"""

import sys

import libvirt

import virtballoon


def describe(domain: libvirt.virDomain) -> str:
    """Describe a domain in one line."""
    row = virtballoon.read_domain(domain)
    if row.verdict is virtballoon.Verdict.FRESH and row.usage.ratio is not None:
        return f"{row.name}: {row.usage.ratio:.0%} used, {row.age_seconds:.0f} s ago"
    return f"{row.name}: {row.verdict}" + (f" ({row.error})" if row.error else "")


def main() -> None:
    """Open a connection, as a program has it, and describe the domains."""
    connection = libvirt.openReadOnly()
    try:
        for name in sys.argv[1:]:
            print(describe(connection.lookupByName(name)))
    finally:
        connection.close()


if __name__ == "__main__":
    main()
