"""What an examination gives: a diagnosis for each domain."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self, TypeAlias

from virtballoon.doctor.causes import Cause, Sign, lacking
from virtballoon.model.report import DomainReport, HostReport, via_to_advise
from virtballoon.model.selection import words_for
from virtballoon.model.source import Source

_WANTED_INTERVAL: Final = 10
#: To watch a domain for its interval, a timeout is longer than that by this many seconds.
_WATCH_MARGIN_SECONDS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A question that was asked, who answered it, and the answer."""

    asked: str
    by: Source
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PossibleCause:
    """A cause that is possible by what is known.

    :ivar remedy: the command or the advice that fixes it, or None where there is nothing to fix
    :ivar check: how to check that it is this cause, or None where that is certain
    """

    cause: Cause
    meaning: str
    remedy: str | None
    check: str | None

    @classmethod
    def of(cls, cause: Cause, *, words: Mapping[str, str], has_qom: bool, is_certain: bool) -> Self:
        """A cause with its texts for one domain, without ``--via qom`` where there is no QOM."""

        def filled_in(text: str | None) -> str | None:
            if text is None or ("--via qom" in text and not has_qom):
                return None
            return text.format(**words)

        return cls(
            cause=cause,
            meaning=cause.info.meaning.format(**words),
            remedy=filled_in(cause.info.remedy),
            check=filled_in(cause.info.check) if not is_certain else None,
        )


class Diagnosis(DomainReport):
    """One domain as it was last read, and why its figures are as they are.

    :ivar possible_causes: the causes that are possible, the likeliest first; none where the domain
        changed while it was examined
    :ivar findings: other problems
    :ivar evidence: what was asked and answered, in this order
    :ivar seen: the signs that the answers show
    :ivar absent: the signs that they show to be absent
    """

    possible_causes: tuple[PossibleCause, ...] = ()
    findings: tuple[PossibleCause, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    seen: tuple[Sign, ...] = ()
    absent: tuple[Sign, ...] = ()

    @property
    def cause(self) -> Cause | None:
        """The likeliest cause, or None where nothing is known."""
        return self.possible_causes[0].cause if self.possible_causes else None

    @property
    def remedy(self) -> str | None:
        """The command or the advice that fixes it, or None where there is nothing to fix."""
        return self.possible_causes[0].remedy if self.possible_causes else None

    @property
    def is_well(self) -> bool:
        """Whether there is nothing to fix."""
        found = (*self.possible_causes[:1], *self.findings)
        return self.verdict.is_well and all(each.cause.info.is_well for each in found)


class HostDiagnosis(HostReport):
    """One host and the diagnoses of its domains."""

    domains: tuple[Diagnosis, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandPrefixes:
    """How the commands of remedies begin: the words that reach one host.

    :ivar is_qom: whether the source is QOM if the command names none
    """

    virtballoon: tuple[str, ...]
    virsh: tuple[str, ...]
    is_qom: bool = False

    @classmethod
    def by_uri(cls, uri: str) -> Self:
        """With the host's URI, whatever the configuration."""
        return cls(virtballoon=("virtballoon", "-c", uri), virsh=("virsh", "-c", uri))


#: Gives the prefixes for the host with this URI.
PrefixesByHost: TypeAlias = Callable[[str], CommandPrefixes]


def dotted(version: tuple[int, int]) -> str:
    """A version as it is written."""
    return ".".join(map(str, version))


def texts(
    report: DomainReport, prefixes: CommandPrefixes, version: tuple[int, int] | None
) -> dict[str, str]:
    """What replaces the braces in the texts of causes."""
    interval = report.interval
    old = f"QEMU {dotted(version)} has no {', '.join(lacking(version))}" if version else ""
    via = via_to_advise([report], is_qom=prefixes.is_qom or report.source is Source.QOM)
    return {
        "virtballoon": shlex.join(prefixes.virtballoon),
        "set_interval": shlex.join((*prefixes.virtballoon, "set-interval", *via)),
        "virsh": shlex.join(prefixes.virsh),
        "name": shlex.join(words_for([report])),
        "domain": shlex.quote(report.name if _is_plain(report.name) else report.uuid),
        "interval": str(interval.in_force or 0),
        "wanted": str(interval.live or interval.config or _WANTED_INTERVAL),
        "watch": str((interval.in_force or 0) + _WATCH_MARGIN_SECONDS),
        "lacks": old,
    }


def _is_plain(name: str) -> bool:
    """Whether virsh takes this for a name, not for an option, a number or a UUID."""
    looks_other = re.fullmatch(r"\d+|[\da-fA-F-]{32,}|-.*", name)
    return bool(name) and name.isprintable() and not looks_other
