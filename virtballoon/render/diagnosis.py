"""Diagnoses for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TextIO

from rich.text import Text

from virtballoon.doctor.examination import Diagnosis, HostDiagnosis
from virtballoon.model.source import Source
from virtballoon.render import text
from virtballoon.render.table import console, verdict_text

_INDENT: Final = "  "
_LABEL_WIDTH: Final = 10


def diagnosis_blocks(
    rows: Sequence[tuple[HostDiagnosis, Diagnosis]], *, with_host: bool, stream: TextIO
) -> None:
    """Print what is the matter with each domain, a block a domain: a line for one that is well."""
    out = console(stream)
    for host, row in rows:
        for line in diagnosis_lines(row, uri=host.uri if with_host else None):
            out.print(line, soft_wrap=True)


def diagnosis_lines(row: Diagnosis, *, uri: str | None = None) -> Iterator[Text]:
    """One diagnosis, safe for a terminal.

    :param uri: the host, where it is to be named
    """
    heading = Text.assemble((text.printable(row.name), "bold"), ": ")
    heading.append_text(verdict_text(row.verdict.value))
    if row.age_seconds is not None:
        heading.append(f", {text.duration(row.age_seconds)} old")
    if uri is not None:
        heading.append(f", {text.printable(uri)}")
    yield heading
    for label, told in diagnosis_facts(row):
        line = Text.assemble(_INDENT, (label.ljust(_LABEL_WIDTH), "dim"), _INDENT)
        yield line.append(text.printable(told))


def diagnosis_facts(row: Diagnosis) -> Iterator[tuple[str, str]]:
    """What a diagnosis says, each with a label: what is found, and by what."""
    yield from _findings(row)
    yield from _grounds(row)


def _findings(row: Diagnosis) -> Iterator[tuple[str, str]]:
    for number, each in enumerate(row.possible_causes):
        yield "or" if number else "cause", f"{each.cause.value}: {each.meaning}"
        if row.cause is None and each.tell is not None:
            yield "told by", each.tell
        if each.remedy is not None:
            yield "remedy", each.remedy
    for finding in row.findings:
        yield "also", f"{finding.cause.value}: {finding.meaning}"
        if finding.remedy is not None:
            yield "remedy", finding.remedy


def _grounds(row: Diagnosis) -> Iterator[tuple[str, str]]:
    if row.is_well and not row.findings and row.remedy is None:
        return
    for number, each in enumerate(row.evidence):
        yield "" if number else "evidence", f"{_who(each.by)}, {each.asked}: {each.answer}"
    for number, question in enumerate(row.unasked):
        told = f"{_who(question.by)}, {question.asked}: {question.would_tell}"
        yield "" if number else "not asked", told
    for command in dict.fromkeys(question.command for question in row.unasked):
        yield "to ask", f"{command}, which marks the guest as tainted"


def _who(source: Source) -> str:
    return "QEMU" if source is Source.QOM else "libvirt"
