"""The output formats: one table of them, and what writes each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TextIO

Record = dict[str, Any]

#: What is indented in a document: the document, its hosts, a host, its domains.
_LEVELS: Final = 4


class Data(NamedTuple):
    """What a command prints: how to get the whole document, a record for each line, and the columns
    that a line has at most; and what prints it for people."""

    document: Callable[[], Record]
    rows: Callable[[], Iterable[Record]]
    columns: Callable[[], Sequence[str]]
    table: Callable[[], object]


def to_json(value: Record) -> str:
    """A document as JSON, readable by people: indented, with a line for each domain."""
    return _laid_out(value, _LEVELS) + "\n"


def _laid_out(value: object, levels: int, indent: str = "") -> str:
    from json import dumps

    # json.dumps would indent every level or none, and takes ten times as long over indenting.
    inner = indent + "  "
    if levels and value and isinstance(value, dict):
        pairs = value.items()
        lines = [f"{dumps(k)}: {_laid_out(v, levels - 1, inner)}" for k, v in pairs]
        return f"{{\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}}}"
    if levels and value and isinstance(value, list):
        lines = [_laid_out(item, levels - 1, inner) for item in value]
        return f"[\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}]"
    return dumps(value)


def to_jsonl(records: Iterable[Record]) -> str:
    """Records as JSON lines."""
    from json import dumps

    return "".join(dumps(record) + "\n" for record in records)


def to_csv(records: Iterable[Record], columns: Sequence[str], *, header: bool = True) -> str:
    """Records as CSV; nested keys are joined with a dot, null is an empty cell."""
    flat = (flattened(record) for record in records)
    rows = [[_cell(cells.get(column)) for column in columns] for cells in flat]
    if header:
        rows.insert(0, list(columns))
    return "".join(_csv_line(row) for row in rows)


def _csv_line(cells: Sequence[object]) -> str:
    import csv
    import io

    # The module quotes a lone carriage return only where that ends its lines.
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n") + "\n"


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A record without nesting: keys joined with a dot."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(value) if all(isinstance(v, str) for v in value) else _listed(value)
    return str(value).lower() if isinstance(value, bool) else value


def _listed(records: Iterable[Mapping[str, Any]]) -> str:
    """Records in one cell, each by its cause, or by its question and answer."""
    lines = (
        record["cause"] if "cause" in record else f"{record['asked']}: {record['answer']}"
        for record in records
    )
    return "\n".join(lines)


#: What prints each format, the default first; the last argument is whether CSV has a header.
FORMATS: Final[Mapping[str, Callable[[Data, TextIO, bool], object]]] = {
    "table": lambda data, _stream, _header: data.table(),
    "json": lambda data, stream, _header: stream.write(to_json(data.document())),
    "jsonl": lambda data, stream, _header: stream.write(to_jsonl(data.rows())),
    "csv": lambda data, stream, header: stream.write(
        to_csv(data.rows(), data.columns(), header=header)
    ),
}
