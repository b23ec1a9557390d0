"""Selection: names, UUIDs and patterns, and which of them wins."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtballoon.model.selection import is_pattern, select


@dataclass(frozen=True)
class Machine:
    """The least that can be selected."""

    name: str
    uuid: str


def machine(name: str, number: int) -> Machine:
    return Machine(name, str(UUID(int=number << 8 | 0xAB)))


WEB1, WEB2, DB = machine("web1", 1), machine("web2", 2), machine("db", 3)
FLEET = (WEB2, DB, WEB1)


def names(domains: tuple[Machine, ...] | list[Machine], *words: str) -> list[tuple[str, bool]]:
    return [(s.domain.name, s.exact) for s in select(domains, words).domains]


def test_everything_is_sorted_and_nothing_was_named() -> None:
    assert [(s.domain, s.exact) for s in select(FLEET).domains] == [
        (DB, False),
        (WEB1, False),
        (WEB2, False),
    ]
    assert select(FLEET).unmatched == ()


def test_no_words_select_no_domain() -> None:
    assert select(FLEET, []).domains == ()


@pytest.mark.parametrize(
    "word",
    [
        WEB1.name,
        WEB1.uuid,
        WEB1.uuid.upper(),
        WEB1.uuid.replace("-", ""),
        WEB1.uuid.replace("-", "").upper(),
    ],
)
def test_name_or_uuid_selects_one_domain(word: str) -> None:
    assert names(FLEET, word) == [("web1", True)]


@pytest.mark.parametrize(
    "word",
    [
        WEB1.uuid[:-1],
        WEB1.uuid + "0",
        f"{{{WEB1.uuid}}}",
        f" {WEB1.uuid}",
        f"{WEB1.uuid}\n",
        WEB1.uuid.replace("-", "", 1),
        str(UUID(int=99)),
        "",
        "WEB1",
        "web",
    ],
)
def test_word_that_is_neither_selects_nothing(word: str) -> None:
    selection = select(FLEET, [word])

    assert selection.domains == ()
    assert selection.unmatched == (word,)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("web*", ["web1", "web2"]),
        ("*", ["db", "web1", "web2"]),
        ("web?", ["web1", "web2"]),
        ("web[!1]", ["web2"]),
        ("web[12]", ["web1", "web2"]),
        ("WEB*", []),
        ("eb*", []),
        ("[", []),
        ("[]", []),
        ("[z-a]", []),
    ],
)
def test_a_pattern(pattern: str, found: list[str]) -> None:
    selection = select(FLEET, [pattern])

    assert [s.domain.name for s in selection.domains] == found
    assert not any(s.exact for s in selection.domains)
    assert selection.unmatched == (() if found else (pattern,))


def test_an_exact_name_wins_over_a_pattern() -> None:
    star = machine("web*", 4)

    assert names([*FLEET, star], "web*") == [("web*", True)]


def test_an_exact_name_wins_over_a_uuid() -> None:
    namesake = machine(WEB1.uuid, 4)

    assert names([*FLEET, namesake], WEB1.uuid) == [(WEB1.uuid, True)]
    assert names([*FLEET, namesake], WEB1.uuid.upper()) == [("web1", True)]


@pytest.mark.parametrize("words", [("web1", "web*"), ("web*", "web1"), ("*", WEB1.uuid, "web1")])
def test_named_and_matched_counts_as_named(words: tuple[str, ...]) -> None:
    found = dict(names(FLEET, *words))

    assert found["web1"] is True
    assert found["web2"] is False


def test_each_comes_once() -> None:
    assert names(FLEET, "web1", "web1", WEB1.uuid, "web[1]") == [("web1", True)]


def test_what_matches_nothing_comes_once_in_its_order() -> None:
    selection = select(FLEET, ["zz", "web1", "a*", "zz"])

    assert selection.unmatched == ("zz", "a*")
    assert [s.domain for s in selection.domains] == [WEB1]


@pytest.mark.parametrize(
    "name",
    ["-x", "--all", "[", "a[b", "*", "a b", "a\nb", "\t", "\x7f", "'\"\\", "🎈", "\u202e", "123"],
)
def test_a_hostile_name_is_found_as_it_is(name: str) -> None:
    assert names([*FLEET, machine(name, 4)], name) == [(name, True)]


def test_a_pattern_reaches_over_lines() -> None:
    assert names([machine("a\nb", 4)], "a*b") == [("a\nb", False)]


def test_costly_pattern_is_matched_fast() -> None:
    assert names([machine("a" * 250, 4)], "*a" * 40 + "b") == []


@pytest.mark.parametrize(
    ("word", "can"),
    [("web1", False), ("a*", True), ("a?", True), ("a[b]", True), ("a]", False), ("", False)],
)
def test_is_pattern(word: str, can: bool) -> None:
    assert is_pattern(word) is can


NAMES = st.text(alphabet="ab*?[]!-\n", min_size=1, max_size=4) | st.text(
    st.characters(), min_size=1, max_size=4
)
FLEETS = st.lists(NAMES, unique=True, max_size=6).map(
    lambda found: [machine(name, number) for number, name in enumerate(found)]
)


@given(FLEETS, st.lists(NAMES, max_size=5))
def test_any_words(fleet: list[Machine], words: list[str]) -> None:
    selection = select(fleet, words)
    found = [s.domain for s in selection.domains]

    assert found == sorted(set(found), key=lambda m: (m.name, m.uuid))
    assert set(found) <= set(fleet)
    assert set(selection.unmatched) <= set(words)
    assert len(set(selection.unmatched)) == len(selection.unmatched)
    assert {s.domain.name for s in selection.domains if s.exact} == {
        m.name for m in fleet if m.name in words
    }
    for word in words:
        assert (word in selection.unmatched) == (not select(fleet, [word]).domains)


@given(FLEETS)
def test_everyone_is_found_by_name_and_by_uuid(fleet: list[Machine]) -> None:
    for one in fleet:
        assert names(fleet, one.name) == [(one.name, True)]
        assert [s.domain for s in select(fleet, [one.uuid]).domains] == [one]
    assert len(select(fleet).domains) == len(fleet)
