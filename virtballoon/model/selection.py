"""Which domains a caller means: by name, by UUID or by shell pattern, and by conditions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

from virtballoon.model.value import Value

if TYPE_CHECKING:
    from virtballoon.model.report import DomainReport


class Named(Protocol):
    """Anything that has a name and a UUID."""

    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> str: ...


D = TypeVar("D", bound=Named)

# Compiled when they are used: a list of all domains does without.
_UUID: Final = r"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}(?:\1[0-9a-fA-F]{4}){2}\1[0-9a-fA-F]{12}"


class Restriction(str):
    """A word of a selection that restricts what the others mean. Without any other word, every
    other domain is meant."""


class Exclude(Restriction):
    """A name, UUID or pattern of domains that are left out."""


class Excluded(Restriction):
    """A name, UUID or pattern of domains that the configuration excludes: their reports say so.

    :ivar is_kept: whether they are not left out; those that are named exactly never are
    """

    is_kept: bool

    def __new__(cls, word: str, *, keep: bool = False) -> Self:
        self = super().__new__(cls, word)
        self.is_kept = keep
        return self


class Where(Restriction):
    """A condition on the report of a domain.

    :ivar test: whether a report meets it; None where that is unknown, since the domain could not be
        read. Such a report is given, and nothing is set in the domain.
    """

    test: Callable[[Any], bool | None]

    def __new__(cls, text: str, test: Callable[[Any], bool | None]) -> Self:
        self = super().__new__(cls, text)
        self.test = test
        return self


def means_all(words: Iterable[str] | None) -> bool:
    """Whether domains are meant without being named: all, or all but some."""
    return words is None or all(isinstance(word, Restriction) for word in words)


class Selected(NamedTuple, Generic[D]):
    """A domain that is meant; ``exact`` if by its name or UUID, rather than by a pattern or as one
    of all."""

    domain: D
    exact: bool


class Selection(Value, Generic[D]):
    """The domains that are meant, each once and sorted by name, and the words that meant none.

    :ivar excluded: the UUIDs of the domains that the configuration excludes
    :ivar left_out: those of them that are left out of all domains
    :ivar conditions: what the reports of the domains must meet
    """

    domains: tuple[Selected[D], ...] = ()
    unmatched: tuple[str, ...] = ()
    excluded: frozenset[str] = frozenset()
    left_out: frozenset[str] = frozenset()
    conditions: tuple[Where, ...] = ()

    def meets(self, report: DomainReport) -> bool | None:
        """Whether a report meets all conditions; None where that is unknown."""
        results = [condition.test(report) for condition in self.conditions]
        return False if False in results else None if None in results else True


def select(domains: Sequence[D], words: Iterable[str] | None = None) -> Selection[D]:
    """Find the domains that the words mean.

    An exact name wins over a pattern and over a UUID: a domain may be named ``web*``, or have
    another one's UUID for a name.

    :param domains: all domains of the host
    :param words: names, UUIDs and shell patterns, with :class:`Restriction`; None for every domain
    """
    words = None if words is None else tuple(words)
    configured: set[str] = set()
    left_out: set[str] = set()
    for word in words or ():
        if isinstance(word, Exclude):
            domains = [domain for domain in domains if not _is_meant(domain, word)]
        elif isinstance(word, Excluded):
            matching = {domain.uuid for domain in domains if _is_meant(domain, word)}
            configured |= matching
            left_out |= set() if word.is_kept else matching
    others = [d for d in domains if d.uuid not in left_out] if left_out else domains
    conditions = tuple(word for word in words or () if isinstance(word, Where))
    restricted: Any = {"excluded": frozenset(configured), "conditions": conditions}
    if words is None or (words and means_all(words)):
        found = {domain.uuid: Selected(domain=domain, exact=False) for domain in others}
        return Selection(domains=_sorted(found), left_out=frozenset(left_out), **restricted)
    by_name = {domain.name: domain for domain in domains}
    by_uuid = {_bare(domain.uuid): domain for domain in domains}
    found = {}
    unmatched = []
    for word in words:
        if isinstance(word, Restriction):
            continue
        domain = by_name.get(word)
        if domain is None and re.fullmatch(_UUID, word):
            domain = by_uuid.get(_bare(word))
        if domain is not None:
            found[domain.uuid] = Selected(domain=domain, exact=True)
            continue
        matches = [d for d in others if fnmatchcase(d.name, word)] if is_pattern(word) else []
        if not matches and word not in unmatched:
            unmatched.append(word)
        for match in matches:
            found.setdefault(match.uuid, Selected(domain=match, exact=False))
    return Selection(domains=_sorted(found), unmatched=tuple(unmatched), **restricted)


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
