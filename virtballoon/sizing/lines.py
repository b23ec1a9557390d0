"""Histories as JSON lines: samples from those of ``list``, and days to write."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from virtballoon.errors import VirtballoonError
from virtballoon.sizing.day import History
from virtballoon.sizing.recorder import Sample


def samples_in(paths: Iterable[str]) -> Iterator[Sample]:
    """The fresh samples in files that ``list --format jsonl`` has written, each file in order of
    time, as one series.

    :raise VirtballoonError: if a file cannot be read, or has anything else
    """
    return heapq.merge(*map(_samples, paths), key=lambda sample: sample.at)


def _samples(path: str) -> Iterator[Sample]:
    number = 0
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, 1):  # noqa: B007 - for the message
                sample = Sample.from_dict(json.loads(line))
                if sample is not None:
                    yield sample
    except OSError as error:
        raise VirtballoonError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise VirtballoonError(
            f"line {number} of {path} is no line of list --format jsonl: {error}",
            hint="nothing was imported",
        ) from error


def day_records(histories: Iterable[History]) -> Iterator[dict[str, Any]]:
    """A record for each domain and day."""
    for history in histories:
        domain = {"uuid": history.uuid, "name": history.name, "uris": list(history.uris)}
        for day in history.days:
            yield domain | day.as_dict()
