"""One self-contained HTML page of figures, tables and messages: own style, no script, nothing fetched, light and dark, screen and paper."""

import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal, NamedTuple

from matplotlib.figure import Figure

from inrreg.core.errors import OutputError
from inrreg.report.svg import inline_svg

Value = str | int | float | bool | None
Level = Literal["info", "warning", "error"]

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Row(NamedTuple):
    """One measured value of a table; None stands for "not measured"."""

    name: str
    value: Value
    unit: str = ""
    note: str = ""


class Plate(NamedTuple):
    """A figure with its heading and its caption."""

    heading: str
    figure: Figure
    caption: str = ""


class Table(NamedTuple):
    """Rows under a heading."""

    heading: str
    rows: Sequence[Row]


class Message(NamedTuple):
    """A sentence for the reader."""

    level: Level
    text: str


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    lead: str = "",
    summary: Sequence[Row] = (),
    messages: Sequence[Message] = (),
    tables: Sequence[Table] = (),
    figures: Sequence[Plate] = (),
    details: Sequence[tuple[str, str]] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page to ``path`` and return it: title, ``lead`` sentence, the few ``summary`` values, messages, tables, figures, folded ``details`` (heading, text), provenance.

    Plain tuples do as well as the named ones. Every text is escaped. The file is written beside ``path`` and renamed, so that no half page is left behind.

    Raises:
        OutputError: the file cannot be written.
    """
    page = _PAGE.substitute(
        title=escape(title),
        style=_STYLE,
        lead=f'<p class="lead">{escape(lead)}</p>' if lead else "",
        summary=_within('<dl class="summary">', [_summary(Row(*row)) for row in summary], "</dl>"),
        messages="\n".join(_message(Message(*message)) for message in messages),
        tables=_within('<section class="tables">', [_table(Table(*table)) for table in tables], "</section>"),
        figures="\n".join(_plate(Plate(*plate), index) for index, plate in enumerate(figures, 1)),
        details="\n".join(_details(heading, text) for heading, text in details),
        provenance=_within("<footer><dl>", [_entry(name, value) for name, value in (provenance or {}).items()], "</dl></footer>"),
    )
    target = Path(path)
    part = target.with_name(target.name + ".part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: the report cannot be written ({error.strerror}); choose another folder or free some space") from error
    return target


def format_value(value: Value) -> str:
    """A value for the eye: three significant digits, whole numbers in full, "not measured" for None."""
    if value is None:
        return "not measured"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    return _format_number(float(value)).replace("-", "\u2212")


def _format_number(value: float) -> str:
    """Narrow spaces between thousands, powers of ten for the very small."""
    rounded = float(f"{value:.3g}")
    if value == int(value) or abs(rounded) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    if abs(rounded) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return f"{rounded:.{max(2 - math.floor(math.log10(abs(rounded))), 0)}f}"


def _note(note: str) -> str:
    return f"<small>{escape(note)}</small>" if note else ""


def _shown(row: Row) -> tuple[str, str, str]:
    """Attribute, value and unit as they stand in the page; what was not measured has no unit."""
    if row.value is None:
        return ' class="unmeasured"', format_value(None), ""
    return "", escape(format_value(row.value)), escape(row.unit)


def _summary(row: Row) -> str:
    state, value, unit = _shown(row)
    return f'<div><dt>{escape(row.name)}</dt><dd{state}>{value} <span class="unit">{unit}</span></dd>{_note(row.note)}</div>'


def _table_row(row: Row) -> str:
    state, value, unit = _shown(row)
    return f'<tr><th scope="row">{escape(row.name)}{_note(row.note)}</th><td{state}>{value}</td><td>{unit}</td></tr>'


def _message(message: Message) -> str:
    return f'<p class="message {escape(message.level)}"><b>{escape(message.level.capitalize())}</b> {escape(message.text)}</p>'


def _table(table: Table) -> str:
    return f"<table><caption>{escape(table.heading)}</caption><tbody>{''.join(_table_row(Row(*row)) for row in table.rows)}</tbody></table>"


def _plate(plate: Plate, index: int) -> str:
    caption = f"<figcaption>{escape(plate.caption)}</figcaption>" if plate.caption else ""
    return f"<figure><h2>{escape(plate.heading)}</h2>{inline_svg(plate.figure, plate.heading, f'f{index}')}{caption}</figure>"


def _details(heading: str, text: str) -> str:
    return f"<details><summary>{escape(heading)}</summary><pre>{escape(text)}</pre></details>"


def _entry(name: str, value: Any) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"


def _within(start: str, items: Sequence[str], end: str) -> str:
    """Nothing at all where there are no items."""
    return start + "\n".join(items) + end if items else ""


_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #24292f; --muted: #6a717b; --line: #e4e4e0; --accent: #3f86c6; --good: #3f9d74; --warn: #c98a1b; --bad: #c9485b; }
@media screen and (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #dcdfe3; --muted: #8f969f; --line: #2c3036; } }
* { box-sizing: border-box; }
html { background: var(--paper); color: var(--ink); font: 400 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
body { max-width: 64rem; margin: 0 auto; padding: 3.5rem 2rem 4rem; }
h1 { font-size: 1.65rem; font-weight: 600; line-height: 1.25; letter-spacing: -0.012em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; font-weight: 600; margin: 0 0 0.9rem; }
small { display: block; font-size: 0.8125rem; line-height: 1.4; font-weight: 400; color: var(--muted); }
.lead { margin: 0.5rem 0 0; color: var(--muted); max-width: 46rem; }
.unmeasured, .summary .unmeasured { color: var(--muted); font-weight: 400; font-style: italic; }
.summary { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: 1.5rem 2rem; margin: 2.25rem 0 0; padding: 1.4rem 0 1.5rem; border-block: 1px solid var(--line); }
.summary dt { font-size: 0.8125rem; color: var(--muted); }
.summary dd { margin: 0.1rem 0; font-size: 1.375rem; font-weight: 500; line-height: 1.3; font-variant-numeric: tabular-nums; }
.summary .unit { font-size: 0.7em; font-weight: 400; color: var(--muted); margin-left: -0.1em; }
.message { margin: 1rem 0 0; padding: 0.1rem 0 0.1rem 0.9rem; border-left: 3px solid var(--accent); max-width: 46rem; }
.message.warning { border-color: var(--warn); }
.message.error { border-color: var(--bad); }
.tables { columns: 2 24rem; column-gap: 3.5rem; margin-top: 2.5rem; }
table { width: 100%; border-collapse: collapse; font-size: 0.875rem; margin: 0 0 2rem; break-inside: avoid; }
caption { text-align: left; font-size: 1.05rem; font-weight: 600; padding-bottom: 0.4rem; }
tr { border-top: 1px solid var(--line); }
th { font-weight: 400; text-align: left; padding: 0.28rem 1rem 0.28rem 0; }
td { text-align: right; white-space: nowrap; padding: 0.28rem 0; vertical-align: top; font-variant-numeric: tabular-nums; }
td + td { text-align: left; width: 2.2em; padding-left: 0.35em; color: var(--muted); }
figure { margin: 3rem 0 0; break-inside: avoid; }
figure svg { display: block; max-width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg image { image-rendering: auto !important; }
figcaption { margin-top: 0.8rem; font-size: 0.875rem; color: var(--muted); max-width: 46rem; }
details { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; }
details + details { margin-top: 1rem; }
summary { cursor: pointer; font-size: 1.05rem; font-weight: 600; }
pre { font: 0.8125rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0.8rem 0 0; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1rem; font-size: 0.8125rem; color: var(--muted); }
footer dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(24rem, 1fr)); gap: 0.2rem 2rem; margin: 0; }
footer div { display: flex; gap: 0.6em; }
footer dt::after { content: ":"; }
footer dd { margin: 0; overflow-wrap: anywhere; }
@page { margin: 16mm 15mm; }
@media print {
  :root { --paper: #fff; --ink: #111; --muted: #555; --line: #ccc; }
  html { font-size: 10pt; }
  body { max-width: none; padding: 0; }
  table { font-size: 8pt; margin-bottom: 1.2rem; }
  th, td { padding-block: 0.14rem; }
  .summary, .message, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; height: auto; }
}
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
$lead
$summary
$messages
</header>
<main>
$tables
$figures
$details
</main>
$provenance
</body>
</html>
""")
