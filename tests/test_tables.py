from __future__ import annotations

import io
from xml.etree import ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from hepset.numbers import with_error
from hepset.tables import Marked, Table, plain


def shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    console.print(table.to_rich())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_names_are_escaped_in_html_and_on_the_terminal() -> None:
    name = "<script>alert('&')</script>"
    table = Table(name, ("a<b",), ((name,), (Marked(name, "bad"),)), notes=(name,))
    page = table.to_html()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 4
    assert '<span class="bad">&lt;script&gt;' in page
    assert "[red]jets[/]" in shown(Table("", ("[b]",), (("[red]jets[/]",),)))


def test_terminal_escapes_are_spelt_out() -> None:
    assert plain("a\x1b[31mb\x07\n") == "a\\x1b[31mb\\x07\n"
    found = shown(Table("t\x1b]0;x\x07", ("c\x1b[2J",), (("\x1b[31mred\x9b",),), notes=("\x1b",)))
    assert "\x1b" not in found
    assert "\\x1b[31mred\\x9b" in found
    assert "\x1b" not in Table("", ("",), (("\x1b[31m",),)).to_html()


def test_an_empty_table_shows_nothing() -> None:
    empty = Table("cutflow", ("cut", "events"), notes=("a note",))
    assert empty.to_html() == ""
    assert shown(empty).strip() == ""


def test_numbers_with_errors_stand_flush_right() -> None:
    table = Table("m", ("metric", "model"), (("auc", with_error(0.9123, 0.0041)),), numbers=(1,))
    assert "<th class=number>model</th>" in table.to_html()
    assert "<td class=number>0.9123 ± 0.0041</td>" in table.to_html()
    assert "0.9123 ± 0.0041 │" in shown(table)


def test_a_table_without_titles_has_no_head_and_parts_are_joined() -> None:
    table = Table("", ("", ""), (("name", ("0.8 ", Marked("random\nlimit", "soft"))),))
    assert table.to_html() == (
        '<div class="table"><table><tbody><tr><td>name</td>'
        '<td>0.8 <span class="soft">random<br>limit</span></td></tr></tbody></table></div>'
    )
    assert "0.8 random" in shown(table)


@given(st.text())
def test_any_text_gives_well_formed_html_with_the_same_words(text: str) -> None:
    page = Table("", ("x",), ((text,),)).to_html().replace("<br>", "\n")
    if any(ord(c) in {0xFFFE, 0xFFFF} for c in text):
        return
    cell = ET.fromstring(page).find(".//td")
    assert cell is not None
    assert (cell.text or "") == plain(text)
