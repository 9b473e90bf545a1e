r"""Two tidy answers compared part by part; what plain text and exact numbers leave open is asked.

`decide(kind, gold, answer)` is asked whether two expressions (kind "value") or two equations (kind
"equation") are the same algebra. It may raise `Undecided` to put the whole question off.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from stages.answers import structure, units
from stages.answers.latex import compact
from stages.answers.number import number

MAX_PARTS = 32  # of a list, set or matrix: an unordered comparison takes their square

Decide = Callable[[str, str, str], bool]

_WORDS = re.compile(r"[A-Za-z][A-Za-z ,.'()-]*")
TEXT = re.compile(r"\\text\s?\{([^{}]*)\}")
_LETTER = re.compile(r"\(?([A-Z])[).:]?")
_BASED = re.compile(
    r"(\()?([0-9A-Fa-f]+)(?(1)\))(?:_\{(\d{1,2})\}|(?:_|\s?base )(\d{1,2}))", re.ASCII
)
_REMAINDER = re.compile(r"\\[pb]?mod(?![a-zA-Z])|\\equiv|(?<![a-zA-Z])mod(?![a-zA-Z])")
# What the symbolic comparison may see; any other command or a word ends the matter as unequal.
_COMMAND = re.compile(r"\\([a-zA-Z]+|.)")
_KNOWN = {
    "frac", "sqrt", "pi", "times", "cdot", "div", "sin", "cos", "tan", "cot", "sec", "csc",
    "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln", "log", "exp", "infty", "theta",
    "alpha", "beta", "gamma", "delta", "lambda", "mu", "phi", "omega", "sigma", "rho", "tau",
    "binom", "lfloor", "rfloor", "lceil", "rceil", "circ"
}  # fmt: skip
_EXPRESSION = re.compile(r"[0-9A-Za-z+\-*/^_(){}|!.\\' \[\]]+", re.ASCII)
_WORD = re.compile(r"[A-Za-z]{4,}")
_LETTERS = re.compile(r"[0-9A-Za-z ]+", re.ASCII)
_IN_ORDER = re.compile(
    r"(?<![A-Za-z\d])[A-Za-z]{3}|[A-Z] ?[A-Za-z]|[a-z] ?[A-Z]|[A-Za-z]\d", re.ASCII
)
# `5-3`, `8/10/2020`: a score, a range, a date, a code. One slash alone is a fraction.
_PLACES = re.compile(r"\d[\d.,]*(?:-\d[\d.,]*)+|\d+(?:[-/]\d+){2,}", re.ASCII)
_QUOTIENT = re.compile(r"\\[dtc]?frac|/(?!1$)")
_UNEVALUATED = re.compile(
    r"(?:(?<=[\w.)}%])|(?<=[\w.)}]\|))(?:[-+*]|\\times(?![a-z])|\\cdot(?![a-z])|\\div(?![a-z]))"
    r"|\)\(|(?<![_\d])\d+\(",
    re.ASCII,
)


class Undecided(Exception):
    """Text and exact numbers do not decide: the symbolic comparison must."""


def same(gold: str, answer: str, percent: str, decide: Decide) -> bool:
    """Is the tidy answer the tidy gold?

    Args:
        gold, answer: from `latex.tidy`.
        percent: "unit", "value" or "either", see `equality.equal`.
        decide: asked about two expressions that are neither text nor number.
    """
    if compact(gold) == compact(answer):
        return True
    if _REMAINDER.search(gold) or _REMAINDER.search(answer):
        return False
    gold, answer = structure.alike(gold, answer)
    golds, answers = structure.alternatives(gold), structure.alternatives(answer)
    if len(golds) > 1 or len(answers) > 1:
        return same_lists(golds, answers, percent, decide)
    return same_one(gold, answer, percent, decide)


def same_lists(golds: list[str], answers: list[str], percent: str, decide: Decide) -> bool:
    """The same values in any order, or in this order where they bear different names.

    A bare list is the set of its values: `1,-2` is `\\{-2,1\\}`, and `5,5` is not 5. Where the gold
    is one, roots may be numbered: `x_1=-2, x_2=1`.
    """
    golds, answers = _members(golds), _members(answers)
    if len(golds) != len(answers) or len(golds) < 2:
        return False
    names = [{structure.named(part)[0] for part in side} - {None} for side in (golds, answers)]
    if not names[0]:
        names[1] = {structure.unnumbered(name) for name in names[1]}
    both_named = all(names)
    if max(map(len, names)) > 1 and not both_named:
        return all(same_one(g, a, percent, decide) for g, a in zip(golds, answers, strict=True))
    return unordered(golds, answers, percent, decide)


def _members(parts: list[str]) -> list[str]:
    if len(parts) != 1:
        return parts
    name, value = structure.named(parts[0])
    if not (group := structure.bracketed(value)) or group[0] != "{}":
        return parts
    return [f"{name}={part}" if name else part for part in _signed(group[1])]


def _signed(parts: list[str]) -> list[str]:
    return [choice for part in parts for choice in structure.both_signs(part)]


def unordered(golds: list[str], answers: list[str], percent: str, decide: Decide) -> bool:
    """Does each gold have an answer of its own? Equality is transitive: any match will do."""
    if len(golds) != len(answers) or len(golds) > MAX_PARTS:
        return False
    left = list(answers)
    for gold in golds:
        match = next((a for a in left if compact(a) == compact(gold)), None)
        if match is None:
            match = next((a for a in left if same_one(gold, a, percent, decide)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def same_one(gold: str, answer: str, percent: str, decide: Decide) -> bool:
    """One value, named or not; or one equation."""
    if compact(gold) == compact(answer):
        return True
    if structure.chained(gold) or structure.chained(answer):
        return False
    (name, gold_value), (other, value) = structure.named(gold), structure.named(answer)
    equations = structure.equation(gold), structure.equation(answer)
    if name == other or (name is None) != (other is None):
        if structure.equation(gold_value) or structure.equation(value):
            return all(equations) and _asked("equation", gold, answer, decide)
        return same_value(gold_value, value, percent, decide)
    return all(equations) and _asked("equation", gold, answer, decide)


def same_value(gold: str, answer: str, percent: str, decide: Decide) -> bool:
    """Unions, matrices, sets, tuples and intervals by their parts; the rest as amounts."""
    if compact(gold) == compact(answer):
        return True
    unions = structure.union(gold), structure.union(answer)
    if max(map(len, unions)) > 1:
        return unordered(*unions, percent, decide)
    if r"\begin" in gold or r"\begin" in answer:
        return same_matrices(gold, answer, percent, decide)
    groups = structure.bracketed(gold), structure.bracketed(answer)
    if any(groups):
        return all(groups) and same_groups(*groups, percent, decide)
    return same_amount(gold, answer, percent, decide)


def same_groups(gold: tuple, answer: tuple, percent: str, decide: Decide) -> bool:
    """Same brackets and parts; only a set's parts may stand in another order."""
    (kind, golds), (other, answers) = gold, answer
    if kind != other:
        return False
    if kind == "{}":
        return unordered(_signed(golds), _signed(answers), percent, decide)
    return len(golds) == len(answers) <= MAX_PARTS and all(
        same_value(g, a, percent, decide) for g, a in zip(golds, answers, strict=True)
    )


def same_matrices(gold: str, answer: str, percent: str, decide: Decide) -> bool:
    matrices = structure.matrix(gold), structure.matrix(answer)
    if not all(matrices):
        return False
    (kind, golds), (other, answers) = matrices
    if kind != other or [len(r) for r in golds] != [len(r) for r in answers]:
        return False
    cells = [pair for rows in zip(golds, answers, strict=True) for pair in zip(*rows, strict=True)]
    return len(cells) <= MAX_PARTS and all(same_value(g, a, percent, decide) for g, a in cells)


def same_amount(gold: str, answer: str, percent: str, decide: Decide) -> bool:
    """Amounts whose stated units do not differ; then words, bases and expressions."""
    (amount, unit, factor), (other, other_unit, other_factor) = units.pair(gold, answer)
    if "%" in (unit, other_unit) and percent != "unit":
        return same_percentages(
            (amount, unit, factor), (other, other_unit, other_factor), percent, decide
        )
    if units.differ(unit, other_unit):
        return False
    return same_scalar((amount, factor), (other, other_factor), decide)


def same_percentages(gold: tuple, answer: tuple, percent: str, decide: Decide) -> bool:
    """Percentages as hundredths ("value"), or also as their bare number ("either")."""
    (amount, unit, factor), (other, other_unit, other_factor) = gold, answer
    if {unit, other_unit} - {"%", None}:
        return False
    hundredth = Fraction(1, 100)
    as_value = same_scalar(
        (amount, factor * hundredth if unit else factor),
        (other, other_factor * hundredth if other_unit else other_factor),
        decide,
    )
    if as_value or percent == "value":
        return as_value
    return same_scalar((amount, factor), (other, other_factor), decide)


def same_scalar(gold: tuple, answer: tuple, decide: Decide) -> bool:
    """Two amounts without units, each times its factor."""
    (text, factor), (other, other_factor) = gold, answer
    value, other_value = number(text), number(other)
    if value is not None and other_value is not None:
        divided = undivided(text, value) or not undivided(other, other_value)
        return value * factor == other_value * other_factor and divided
    if value is not None and unevaluated(other):
        return False
    if any(groups := (places(text), places(other))):
        return groups[0] == groups[1] and factor == other_factor
    if _BASED.fullmatch(compact(text)) or _BASED.fullmatch(compact(other)):
        return based(text) == based(other)
    if factor == other_factor and compact(text) == compact(other):
        return True
    letters = letter(text), letter(other)
    if all(letters):
        return letters[0] == letters[1]
    words = wording(text), wording(other)
    if any(word is not None for word in words):
        return words[0] == words[1] and factor == other_factor
    if ordered(text, other):
        return text.replace(" ", "") == other.replace(" ", "") and factor == other_factor
    return _asked("value", _scaled(text, factor), _scaled(other, other_factor), decide)


def _scaled(text: str, factor: int | Fraction) -> str:
    """An amount as algebra reads it: exact, without the commas of thousands."""
    factor = Fraction(factor)
    if (value := number(text)) is not None:
        text, factor = str((value * factor).numerator), 1 / Fraction((value * factor).denominator)
    return text if factor == 1 else rf"\frac{{{factor.numerator}({text})}}{{{factor.denominator}}}"


def unevaluated(text: str) -> bool:
    r"""Is there a sum, a difference or a product left to work out? Not in a power or a root.

    >>> unevaluated("(48+24)"), unevaluated(r"2 \cdot 36"), unevaluated("2(36)")
    (True, True, True)
    >>> unevaluated("-5"), unevaluated("2^{-3}"), unevaluated(r"\frac{\sqrt{4}}{8}")
    (False, False, False)
    """
    return _UNEVALUATED.search(compact(text)) is not None


def undivided(text: str, value: Fraction) -> bool:
    r"""Is a whole number written as a quotient, which a fraction in its lowest terms never is?

    >>> undivided("144/2", Fraction(72)), undivided(r"\frac{6}{4}", Fraction(3, 2))
    (True, False)
    """
    return value.denominator == 1 and _QUOTIENT.search(text) is not None


def places(text: str) -> list[Fraction | str] | None:
    """The numbers and signs of a score, range, date or telephone number, which is no difference.

    >>> places("5 - 3") == places("5-3.0"), places("5-3") == places("3-1"), places("1/2")
    (True, False, None)
    """
    text = compact(text)
    if not _PLACES.fullmatch(text):
        return None
    return [number(part) or part for part in re.split("([-/])", text)]


def based(text: str) -> tuple[str, int] | None:
    r"""Digits and base of `2112_7`; a plain whole number stands in base ten; None for the rest.

    >>> based("2112_7"), based("(2112)_{6}"), based("52")
    (('2112', 7), ('2112', 6), ('52', 10))
    """
    text = compact(text)
    if match := _BASED.fullmatch(text):
        digits, base = match[2].lstrip("0"), int(match[3] or match[4])
        return digits.upper() if base > 10 else digits, base
    return (text.lstrip("0"), 10) if re.fullmatch(r"\d+", text, re.ASCII) else None


def letter(text: str) -> str | None:
    r"""The capital letter of a choice: `C`, `(C)`, `C.`, `\text{(C)}`; None for anything else."""
    match = _LETTER.fullmatch(TEXT.sub(r"\1", text).strip())
    return match[1] if match else None


def wording(text: str) -> str | None:
    r"""An answer in words, case and `\text` folded; None for an expression.

    Outside `\text` a word has four letters (or is "yes" or "no"): `abc` may be a product.

    >>> wording(r"\text{Evelyn}"), wording("East"), wording("p - q"), wording("abc")
    ('evelyn', 'east', None, None)
    """
    plain = TEXT.sub(r"\1", text).strip() if r"\text" in text else text
    if not _WORDS.fullmatch(plain):
        return _text_or_none(plain)
    if plain == text and not _WORD.search(text) and text.casefold() not in ("yes", "no"):
        return None
    return " ".join(plain.casefold().replace(".", "").split()) or None


def ordered(one: str, other: str) -> bool:
    """Letters and digits alone whose order says something: words and codes, no products.

    >>> ordered("was", "saw"), ordered("Co", "oC"), ordered("B12", "12B")
    (True, True, True)
    >>> ordered("xy", "yx"), ordered("2ab", "2ba"), ordered("ABC", "A*B*C")
    (False, False, False)
    """
    pair = compact(one), compact(other)
    return all(map(_LETTERS.fullmatch, pair)) and any(map(_IN_ORDER.search, pair))


def _text_or_none(text: str) -> str | None:
    """Text in another script is compared as text: no symbolic comparison reads it."""
    return None if text.isascii() else text.casefold()


def _asked(kind: str, gold: str, answer: str, decide: Decide) -> bool:
    gold, answer = compact(gold), compact(answer)
    if not (expression(gold, kind) and expression(answer, kind)):
        return False
    return decide(kind, gold, answer)


def expression(text: str, kind: str) -> bool:
    """Only known commands, no words: something that algebra can read?"""
    if kind == "equation":
        text = text.replace("=", "+", 1)
    return (
        "!!" not in text  # a double factorial, which the parser takes for two
        and (
            (_EXPRESSION.fullmatch(text) is not None and _COMMAND.sub("", text).strip() != "")
            or text in (r"\pi", r"\infty")
        )
        and all(c in _KNOWN for c in _COMMAND.findall(text))
        and not _WORD.search(_COMMAND.sub(" ", text))
    )
