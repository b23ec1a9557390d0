"""A check as JSON, JSON lines and CSV: a reading with its judgement."""

from __future__ import annotations

from collections.abc import Callable

from virtballoon.check.judging import CheckedDomain, CheckResult, CheckStatus
from virtballoon.check.plugin import summary
from virtballoon.check.ranges import Range
from virtballoon.render import documents
from virtballoon.render.formats import Data, Record


def check_data(
    result: CheckResult, *, quiet: bool, generated_at: float, table: Callable[[], object]
) -> Data:
    """A check in every format, with ``quiet`` without the domains that are well."""
    shown = [row for row in result.domains if not quiet or row.status is not CheckStatus.OK]

    def document() -> Record:
        hosts = [
            documents.host_record(host)
            | {"domains": [_domain_record(row) for row in shown if row.host is host]}
            for host in result.hosts
        ]
        check = {
            "status": result.status.name.lower(),
            "exit_status": int(result.status),
            "summary": summary(result),
            "problems": [
                {"status": problem.status.name.lower(), "message": problem.message}
                for problem in result.problems
            ],
        }
        return documents.document(hosts, generated_at=generated_at) | {"check": check}

    return Data(
        document,
        lambda: [{"uri": row.host.uri} | _domain_record(row) for row in shown],
        lambda: ("uri", "check.status", *documents.domain_columns(rates=True)),
        table,
    )


def _domain_record(row: CheckedDomain) -> Record:
    measures = [
        {
            "measure": measurement.measure.value,
            "value": None if measurement.value is None else round(measurement.value, 3),
            "status": measurement.status.name.lower(),
            "warning": _range(measurement.thresholds.warning),
            "critical": _range(measurement.thresholds.critical),
        }
        for measurement in row.measurements
    ]
    check = {"status": row.status.name.lower(), "measures": measures}
    return documents.domain_record(row.report) | {"check": check}


def _range(limit: Range | None) -> str | None:
    return None if limit is None else str(limit)
