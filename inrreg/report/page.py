"""One self-contained HTML page of figures, tables and messages: own style, no script, nothing
fetched, light and dark, screen and paper.
"""

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

STYLE = Path(__file__).with_name("page.css")

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
    """Write the page to ``path`` and return it: title, ``lead`` sentence, the few ``summary``
    values, messages, tables, figures, folded ``details`` (heading, text), provenance.

    Plain tuples do as well as the named ones. Every text is escaped. The file is written beside
    ``path`` and renamed, so that no half page is left behind.

    Raises:
        OutputError: the file cannot be written.
    """
    page = _PAGE.substitute(
        title=escape(title),
        style=STYLE.read_text(encoding="utf-8"),
        lead=f'<p class="lead">{escape(lead)}</p>' if lead else "",
        summary=_within('<dl class="summary">', [_summary(Row(*row)) for row in summary], "</dl>"),
        messages="\n".join(_message(Message(*message)) for message in messages),
        tables=_within(
            '<section class="tables">', [_table(Table(*table)) for table in tables], "</section>"
        ),
        figures="\n".join(_plate(Plate(*plate), index) for index, plate in enumerate(figures, 1)),
        details="\n".join(_details(heading, text) for heading, text in details),
        provenance=_within(
            "<footer><dl>",
            [_entry(name, value) for name, value in (provenance or {}).items()],
            "</dl></footer>",
        ),
    )
    target = Path(path)
    part = target.with_name(target.name + ".part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(target)
    except OSError as error:
        raise OutputError(
            f"{target}: the report cannot be written ({error.strerror}); choose another folder or"
            " free some space"
        ) from error
    return target


def format_value(value: Value) -> str:
    """A value for the eye: three significant digits, whole numbers in full, "not measured" for
    None.
    """
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
    return (
        f"<div><dt>{escape(row.name)}</dt><dd{state}>{value} <span"
        f' class="unit">{unit}</span></dd>{_note(row.note)}</div>'
    )


def _table_row(row: Row) -> str:
    state, value, unit = _shown(row)
    name = f'<th scope="row">{escape(row.name)}{_note(row.note)}</th>'
    return f"<tr>{name}<td{state}>{value}</td><td>{unit}</td></tr>"


def _message(message: Message) -> str:
    return (
        f'<p class="message {escape(message.level)}"><b>{escape(message.level.capitalize())}</b>'
        f" {escape(message.text)}</p>"
    )


def _table(table: Table) -> str:
    rows = "".join(_table_row(Row(*row)) for row in table.rows)
    caption = f"<caption>{escape(table.heading)}</caption>"
    return f"<table>{caption}<tbody>{rows}</tbody></table>"


def _plate(plate: Plate, index: int) -> str:
    caption = f"<figcaption>{escape(plate.caption)}</figcaption>" if plate.caption else ""
    drawing = inline_svg(plate.figure, plate.heading, f"f{index}")
    return f"<figure><h2>{escape(plate.heading)}</h2>{drawing}{caption}</figure>"


def _details(heading: str, text: str) -> str:
    return f"<details><summary>{escape(heading)}</summary><pre>{escape(text)}</pre></details>"


def _entry(name: str, value: Any) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>"


def _within(start: str, items: Sequence[str], end: str) -> str:
    """Nothing at all where there are no items."""
    return start + "\n".join(items) + end if items else ""


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
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
