"""A matplotlib figure as a piece of HTML: inline SVG that takes the text colour of the page."""

import re
from html import escape
from io import StringIO

from matplotlib.figure import Figure

from inrreg.report.panels import INK

_HOUSEKEEPING = re.compile(r'<style.*?</style>|<!--.*?-->| xmlns(:\w+)?="[^"]*"', re.DOTALL)
_NAMES = re.compile(r'(\bid="|href="#|url\(#)([^")]+)')


def inline_svg(figure: Figure, label: str, prefix: str) -> str:
    """``figure`` as an ``<svg>`` element without outside references; ``label`` is read aloud,
    ``prefix`` keeps its ids apart from those of other figures.
    """
    buffer = StringIO()
    figure.savefig(
        buffer,
        format="svg",
        facecolor="none",
        metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")),
    )
    text = buffer.getvalue()
    text = (
        _HOUSEKEEPING.sub("", text[text.index("<svg") :])
        .replace("xlink:href", "href")
        .replace(INK, "currentColor")
    )
    names: dict[str, str] = {}
    text = _NAMES.sub(
        lambda found: found[1] + names.setdefault(found[2], f"{prefix}-{len(names)}"), text
    )
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
