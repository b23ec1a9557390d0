#!/opt/virtballoon/bin/python
"""Report guests' memory use to collectd's exec plugin. For installation, see virtballoon.conf.

usage: collectd_exec.py [URI...]

With several URIs, the URI is part of each guest's name, because names repeat across hosts.
"""

import os
import re
import sys
import time

import virtballoon

HOST = os.environ.get("COLLECTD_HOSTNAME", "localhost")
INTERVAL = max(1.0, float(os.environ.get("COLLECTD_INTERVAL", "10")))


def put(guest: str, kind: str, value: float) -> None:
    """Report one value to collectd."""
    identifier = f"{HOST}/virtballoon-{guest}/{kind}"
    print(f'PUTVAL "{identifier}" interval={INTERVAL:.3f} N:{value}', flush=True)


def report() -> None:
    """Report the fresh figures of every guest, and the age of all figures."""
    targets = sys.argv[1:] or [None]
    for host in virtballoon.read_hosts(targets, timeout=INTERVAL):
        prefix = re.sub(r"[^\w.@-]+", "_", host.uri) + "-" if len(targets) > 1 else ""
        for row in host.domains:
            # A name can contain anything, even a line of this protocol.
            guest = row.name if re.fullmatch(r"[\w.@-]{1,48}", row.name) else row.uuid
            guest = prefix + guest
            if row.age_seconds is not None:
                put(guest, "gauge-age", round(row.age_seconds, 1))
            if row.verdict is virtballoon.Verdict.FRESH and row.usage.used_bytes is not None:
                put(guest, "memory-used", row.usage.used_bytes)
                put(guest, "percent-used", round(100 * (row.usage.ratio or 0), 2))


def main() -> None:
    """Report once per collectd interval, until collectd ends."""
    while True:
        began = time.monotonic()
        report()
        time.sleep(max(0.0, began + INTERVAL - time.monotonic()))


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
