"""Training rows a second against 10,000 evaluation items: python -m benchmarks.overlap [ROWS ...].

`prose` draws words as often as language does (Zipf's law), one row in 1,000 holds an evaluation
item. `templated` joins training problems of the embedded task; the items, its held-out problems,
are other problems with the same n-grams: the hard case, in which nothing should match.
Seconds are the process's own, making the rows not counted; memory is the peak so far.
"""

import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from itertools import accumulate, islice, product

from stages.core.overlap import Index
from stages.tasks import arithmetic, generated

ITEMS = 10_000
WORDS = 50  # a row
CHUNK = 1_000
SYLLABLES = [consonant + vowel for consonant in "bdgklm" for vowel in "aeiou"]
VOCABULARY = [*"1234567890", *map("".join, product(SYLLABLES, repeat=3))]  # 27,010 words
WEIGHTS = list(accumulate(1 / rank for rank in range(1, len(VOCABULARY) + 1)))


def prose(rng: random.Random, held: list[str]) -> Iterator[str]:
    """Rows without end; one in 1,000 holds one of the texts held."""
    while True:
        text = " ".join(rng.choices(VOCABULARY, cum_weights=WEIGHTS, k=WORDS)) + "."
        yield f"Read: {rng.choice(held)}" if held and rng.random() < 0.001 else text


def templated(rng: random.Random, held: list[str]) -> Iterator[str]:
    """Training problems, about WORDS a row, if something is held; else held-out problems."""
    while held:
        text = ""
        while text.count(" ") < WORDS - 10:
            made = arithmetic.problem(rng)
            if generated.part(arithmetic.chain_of(made)) not in generated.TEST:
                text += made.question + " "
        yield text
    for made in generated.distinct(arithmetic.problem, arithmetic.chain_of, rng, generated.TEST):
        yield made.question


def peak() -> float:
    """MB; macOS counts bytes, Linux KiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measured(index: Index, rows: Iterator[str], size: int) -> tuple[float, int]:
    """Seconds to match that many rows, and how many matched."""
    seconds, matched = 0.0, 0
    for start in range(0, size, CHUNK):
        chunk = list(islice(rows, min(CHUNK, size - start)))
        started = time.process_time()
        matched += sum(index.match(text) is not None for text in chunk)
        seconds += time.process_time() - started
    return seconds, matched


def compare(kind: Callable[[random.Random, list[str]], Iterator[str]], sizes: list[int]) -> None:
    items = list(islice(kind(random.Random("items"), []), ITEMS))
    started = time.process_time()
    index = Index((kind.__name__, row, text) for row, text in enumerate(items, 1))
    print(f"{kind.__name__:<10} index of {len(items):,} items: "
          f"{time.process_time() - started:.1f} s, {peak():.0f} MB")  # fmt: skip
    for size in sizes:
        seconds, matched = measured(index, kind(random.Random("rows"), items), size)
        print(f"{kind.__name__:<10}{size:>10,} rows{seconds:>9.2f} s{size / seconds:>10,.0f} rows/s"
              f"{matched:>8,} matched{peak():>7.0f} MB", flush=True)  # fmt: skip


if __name__ == "__main__":
    for kind in (prose, templated):
        compare(kind, [int(size) for size in sys.argv[1:]] or [10_000, 100_000])
