r"""Splitting what is counted from how much: `15 \text{ cm}^2`, `$5`, `90^\circ`, `5 apples`.

Two units differ only where both are stated. A word that changes the number ("thousand") is part of
the number, and a word that makes it another answer ("5 halves", "5 squared") is no unit.
"""

import re

MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6,
             "billion": 10**9, "trillion": 10**12}  # fmt: skip

_ALIASES = {
    "$": "dollar", "usd": "dollar", "\\euro": "euro", "eur": "euro", "\\pound": "pound",
    "gbp": "pound", "\\yen": "yen", "^\\circ": "degree", "deg": "degree", "\\%": "%", "%": "%",
    "percent": "%", "pct": "%", "per cent": "%", "percentage": "%", "inches": "inch", "in": "inch",
    "feet": "foot", "ft": "foot", "centimeter": "cm", "centimetre": "cm", "meter": "m",
    "metre": "m", "millimeter": "mm", "kilometer": "km", "kilometre": "km", "gram": "g",
    "kilogram": "kg", "second": "s", "sec": "s", "minute": "min", "hour": "h", "hr": "h",
    "lbs": "pound weight", "lb": "pound weight", "people": "person", "mile": "mi", "yard": "yd",
    "cents": "cent", "units": "unit", "liter": "l", "litre": "l", "ml": "ml", "mph": "mph",
    "miles per hour": "mph", "degrees": "degree", "radian": "rad", "men": "man",
}  # fmt: skip
# Short plain words taken for units; without this list `5ab` would be five of a unit.
_SHORT = {
    "cm", "mm", "km", "kg", "mg", "ml", "ft", "in", "lb", "lbs", "hr", "hrs", "min", "sec",
    "mph", "usd", "eur", "gbp", "day", "cup", "box", "egg", "car", "bag", "men", "man", "pen",
    "cat", "dog", "boy", "kid", "way", "pie", "mile", "inch", "feet", "foot", "unit", "cent",
    "euro", "yen", "deg", "hour", "year", "week", "pct"
}  # fmt: skip
_NO_UNIT = {
    "half", "halves", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth",
    "fifths", "sixth", "sixths", "eighth", "eighths", "tenth", "tenths", "hundredth",
    "hundredths", "thousandth", "thousandths", "squared", "cubed", "factorial", "pi", "root",
    "over", "plus", "minus", "times", "divided", "by", "not", "or", "and", "to", "mod",
    "modulo", "negative", "remainder", "than", "less", "more", "x", "thousands", "millions",
    "billions", "hundreds", "dozens", "twice", "double", "if", "but", "i", "is", "are",
    "between", "base"
}  # fmt: skip
_QUIET = {"unit", "square unit", "unit^2", "cubic unit", "unit^3"}  # "units" says nothing

_PREFIX = re.compile(r"([+-]?)\s*(\\?\$|\\euro|\\pound|\\yen)\s*(?=[\d.+-])")
_SUFFIX = re.compile(
    r"\s*(?:(\\?%|\\?\$|\^\\circ(?:\s*[CF])?|\\euro|\\pound|\\yen)"
    r"|\\text\s?\{\s*([A-Za-z][A-Za-z ./^0-9-]{0,60})\}\s*(\^\s?\{?[23]\}?)?"
    r"|(?:(?<=[\d}) ])([A-Za-z]{2,}(?:[ /][A-Za-z]{1,})*)\s?(\^\s?\{?[23]\}?)?))\.?$",
    re.ASCII,
)


def split(text: str) -> tuple[str, str | None, int]:
    r"""A tidy text's amount, its unit (one spelling, or None), and the factor of "million".

    >>> split(r"15\text{ cm}^2"), split("$5"), split("3 million"), split("5ab")
    (('15', 'cm^2', 1), ('5', 'dollar', 1), ('3', None, 1000000), ('5ab', None, 1))
    """
    unit, factor = None, 1
    if match := _PREFIX.match(text):
        unit = _ALIASES[match[2].removeprefix("\\") if "$" in match[2] else match[2]]
        text = match[1] + text[match.end() :]
    if text[-1:].isdigit() and "^" not in text:  # nearly every answer: no unit can follow
        return text, unit, factor
    match = _SUFFIX.search(text[-100:]) if len(text) < 300 else None
    if not match or not (amount := text[: len(text) - len(match[0])].strip()):
        return text, unit, factor
    if not re.search(r"\d|\\pi", amount) or amount[-1] in "+-*/^_({[=,":
        return text, unit, factor
    words = (match[1] or match[2] or match[4]).strip().lower()
    power = (match[3] or match[5] or "").translate({ord(c): None for c in " {}"})
    if match[4] and not _plain_unit(words):
        return text, unit, factor
    first, _, rest = words.partition(" ")
    if first in MULTIPLES:
        words, factor = rest, MULTIPLES[first]
    if set(re.split(r"[ ./-]+", words)) & (_NO_UNIT | MULTIPLES.keys()):
        return text, unit, 1
    return amount, unit or _spelling(words + power), factor


def _plain_unit(words: str) -> bool:
    """Is a word outside `\\text` a unit? Known, or too long to be a product of variables."""
    first = re.split(r"[ /]", words)[0]
    return first in _SHORT or first in MULTIPLES or len(first) >= 4


def _spelling(words: str) -> str | None:
    r"""One spelling of a unit; None for one that says nothing.

    >>> _spelling("square inches"), _spelling("cm^2"), _spelling("units"), _spelling("apples")
    ('inch^2', 'cm^2', None, 'apple')
    """
    words = " ".join(words.split()).rstrip(".")
    for name, power in (("square ", "^2"), ("sq ", "^2"), ("cubic ", "^3")):
        if words.startswith(name):
            words = words.removeprefix(name) + power
    stem, caret, power = words.partition("^")
    if stem.startswith("\\circ") or words.startswith("^\\circ"):
        return "degree"
    stem = _ALIASES.get(stem) or _ALIASES.get(stem.removesuffix("s")) or stem.removesuffix("s")
    unit = stem + caret + power
    return None if not unit or unit in _QUIET else unit
