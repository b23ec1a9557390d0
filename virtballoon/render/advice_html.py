"""Advice as a single HTML page, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Final

from virtballoon.render import text
from virtballoon.render.advice import bins, by_host, facts, gain, totals
from virtballoon.render.documents import timestamp
from virtballoon.sizing.day import DAY_SECONDS
from virtballoon.sizing.rule import Advice

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #5b6168; --ground: #fff; --line: #d8dce0;
  --bar: #4878b0; --over: #8a5a00; --under: #b3261e; --right: #1e6e34; --unknown: #5b6168 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e8; --dim: #9aa1a8; --ground: #16181b;
  --line: #363b41; --bar: #6f9fd8; --over: #e0ab4a; --under: #ff8a80; --right: #7ccf91;
  --unknown: #9aa1a8 } }
@media print { :root { color-scheme: light; --ink: #000; --dim: #444; --ground: #fff; --line: #bbb;
  --bar: #4878b0; --over: #7a5000; --under: #a00; --right: #060; --unknown: #444 }
  section { break-inside: avoid } th button::after { content: none !important } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; font: 1rem/1.45 system-ui, sans-serif;
  color: var(--ink); background: var(--ground) }
h1 { font-size: 1.5rem; margin: .5rem 0 } h2 { font-size: 1.1rem; margin: 0 0 .5rem }
p { margin: .25rem 0; color: var(--dim) }
h1, h2, td, dd, p { overflow-wrap: anywhere }
a { color: inherit }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top }
th button { all: unset; cursor: pointer; font-weight: 600; white-space: nowrap }
th button:focus-visible { outline: 2px solid var(--bar) }
th[aria-sort=ascending] button::after { content: " \\25b2" }
th[aria-sort=descending] button::after { content: " \\25bc" }
.n { text-align: right; white-space: nowrap } .v { font-weight: 600; white-space: nowrap }
.over { color: var(--over) } .under { color: var(--under) } .right { color: var(--right) }
.unknown { color: var(--unknown) }
section { border-top: 1px solid var(--line); padding: 1rem 0 }
.charts { display: flex; flex-wrap: wrap; gap: 1rem }
figure { margin: 0; flex: 1 1 18rem; min-width: 0 }
figcaption { color: var(--dim); font-size: .85rem }
svg { width: 100%; height: auto; display: block }
rect { fill: var(--bar) } line { stroke: var(--line) }
svg text { fill: var(--dim); font-size: 11px }
line.now { stroke: var(--ink); stroke-dasharray: 5 4 } line.need { stroke: var(--under) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; font-size: .9rem }
dt { color: var(--dim) } dd { margin: 0 }
@media (max-width: 40rem) { thead { display: none } table, tbody { display: block }
  tr { display: grid; grid-template-columns: repeat(3, 1fr); padding: .5rem 0;
    border-bottom: 1px solid var(--line) }
  td { border: 0; padding: .1rem .25rem .1rem 0 } td.w { grid-column: 1 / -1 }
  td.n { text-align: left } td.n::before { content: attr(data-head) " "; color: var(--dim);
    font-size: .8rem; display: block } }
"""

#: Without it, the table is as it is, sorted by name.
_SCRIPT: Final = """
for (const head of document.querySelectorAll("th")) {
  const button = document.createElement("button");
  button.textContent = head.textContent;
  head.replaceChildren(button);
  button.onclick = () => {
    const up = head.getAttribute("aria-sort") !== "ascending", at = head.cellIndex;
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[at].dataset.key ?? row.cells[at].textContent;
    const body = head.closest("table").tBodies[0];
    body.append(...[...body.rows].sort((one, other) =>
      (up ? 1 : -1) * key(one).localeCompare(key(other), "en", { numeric: true })));
  };
}
"""

_WIDTH: Final = 480
_HEIGHT: Final = 130
#: Room on the left for the labels of the axis, and at the bottom.
_LEFT: Final = 70
_BOTTOM: Final = 18
_MOST_BARS: Final = 40


def page(rows: Sequence[Advice], *, generated_at: float) -> str:
    """A whole page.

    :param generated_at: epoch seconds
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    hosts = "".join(
        f"<p>{_safe(host.value or text.ABSENT)}: {text.counted(len(host.rows), 'domain')}; "
        f"{_safe(totals(host))}</p>\n"
        for host in by_host(rows)
    )
    heads = "".join(
        f'<th scope="col"{_number(name in {"Current", "Need", "Gain"})}>{name}</th>'
        for name in ("Domain", "Current", "Need", "Gain", "Verdict", "Because")
    )
    body = "".join(_line(row, number) for number, row in enumerate(rows))
    sections = "".join(_section(row, number) for number, row in enumerate(rows))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Memory that domains need</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Memory that domains need</h1>
<p>{timestamp(int(generated_at))}, by what they have used, times 1.20</p>
{hosts}<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{body}</tbody>
</table>
{sections}<script>{_SCRIPT}</script>
</body>
</html>
"""


def _safe(words: str) -> str:
    return escape(text.printable(words))


def _number(is_number: bool) -> str:  # noqa: FBT001
    return ' class="n"' if is_number else ""


def _called(row: Advice) -> str:
    title = row.history.title
    return _safe(f"{row.name} ({title})" if title else row.name)


def _verdict(row: Advice) -> str:
    flat = " (flat)" if row.is_flat else ""
    return f'<span class="{row.verdict.value}">{row.verdict.value}{flat}</span>'


def _line(row: Advice, number: int) -> str:
    sizes = (
        ("Current", row.current_bytes, text.size(row.current_bytes)),
        ("Need", row.need_bytes, text.size(row.need_bytes)),
        ("Gain", row.gain_bytes, gain(row.gain_bytes)),
    )
    cells = [f'<td class="w"><a href="#d{number}">{_called(row)}</a></td>']
    # Above 0, since what sorts them as text knows no sign.
    cells += [
        f'<td class="n" data-head="{head}" data-key="{0 if value is None else value + 2**62}">'
        f"{shown}</td>"
        for head, value, shown in sizes
    ]
    cells += [f'<td class="v w">{_verdict(row)}</td>', f'<td class="w">{_safe(row.because)}</td>']
    return f"<tr>{''.join(cells)}</tr>\n"


def _section(row: Advice, number: int) -> str:
    known = "".join(f"<dt>{name}</dt><dd>{_safe(value)}</dd>" for name, value in facts(row))
    return (
        f'<section id="d{number}">\n<h2>{_called(row)}: {_verdict(row)}</h2>\n'
        f"<p>{_safe(row.because)}</p>\n"
        f'<div class="charts">{_time_line(row)}{_histogram(row)}</div>\n'
        f"<dl>{known}</dl>\n</section>\n"
    )


def _time_line(row: Advice) -> str:
    peaks = [day.peak.value for day in row.days if day.peak is not None]
    sizes = [size for size in (row.current_bytes, row.need_bytes) if size is not None]
    most = max([*peaks, *sizes], default=0)
    if not peaks or not most:
        return ""
    first = row.days[0].date
    count = (row.days[-1].date - first).days + 1
    bars = []
    for day in row.days:
        if day.peak is None:
            continue
        covered = text.percent(min(1, day.covered_seconds / DAY_SECONDS))
        about = f"{day.date}: at most {text.size(day.peak.value)}, {covered} covered"
        bars.append(((day.date - first).days / count, 1 / count, day.peak.value / most, about))
    lines = [(size / most, name, text.size(size)) for name, size in _sizes(row)]
    return _chart(
        "The most that was used each day; dashed: current, red: need",
        bars,
        lines,
        (first.isoformat(), row.days[-1].date.isoformat()),
    )


def _sizes(row: Advice) -> list[tuple[str, int]]:
    sizes = (("now", row.current_bytes), ("need", row.need_bytes))
    return [(name, size) for name, size in sizes if size is not None]


def _histogram(row: Advice) -> str:
    parts = bins(row, _MOST_BARS)
    if not parts:
        return ""
    most = max(share for _, _, share in parts)
    bars = [
        (
            number / len(parts),
            1 / len(parts),
            share / most,
            f"{text.size(low)} to {text.size(high)}: {share:.1%} of the time",
        )
        for number, (low, high, share) in enumerate(parts)
    ]
    ends = text.size(parts[0][0]), text.size(parts[-1][1])
    return _chart("Share of the time, by used memory", bars, [(1, "most", f"{most:.0%}")], ends)


def _chart(
    caption: str,
    bars: Sequence[tuple[float, float, float, str]],
    lines: Sequence[tuple[float, str, str]],
    ends: tuple[str, str],
) -> str:
    """Bars (where from, how wide, how high, each as a share; what it is), lines (how high, its
    kind, its label) and what the axis begins and ends with."""
    wide, high, base = _WIDTH - _LEFT, _HEIGHT - _BOTTOM - 10, _HEIGHT - _BOTTOM
    shapes = [
        f'<rect x="{_LEFT + wide * left:.1f}" y="{base - high * share:.1f}" '
        f'width="{max(1, min(wide * width - 2, 40)):.1f}" height="{high * share:.1f}">'
        f"<title>{_safe(about)}</title></rect>"
        for left, width, share, about in bars
    ]
    taken: list[float] = []
    for share, kind, label in lines:
        y = base - high * share
        shapes.append(
            f'<line class="{kind}" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        # Two labels do not stand on one another.
        place = y + 4 if all(abs(y - other) > 12 for other in taken) else y + 16  # noqa: PLR2004
        taken.append(y)
        shapes.append(f'<text x="{_LEFT - 6}" y="{place:.1f}" text-anchor="end">{label}</text>')
    shapes.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{base}" y2="{base}"/>')
    for x, anchor, label in zip((_LEFT, _WIDTH), ("start", "end"), ends, strict=True):
        shapes.append(f'<text x="{x}" y="{_HEIGHT - 4}" text-anchor="{anchor}">{label}</text>')
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{caption}">'
        f"{''.join(shapes)}</svg><figcaption>{caption}</figcaption></figure>"
    )
