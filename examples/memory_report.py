#!/usr/bin/env python3
"""Report the memory use of all running domains of some hosts, and list what is unknown.

usage: memory_report.py [URI...]
"""

import sys

import virtballoon

GIB = 1024**3


def main() -> int:
    """Add up fresh figures, and list the domains without."""
    unknown = 0
    for host in virtballoon.read_hosts(sys.argv[1:] or [None]):
        if host.error is not None:
            print(f"{host.uri}: {host.status}: {host.error}")
            unknown += 1
            continue
        fresh = [row for row in host.domains if row.verdict is virtballoon.Verdict.FRESH]
        used = sum(row.usage.used_bytes or 0 for row in fresh)
        given = sum(row.figures.current_bytes or 0 for row in fresh)
        print(f"{host.uri}: {len(fresh)} of {len(host.domains)} domains have fresh figures")
        print(f"  they use {used / GIB:.2f} GiB of the {given / GIB:.2f} GiB they were given")
        for row in host.domains:
            if row not in fresh:
                unknown += 1
                print(f"  {row.name!r}: {row.verdict}")
    return 3 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
