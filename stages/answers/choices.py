r"""Multiple choice: the letter, or the text of the option it stands for."""

import re
from collections.abc import Callable, Sequence

_LETTER = re.compile(r"\(?([A-Za-z])(?:\)|\.|:|\)\.)?")
_WITH_TEXT = re.compile(r"\(?([A-Za-z])(?:\)\.?|[.:])\s*(.+)", re.DOTALL)
# `A.M.` and `B.C.` begin with no letter of an option
_OWN = re.compile(r"\(?([A-Za-z])(?:\)\.?|[.:](?![^\W\d_]))\s*(.+)", re.DOTALL)


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
    texts = own_texts(options)
    if match := _LETTER.fullmatch(text.strip()):
        place = ord(match[1].upper()) - ord("A")
        if place < len(texts):
            return place
    whole = text.strip().rstrip(".")  # before `A.M.` is read as option A
    exact = [place for place, option in enumerate(texts) if option.rstrip(".") == whole]
    if len(exact) == 1:
        return exact[0]
    if match := _WITH_TEXT.fullmatch(text.strip()):
        place = ord(match[1].upper()) - ord("A")
        if place < len(texts):
            return place if equal(texts[place], match[2].strip()) else None
    meant = [place for place, option in enumerate(texts) if equal(option, text)]
    return meant[0] if len(meant) == 1 else None


def own_texts(options: Sequence[str]) -> list[str]:
    """Options without their own letters, where every one carries its own.

    >>> own_texts(["A)21", "B)22"]), own_texts(["A. Lincoln", "G. Washington"])
    (['21', '22'], ['A. Lincoln', 'G. Washington'])
    """
    bare = [option.strip() for option in options]
    found = [_OWN.fullmatch(option) for option in bare]
    if all(m and ord(m[1].upper()) == ord("A") + place for place, m in enumerate(found)):
        return [match[2] for match in found]
    return bare
