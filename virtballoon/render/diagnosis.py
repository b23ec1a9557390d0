"""Diagnoses for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, TextIO

from virtballoon.doctor.results import Diagnosis, HostDiagnosis
from virtballoon.render import text

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
    styled = partial(text.styled, coloured=text.is_coloured(stream))
    for host, diagnosis in diagnoses:
        verdict = diagnosis.verdict
        heading = styled(text.printable(diagnosis.name), "bold")
        heading += f": {styled(verdict.value, verdict.style)}"
        if diagnosis.age_seconds is not None:
            heading += f", {text.duration(diagnosis.age_seconds)} old"
        if with_host:
            heading += f", {text.printable(host.uri)}"
        stream.write(f"{heading}\n")
        for label, value in diagnosis_facts(diagnosis, with_evidence=with_evidence):
            shown = styled(label.ljust(_LABEL_WIDTH), "dim")
            stream.write(f"{_INDENT}{shown}{_INDENT}{text.printable(value)}\n")


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
        source = text.source(evidence.by)
        yield "" if number else "evidence", f"{source}, {evidence.asked}: {evidence.answer}"
