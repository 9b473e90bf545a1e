r"""Splitting what is counted from how much: `15 \text{ cm}^2`, `$5`, `90^\circ`, `5 apples`.

Two units differ only where both are stated. A word that changes the number ("thousand") is part of
the number, and a word that makes it another answer ("5 halves", "5 squared") is no unit. Nothing is
converted.
"""

import re

MULTIPLES = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6,
             "billion": 10**9, "trillion": 10**12}  # fmt: skip

# A unit, then its other spellings in the singular. No spelling that may mean two of them: no `d`,
# `pt` or `'`; `pound` is the currency, and weighs only as `lb`. What is not here is its own unit.
_SPELLINGS = {
    "m": "meter, metre", "km": "kilometer, kilometre", "cm": "centimeter, centimetre",
    "mm": "millimeter, millimetre", "inch": "in", "foot": "ft, feet", "yard": "yd", "mi": "mile",
    "g": "gram, gramme", "kg": "kilogram, kilogramme, kilo", "mg": "milligram, milligramme",
    "t": "tonne, metric ton", "lb": "", "oz": "ounce",
    "l": "L, liter, litre", "ml": "milliliter, millilitre", "cl": "centiliter, centilitre",
    "dl": "deciliter, decilitre", "gal": "gallon", "cm^3": "cc", "ha": "hectare",
    "s": "second, sec", "ms": "millisecond", "min": "minute", "h": "hour, hr", "year": "yr",
    "km/h": "kph, kmh, kmph", "mi/h": "mph",
    "N": "newton", "J": "joule", "W": "watt", "V": "volt", "A": "ampere, amp", "K": "kelvin",
    "Hz": "hertz", "Pa": "pascal", "kW": "kilowatt",
    "dollar": r"$, \$, usd, us dollar", "euro": r"\euro, eur", "pound": r"\pound, gbp",
    "yen": r"\yen, jpy", "cent": "",
    "degree": r"^\circ, deg", "rad": "radian",
    "degree C": r"^\circC, degree c, degrees c, degree celsius, degrees celsius, celsius",
    "degree F": r"^\circF, degree f, degrees f, degree fahrenheit, degrees fahrenheit, fahrenheit",
    "%": r"\%, percent, pct, per cent, percentage",
    "person": "people", "man": "men", "woman": "women", "child": "children", "unit": "",
    "megagram": "Mg", "megameter": "Mm", "megaliter": "ML", "MHz": "", "MPa": "", "MeV": "",
}  # fmt: skip
_ALIASES = {
    spelling: unit
    for unit, others in _SPELLINGS.items()
    for spelling in (unit, *filter(None, others.split(", ")))
}
# `$5` may be five an hour, and `20^\circ` may be Celsius: an answer may leave that to the question.
_VAGUE = {"dollar", "euro", "pound", "yen", "degree"}
# Short plain words taken for units; without this list `5ab` would be five of a unit.
_SHORT = {
    "cm", "mm", "km", "kg", "mg", "ml", "ft", "in", "lb", "lbs", "hr", "hrs", "min", "sec",
    "mph", "usd", "eur", "gbp", "day", "cup", "box", "egg", "car", "bag", "men", "man", "pen",
    "cat", "dog", "boy", "kid", "way", "pie", "mile", "inch", "feet", "foot", "unit", "cent",
    "euro", "yen", "deg", "hour", "year", "week", "pct"
}  # fmt: skip
# What makes of a number another one, a part of one, or no answer at all.
_NO_UNIT = {
    "half", "halves", "third", "thirds", "quarter", "quarters", "squared", "cubed", "factorial",
    "pi", "root", "sqrt", "over", "plus", "minus", "times", "multiplied", "divided", "increased",
    "decreased", "reduced", "by", "not", "never", "or", "and", "to",
    "mod", "modulo", "negative", "imaginary", "remainder", "than", "less", "more", "least",
    "most", "below", "x", "thousands", "millions", "billions", "trillions", "hundreds", "dozens",
    "quadrillion", "quintillion", "lakh", "lakhs", "crore", "crores",
    "twice", "double", "doubled", "thrice", "triple", "tripled", "halved", "if", "but", "i", "is",
    "are", "between", "base", "binary", "octal", "hex", "hexadecimal", "repeating", "recurring",
    "periodic", "infinity", "infinite", "about", "approximately", "roughly", "almost", "nearly",
    "zero", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"
}  # fmt: skip
_NO_UNIT_ALONE = {"wrong", "incorrect", "false", "score", "gross", "grand"}  # not `3 wrong turns`
_ORDINAL = re.compile(
    r"(?:(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|(?:thir|four|fif|six|seven|eigh|nine)teen"
    r"|(?:twen|thir|for|fif|six|seven|eigh|nine)tie|hundred|thousand|[a-z]{1,7}illion)ths?)"
)
_QUIET = {"unit", "unit^2", "unit^3"}  # "units" says nothing

_PREFIX = re.compile(r"([+-]?)\s*(\\?\$|\\euro|\\pound|\\yen)\s*(?=[\d.+-])")
_POWER = r"\s?(\^\s?\{?[23]\}?)?\.?$"
_SIGN = re.compile(
    r"(\\?%|\\?\$|\^\\circ(?:\s?(?:[CF]|\\text\s?\{\s?[CF]\s?\}))?|\\euro|\\pound|\\yen)()\.?$"
)
_TEXT = re.compile(r"\\text\s?\{\s*([A-Za-z][A-Za-z ./^0-9-]{0,60})\}" + _POWER, re.ASCII)
_PLAIN = re.compile(
    r"(?<=[\d}) ])(?!pi\b)([A-Za-z]{2,}(?:\.?(?:\s?/\s?|\s)[A-Za-z]+)*)" + _POWER, re.ASCII
)
_SYMBOL = re.compile(
    r"(?<=[\d}) ])([A-Za-z]{1,3}(?:(?:\s?/\s?|\sper\s)[A-Za-z]+)?)" + _POWER, re.ASCII
)
_WHOLE = re.compile(r"\\text\s?\{\s*([+-]?[\d.][^{}]*)\}")
_FRACTION = re.compile(r"\\frac\{\s*\\text\s?\{([^{}]+)\}\s*\}\{\s*\\text\s?\{([^{}]+)\}\s*\}")
_PER_TEXT = re.compile(r"/\s?\\text\s?\{")
_NEIGHBOURS = re.compile(r"(\\text\s?\{[^{}]*)\}\s*\\text\s?\{")
_POWERS = [
    (re.compile(r"(?:square|sq)\.? (.+)", re.IGNORECASE), r"\1^2"),
    (re.compile(r"cubic (.+)", re.IGNORECASE), r"\1^3"),
]
_PER = re.compile(r"\s?/\s?|(?:^|\s)per\s(?!cent\b)", re.IGNORECASE)


def pair(gold: str, answer: str) -> list[tuple[str, str | None, int]]:
    """Both tidy texts split; what only one of them states clearly, the other may abbreviate."""
    found = [split(gold), split(answer)]
    stated = {unit for _, unit, _ in found if unit}
    if len(stated) == 1:
        hint = stated.pop()
        found = [
            one if one[1] else split(text, hint)
            for one, text in zip(found, (gold, answer), strict=True)
        ]
    return found


def differ(gold: str | None, answer: str | None) -> bool:
    """Are both units stated, and is the answer's not the gold's?

    >>> differ("m", "min"), differ("m", None), differ("dollar/h", "dollar"), differ("km/h", "km")
    (True, False, False, True)
    """
    if not gold or not answer or gold == answer:
        return False
    return not (answer in _VAGUE and gold.startswith((f"{answer}/", f"{answer} ")))


def split(text: str, hint: str | None = None) -> tuple[str, str | None, int]:
    r"""A tidy text's amount, its unit (one spelling, or None), and the factor of "million".

    Args:
        hint: a unit that the text may also abbreviate: `5m` is five metres only where metres are
            meant, and a product otherwise.

    >>> split(r"15\text{ cm}^2"), split("$5"), split("3 million"), split("5ab")
    (('15', 'cm^2', 1), ('5', 'dollar', 1), ('3', None, 1000000), ('5ab', None, 1))
    >>> split("5m"), split("5m", "m"), split("5m", "min")
    (('5m', None, 1), ('5', 'm', 1), ('5m', None, 1))
    """
    unit = None
    if match := _PREFIX.match(text):
        unit = _ALIASES[match[2]]
        text = match[1] + text[match.end() :]
    if text[-1:].isdigit() and "^" not in text:  # nearly every answer: no unit can follow
        return text, unit, 1
    match = _suffix(text := _one_text(text), hint) if len(text) < 300 else None
    if not match or not (amount := text[: len(text) - len(match[0])].strip()):
        return text, unit, 1
    if not re.search(r"\d|\\pi", amount) or amount[-1] in "+-*/^_({[=,":
        return text, unit, 1
    words, power = match[1].strip(), (match[2] or "").translate({ord(c): None for c in " {}"})
    first, _, rest = words.partition(" ")
    factor = MULTIPLES.get(first.lower(), 1)
    words = rest if factor > 1 else words
    if _no_unit(words.lower()):
        return text, unit, 1
    stated = _spelling(words + power)
    return amount, unit + stated if unit and (stated or "")[:1] == "/" else unit or stated, factor


def _no_unit(words: str) -> bool:
    """Do they change the number: a multiple, a part (`ninths`), an operation, a doubt?"""
    return words in _NO_UNIT_ALONE or any(
        word in _NO_UNIT or word in MULTIPLES or _ORDINAL.fullmatch(word)
        for word in re.split(r"[ ./^-]+", words)
    )


def _one_text(text: str) -> str:
    r"""Units in several `\text` as one: `\text{km}/\text{h}`, `\frac{\text{km}}{\text{h}}`.

    >>> _one_text(r"5 \text{ km}/\text{h}"), _one_text(r"\text{5 km}")
    ('5 \\text{ km per h}', '5 km')
    """
    if r"\text" not in text:
        return text
    if match := _WHOLE.fullmatch(text):
        return match[1].strip()
    text = _PER_TEXT.sub(r"\\text{ per ", _FRACTION.sub(r"\\text{\1 per \2}", text))
    return _NEIGHBOURS.sub(r"\1", text)


def _suffix(text: str, hint: str | None) -> re.Match | None:
    """What may be the unit at the end, and its power."""
    tail = text[-100:]
    if match := _SIGN.search(tail) or _TEXT.search(tail):
        return match
    if (match := _PLAIN.search(tail)) and (_plain_unit(match[1]) or _is(match, hint)):
        return match
    match = _SYMBOL.search(tail) if hint else None
    return match if match and _is(match, hint) else None


def _is(match: re.Match, unit: str | None) -> bool:
    power = re.sub(r"[\s{}]", "", match[2] or "")
    return unit is not None and _spelling(match[1] + power) == unit


def _plain_unit(words: str) -> bool:
    """Is a word outside `\\text` a unit? Known, or too long to be a product of variables."""
    first = re.split(r"[ ./]", words.lower())[0]
    return first in _SHORT or first in MULTIPLES or len(first) >= 4


def _spelling(words: str) -> str | None:
    r"""One spelling of a unit; None for one that says nothing.

    >>> _spelling("square inches"), _spelling("cm^2"), _spelling("units"), _spelling("apples")
    ('inch^2', 'cm^2', None, 'apple')
    >>> _spelling("kilometres per hour"), _spelling("m/s^2"), _spelling("mW"), _spelling("MW")
    ('km/h', 'm/s^2', 'mW', 'MW')
    """
    unit = "/".join(_single(part.strip(" .")) for part in _PER.split(words))
    return None if not unit or unit in _QUIET else unit


def _single(words: str) -> str:
    """One spelling of a unit without "per"."""
    words = " ".join(words.split())
    if words.startswith(r"^\circ"):
        return _ALIASES[re.sub(r"\\text|[\s{}]", "", words)]
    for pattern, power in _POWERS:
        words = pattern.sub(power, words)
    stem, caret, power = words.partition("^")
    return _name(stem) + caret + power


def _name(word: str) -> str:
    """A unit's own name. Case tells `mW` from `MW`, but not `Km` from `km`, nor `Cups`."""
    folded = word.lower()
    known = next((w for w in (word, folded if len(word) > 1 else word) if w in _ALIASES), None)
    if known or len(word) < 3:
        return _ALIASES.get(known, word)
    single = _singular(folded)
    return _ALIASES.get(single, single)


def _singular(word: str) -> str:
    """One spelling for a noun's singular and plural, though not always the singular itself.

    >>> [_singular(word) for word in ("boxes", "pennies", "penny", "cookies", "cookie", "glass")]
    ['box', 'penny', 'penny', 'cooky', 'cooky', 'glass']
    """
    if word.endswith("ss"):
        return word
    if re.search(r"(?:x|ch|sh|ss)es$", word):
        return word[:-2]
    return re.sub(r"ie$", "y", word.removesuffix("s"))
