"""Pieces of a web page that needs nothing but itself: tables, figures, sections."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import matplotlib as mpl

from hepset.figures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hepset.interfaces.judge import Drawing

__all__ = [
    "Room",
    "Section",
    "cards",
    "details",
    "embed",
    "escape",
    "figure",
    "note",
    "page",
    "paragraph",
    "pre",
    "table",
]

PIXELS_PER_INCH: Final = 88
"""Size of figures on the page."""
VECTOR_FIGURES: Final = 16
"""Figures of heads that are vector graphics; those after them are smaller as PNG."""
LARGEST_SVG: Final = 600_000
"""Bytes above which a figure is embedded as PNG: many points make slow vector graphics."""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: Heading; also what the list of contents shows.
        body: HTML.
        level: 2 for a main section, 3 for one inside it.
    """

    title: str
    body: str
    level: int = 2

    @property
    def anchor(self) -> str:
        """The name of the section in addresses."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.casefold()).strip("-")


def page(title: str, subtitle: str, lead: str, sections: Sequence[Section]) -> str:
    """Return a complete HTML document; `lead` is HTML that stands before the sections."""
    contents = "".join(
        f'<li class="level{part.level}"><a href="#{part.anchor}">{html.escape(part.title)}</a></li>'
        for part in sections
    )
    body = "".join(
        f'<section id="{part.anchor}"><h{part.level}>{html.escape(part.title)}</h{part.level}>'
        f"{part.body}</section>"
        for part in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>"
        f'<div class="columns"><nav><ul>{contents}</ul></nav><main>{lead}{body}</main></div>'
        "</body></html>\n"
    )


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Sequence[int] = (),
    caption: str = "",
) -> str:
    """Return a table.

    Args:
        head: Titles of the columns.
        rows: Cells; text is escaped, `Markup` is not.
        numbers: Columns that are set flush right.
        caption: Text above the table.
    """
    lines = []
    for row in rows:
        cells = "".join(
            f"<td{' class=number' if index in numbers else ''}>{_cell(cell)}</td>"
            for index, cell in enumerate(row)
        )
        lines.append(f"<tr>{cells}</tr>")
    if not lines:
        return ""
    titles = "".join(
        f"<th{' class=number' if index in numbers else ''}>{html.escape(title)}</th>"
        for index, title in enumerate(head)
    )
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    top = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    return f'<div class="table"><table>{above}{top}<tbody>{"".join(lines)}</tbody></table></div>'


class Markup(str):
    """HTML that is not escaped again."""

    __slots__ = ()


def escape(text: str) -> Markup:
    """Return plain text as HTML."""
    return Markup(html.escape(text))


def _cell(cell: object) -> str:
    return cell if isinstance(cell, Markup) else html.escape(str(cell))


def figure(drawing: Figure, title: str, caption: str, largest: int = LARGEST_SVG) -> str:
    """Return a figure with its caption; the picture is inside the page, in its natural size."""
    width = PIXELS_PER_INCH * drawing.get_figwidth()
    return (
        f'<figure><img src="{embed(drawing, largest)}" alt="{html.escape(title)}" '
        f'style="width:{width:.0f}px">'
        f"<figcaption><b>{html.escape(title)}.</b> {html.escape(caption)}</figcaption></figure>"
    )


class Room:
    """Room for figures on a page: vector graphics first, PNG for the rest, and no more than fits.

    Args:
        size: Bytes that all figures may take.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._vectors = VECTOR_FIGURES

    def figure(self, drawing: Drawing) -> str:
        """Draw a figure, and return it with its caption; empty where there is no room left."""
        if self._left <= 0:
            return ""
        largest = LARGEST_SVG if self._vectors > 0 else 0
        found = figure(drawing.figure, drawing.title, drawing.caption, largest=largest)
        self._left -= len(found)
        self._vectors -= 1
        return found


def embed(drawing: Figure, largest: int = LARGEST_SVG) -> str:
    """Return a figure that has been laid out as a data address: SVG, or PNG where that is large.

    Args:
        drawing: The figure.
        largest: Bytes of SVG above which it becomes a PNG; 0 for PNG in any case.

    The bytes depend on the figure alone.
    """
    # `styled` has laid the figure out; doing it again for every format is most of the time.
    drawing.set_layout_engine("none")
    buffer = io.BytesIO()
    if not largest:
        save(drawing, buffer, format="png", dpi=110, metadata={"Software": None})
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    with mpl.rc_context({"svg.hashsalt": "hepset", "svg.fonttype": "path"}):
        save(drawing, buffer, format="svg", metadata={"Date": None, "Creator": None})
    if buffer.tell() <= largest:
        return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    buffer = io.BytesIO()
    save(drawing, buffer, format="png", dpi=150, metadata={"Software": None})
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def gallery(figures: Iterable[str]) -> str:
    """Put figures side by side where there is room."""
    return f'<div class="gallery">{"".join(figures)}</div>'


def cards(items: Iterable[tuple[str, str, str]]) -> str:
    """Return large numbers: title, number, what stands beside it."""
    inner = "".join(
        f'<div class="card"><p>{html.escape(title)}</p><strong>{html.escape(value)}</strong>'
        f"<p>{html.escape(beside)}</p></div>"
        for title, value, beside in items
    )
    return f'<div class="cards">{inner}</div>' if inner else ""


def paragraph(text: str) -> str:
    """Return a paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def note(text: str, *, warning: bool = False) -> str:
    """Return a remark in a box."""
    return f'<p class="{"warning" if warning else "note"}">{html.escape(text)}</p>'


def pre(text: str) -> str:
    """Return text as it is, such as a configuration."""
    return f"<pre>{html.escape(text)}</pre>"


def details(summary: str, body: str) -> str:
    """Return something that is shown on request."""
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


STYLE: Final = """
:root{--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--back:#f6f8fa;--accent:#0072b2}
*{box-sizing:border-box}
body{margin:0;font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,
sans-serif;color:var(--ink);background:#fff}
header{padding:1.6rem 2rem 1.1rem;border-bottom:1px solid var(--line);background:var(--back)}
h1{margin:0;font-size:1.7rem;font-weight:650}
header p{margin:.25rem 0 0;color:var(--soft)}
.columns{display:grid;grid-template-columns:13.5rem minmax(0,1fr);gap:2.2rem;max-width:88rem;
padding:0 2rem 4rem}
nav{position:sticky;top:0;align-self:start;padding-top:1.6rem;max-height:100vh;overflow:auto}
nav ul{list-style:none;margin:0;padding:0;font-size:.92rem}
nav li{margin:.28rem 0}
nav .level3{padding-left:1rem}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
main{padding-top:.6rem;min-width:0}
h2{margin:2.4rem 0 .7rem;padding-bottom:.25rem;border-bottom:1px solid var(--line);
font-size:1.35rem}
h3{margin:1.8rem 0 .5rem;font-size:1.12rem}
.table{overflow-x:auto;margin:.7rem 0 1.2rem}
table{border-collapse:collapse;font-size:.91rem;font-variant-numeric:tabular-nums}
caption{text-align:left;white-space:nowrap;color:var(--soft);padding-bottom:.3rem}
th,td{padding:.32rem .8rem .32rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--line)}
th{font-weight:600;border-bottom:2px solid var(--line);white-space:nowrap}
td{max-width:34rem;overflow-wrap:anywhere}
.number{text-align:right;white-space:nowrap;padding-left:.8rem}
.good{color:#116329;font-weight:600}.bad{color:#a40e26;font-weight:600}.soft{color:var(--soft)}
.cards{display:flex;flex-wrap:wrap;gap:1rem;margin:1.2rem 0}
.card{flex:1 1 13rem;padding:.9rem 1.1rem;border:1px solid var(--line);border-radius:8px;
background:var(--back)}
.card p{margin:0;color:var(--soft);font-size:.9rem}
.card strong{display:block;margin:.15rem 0;font-size:1.35rem;font-weight:650}
.note,.warning{padding:.6rem .9rem;border-left:4px solid var(--accent);background:var(--back)}
.warning{border-color:#d55e00;background:#fff8f2}
.gallery{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(27rem,100%),1fr));
gap:1.4rem;align-items:start}
figure{margin:.6rem 0}
figure img{display:block;height:auto;max-width:100%}
figcaption{margin-top:.35rem;font-size:.88rem;color:var(--soft);max-width:60rem}
details{margin:.7rem 0}
summary{cursor:pointer;color:var(--accent)}
pre{padding:.8rem 1rem;background:var(--back);border:1px solid var(--line);border-radius:6px;
overflow-x:auto;font-size:.84rem;line-height:1.4}
@media (max-width:60rem){.columns{display:block;padding:0 1rem 3rem}nav{position:static}}
@media print{nav{display:none}.columns{display:block;padding:0}section{break-inside:auto}
figure,tr{break-inside:avoid}h2,h3{break-after:avoid}details>*{display:block}}
"""
