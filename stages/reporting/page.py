"""A document as a list of blocks, each of which can write itself as Markdown and as HTML.

Everything that is shown may be hostile: completions are a model's, questions and levels come with
data. All of it is escaped here, in `escape` and `escape_markdown`, and nowhere else.
"""

import html
import re
from typing import NamedTuple

from stages.reporting.pairs import Both, Pair

LONG_CELL = 60  # characters from which on a cell's text may break into lines
SHORT = 160  # characters of a question that stand on one line
LONGEST = 3000  # characters shown of a completion
MOST = 20  # problems shown of a pair's gained, and of its lost ones
# Control characters, surrogates, and those that turn the direction of the text around them.
HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


class Link(NamedTuple):
    """A table cell that leads to a heading of the page."""

    text: str
    anchor: str


class Badge(NamedTuple):
    """A table cell with a verdict."""

    text: str


Cell = str | Link | Badge


class Heading(NamedTuple):
    text: str
    anchor: str

    def markdown(self) -> str:
        return f"## {escape_markdown(self.text)}"

    def html(self) -> str:
        return f'<h2 id="{escape(self.anchor)}">{escape(self.text)}</h2>'


class Text(NamedTuple):
    text: str

    def markdown(self) -> str:
        return escape_markdown(self.text)

    def html(self) -> str:
        return f"<p>{escape(self.text)}</p>"


class Note(NamedTuple):
    """How to read what stands above it."""

    text: str

    def markdown(self) -> str:
        return f"*{escape_markdown(self.text)}*"

    def html(self) -> str:
        return f'<p class="note">{escape(self.text)}</p>'


class Alarm(NamedTuple):
    """What must not be overlooked."""

    text: str

    def markdown(self) -> str:
        return f"**{escape_markdown(self.text)}**"

    def html(self) -> str:
        return f'<p class="alarm" role="alert">{escape(self.text)}</p>'


class Verdicts(NamedTuple):
    """(verdict, what was found), one a line."""

    found: list[tuple[str, str]]

    def markdown(self) -> str:
        return "\n".join(
            f"- {cell_markdown(Badge(verdict))}: {escape_markdown(said)}"
            for verdict, said in self.found
        )

    def html(self) -> str:
        items = "".join(
            f"<li>{cell_html(Badge(verdict))} {escape(said)}</li>" for verdict, said in self.found
        )
        return f'<ul class="verdicts">{items}</ul>'


class Table(NamedTuple):
    """The first row is the heading."""

    rows: list[list[Cell]]

    def markdown(self) -> str:
        lines = ["| " + " | ".join(map(cell_markdown, row)) + " |" for row in self.rows]
        return "\n".join([lines[0], "|" + "---|" * len(self.rows[0]), *lines[1:]])

    def html(self) -> str:
        def line(row: list[Cell], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{cell_html(c)}</{tag}>" for c in row) + "</tr>"

        body = "".join(line(row, "td") for row in self.rows[1:])
        head = line(self.rows[0], "th")
        table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
        return f'<div class="scroll" tabindex="0">{table}</div>'


class Charts(NamedTuple):
    """Pictures: SVG elements in the page, one PNG file beside it for Markdown."""

    png: str
    shows: str
    svgs: list[str]

    def markdown(self) -> str:
        return f"![{escape_markdown(self.shows)}]({self.png})"

    def html(self) -> str:
        figures = "".join(
            f'<figure role="img" aria-label="{escape(self.shows)}">{svg}</figure>'
            for svg in self.svgs
        )
        return f'<div class="charts">{figures}</div>'


class Folded(NamedTuple):
    """Blocks behind a line that opens on a click."""

    title: str
    blocks: list

    def markdown(self) -> str:
        return "\n\n".join(
            [f"### {escape_markdown(self.title)}", *(block.markdown() for block in self.blocks)]
        )

    def html(self) -> str:
        inner = "".join(block.html() for block in self.blocks)
        return f"<details><summary>{escape(self.title)}</summary>{inner}</details>"


class Problems(NamedTuple):
    """Problems with the completions of two models; only in the page, they are long."""

    title: str
    anchor: str
    before: str
    after: str
    both: list[Both]

    def markdown(self) -> str:
        link = Link(f"{self.title}: {len(self.both)}", self.anchor)
        return f"- {cell_markdown(link)}"

    def html(self) -> str:
        shown = "".join(self.problem(was, now) for was, now in self.both[:MOST])
        count = len(self.both)
        first = f", the first {MOST} of them" if count > MOST else ""
        return (
            f'<h3 id="{escape(self.anchor)}">{escape(f"{self.title}: {count}{first}")}</h3>'
            f"{shown or '<p>None.</p>'}"
        )

    def problem(self, was: dict, now: dict) -> str:
        sides = "".join(self.side(model, row)
                        for model, row in ((self.before, was), (self.after, now)))  # fmt: skip
        level = f" (level {now['level']})" if now.get("level") is not None else ""
        question = str(now["question"])
        whole = f"<pre>{escape(cut(question))}</pre>" if len(question) > SHORT else ""
        return (
            f"<details><summary>{escape(cut(question, SHORT))}</summary>{whole}"
            f"<p>gold: <b>{escape(cut(str(now['gold']), 300))}</b>{escape(level)}</p>"
            f'<div class="sides">{sides}</div></details>'
        )

    def side(self, model: str, row: dict) -> str:
        verdict = "right" if row["correct"] else "wrong"
        kind = f", {row['error']}" if row.get("error") else ""
        answer = "no answer" if row.get("answer") is None else f"answer {row['answer']}"
        where = f"samples/{model}.jsonl, line {row['line']}"
        return (
            f"<div><p><b>{escape(model)}</b>: {escape(verdict + kind)}, {escape(cut(answer, 300))} "
            f'<span class="note">{escape(where)}</span></p>'
            f"<pre>{escape(cut(str(row['completion'])))}</pre></div>"
        )


def cut(text: str, longest: int = LONGEST) -> str:
    left = len(text) - longest
    return f"{text[:longest]} … ({left:,} more characters)" if left > 0 else text


def visible(text: str) -> str:
    """Text whose characters are all seen, and stay in their place: others become U+FFFD."""
    return HIDDEN.sub("\ufffd", text)


def escape(text: str) -> str:
    return html.escape(visible(text))


def escape_markdown(text: str) -> str:
    """One line in which nothing is markup."""
    text = html.escape(" ".join(visible(text).split()), quote=False)
    return re.sub(r"([\\`*|]|\](?=\())", r"\\\1", text)


def cell_markdown(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f"[{escape_markdown(cell.text)}](report.html#{cell.anchor})"
    if isinstance(cell, Badge):
        return f"**{escape_markdown(cell.text)}**"
    return escape_markdown(cell)


def cell_html(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f'<a href="#{escape(cell.anchor)}">{escape(cell.text)}</a>'
    if isinstance(cell, Badge):
        return f'<span class="{slug(cell.text)}">{escape(cell.text)}</span>'
    return f'<div class="long">{escape(cell)}</div>' if len(cell) > LONG_CELL else escape(cell)


def slug(*parts: str) -> str:
    """Parts as an anchor: letters, digits and hyphens."""
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)


def anchor(pair: Pair, kind: str) -> str:
    """Of the problems that a pair gained, or lost."""
    return slug(pair.task, pair.before, pair.after, kind)


STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2330; background: #fff;
  max-width: 72rem; margin: 1.5rem auto 4rem; padding: 0 1rem }
h1 { font-size: 1.6rem; line-height: 1.25 }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 2px solid #e3e7ee }
h3 { font-size: 1rem; margin-top: 1.5rem }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem }
a { color: #2458a6 }
p { max-width: 48rem; overflow-wrap: anywhere }
.scroll { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #e3e7ee; white-space: nowrap }
.long { white-space: normal; overflow-wrap: anywhere; min-width: 20rem; max-width: 48rem }
td:last-child { padding-right: 0 }
.note { color: #5b6473; font-size: .85rem }
.alarm { background: #b3261e; color: #fff; font-weight: 600; font-size: 1.15rem;
  padding: .8rem 1rem; border-radius: .4rem; max-width: none }
.better, .worse, .within-noise { padding: .1rem .5rem; border-radius: .3rem; font-weight: 600 }
.better { background: #dcf1e0; color: #14532d }
.worse { background: #fbdfdc; color: #8c1d16 }
.within-noise { background: #e8ebf0; color: #3d4553 }
.verdicts { list-style: none; padding: 0 }
.verdicts li { margin: .5rem 0 }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)) }
figure { margin: 0; max-width: 34rem }
svg { width: 100%; height: auto }
details { border: 1px solid #e3e7ee; border-radius: .4rem; margin: .4rem 0; padding: .4rem .8rem }
summary { cursor: pointer; overflow-wrap: anywhere }
pre { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; font-size: .85rem;
  background: #f5f7fa; padding: .6rem; border-radius: .3rem; max-height: 24rem; overflow-y: auto }
.sides { display: grid; gap: 0 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)) }
.sides > div { min-width: 0 }
"""  # noqa: E501
# Should escaping ever miss something, the page still loads nothing and runs nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"


def markdown(title: str, blocks: list) -> str:
    parts = [f"# {escape_markdown(title)}", *(block.markdown() for block in blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def page(title: str, blocks: list) -> str:
    """One HTML page that needs nothing else, neither files nor network."""
    links = [f'<a href="#{escape(b.anchor)}">{escape(b.text)}</a>'
             for b in blocks if isinstance(b, Heading)]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><nav>{''.join(links)}</nav>"
        f"{''.join(block.html() for block in blocks)}</body></html>\n"
    )
