"""Which evaluation item does a training text hold? Contamination, found item by item.

A training text is contaminated by an item if the two are equal once normalised (`exact`), or if
half of the item's n-grams of words stand in one stretch of the text as they do in the item and no
number differs (`n-gram`). Overlap of word n-grams is GPT-3's measure (Brown et al. 2020,
https://arxiv.org/abs/2005.14165, appendix C), there with n = 13 for documents. N is measured on
GSM8K's 1,319 test questions, 15 to 108 words long, and on 12,000 training against 600 held-out
problems of the arithmetic task, whose templates give different problems the same n-grams:

    half of the                                5-grams  8-grams  13-grams
    copies found, 5 % of the words replaced      .97      .84      .57
    copies found, 10 % of the words replaced     .78      .42      .19
    other problems flagged, of 12,000              6        3        0
    the same without the rule about numbers      308      169        0

Of GSM8K's training set none is flagged with any n; without the rule about numbers three, two and
two rows, each the template of a test question with other numbers. Numbers are those with digits:
problems that differ in a number written as a word count as one.

Chinese and Japanese write no spaces: each of their characters counts as a word. None of this was
measured on them.
"""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby, repeat
from typing import Literal

import numpy as np

N = 5
THRESHOLD = 0.5
COMMON = 10  # an n-gram of more items is a set phrase (GPT-3: of more than 10 training documents)
DRIFT = 4  # a quarter of an item's length is what words added or left out may shift its parts
BASE = 0x9E3779B97F4A7C15  # odd, so that its powers lose nothing modulo 2**64

SIGNS = {
    **{"+": "plus", "-": "minus", "\u2212": "minus", "*": "times", "\xd7": "times", "/": "over"},
    **{"\xf7": "over", "^": "power", "=": "equals", "<": "less", ">": "greater"},
}
SIGN = re.compile(rf"(?<=[\d)])[ \t]*([{re.escape(''.join(SIGNS))}])[ \t]*(?=[\d(])")
UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
NOT_WORD = re.compile(r"[\W_]+")
ASCII = {code: " " for code in range(128) if not chr(code).isalnum()}


@dataclass(frozen=True)
class Match:
    """An evaluation item that a text holds, and the share of the item's n-grams found in it."""

    name: str
    row: int
    by: Literal["exact", "n-gram"]
    share: float


def normalised(text: str) -> str:
    """A text with case, accents' form, punctuation and spacing taken away.

    A sign between two numbers is a word: it tells 3+4 from 3-4. So is a Chinese character.

    >>> normalised("  Ada's 3 APPLES…"), normalised("What is 3-4?")
    ('ada s 3 apples', 'what is 3 minus 4')
    """
    text = SIGN.sub(lambda found: f" {SIGNS[found[1]]} ", text)
    if text.isascii():  # the same by a shorter way
        return " ".join(text.lower().translate(ASCII).split())
    text = UNSPACED.sub(r" \1 ", unicodedata.normalize("NFKC", text).casefold())
    return NOT_WORD.sub(" ", text).strip()


class Index:
    """Evaluation items by their texts and n-grams; training texts stream past, none is kept.

    Of equal items the first by name and row is meant. Items of fewer than n words, and those whose
    every n-gram more than COMMON items share, match only exactly: `exact_only` counts them.

    Args:
        items: (name, row number, text) of each; texts without a letter or digit are left out.
        n: words of an n-gram, at least 1.
        threshold: the least share of an item's n-grams, over 0 and up to 1.
    """

    def __init__(
        self, items: Iterable[tuple[str, int, str]], n: int = N, threshold: float = THRESHOLD
    ):
        self.n, self.threshold = n, threshold
        places = distinct(items)
        self.texts, self.places = list(places), list(places.values())
        self.number = {text: number for number, text in enumerate(self.texts)}
        self.codes = {word: code(word) for text in self.texts for word in text.split()}
        self.weights = np.array([pow(BASE, k, 2**64) for k in range(n)], np.uint64)
        self.grams, self.ends, self.owners = self.rare_grams()
        self.evidence = np.bincount(self.owners, minlength=len(self.texts)).tolist()
        self.exact_only = self.evidence.count(0)

    def rare_grams(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sorted hashes (G,) of n-grams, the ends (G + 1,) of their owners, all owners in a row.

        The owners of n-gram g are `owners[ends[g] : ends[g + 1]]`, COMMON at the most.
        """
        found = [np.unique(self.hashes(text.split())) for text in self.texts]
        owners = np.repeat(np.arange(len(found), dtype=np.int32), [len(h) for h in found])
        hashes = np.concatenate([*found, np.zeros(0, np.uint64)])
        order = np.argsort(hashes, kind="stable")
        grams, counts = np.unique(hashes, return_counts=True)
        rare = counts <= COMMON
        ends = np.concatenate([[0], np.cumsum(counts[rare])])
        return grams[rare], ends, owners[order][np.repeat(rare, counts)]

    def hashes(self, words: list[str]) -> np.ndarray:
        """The 64-bit polynomial hash (uint64) of each n-gram; a word that no item has counts 0."""
        if len(words) < self.n:
            return np.zeros(0, np.uint64)
        codes = np.fromiter(map(self.codes.get, words, repeat(0)), np.uint64, len(words))
        return np.convolve(codes, self.weights, "valid")

    def match(self, text: str) -> Match | None:
        """The item that the text holds; of several an equal one, then the one with most of it."""
        clean = normalised(text)
        if (number := self.number.get(clean)) is not None:
            return Match(*self.places[number], "exact", 1.0)
        words = clean.split()
        candidates = self.candidates(words)
        if not candidates:
            return None
        at = positions(words, self.n)
        shares = {c: self.share(self.texts[c].split(), words, at) for c in candidates}
        best = min(candidates, key=lambda c: (-shares[c], self.places[c]))
        return Match(*self.places[best], "n-gram", shares[best]) if shares[best] else None

    def candidates(self, words: list[str]) -> list[int]:
        """Items with the threshold's share of their rare n-grams anywhere, if hashes do not lie."""
        hashes = self.hashes(words)
        if not (len(hashes) and len(self.grams)):
            return []
        at = self.grams.searchsorted(hashes)
        hits = at[self.grams.take(at, mode="clip") == hashes]
        counts: Counter[int] = Counter()
        for gram in set(hits.tolist()):
            counts.update(self.owners[self.ends[gram] : self.ends[gram + 1]].tolist())
        return [c for c, found in counts.items() if found / self.evidence[c] >= self.threshold]

    def share(self, item: list[str], words: list[str], at: dict[tuple, list[int]]) -> float:
        """The most of an item's n-grams, word by word, in one stretch of the text with its numbers.

        An n-gram at i in the item and at j in the text puts the item's beginning at j - i. A copy
        has all of them at one place, an edited one within a drift.

        Args:
            at: the text's n-grams and where they stand.

        Returns:
            The share, or 0.0 if it is below the threshold.
        """
        grams = {gram: places[0] for gram, places in positions(item, self.n).items()}
        beginnings = defaultdict(list)
        for gram, i in grams.items():
            for j in at.get(gram, ()):
                beginnings[j - i].append(i)
        best = 0.0
        for beginning in beginnings:
            for drift in {0, len(item) // DRIFT}:
                shifts = range(beginning, beginning + drift + 1)
                found = {i: i + shift for shift in shifts for i in beginnings.get(shift, ())}
                share = len(found) / len(grams)
                if share >= self.threshold and share > best:
                    best = share if same_numbers(item, words, found, self.n) else best
        return best


def distinct(items: Iterable[tuple[str, int, str]]) -> dict[str, tuple[str, int]]:
    """Normalised texts, none empty, each with the first (name, row) that has it."""
    places: dict[str, tuple[str, int]] = {}
    for name, row, text in items:
        if clean := normalised(text):
            places[clean] = min((name, row), places.get(clean, (name, row)))
    return places


def code(word: str) -> int:
    """64 bits, the same in every process, which the built-in hash is not."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def positions(words: list[str], n: int) -> dict[tuple, list[int]]:
    """Every n-gram and where it stands."""
    found = defaultdict(list)
    for place, gram in enumerate(zip(*(words[k:] for k in range(n)), strict=False)):
        found[gram].append(place)
    return found


def same_numbers(item: list[str], words: list[str], found: dict[int, int], n: int) -> bool:
    """Are the item's numbers those of the text, in their order?

    All between the first n-gram found and the last; before and after, as many as the item has.

    Args:
        found: places of n-grams in the item -> in the text.
    """
    i, i_end = min(found), max(found) + n
    j, j_end = min(found.values()), max(found.values()) + n
    before, after = numbers(item[:i]), numbers(item[i_end:])
    text_before = numbers(words[max(0, j - len(item)) : j])
    text_after = numbers(words[j_end : j_end + len(item)])
    return (
        numbers(words[j:j_end]) == numbers(item[i:i_end])
        and text_before[len(text_before) - len(before) :] == before
        and text_after[: len(after)] == after
    )


def numbers(words: list[str]) -> list[str]:
    """Words with a digit in their order, neighbours joined: `1,000` and `1000` are one number."""
    runs = groupby(words, lambda word: any(map(str.isdigit, word)))
    return ["".join(run) for has_digit, run in runs if has_digit]
