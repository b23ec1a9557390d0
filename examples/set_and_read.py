#!/usr/bin/env python3
"""Turn polling on for a domain, wait for the guest's first answer, and print its figures.

usage: set_and_read.py DOMAIN [SECONDS]
"""

import sys
import time

import virtballoon

PATIENCE = 60.0


def main() -> int:
    """Set, wait and read on one read-write connection."""
    name, seconds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
    with virtballoon.Connection.open(readonly=False) as connection:
        host = virtballoon.set_intervals(connection, seconds, [name])
        for change in host.changes:
            print(f"{change.name}: {change.outcome}, {change.error or change.after.live}")
        if host.unmatched or any(change.error for change in host.changes):
            return 1
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            for row in virtballoon.read_host(connection, [name]).domains:
                if row.verdict is virtballoon.Verdict.FRESH:
                    for statistic, value in row.stats.as_dict().items():
                        print(f"{statistic:20} {'-' if value is None else value}")
                    return 0
            time.sleep(0.5)
    print(f"{name} has not answered in {PATIENCE:.0f} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
