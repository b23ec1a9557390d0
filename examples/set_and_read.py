#!/usr/bin/env python3
"""Turn polling on for a domain, wait for the guest's answer, and print its figures.

usage: set_and_read.py DOMAIN [SECONDS]
"""

import sys

import virtballoon

WAIT_SECONDS = 60.0


def main() -> int:
    """Set, wait and read on one read-write connection."""
    name, seconds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with virtballoon.Connection.open(readonly=False) as connection:
        host = virtballoon.set_intervals(connection, seconds, [name], wait=WAIT_SECONDS)
        for change in host.domains:
            print(f"{change.name}: {change.outcome}, {change.error or change.after.live}")
            if change.waited is None or not change.waited.answered:
                print(f"{change.name} has not answered: {change.waited}", file=sys.stderr)
                return 1
        for row in virtballoon.read_host(connection, [name]).domains:
            for statistic, value in row.stats.as_dict().items():
                print(f"{statistic:20} {'-' if value is None else value}")
    return 1 if host.unmatched else 0


if __name__ == "__main__":
    sys.exit(main())
