r"""Multiple choice: the letter, or the text of the option it stands for."""

import re
from collections.abc import Callable, Sequence

_LETTER = re.compile(r"\(?([A-Za-z])(?:\)|\.|:|\)\.)?")
_WITH_TEXT = re.compile(r"\(?([A-Za-z])(?:\)\.?|[.:])\s*(.+)", re.DOTALL)


def resolved(text: str, options: Sequence[str], equal: Callable[[str, str], bool]) -> int | None:
    r"""Which option a tidy answer means, by letter, by text, or by both if they agree.

    Args:
        text: the answer, without `\text`.
        options: their texts in order, with or without their own letters ("A)21").
        equal: says whether two texts are the same answer.

    >>> resolved("(B)", ["A)21", "B)22"], str.__eq__), resolved("22", ["21", "22"], str.__eq__)
    (1, 1)
    >>> resolved("B) 21", ["21", "22"], str.__eq__) is None
    True
    """
    texts = [own_text(option, place) for place, option in enumerate(options)]
    if match := _LETTER.fullmatch(text.strip()):
        place = ord(match[1].upper()) - ord("A")
        return place if place < len(texts) else None
    if match := _WITH_TEXT.fullmatch(text.strip()):
        place = ord(match[1].upper()) - ord("A")
        if place < len(texts):
            return place if equal(texts[place], match[2].strip()) else None
    meant = [place for place, option in enumerate(texts) if equal(option, text)]
    return meant[0] if len(meant) == 1 else None


def own_text(option: str, place: int) -> str:
    """An option without its own letter.

    >>> own_text("B)22", 1), own_text("(B) 22", 1), own_text("22", 1)
    ('22', '22', '22')
    """
    match = _WITH_TEXT.fullmatch(option.strip())
    return match[2] if match and match[1].upper() == chr(ord("A") + place) else option
