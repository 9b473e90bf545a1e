from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.reporting import page
from stages.reporting.page import Badge, Heading, Link, Problems, Table, Text, Verdicts

HOSTILE = [
    '</pre></details><script>alert(1)</script>',
    '<img src="http://evil.example/x.png" onerror=alert(1)>',
    "\" onmouseover=\"alert(1)\" x='",
    "<!-- --><style>*{display:none}</style><base href=//evil.example>",
    "&lt;b&gt; &#x3c;script&#x3e;",
    "a\x00b\x1b[2J\u202egnp.exe\u2066\ud800",
]  # fmt: skip
OURS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "nav", "a", "p", "div",
        "span", "b", "pre", "details", "summary", "table", "thead", "tbody", "tr", "th", "td", "ul",
        "li"}  # fmt: skip


class Reader(HTMLParser):
    """What a browser would find: elements, attributes, and the text of each `pre`."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.pre: list[str] = []
        self.open = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        self.open = tag == "pre"
        if self.open:
            self.pre.append("")

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.pre[-1] += data


def problems(text: str) -> Problems:
    row = {"question": text, "gold": text, "level": text, "answer": text, "completion": text,
           "error": text, "line": 3}  # fmt: skip
    both = [({**row, "correct": False}, {**row, "correct": True})]
    return Problems(text, page.slug(text), "sft", "grpo", both)


def blocks(text: str) -> list:
    cells = [text, Link(text, page.slug(text)), Badge(text)]
    words = [each(text) for each in (Text, page.Note, page.Alarm)]
    return [Heading(text, "a"), *words, Verdicts([("better", text)]), Table([cells, cells]),
            page.Folded(text, words), problems(text)]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_and_does_nothing(text):
    written = page.page(text, blocks(text))
    written.encode()  # a lone surrogate could not be written
    found = Reader(written)
    assert found.tags <= OURS
    assert {name for name, _ in found.attributes} <= {
        "lang", "charset", "http-equiv", "content", "name", "id", "class", "href", "role",
        "tabindex",
    }  # fmt: skip
    assert all(value.startswith("#") for name, value in found.attributes if name == "href")
    assert found.pre == [page.visible(text)] * 2, "all of it, in both completions"


@given(st.text(max_size=200))
def test_any_completion_reads_as_it_was_written(text):
    found = Reader(problems(text).html())
    shown = page.visible(text).replace("\r\n", "\n").replace("\r", "\n")
    completions = [each.replace("\r\n", "\n").replace("\r", "\n") for each in found.pre[-2:]]
    assert completions == [shown, shown]
    assert found.tags <= OURS


@given(st.text(max_size=80))
def test_any_text_is_one_cell_of_a_markdown_table(text):
    written = Table([["a", "b"], [text, "end"]]).markdown()
    *_, row = lines = written.split("\n")
    assert len(lines) == 3
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 3
    assert "<" not in row


def test_hostile_markdown_links_to_nothing():
    written = page.markdown("t", [Text("[x](http://evil.example) <b> `code` **loud**")])
    assert "[x\\](http" in written and "&lt;b&gt;" in written
    assert "\\`code\\`" in written and "\\*\\*loud\\*\\*" in written


def test_long_completions_and_long_lists_are_cut_and_counted():
    row = {"question": "q", "gold": "1", "completion": "x" * 10_000, "correct": True, "line": 1}
    written = Problems("gained", "a", "sft", "grpo", [(row, row)] * 50).html()
    assert written.count("<details>") == page.MOST == 20
    assert "gained: 50, the first 20 of them" in written
    assert "(7,000 more characters)" in written and "x" * 3001 not in written
    assert "samples/grpo.jsonl, line 1" in written and "no answer" in written
    assert "None." in Problems("lost", "a", "sft", "grpo", []).html()


def test_the_page_lets_nothing_be_loaded():
    written = page.page("t", [Heading("Results", "results")])
    assert "default-src 'none'" in written and "width=device-width" in written
    assert '<a href="#results">Results</a>' in written
