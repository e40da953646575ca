"""`Table`: a table described once, shown in a notebook, in the report and on a terminal."""

from __future__ import annotations

import html
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["Marked", "Table", "plain"]

Mark = Literal["good", "bad", "soft"]

_COLOURS: dict[Mark, str] = {"good": "green", "bad": "red", "soft": "dim"}


@dataclass(frozen=True, slots=True)
class Marked:
    """Text of a cell that stands out, or stands back."""

    text: str
    mark: Mark


@dataclass(frozen=True, slots=True)
class Table:
    """Titles and cells of a table; escaping and layout happen where it is shown.

    A cell is anything with a ``str``, a `Marked`, or a tuple of both, set one after the other.
    """

    title: str = ""
    columns: tuple[str, ...] = ()
    """Titles of the columns; all empty for a table of names and values, which has no head."""
    rows: tuple[tuple[object, ...], ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences below the table."""
    numbers: tuple[int, ...] = ()
    """Columns that are set flush right."""

    def to_html(self) -> str:
        """Return the table as HTML; empty where it has no rows."""
        if not self.rows:
            return ""
        lines = "".join(self._line("td", row) for row in self.rows)
        head = self._line("th", self.columns) if any(self.columns) else ""
        above = f"<caption>{_html(self.title)}</caption>" if self.title else ""
        top = f"<thead>{head}</thead>" if head else ""
        below = "".join(f"<p>{_html(note)}</p>" for note in self.notes)
        return f'<div class="table"><table>{above}{top}<tbody>{lines}</tbody></table></div>{below}'

    def to_rich(self) -> RenderableType:
        """Return the table for a terminal, with its notes below."""
        from rich.console import Group  # noqa: PLC0415
        from rich.table import Table as RichTable  # noqa: PLC0415

        if not self.rows:
            return Group()
        table = RichTable(
            title=_rich(self.title) if self.title else None,
            title_justify="left",
            show_header=any(self.columns),
        )
        for index, name in enumerate(self.columns):
            table.add_column(
                _rich(name),
                overflow="fold",
                no_wrap=index == 0,
                justify="right" if index in self.numbers else "left",
            )
        for row in self.rows:
            table.add_row(*map(_rich, row))
        return Group(table, *map(_rich, self.notes))

    def _line(self, tag: str, cells: tuple[object, ...]) -> str:
        inner = "".join(
            f"<{tag}{' class=number' if index in self.numbers else ''}>{_html(cell)}</{tag}>"
            for index, cell in enumerate(cells)
        )
        return f"<tr>{inner}</tr>"


def plain(text: str) -> str:
    """Return text with control characters spelt out, such as a terminal's escapes."""
    return "".join(
        c if c == "\n" or unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text
    )


def _html(cell: object) -> str:
    if isinstance(cell, tuple):
        return "".join(map(_html, cell))
    if isinstance(cell, Marked):
        return f'<span class="{cell.mark}">{_html(cell.text)}</span>'
    return html.escape(plain(str(cell))).replace("\n", "<br>")


def _rich(cell: object) -> Text:
    from rich.text import Text  # noqa: PLC0415

    if isinstance(cell, tuple):
        return Text.assemble(*map(_rich, cell))
    if isinstance(cell, Marked):
        return Text(plain(cell.text), style=_COLOURS[cell.mark])
    return Text(plain(str(cell)))
