"""The four rewards of the Hugging Face cookbook's GRPO recipe for GSM8K, with its scores.

Their known faults are kept by default, so that published numbers can be reproduced;
`mended: true` repairs them. The tags are the configured format's; the recipe's own are
`<start_working_out>`, `<end_working_out>`, `<SOLUTION>` and `</SOLUTION>`.
"""

import re

from stages.answers.equality import equal, number
from stages.answers.format import Format
from stages.rewards.text import MAX_CHARS, text


def match_format_exactly(
    completions: list, fmt: Format, mended: bool = False, **_
) -> list[float]:  # fmt: skip
    """3.0 where the format is found, else 0.0.

    As published, junk before the working and blank lines behind the answer do not matter; mended,
    the whole completion must keep the format.
    """
    return [3.0 * (fmt.compliant(text(c)) if mended else found(text(c), fmt)) for c in completions]


def found(content: str, fmt: Format) -> bool:
    """Working closed, then an answer block at the end; found by position, so in linear time."""
    _, opened, rest = content[:MAX_CHARS].partition(fmt.think_open)
    _, closed, rest = rest.partition(fmt.think_close)
    _, answered, rest = rest.partition(fmt.answer_open)
    answer, ended, rest = rest.rpartition(fmt.answer_close)
    return bool(opened and closed and answered and ended and answer and not rest.strip())


def match_format_approximately(completions: list, fmt: Format, **_) -> list[float]:
    """+0.5 for each of the four tags that occurs exactly once, -0.5 for each that does not."""
    return [sum(0.5 if text(c).count(tag) == 1 else -0.5 for tag in fmt.tags) for c in completions]


def check_answer_correctness(
    completions: list, gold: list[str], fmt: Format, mended: bool = False, **_
) -> list[float]:
    """3.0 the same text; 1.5 within 10 % as a ratio; 0.5 within 20 %; -0.5 else; 0.0 no answer.

    As published, `1080` for `1,080` is no number and scores -0.5; mended, equality is the
    verifier's and numbers are read with their commas.
    """

    def score(content: str, truth: str) -> float:
        answer = fmt.answer(content) if mended else between(content, fmt)
        if answer is None:
            return 0.0
        if equal(truth, answer) if mended else answer.strip() == truth.strip():
            return 3.0
        given, wanted = (read(a, mended) for a in (answer, truth))
        if given is None or not wanted:
            return -0.5
        ratio = given / wanted
        return 1.5 if 0.9 <= ratio <= 1.1 else 0.5 if 0.8 <= ratio <= 1.2 else -0.5

    return [score(text(c), g) for c, g in zip(completions, gold, strict=True)]


def check_numbers_extraction(
    completions: list, gold: list[str], fmt: Format, mended: bool = False, **_
) -> list[float]:
    """1.5 where the first number behind the answer's opening tag is the gold's value, else 0.0.

    As published, a gold with a comma or a minus can never earn it; mended, it can.
    """

    def score(content: str, truth: str) -> float:
        behind = content[:MAX_CHARS].partition(fmt.answer_open)[2]
        pattern = r"-?[\d,]*\.?\d+" if mended else r"[\d.]{1,100}"
        first = re.search(pattern, behind[:1000], re.ASCII)
        given = read(first[0], mended) if first else None
        return 1.5 if given is not None and given == read(truth, mended) else 0.0

    return [score(text(c), g) for c, g in zip(completions, gold, strict=True)]


def between(content: str, fmt: Format) -> str | None:
    """What stands between the answer's tags, as the published pattern finds it."""
    content = content[:MAX_CHARS]
    return content.partition(fmt.answer_open)[2].rpartition(fmt.answer_close)[0] if found(
        content, fmt
    ) else None  # fmt: skip


def read(answer: str, mended: bool) -> float | None:
    """None where it is no number or, mended, beyond a float's range."""
    exact = number(answer) if mended else answer.strip()[:100]
    try:
        return None if exact is None else float(exact)
    except (ValueError, OverflowError):
        return None
