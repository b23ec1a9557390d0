"""``virtballoon record``: adds a sample of each domain to a history."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import OK, Settings, message_of, warn
from virtballoon.errors import VirtballoonError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

    from virtballoon.sizing.recorder import Sample
    from virtballoon.sizing.store import Added

_DAY_SECONDS = 24 * 3600
#: What every system takes as a time to wait.
_LONGEST_WAIT_SECONDS = 10**9


@click.command("record", cls=options.Command, short_help="Keep a history of the domains' memory.")
@options.store
@click.option(
    "--keep",
    type=options.Seconds(_DAY_SECONDS),
    metavar="SECONDS",
    default="90d",
    help="Remove days older than this  [90d]",
)
@click.option("--every", type=options.Seconds(1), metavar="SECONDS", help="Repeat until stopped.")
@click.option(
    "--import",
    "files",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Add what list --format jsonl wrote, instead of reading hosts; repeatable.",
)
@click.option("--export", is_flag=True, help="Print the history as JSON lines.")
@options.restrictions
@options.via
@options.run
@options.several
def command(
    settings: Settings,
    *,
    store: str | None,
    keep: float,
    every: float | None,
    files: tuple[str, ...],
    export: bool,
    domains: tuple[str, ...],
) -> int:
    """Read the running domains once and add their figures to a history: for each domain and day,
    for how long it used how much memory. Only fresh figures count.

    DOMAIN is a name, a UUID or a shell pattern. Reading is read-only and does not taint guests,
    unless --via qom is given.
    """
    modes = [bool(files), export, every is not None]
    if sum(modes) > 1 or (any(modes[:2]) and (domains or settings.excluded or settings.where)):
        raise click.UsageError(
            "--import and --export take neither each other, nor --every, nor domains"
        )
    from virtballoon.sizing.store import Store, default_path

    path = Path(store) if store is not None else default_path()
    if export:
        from virtballoon.render.formats import to_jsonl
        from virtballoon.sizing.lines import day_records

        with Store(path) as opened:
            click.echo(to_jsonl(day_records(opened.histories())), nl=False)
        return OK

    def add(samples: Iterable[Sample]) -> Added:
        with Store(path, create=True) as opened:
            added = opened.add(samples, keep_days=int(keep / _DAY_SECONDS), now=time.time())
        for name, one, other in added.twins.values():
            warn(
                f"domain {name!r} is on {one} and {other} at the same time: two domains with one "
                "UUID, or one host by two URIs; its history is of both"
            )
        if added.ahead:
            warn(f"{added.ahead} samples left out: by this machine's clock, they are of the future")
        return added

    if files:
        from virtballoon.sizing.lines import samples_in

        added = add(samples_in(files))
        warn(f"{added.samples} samples added; {added.known} are no newer than the store's")
        return OK

    def sweep() -> int:
        from virtballoon.sizing.recorder import Sample

        hosts = finish.read_selected(settings, domains, keep=False)
        samples = [Sample.of(host.uri, row) for host in hosts for row in host.domains]
        fresh = [sample for sample in samples if sample is not None]
        add(fresh)
        if samples and not fresh:
            warn("nothing to record: no domain has fresh figures")
        return finish.finish_reading(settings, hosts, domains)

    return sweep() if every is None else _repeat(sweep, every)


def _repeat(sweep: Callable[[], int], every: float) -> int:
    """Sweep at this interval, until a signal comes; what goes wrong does not end it."""
    import signal

    from virtballoon.system.cleanup import end_on_signals

    stopped, stop = os.pipe()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        os.write(stop, b".")
        # A second signal does not wait for the end of a sweep.
        end_on_signals()

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, on_signal)
    due = time.monotonic()
    while True:
        try:
            sweep()
        except VirtballoonError as error:
            warn(message_of(error))
        now = time.monotonic()
        # A sweep that took longer than the interval is followed by the next one at its time.
        due += every * (1 + (now - due) // every)
        if select.select([stopped], [], [], min(due - now, _LONGEST_WAIT_SECONDS))[0]:
            return OK
