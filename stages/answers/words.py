"""Answers in words: names, places, short phrases."""

import unicodedata
from collections.abc import Iterable

MAX_WORDS = 500  # characters of an answer that are looked at


def same_words(golds: Iterable[str], answer: str | None) -> bool:
    """Is the answer one of the golds, case, punctuation, articles, accents and spacing apart?

    As in SQuAD's evaluation script (Rajpurkar et al. 2016); accents, too.

    >>> same_words(["Zürich", "Zurich, Switzerland"], "the ZURICH."), same_words(["Rome"], "")
    (True, False)
    """
    given = plain(answer or "")
    return bool(given) and given in {plain(gold) for gold in golds}


def plain(answer: str) -> str:
    """An answer's words: no case, accents, punctuation or articles."""
    folded = unicodedata.normalize("NFKD", answer[:MAX_WORDS]).casefold()
    kept = "".join(c if c.isalnum() else " " for c in folded if not unicodedata.combining(c))
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))
