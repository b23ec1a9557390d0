"""Diagnoses for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TextIO

from rich.text import Text

from virtballoon.doctor.results import Diagnosis, HostDiagnosis
from virtballoon.model.source import Source
from virtballoon.render import text
from virtballoon.render.table import console, verdict_text

_INDENT: Final = "  "
_LABEL_WIDTH: Final = 8


def print_diagnoses(
    diagnoses: Sequence[tuple[HostDiagnosis, Diagnosis]],
    *,
    with_host: bool,
    with_evidence: bool,
    stream: TextIO,
) -> None:
    """Print a block for each domain, safe for a terminal."""
    out = console(stream)
    for host, diagnosis in diagnoses:
        heading = Text.assemble((text.printable(diagnosis.name), "bold"), ": ")
        heading.append_text(verdict_text(diagnosis.verdict.value))
        if diagnosis.age_seconds is not None:
            heading.append(f", {text.duration(diagnosis.age_seconds)} old")
        if with_host:
            heading.append(f", {text.printable(host.uri)}")
        out.print(heading, soft_wrap=True)
        for label, value in diagnosis_facts(diagnosis, with_evidence=with_evidence):
            line = Text.assemble(_INDENT, (label.ljust(_LABEL_WIDTH), "dim"), _INDENT)
            out.print(line.append(text.printable(value)), soft_wrap=True)


def diagnosis_facts(
    diagnosis: Diagnosis, *, with_evidence: bool = False
) -> Iterator[tuple[str, str]]:
    """What a diagnosis says, each with a label: the likeliest cause, what to do, how to check."""
    if not diagnosis.possible_causes:
        yield "cause", "not known: the domain changed while it was examined; run doctor again"
    for number, possible in enumerate(diagnosis.possible_causes):
        yield "or" if number else "cause", f"{possible.cause.value}: {possible.meaning}"
        if possible.remedy is not None and (with_evidence or not number):
            yield "remedy", possible.remedy
        if possible.check is not None:
            yield "check", possible.check
    for finding in diagnosis.findings:
        yield "also", f"{finding.cause.value}: {finding.meaning}"
        if finding.remedy is not None:
            yield "remedy", finding.remedy
    for number, evidence in enumerate(diagnosis.evidence if with_evidence else ()):
        source = "QEMU" if evidence.by is Source.QOM else "libvirt"
        yield "" if number else "evidence", f"{source}, {evidence.asked}: {evidence.answer}"
