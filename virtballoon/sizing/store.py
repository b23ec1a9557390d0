"""The store of histories: an SQLite file with the days of each domain, by its UUID."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import quote

from virtballoon.errors import VirtballoonError
from virtballoon.sizing.day import Day, History
from virtballoon.sizing.recorder import AHEAD_SECONDS, COVERED_SECONDS, Sample, days_of

#: "vbal", which marks the file as a store (``PRAGMA application_id``), and its version.
_MARK: Final = 0x7662616C
_VERSION: Final = 1

#: How long another writer is waited for. Its transaction takes some milliseconds.
_PATIENCE_SECONDS: Final = 10.0

#: For how many days histories are kept.
KEEP_DAYS: Final = 90

_SCHEMA: Final = f"""
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE domains (uuid TEXT PRIMARY KEY, last TEXT NOT NULL, seen TEXT NOT NULL);
CREATE TABLE days (uuid TEXT NOT NULL, date TEXT NOT NULL, day TEXT NOT NULL);
CREATE UNIQUE INDEX day ON days (uuid, date);
PRAGMA application_id = {_MARK};
PRAGMA user_version = {_VERSION};
COMMIT;
"""

_DAYS: Final = """
SELECT uuid, day FROM days
WHERE date >= ? OR (uuid, date) IN (SELECT uuid, MIN(date) FROM days GROUP BY uuid) ORDER BY date
"""

_dumps: Final = partial(json.dumps, separators=(",", ":"))


class Added(NamedTuple):
    """The result of adding samples.

    :ivar samples: the number of samples that were added
    :ivar known: the number of those that are no newer than the store's last one of their domain
    :ivar ahead: the number of those that are of the future, by this machine's clock
    :ivar twins: for each UUID that two hosts had at the same time its name and their URIs
    """

    samples: int
    known: int
    ahead: int
    twins: dict[str, tuple[str, str, str]]


def default_path() -> Path:
    """The store's place: systemd's directory for state, that of the system for root, else the
    user's own."""
    folder = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if folder:
        return Path(folder) / "history.db"
    if os.geteuid() == 0:
        return Path("/var/lib/virtballoon/history.db")
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()
    return base / "virtballoon" / "history.db"


class Store:
    """A store, opened. Two processes can use it at the same time.

    :param path: the file
    :param create: whether it is made where there is none
    :raise VirtballoonError: if it cannot be opened, is no store, or one of a newer version
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        with self._explained("open"):
            if create and not path.exists():
                _create(path)
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            self._connection = sqlite3.connect(
                f"file:{quote(os.fspath(path.absolute()))}?mode=rw",
                uri=True,
                timeout=_PATIENCE_SECONDS,
                isolation_level=None,
            )
        try:
            self._check()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def add(self, samples: Iterable[Sample], *, keep_days: int = KEEP_DAYS, now: float) -> Added:
        """Add samples, those of one domain in order of time, and remove what is too old; all of it
        or, after an error, nothing.

        :raise VirtballoonError: if the store cannot be written, or what it has is damaged
        """
        with self._explained("write"), self._transaction():
            added = self._add(samples, latest=now + AHEAD_SECONDS)
            oldest = max(1, datetime.fromtimestamp(now, UTC).toordinal() - keep_days)
            self._connection.execute(
                "DELETE FROM days WHERE date < ?", [date.fromordinal(oldest).isoformat()]
            )
            self._connection.execute(
                "DELETE FROM domains WHERE uuid NOT IN (SELECT uuid FROM days)"
            )
        return added

    def histories(self, since: date = date.min) -> list[History]:
        """What is known of each domain, by its name.

        :param since: without the days before it, but for a domain's first
        :raise VirtballoonError: if it cannot be read, or is damaged
        """
        with self._explained("read"), self._transaction("DEFERRED"):
            days: dict[str, list[Day]] = {}
            for uuid, day in self._connection.execute(_DAYS, [since.isoformat()]):
                days.setdefault(uuid, []).append(Day.from_dict(json.loads(day)))
            found = []
            for uuid, kept in days.items():
                last, seen = self._last(uuid)
                uris = sorted(seen, key=lambda uri: -seen[uri])
                found.append(
                    History(
                        uuid=uuid,
                        name=last.name if last is not None else uuid,
                        labels=last.labels if last is not None else {},
                        uris=tuple(uris),
                        days=tuple(kept),
                    )
                )
        return sorted(found, key=lambda history: (history.name, history.uuid))

    def _add(self, samples: Iterable[Sample], *, latest: float) -> Added:
        lasts: dict[str, Sample] = {}
        seens: dict[str, dict[str, int]] = {}
        days: dict[tuple[str, str], Day] = {}
        count = known = ahead = 0
        twins = {}
        for sample in samples:
            uuid = sample.uuid
            if sample.at > latest:
                ahead += 1
                continue
            if uuid not in seens:
                last, seens[uuid] = self._last(uuid)
                # The clock was ahead when a later one was added.
                if last is not None and last.at <= latest:
                    lasts[uuid] = last
                seens[uuid] = {uri: at for uri, at in seens[uuid].items() if at <= latest}
            twin = _seen(seens[uuid], sample)
            if twin is not None:
                twins[uuid] = (sample.name, twin, sample.uri)
            before = lasts.get(uuid)
            if before is not None and sample.at <= before.at:
                known += 1
                continue
            for day in days_of(sample, before):
                key = (uuid, day.date.isoformat())
                stored = days.get(key) or self._day(*key)
                days[key] = day if stored is None else stored + day
            lasts[uuid] = sample
            count += 1
        self._connection.executemany(
            "INSERT INTO days VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET day = excluded.day",
            ((*key, _dumps(day.as_dict())) for key, day in days.items()),
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO domains VALUES (?, ?, ?)",
            ((uuid, _dumps(last.as_dict()), _dumps(seens[uuid])) for uuid, last in lasts.items()),
        )
        return Added(count, known, ahead, twins)

    def _last(self, uuid: str) -> tuple[Sample | None, dict[str, int]]:
        """The last sample of a domain, and when it was last seen on which host."""
        found = self._connection.execute("SELECT last, seen FROM domains WHERE uuid = ?", [uuid])
        for last, seen in found:
            return Sample.from_dict(json.loads(last)), dict(json.loads(seen))
        return None, {}

    def _day(self, uuid: str, date: str) -> Day | None:
        found = self._connection.execute(
            "SELECT day FROM days WHERE uuid = ? AND date = ?", [uuid, date]
        )
        return next((Day.from_dict(json.loads(day)) for (day,) in found), None)

    def _check(self) -> None:
        with self._explained("open"):
            ((mark,),) = self._connection.execute("PRAGMA application_id")
            ((version,),) = self._connection.execute("PRAGMA user_version")
        if mark != _MARK:
            raise VirtballoonError(f"{self.path} is not a store of histories")
        if version != _VERSION:
            raise VirtballoonError(
                f"{self.path} is a store of version {version}, which this virtballoon does not know"
            )

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # A full disk has ended it.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        try:
            yield
        except VirtballoonError:
            raise
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB":
                raise VirtballoonError(f"{self.path} is not a store of histories") from error
            is_readonly = getattr(error, "sqlite_errorname", "").startswith("SQLITE_READONLY")
            raise VirtballoonError(
                f"cannot {verb} {self.path}: {error}",
                hint="SQLite must write to the file and its directory, also to read it"
                if is_readonly
                else None,
            ) from error
        except OSError as error:
            raise VirtballoonError(f"cannot {verb} {self.path}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise VirtballoonError(f"{self.path} is damaged: {error}") from error


def _create(path: Path) -> None:
    """Make a store under another name, so that one with its name is always complete."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".virtballoon-{os.urandom(8).hex()}")
    try:
        with contextlib.closing(sqlite3.connect(temporary)) as connection:
            connection.executescript(_SCHEMA)
        # Another process may have been faster.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{temporary}{suffix}").unlink(missing_ok=True)


def _seen(seen: dict[str, int], sample: Sample) -> str | None:
    """Note where a domain was seen; return another host that had it since it was last seen here,
    a short time ago."""
    uri, at = sample.uri, sample.at
    earlier = seen.get(uri, 0)
    if at <= earlier:
        return None
    seen[uri] = at
    if at - earlier > COVERED_SECONDS:
        return None
    return next((other for other, when in seen.items() if other != uri and earlier <= when), None)
