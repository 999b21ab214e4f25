from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s5.report.markup import Html, element, table


@given(st.text())
def test_text_never_becomes_markup(text: str) -> None:
    made = element("p", text, title=text)
    inside = made.removeprefix("<p").removesuffix("</p>")
    assert inside.count("<") == 0
    assert made.count('"') == 2 + (inside.split(">", 1)[1].count('"'))


def test_markup_stays_and_none_is_left_out() -> None:
    made = element("div", element("b", "a & b"), None, ["x", Html("<i>y</i>")], class_="k", hidden=True, id=None)
    assert made == '<div class="k" hidden><b>a &amp; b</b>x<i>y</i></div>'
    assert element("br") == "<br>"
    assert element("td", 1234567) == "<td>1,234,567</td>"


def test_tables_have_row_headings() -> None:
    made = table(["a", "b"], [["name", "1.5"], ["<b>", "text"]])
    assert '<th scope="row">name</th><td class="n">1.5</td>' in made
    assert '<th scope="row">&lt;b&gt;</th><td>text</td>' in made
