r"""The exact value of a number as people write it; bounded, so that no text makes a giant integer.

ASCII digits only: `int()` would also take other scripts' digits, underscores and signs.
"""

import re
from fractions import Fraction

MAX_DIGITS = 200
MAX_EXPONENT = 400  # of ten, in scientific notation: beyond a float's range nothing is meant
MAX_POWER = 64  # of a plain integer, as in 2^{10}

_COUNT = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_PLAIN = rf"(?:{_COUNT}(?:\.\d*)?|\.\d+)"
_DECIMAL = re.compile(rf"([+-]?)\s?({_PLAIN})", re.ASCII)
_RATIO = re.compile(rf"([+-]?)\s?({_PLAIN})\s?/\s?(-?{_PLAIN})", re.ASCII)
_FRAC = re.compile(rf"([+-]?)\s?\\frac\{{\s*(-?{_PLAIN})\s*\}}\{{\s*(-?{_PLAIN})\s*\}}", re.ASCII)
_MIXED = re.compile(
    r"([+-]?)\s?(\d+)(?:\s?\\frac\{\s*(\d+)\s*\}\{\s*(\d+)\s*\}| (\d+)/(\d+))", re.ASCII
)
_SCIENTIFIC = re.compile(
    rf"([+-]?)\s?({_PLAIN})\s?(?:[eE]|(?:\\times|\\cdot|\*|x)\s*10\s*(?:\^|\*\*)\s*)"
    r"(?:\{\s*([+-]?\d+)\s*\}|([+-]?\d+))",
    re.ASCII,
)
_POWER = re.compile(r"([+-]?)\s?(\d{1,6})\s?(?:\^|\*\*)\s?(?:\{(\d{1,3})\}|(\d{1,3}))", re.ASCII)
_REPEATING = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline\{(\d+)\}", re.ASCII)


def number(text: str) -> Fraction | None:
    r"""The exact value of a tidy number; None for anything else.

    Integers and decimals (thousands in commas or spaces), ratios, mixed numbers, scientific
    notation, small powers, repeating decimals.

    >>> number("1,080"), number("-2.50"), number("3/4"), number("4 apples"), number("1,2")
    (Fraction(1080, 1), Fraction(-5, 2), Fraction(3, 4), None, None)
    >>> number(r"1\frac{4}{5}"), number("6.72e-5"), number(r"0.\overline{3}"), number("1e999999999")
    (Fraction(9, 5), Fraction(21, 312500), Fraction(1, 3), None)
    """
    if len(text) > MAX_DIGITS:
        return None
    for pattern, value in _FORMS:
        if match := pattern.fullmatch(text):
            size = value(match)
            return -size if match[1] == "-" and size is not None else size
    return None


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))


def _ratio(match: re.Match) -> Fraction | None:
    below = _plain(match[3])
    return _plain(match[2]) / below if below else None


def _mixed(match: re.Match) -> Fraction | None:
    """2 1/2 is two and a half; 2 3/2 is no mixed number."""
    above, below = int(match[3] or match[5]), int(match[4] or match[6])
    return int(match[2]) + Fraction(above, below) if 0 < above < below else None


def _scientific(match: re.Match) -> Fraction | None:
    exponent = match[3] or match[4]
    if len(exponent) > 6 or abs(int(exponent)) > MAX_EXPONENT:
        return None
    return _plain(match[2]) * Fraction(10) ** int(exponent)


def _power(match: re.Match) -> Fraction | None:
    exponent = int(match[3] or match[4])
    return Fraction(int(match[2]) ** exponent) if exponent <= MAX_POWER else None


def _repeating(match: re.Match) -> Fraction:
    head, cycle = match[2] + match[3], match[4]
    scale, nines = 10 ** len(match[3]), 10 ** len(cycle) - 1
    return Fraction(int(head or "0"), scale) + Fraction(int(cycle), scale * nines)


_FORMS = [
    (_DECIMAL, lambda match: _plain(match[2])),
    (_RATIO, _ratio),
    (_FRAC, _ratio),
    (_MIXED, _mixed),
    (_SCIENTIFIC, _scientific),
    (_POWER, _power),
    (_REPEATING, _repeating),
]
