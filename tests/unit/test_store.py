"""The store of histories: what it keeps, and that no accident costs what it has."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

import pytest

from tests.unit.sizing_builders import HOST, MIB, MIDNIGHT, read, sample, uuid, write_lines
from virtballoon.errors import VirtballoonError
from virtballoon.sizing.day import DAY_SECONDS, History
from virtballoon.sizing.lines import samples_in
from virtballoon.sizing.recorder import Sample
from virtballoon.sizing.store import Store, _create, default_path

NOW = MIDNIGHT + 2 * DAY_SECONDS
MINUTE = 60


def minutes(count: int, *, start: int = MIDNIGHT, domains: int = 1) -> list[Sample]:
    """A sample of each domain in each minute."""
    return [
        sample(start + MINUTE * number, (100 + number % 50) * MIB, uuid=uuid(domain))
        for number, domain in product(range(count), range(domains))
    ]


def add(path: Path, *samples: Sample) -> tuple[int, int]:
    with Store(path, create=True) as store:
        return store.add(samples, now=NOW)[:2]


def histories(path: Path) -> list[History]:
    with Store(path) as store:
        return store.histories()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "history.db"


def test_what_was_added_is_there(path: Path) -> None:
    assert add(path, *minutes(3, domains=2)) == (6, 0)
    found = histories(path)
    assert [history.uuid for history in found] == [uuid(0), uuid(1)]
    assert [day.covered_seconds for history in found for day in history.days] == [120, 120]
    assert {(history.name, history.uris) for history in found} == {("web1", (HOST,))}
    assert [file.name for file in path.parent.iterdir()] == ["history.db"]


def test_adding_one_by_one_is_adding_together_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    samples = minutes(30, start=MIDNIGHT + DAY_SECONDS - 600)
    for one in samples:
        assert add(tmp_path / "single", one) == (1, 0)
        assert add(tmp_path / "single", one) == (0, 1)
    assert add(tmp_path / "together", *samples) == (30, 0)
    assert add(tmp_path / "together", *samples) == (0, 30)
    assert histories(tmp_path / "single") == histories(tmp_path / "together")


def test_history_survives_migration_and_a_new_name(path: Path) -> None:
    add(path, sample(MIDNIGHT), sample(MIDNIGHT + 60, host="qemu+ssh://hv2/system", name="web2"))
    (history,) = histories(path)
    assert (history.name, history.uris) == ("web2", ("qemu+ssh://hv2/system", HOST))
    assert sum(day.covered_seconds for day in history.days) == 60


def test_a_uuid_on_two_hosts_at_once_is_told(path: Path) -> None:
    other = "qemu+ssh://hv2/system"
    with Store(path, create=True) as store:
        here, there = sample(MIDNIGHT), sample(MIDNIGHT, host=other)
        assert store.add([here, there], now=NOW).twins == {}
        here, there = sample(MIDNIGHT + 60), sample(MIDNIGHT + 59, host=other)
        twins = store.add([here, there], now=NOW).twins
        assert {(name, *sorted(uris)) for name, *uris in twins.values()} == {("web1", HOST, other)}
        # It was moved away, and back a day later.
        later = [sample(MIDNIGHT + 3600), sample(NOW, host=other), sample(NOW + 9000)]
        assert store.add(later, now=NOW + 9000).twins == {}


def test_a_sample_of_the_future_is_left_out(path: Path) -> None:
    with Store(path, create=True) as store:
        late = sample(MIDNIGHT + 400 * DAY_SECONDS)
        assert store.add([sample(MIDNIGHT), late], now=MIDNIGHT)[:3] == (1, 0, 1)
        assert store.add([sample(MIDNIGHT + 60)], now=MIDNIGHT + 60)[:3] == (1, 0, 0)
        (history,) = store.histories()
        assert [day.covered_seconds for day in history.days] == [60]


def test_recording_goes_on_after_the_clock_was_ahead(path: Path) -> None:
    with Store(path, create=True) as store:
        late = MIDNIGHT + 5 * DAY_SECONDS
        store.add([sample(late)], now=late)
        for at in (MIDNIGHT, MIDNIGHT + 60, MIDNIGHT + 120):
            assert store.add([sample(at)], now=at)[:3] == (1, 0, 0)
        (history,) = store.histories()
        assert [day.covered_seconds for day in history.days] == [120, 0]


def test_every_number_of_days_can_be_kept(path: Path) -> None:
    with Store(path, create=True) as store:
        assert store.add(minutes(2), keep_days=10**12, now=NOW)[:2] == (2, 0)
        assert len(store.histories()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_user_who_may_only_read_is_told_why_that_does_not_do() -> None:
    # Not in pytest's folder, which is closed to others.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, "history.db")
        add(path, *minutes(2))
        os.seteuid(65534)
        try:
            with pytest.raises(VirtballoonError, match="must write to the file and its directory"):
                histories(path)
        finally:
            os.seteuid(0)


def test_old_days_are_removed(path: Path) -> None:
    with Store(path, create=True) as store:
        store.add(minutes(2, start=MIDNIGHT - 10 * DAY_SECONDS, domains=2), now=MIDNIGHT)
        store.add(minutes(1), now=MIDNIGHT, keep_days=10)
        assert [len(history.days) for history in store.histories()] == [2, 1]
        store.add([], now=MIDNIGHT, keep_days=9)
        assert [len(history.days) for history in store.histories()] == [1]


def a_text(path: Path) -> None:
    path.write_text("[hosts.hv1]\n" * 200, encoding="ascii")


def nothing(path: Path) -> None:
    path.touch()


def another_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE days (x)")
        connection.execute("PRAGMA user_version = 1")


def a_newer_store(path: Path) -> None:
    add(path, *minutes(2))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA user_version = 2")


def a_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [a_text, nothing, another_database, a_newer_store, a_directory])
def test_something_else_is_refused_by_name_and_not_changed(path: Path, make: object) -> None:
    assert callable(make)
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for create in (False, True):
        with pytest.raises(VirtballoonError, match=str(path)):
            Store(path, create=create)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_store_that_another_process_has_just_made_stays(path: Path) -> None:
    add(path, *minutes(2))
    before = histories(path)
    _create(path)
    assert histories(path) == before != []
    assert [file.name for file in path.parent.iterdir()] == ["history.db"]


def test_a_store_that_is_not_there_is_not_made_for_reading(path: Path) -> None:
    with pytest.raises(VirtballoonError, match="No such file"):
        Store(path)
    assert not path.parent.exists()


@pytest.mark.parametrize("column", ["day", "last"])
def test_damaged_content_is_refused_by_name(path: Path, column: str) -> None:
    add(path, *minutes(2))
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        table = "days" if column == "day" else "domains"
        connection.execute(f"UPDATE {table} SET {column} = '[5'")
    with pytest.raises(VirtballoonError, match=f"{path} is damaged"):
        histories(path)
    with pytest.raises(VirtballoonError, match=f"{path} is damaged"):
        add(path, sample(MIDNIGHT + 3600, uuid=uuid(0)))


def test_damaged_pages_are_refused_by_name(path: Path) -> None:
    add(path, *minutes(2, domains=30))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(VirtballoonError, match=str(path)):
        histories(path)
    with pytest.raises(VirtballoonError, match=str(path)):
        add(path, *minutes(4, domains=30))
    assert path.read_bytes() == data


#: Adds a sample a minute to the store, and says so after each.
_WRITER = """
import sys
from pathlib import Path
from tests.unit.test_store import NOW, minutes
from virtballoon.sizing.store import Store
path, count, domains = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    with Store(path, create=True) as store:
        store.add(minutes(number + 1, domains=domains)[-domains:], now=NOW)
    print(number, flush=True)
"""


def writer(path: Path, *, count: int, domains: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _WRITER, str(path), str(count), str(domains)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def test_two_writers_at_once(path: Path) -> None:
    writers = [writer(path, count=25, domains=3) for _ in range(2)]
    for process in writers:
        process.communicate()
        assert process.returncode == 0
    together = path.with_name("alone")
    add(together, *minutes(25, domains=3))
    assert histories(path) == histories(together)


def test_a_kill_at_any_moment_loses_nothing_that_was_there(path: Path) -> None:
    for _ in range(4):
        with writer(path, count=500, domains=20) as process:
            assert process.stdout is not None
            done = [int(process.stdout.readline()) for _ in range(3)][-1]
            process.send_signal(signal.SIGKILL)
            more = process.stdout.read().split()
        done = int(more[-1]) if more else done
        found = {day.covered_seconds for history in histories(path) for day in history.days}
        # All domains have the same: a transaction is there or it is not.
        assert len(found) == 1
        assert done * MINUTE <= found.pop()
        assert len(histories(path)) == 20
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_full_disk_costs_nothing_that_was_there(path: Path) -> None:
    add(path, *minutes(10, domains=5))
    before = histories(path)
    with Store(path) as store:
        ((pages,),) = store._connection.execute("PRAGMA page_count")
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(VirtballoonError, match=f"cannot write {path}: .*full"):
            store.add(minutes(30, domains=50), now=NOW)
        assert store.histories() == before
    assert histories(path) == before
    assert add(path, *minutes(30, domains=50)) == (1450, 50)


def test_a_limit_on_the_size_of_files(path: Path) -> None:
    add(path, *minutes(10, domains=5))
    before = histories(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, limits[1]))
    try:
        with pytest.raises(VirtballoonError, match=f"cannot (open|write) {path}: "):
            add(path, *minutes(30, domains=50))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(VirtballoonError, match=r"cannot open .*other: "):
            add(path.with_name("other"), *minutes(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert histories(path) == before
    assert [file.name for file in path.parent.iterdir()] == ["history.db"]


def test_100_domains_over_90_days_take_at_most_15_megabytes(path: Path) -> None:
    # A day as busy as this one: use of 30 sizes, which change all the time.
    day_of_minutes = [
        sample(
            MIDNIGHT + 600 * n,
            (200 + 37 * n % 30 * 20) * MIB,
            swap_in=n * 4096,
            swap_out=n,
            major_faults=n,
        )
        for n in range(144)
    ]
    add(path, *day_of_minutes)
    (history,) = histories(path)
    assert len(history.days) == 1
    text = json.dumps(history.days[0].as_dict(), separators=(",", ":"))
    assert len(history.days[0].used.seconds) >= 20
    with Store(path) as store, store._transaction():
        store._connection.executemany(
            "INSERT INTO days VALUES (?, ?, ?)",
            (
                (uuid(n), f"2026-{d // 28 + 1:02}-{d % 28 + 1:02}", text)
                for n in range(100)
                for d in range(90)
            ),
        )
    assert path.stat().st_size <= 15e6


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a/history.db"),
        ({"XDG_STATE_HOME": "/state"}, "/state/virtballoon/history.db"),
        ({"XDG_STATE_HOME": "state"}, "/home/me/.local/state/virtballoon/history.db"),
        ({}, "/home/me/.local/state/virtballoon/history.db"),
    ],
)
@pytest.mark.parametrize("user", [0, 1000])
def test_default_place(
    environment: dict[str, str], place: str, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("HOME", "/home/me")
    for name in ("STATE_DIRECTORY", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    is_system = user == 0 and "STATE_DIRECTORY" not in environment
    assert str(default_path()) == ("/var/lib/virtballoon/history.db" if is_system else place)


def test_lines_of_several_files_are_one_series(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_lines(one, read(MIDNIGHT), read(MIDNIGHT + 120), read(MIDNIGHT + 130, balloon=None))
    write_lines(other, read(MIDNIGHT + 60), read(MIDNIGHT + 180), host="qemu+ssh://hv2/system")
    found = list(samples_in([str(other), str(one)]))
    assert [one.at - MIDNIGHT for one in found] == [0, 60, 120, 180]
    assert len({one.uri for one in found}) == 2
