#!/usr/bin/env python3
"""For tools that have a libvirt connection already: ask about the domains they are working on.

usage: existing_connection.py DOMAIN...
"""

import sys

import libvirt

import virtballoon


def describe(domain: libvirt.virDomain) -> str:
    """One line on a domain that the caller has at hand."""
    row = virtballoon.read_domain(domain)
    if row.verdict is virtballoon.Verdict.FRESH and row.usage.ratio is not None:
        return f"{row.name}: {row.usage.ratio:.0%} used, {row.age_seconds:.0f} s ago"
    return f"{row.name}: {row.verdict}" + (f" ({row.error})" if row.error else "")


def main() -> None:
    """The tool's own work, of which the balloon is a small part."""
    connection = libvirt.openReadOnly()
    try:
        for name in sys.argv[1:]:
            print(describe(connection.lookupByName(name)))
    finally:
        connection.close()


if __name__ == "__main__":
    main()
