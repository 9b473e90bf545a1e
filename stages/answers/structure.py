r"""How an answer is built: a list, a set, a tuple or interval, a union, a matrix, a named value.

Works on tidy text; brackets are counted, so that only commas and signs outside them divide.
"""

import re

from stages.answers import expression

_SEPARATOR_WORD = re.compile(
    r"\\text\s?\{\s*,?\s*(?:or|and)\s*\}|(?<![a-zA-Z\\])(?:or|and)(?![a-zA-Z])"
)
_OR = re.compile(r"\\text\s?\{\s*,?\s*or\s*\}|(?<![a-zA-Z\\])or(?![a-zA-Z])|\\lor(?![a-zA-Z])")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?!\d|,\d)", re.ASCII)
_NAME = re.compile(
    r"(?:\\[a-zA-Z]+|[a-zA-Z]|\\text\s?\{[a-zA-Z ]{1,40}\}|[a-zA-Z ]{2,40})"
    r"(?:_(?:\w|\{\w[\w,]{0,4}\}))?'?(?:\s?\([a-zA-Z]\))?"
)
_LETTER = re.compile(r"(?:[a-zA-Z]|\\[a-z]+)(?:_(?:\w|\{\w\}))?")
_NUMBERED = re.compile(r"([xz])_(?:\d|\{\d\})", re.ASCII)
_EQUALS = re.compile(r"(?<![<>!:\\])=")
_ORDER = re.compile(r"(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z]))")
_MEMBER = re.compile(r"\s*([a-zA-Z])\s*\\in(?![a-zA-Z])\s*(.+)")
_MATRIX = re.compile(r"\\begin\{([pv]?matrix|array)\}(.*)\\end\{\1\}", re.DOTALL)
_PM = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


def divided(text: str, separators: str) -> list[str]:
    r"""The text's parts between separator characters that stand outside brackets.

    >>> divided("a,(b,c)", ",")
    ['a', '(b,c)']
    """
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif depth == 0 and char in separators:
            parts.append(text[start:place])
            start = place + 1
    return [*parts, text[start:]]


def alternatives(text: str) -> list[str]:
    r"""The values of a bare list: `1,-2`, `5 or 6`, `1 \pm \sqrt2`; one value otherwise.

    >>> alternatives("1,-2"), alternatives("1,080"), alternatives(r"5\pm 0"), alternatives("(1,2)")
    (['1', '-2'], ['1,080'], ['5', '5'], ['(1,2)'])
    """
    if "," in text:
        text = _THOUSANDS.sub(lambda match: match[0].replace(",", "\0"), text)
    if "or" in text or "and" in text:
        text = _SEPARATOR_WORD.sub(",", text)
    parts = [part.strip().replace("\0", ",") for part in divided(text, ",;")]
    if len(parts) > 1:
        parts = [p for p in parts if p]  # `1, 2, and 3` leaves an empty part
    return [choice for part in parts for choice in both_signs(part)]


def both_signs(text: str) -> list[str]:
    r"""`a \pm b` as its two values, numbers worked out; a text with more such signs as it is."""
    if "\\" not in text or len(_PM.findall(text)) != 1 or bracketed(text):
        return [text]
    return [_added(_PM.sub(sign, text)) for sign in "+-"]


def _added(text: str) -> str:
    """A sum of plain numbers, named or not, as its value; any other text as it is."""
    name, equals, sum_ = text.rpartition("=")
    total = expression.value(sum_)
    return text if total is None else f"{name}{equals}{total}"


def bracketed(text: str) -> tuple[str, list[str]] | None:
    r"""A set, tuple, point or interval: its brackets and its parts. None for anything else.

    >>> bracketed("(3,4]"), bracketed(r"\{1,2\}"), bracketed("(3)"), bracketed("(a+1)(b+1)")
    (('(]', ['3', '4']), ('{}', ['1', '2']), None, None)
    """
    if text.startswith(r"\{") and text.endswith(r"\}"):
        inside, kind = text[2:-2], "{}"
    elif text[:1] in "([" and text[-1:] in ")]" and len(text) > 2:
        inside, kind = text[1:-1], text[0] + text[-1]
    else:
        return None
    depth = 0
    for char in inside:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return None  # the first bracket closes before the end: `(a+1)(b+1)`
    parts = [part.strip() for part in divided(inside, ",")]
    return (kind, parts) if len(parts) > 1 or kind in ("{}", "[]") else None


def union(text: str) -> list[str]:
    r"""The members of a union of sets; a text without `\cup` is its only member."""
    if r"\cup" not in text:
        return [text]
    return [p.strip() for p in divided(re.sub(r"\\cup(?![a-zA-Z])", "\1", text), "\1")]


def matrix(text: str) -> tuple[str, list[list[str]]] | None:
    r"""A matrix's kind and rows.

    >>> matrix(r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}")
    ('pmatrix', [['1', '2'], ['3', '4']])
    """
    if not (match := _MATRIX.fullmatch(text)) or r"\begin" in match[2]:
        return None
    rows = [row for row in match[2].split(r"\\") if row.strip()]
    return match[1], [[cell.strip() for cell in row.split("&")] for row in rows]


def named(text: str) -> tuple[str | None, str]:
    r"""A value's name and the value: `x=5`, `5=x`, `x \in [1,2]`, `1<x\le 2` (as an interval).

    A tuple of names in the alphabet's order is a name: `(b,c)=(1,2)`. A gold that bears no name is
    taken to have that order, so that `(c,b)=(1,2)` may be the wrong way round, and is no name.

    >>> named("x=5"), named("1<x\\le 2"), named("6=5"), named("5")
    (('x', '5'), ('x', '(1,2]'), (None, '6=5'), (None, '5'))
    """
    if match := _MEMBER.fullmatch(text):
        return match[1], match[2]
    sides = [side.strip() for side in _EQUALS.split(text)]
    if len(sides) == 2:
        for name, value in (sides, sides[::-1]):
            if value and (_NAME.fullmatch(name) or _names_of(name, value)):
                return name.replace(" ", ""), value
    if len(sides) == 1 and (interval := inequality(text)):
        return interval
    return None, text


def _names_of(names: str, values: str) -> bool:
    """Is one a tuple of different letters, in order, and the other a tuple as long?"""
    groups = bracketed(names), bracketed(values)
    if not all(groups) or [kind for kind, _ in groups] != ["()", "()"]:
        return False
    letters = groups[0][1]
    return (
        len(letters) == len(groups[1][1])
        and all(map(_LETTER.fullmatch, letters))
        and letters == sorted(set(letters), key=_alphabetic)
    )


def _alphabetic(letter: str) -> str:
    return re.sub(r"[\\{}]", "", letter)


def unnumbered(name: str) -> str:
    """The unknown whose root a name numbers; sequences and coefficients stay apart.

    >>> unnumbered("x_1"), unnumbered("x_{2}"), unnumbered("a_1")
    ('x', 'x', 'a_1')
    """
    match = _NUMBERED.fullmatch(name)
    return match[1] if match else name


def alike(gold: str, answer: str) -> tuple[str, str]:
    """Both as tuples where one is a tuple, and as unions where one is a union."""
    if r"\cup" in gold or r"\cup" in answer:
        return ranges(gold), ranges(answer)
    if gold[-1:] == ")" and answer.count("=") > 1:
        return gold, point(answer)
    if answer[-1:] == ")" and gold.count("=") > 1:
        return point(gold), answer
    return gold, answer


def ranges(text: str) -> str:
    r"""Inequalities of one variable joined by "or" as a union; any other text as it is.

    >>> ranges(r"x<1 \text{ or } x\ge 5"), ranges("x>1, x<5"), ranges("x<1 or y>5")
    ('(-\\infty,1)\\cup[5,\\infty)', 'x>1, x<5', 'x<1 or y>5')
    """
    found = [inequality(part.strip(" ,")) for part in _OR.split(text)]
    if len(found) < 2 or not all(found) or len({name for name, _ in found}) > 1:
        return text
    return r"\cup".join(interval for _, interval in found)


def point(text: str) -> str:
    """Values of different letters as one tuple, the alphabet's order; any other text as it is.

    >>> point("y=3, x=7"), point("x=7 or x=3"), point("x=7 or y=3")
    ('(x,y)=(7,3)', 'x=7 or x=3', 'x=7 or y=3')
    """
    found = dict(parts := [named(part) for part in alternatives(text)])
    if _OR.search(text) or len(found) < len(parts) or None in found:
        return text
    if len(found) < 2 or not all(map(_LETTER.fullmatch, found)):
        return text
    names = sorted(found, key=_alphabetic)
    return f"({','.join(names)})=({','.join(found[name] for name in names)})"


def inequality(text: str) -> tuple[str, str] | None:
    r"""`x<5`, `2<x\le 7`, `7>x` as the variable and the interval; None for anything else."""
    parts = [part.strip() for part in _ORDER.split(text)]
    if len(parts) not in (3, 5) or not all(parts):
        return None
    if len(parts) == 3:
        left, sign, right = parts
        if not _is_variable(left):
            left, sign, right = right, FLIPPED[sign], left
        low = sign in (">", r"\ge")
        parts = [right, FLIPPED[sign], left] if low else [left, sign, right]
        if not _is_variable(left) or _is_variable(right):
            return None
        open_ = "[" if sign == r"\ge" else "("
        close = "]" if sign == r"\le" else ")"
        return left, f"{open_}{right},\\infty)" if low else f"(-\\infty,{right}{close}"
    if parts[1] in (">", r"\ge"):
        parts = [FLIPPED.get(part, part) for part in parts[::-1]]
    low, first, name, second, high = parts
    if not _is_variable(name) or {first, second} - {"<", r"\le"}:
        return None
    return name, f"{'[' if first != '<' else '('}{low},{high}{']' if second != '<' else ')'}"


def _is_variable(text: str) -> bool:
    return len(text) == 1 and text.isalpha()


def equation(text: str) -> tuple[str, str] | None:
    """An equation's two sides; None without exactly one equals sign."""
    sides = _EQUALS.split(text)
    return (sides[0].strip(), sides[1].strip()) if len(sides) == 2 and all(sides) else None


def chained(text: str) -> bool:
    """More than one equals sign (`x=6=5`), or an equation of two numbers (`6=5`)?"""
    sides = _EQUALS.split(text)
    return len(sides) > 2 or (len(sides) == 2 and not re.search("[a-zA-Z]", text))
