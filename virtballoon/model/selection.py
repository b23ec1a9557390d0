"""Which domains a caller means: by name, by UUID or by shell pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from virtballoon.model.value import Value


class Named(Protocol):
    """Anything that has a name and a UUID."""

    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> str: ...


D = TypeVar("D", bound=Named)

# Compiled when they are used: a list of all domains does without.
_UUID: Final = r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}(?:\1[0-9a-fA-F]{4}){2}\1[0-9a-fA-F]{12}"


class Exclude(str):
    """A name, UUID or pattern, among those of a selection, of domains that are left out. Without
    any other word, every other domain is meant."""


def means_all(words: Iterable[str] | None) -> bool:
    """Whether domains are meant without being named: all, or all but some."""
    return words is None or all(isinstance(word, Exclude) for word in words)


class Selected(NamedTuple, Generic[D]):
    """A domain that is meant; ``exact`` if by its name or UUID, rather than by a pattern or as one
    of all."""

    domain: D
    exact: bool


class Selection(Value, Generic[D]):
    """The domains that are meant, each once and sorted by name, and the words that meant none."""

    domains: tuple[Selected[D], ...] = ()
    unmatched: tuple[str, ...] = ()


def select(domains: Sequence[D], words: Iterable[str] | None = None) -> Selection[D]:
    """Find the domains that the words mean.

    An exact name wins over a pattern and over a UUID: a domain may be named ``web*``, or have
    another one's UUID for a name.

    :param domains: all domains of the host
    :param words: names, UUIDs and shell patterns, and :class:`Exclude`; None for every domain
    """
    words = None if words is None else tuple(words)
    for word in words or ():
        if isinstance(word, Exclude):
            domains = [domain for domain in domains if not _is_meant(domain, word)]
    if words is None or (words and means_all(words)):
        found = {domain.uuid: Selected(domain=domain, exact=False) for domain in domains}
        return Selection(domains=_sorted(found))
    by_name = {domain.name: domain for domain in domains}
    by_uuid = {_bare(domain.uuid): domain for domain in domains}
    found = {}
    unmatched = []
    for word in words:
        if isinstance(word, Exclude):
            continue
        domain = by_name.get(word)
        if domain is None and re.fullmatch(_UUID, word):
            domain = by_uuid.get(_bare(word))
        if domain is not None:
            found[domain.uuid] = Selected(domain=domain, exact=True)
            continue
        matching = [d for d in domains if fnmatchcase(d.name, word)] if is_pattern(word) else []
        if not matching and word not in unmatched:
            unmatched.append(word)
        for match in matching:
            found.setdefault(match.uuid, Selected(domain=match, exact=False))
    return Selection(domains=_sorted(found), unmatched=tuple(unmatched))


def _is_meant(domain: Named, word: str) -> bool:
    if word == domain.name or fnmatchcase(domain.name, word):
        return True
    return re.fullmatch(_UUID, word) is not None and _bare(word) == _bare(domain.uuid)


def _bare(uuid: str) -> str:
    return uuid.replace("-", "").lower()


def is_pattern(word: str) -> bool:
    """Whether the word can match more than itself."""
    return re.search(r"[*?\[]", word) is not None


def words_for(domains: Iterable[Named]) -> list[str]:
    """The words of a command line that mean these domains: names, and the UUIDs of those whose
    name would not be shown as it is."""
    words = sorted(d.name if d.name.isprintable() else d.uuid for d in domains)
    return [*(["--"] if any(word.startswith("-") for word in words) else []), *words]


def _sorted(found: dict[str, Selected[D]]) -> tuple[Selected[D], ...]:
    return tuple(sorted(found.values(), key=lambda s: (s.domain.name, s.domain.uuid)))
