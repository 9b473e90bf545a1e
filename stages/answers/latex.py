# ruff: noqa: RUF001, RUF002
r"""One plain ASCII spelling of an answer: LaTeX's many ways to write the same thing folded.

Text in, text out; nothing is evaluated. Unknown commands are left as they are. Signs outside
ASCII are what it is about, hence the exception for ruff.
"""

import re

MAX_LENGTH = 1_000  # characters: a longer text is no short answer
MAX_DEPTH = 30  # of nested brackets: no gold of MATH nests deeper than 6

# Signs outside ASCII that have one plain meaning. Digits of other scripts have none here.
_SIGNS = str.maketrans({
    "−": "-", "–": "-", "×": r"\times ", "÷": "/", "·": r"\cdot ", "∗": "*",
    "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "±": r"\pm ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "√": r"\sqrt ", "°": r"^\circ ", "²": "^2",
    "³": "^3", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⁄": "/",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200a": " ", "\u2061": "", "’": "'",
    "€": r"\euro ", "£": r"\pound ", "¥": r"\yen ", "￥": r"\yen ", "θ": r"\theta ",
    "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "…": r"\ldots ",
})  # fmt: skip

_REPLACED = [
    (re.compile(pattern), new)
    for pattern, new in [
        (r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*\.?", ""),
        (r"\\(?:displaystyle|textstyle|limits|nolimits)(?![a-zA-Z])", " "),
        (r",\s?\\!\s*", ","),
        (r"\{,\}", ","),
        (r"(?<!\\)\\!", ""),
        (r"(?<!\\)\\(?:[,;:> ]|q?quad(?![a-zA-Z]))|~", " "),
        (r"\\(?:dfrac|tfrac|cfrac)(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:mbox|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|hbox|operatorname)"
         r"(?=\s*\{)", r"\\text"),
        (r"\\text\s?\{([-+\d.,/ ]+)\}", r"\1"),
        (r"\\leqslant(?![a-zA-Z])|\\leq(?![a-zA-Z])|<=", r"\\le "),
        (r"\\geqslant(?![a-zA-Z])|\\geq(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\neq(?![a-zA-Z])|!=", r"\\ne "),
        (r"\^\s*\{\s*\\circ\s*\}|\\degrees?(?![a-zA-Z])|\^\s*\\circ(?![a-zA-Z])", r"^\\circ "),
        (r"\\(?:lbrace|\{)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace|\})(?![a-zA-Z])", r"\\}"),
        (r"\\(?:mid|vert|lvert|rvert)(?![a-zA-Z])", "|"),
        (r"\\dots(?![a-zA-Z])|\.\.\.", r"\\ldots "),
        (r"\\(?:bmatrix|Bmatrix)", r"\\pmatrix"),
        (r"\{[bB]matrix\}", "{pmatrix}"),
    ]
]  # fmt: skip
_MATHS = [("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**")]
_THEN_WORDS = re.compile(r"^\$([^$\s](?:[^$]*[^$\s\\])?)\$\s*(?=[A-Za-z][^$]*$)")  # `$58$ m`
_SQRT = re.compile(r"\\sqrt\s*(\d+(?:\.\d+)?|[a-zA-Z])", re.ASCII)  # nobody means \sqrt{1}0
_UNION = re.compile(r"([(\[][^()\[\],]+,[^()\[\]]+[)\]])\s*U\s*(?=[(\[])")
_NAMES = re.compile(
    r"(?<![a-zA-Z\\{])(sqrt|pi|sin|cos|tan|cot|sec|csc|ln|log|infinity|infty|inf)(?![a-zA-Z])"
)
_SPACE = re.compile(r"\s+")
# A space says something only between two digits, two letters, or a command and a letter.
_IDLE_SPACE = re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])|(?<=[0-9]) (?=[A-Za-z])")


def tidy(answer: str) -> str:
    r"""The answer without delimiters, spacing commands and variants of one command.

    >>> tidy(r"$10,\!080$."), tidy(r"\left( 3, \dfrac12 \right)"), tidy("−5")
    ('10,080', '( 3, \\frac{1}{2} )', '-5')
    """
    text = bare(answer.translate(_SIGNS))
    if text[:1] == "$":
        text = _THEN_WORDS.sub(r"\1 ", text)
    if "\\" in text or "~" in text or "=" in text or "..." in text or "{," in text:
        for pattern, new in _REPLACED:
            text = pattern.sub(new, text)
        text = fractions(text)
        text = _SQRT.sub(r"\\sqrt{\1}", text)
    if "U" in text:
        text = _UNION.sub(r"\1\\cup ", text)
    return bare(_SPACE.sub(" ", text))


def bare(text: str) -> str:
    """Without surrounding space, a closing full stop and mathematical or bold delimiters."""
    before = None
    while text != before:
        before = text
        text = text.strip()
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for start, end in _MATHS:
            inner = text[len(start) : -len(end)]
            whole = len(text) > len(start) + len(end) and text.startswith(start)
            if (
                whole
                and text.endswith(end)
                and start not in inner.replace(r"\$", "")
                and inner[-1:] != "\\"
            ):
                text = inner
    return text


def fractions(text: str) -> str:
    r"""`\frac43`, `\frac 5 9`, `\frac9{19}` as `\frac{4}{3}` and so on.

    >>> fractions(r"\frac43+\frac9{19}")
    '\\frac{4}{3}+\\frac{9}{19}'
    """
    parts = re.split(r"\\frac(?![a-zA-Z])", text)
    out = [parts[0]]
    for part in parts[1:]:
        rest = part.lstrip()
        if rest[:1] and rest[0] not in "{\\":
            rest = "{" + rest[0] + "}" + rest[1:]
        if match := re.match(r"(\{[^{}]*\})\s*([0-9a-zA-Z])", rest):
            rest = f"{match[1]}{{{match[2]}}}{rest[match.end() :]}"
        out.append(rest)
    return r"\frac".join(out)


def compact(text: str) -> str:
    r"""A tidy text without the spaces that say nothing, plain names of functions as commands.

    >>> compact("2 x + sqrt(3)"), compact(r"\cot x"), compact("1 2"), compact("8sqrt12")
    ('2x+\\sqrt{3}', '\\cot x', '1 2', '8\\sqrt{12}')
    """
    text = _NAMES.sub(r"\\\1 ", text)
    if r"\sqrt" in text:
        text = _SQRT.sub(r"\\sqrt{\1}", re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text))
    text = re.sub(r"\\inf(?:inity)?(?![a-z])", r"\\infty", text).replace("**", "^")
    text = re.sub(r"([_^])\{(\w)\}", r"\1\2", text)
    return _IDLE_SPACE.sub("", _SPACE.sub(" ", text)).strip()


def too_deep(text: str) -> bool:
    """Are brackets nested deeper than any answer needs? (A parser recurses once a level.)"""
    depth = deepest = 0
    for char in text:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth -= 1
    return deepest > MAX_DEPTH
