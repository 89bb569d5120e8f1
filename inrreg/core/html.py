"""Small HTML tables for notebooks."""

from collections.abc import Mapping
from html import escape


def html_table(title: str, rows: Mapping[str, object]) -> str:
    """A table with the caption ``title`` and one line for each name and value."""
    lines = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return (
        f"<table><caption style='text-align:left'><b>{escape(title)}</b></caption>{lines}</table>"
    )
