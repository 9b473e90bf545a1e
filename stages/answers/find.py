r"""Where the final answer stands in a text: `\boxed{}`, else `####`, else "the answer is".

Every search is one pass over at most `MAX_TEXT` characters.
"""

import re

MAX_TEXT = 100_000  # characters looked at, from the end: the final answer stands there
MAX_ANSWER = 1_000  # characters; a longer answer is no short answer

BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BARE = re.compile(r"\s+([^\s{}$\\][^\s{}$\\]{0,99})")  # `\boxed 2`, as in two items of MATH
_HASHES = re.compile(r"####[ \t]*([^\n]{1,1000})")
_PHRASE = re.compile(
    r"\bthe (?:final |correct )?answer is:?[ \t]*([^\n]{1,1000})", re.IGNORECASE | re.ASCII
)
NUMBER = r"-?\d{1,12}(?:,\d{3}){0,3}(?:\.\d{1,9})?"
NUMBERS = re.compile(rf"(?<![\w.]){NUMBER}(?![\w]|\.\d)", re.ASCII)  # digits inside words are none
_SENTENCE_END = re.compile(r"(?<=\S)[.!?](?=\s|$)")


def final_answer(text: str) -> str | None:
    r"""The last box's content, else what follows the last `####`, else "the answer is".

    Args:
        text: what follows the thinking; only its last `MAX_TEXT` characters are looked at.

    >>> final_answer(r"so \boxed{\frac{1}{2}}"), final_answer("#### 1,080"), final_answer("hm")
    ('\\frac{1}{2}', '1,080', None)
    >>> final_answer("The final answer is 5.5. Bye")
    '5.5'
    """
    text = text[-MAX_TEXT:]
    if BOX.search(text):
        return last_box(text)
    if marks := _HASHES.findall(text):
        return marks[-1].strip() or None
    if phrases := _PHRASE.findall(text):
        return _SENTENCE_END.split(phrases[-1], maxsplit=1)[0].strip() or None
    return None


def last_box(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}`, braces matched; None if never closed.

    Of nested boxes it is the innermost that the last mark opens.
    """
    marks = list(BOX.finditer(text))
    if not marks:
        return None
    start = marks[-1].end()
    rest = text[start : start + MAX_ANSWER + 10].lstrip()
    if rest.startswith("{"):
        content = braced(rest)
        return None if content is None else content.strip() or None
    bare = _BARE.match(text, start)
    return bare[1].rstrip(".,;") or None if bare else None


def braced(text: str) -> str | None:
    r"""The content of the brace group that opens the text; `\{` and `\}` are no braces.

    >>> braced("{a{b}}c"), braced("{a")
    ('a{b}', None)
    """
    depth, skip = 0, False
    for place, char in enumerate(text):
        if skip:
            skip = False
        elif char == "\\":
            skip = True
        elif char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[1:place]
    return None


def last_number(text: str) -> str | None:
    """The last number of a text's last 500 characters, digits inside words apart.

    >>> last_number("so 5 or 1,080."), last_number("x2")
    ('1,080', None)
    """
    found = NUMBERS.findall(text[-500:])
    return found[-1] if found else None


def unboxed(answer: str) -> str:
    r"""An answer that is one box alone, without the box; any other answer as it is.

    >>> unboxed(r"$\boxed{5}$"), unboxed(r"\boxed{5} or \boxed{6}")
    ('5', '\\boxed{5} or \\boxed{6}')
    """
    bare = answer[: MAX_ANSWER + 10].strip().removesuffix(".").strip("$ ")
    mark = BOX.match(bare)
    if not mark or len(BOX.findall(bare)) != 1:
        return answer
    content = last_box(bare)
    rest = bare[mark.end() :].lstrip()
    if content is not None and rest.startswith("{"):
        end = len(braced(rest) or "") + 2
        return content if rest[end:].strip(" .") == "" else answer
    return answer
