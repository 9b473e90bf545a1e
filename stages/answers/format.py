"""The output format: one description that drives the prompt, the reward and the evaluation."""

import re
from dataclasses import dataclass
from functools import cached_property

from stages.answers.find import MAX_ANSWER, MAX_TEXT, final_answer, last_box, unboxed

BOX = r"\boxed{"
_BLANK_LINES = re.compile(r"\A\s*\n")


@dataclass(frozen=True)
class Format:
    r"""What stands around the working and around the final answer.

    | style | answer_open | answer_close |
    |---|---|---|
    | tags | `<answer>` | `</answer>` |
    | a box (the last one counts, braces matched) | `\boxed{` | `}` |
    | a mark; the answer ends with its line | `####` | (empty) |
    | none: a box, else `####`, else "the answer is" | (empty) | (empty) |

    With empty thinking tags the working is all that stands before the answer.
    """

    think_open: str = "<think>"
    think_close: str = "</think>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags that there are, in their order; a box's brace is none."""
        close = () if self._boxed else (self.answer_close,)
        return tuple(filter(None, (self.think_open, self.think_close, self.answer_open, *close)))

    @property
    def opening(self) -> str:
        """What an answer opens with, where the format is kept."""
        return self.answer_open or BOX

    @property
    def _boxed(self) -> bool:
        return self.answer_open == BOX

    def render(self, answer: str, working: str | None = None) -> str:
        r"""A completion in this format; without working, the answer alone.

        >>> Format().render("5", "2+3"), Format("", "", r"\boxed{", "}").render("5")
        ('<think>2+3</think><answer>5</answer>', '\\boxed{5}')
        >>> Format("", "", "####", "").render("5", "2+3=5")
        '2+3=5\n#### 5'
        """
        end = "" if self.think_close else "\n"
        thinking = "" if working is None else f"{self.think_open}{working}{self.think_close}{end}"
        if self._boxed or not self.answer_open:
            return f"{thinking}{BOX}{answer}}}"
        space = "" if self.answer_close else " "
        return f"{thinking}{self.answer_open}{space}{answer}{self.answer_close}"

    def compliant(self, text: str) -> bool:
        """Exactly one working block, then exactly one answer, and nothing else.

        Where the answer is boxed, or in no tag, text may stand between the two and behind. The
        tags are counted before the pattern is tried and the pattern's groups are lazy, so that a
        hostile completion cannot make it backtrack far.
        """
        if any(text.count(tag) != 1 for tag in self.tags if tag != BOX):
            return False
        if self.answer_open and not self._boxed:
            return bool(self._whole.fullmatch(text))
        if self._boxed and (self.after_thinking(text) or "").count(BOX) != 1:
            return False
        first = text.lstrip().startswith(self.think_open)
        return first and self.shows_working(text) and self.answer(text) is not None

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        """The format from first to last character. No block may be empty."""
        think_open, think_close, answer_open, answer_close = (
            re.escape(tag)
            for tag in (self.think_open, self.think_close, self.answer_open, self.answer_close)
        )
        answer = rf"\s*\S.*?{answer_close}" if answer_close else r"[ \t]*\S[^\n]*"
        return re.compile(
            rf"\s*{think_open}\s*\S.*?{think_close}\s*{answer_open}{answer}\s*", re.DOTALL
        )

    def shows_working(self, text: str) -> bool:
        """Is there working: a closed block, or without tags anything before the answer?"""
        if not self.think_open:
            return bool(text.partition(self.opening)[0].strip())
        _, opened, rest = text.partition(self.think_open)
        working, closed, _ = rest.partition(self.think_close)
        return bool(opened and closed and working.strip())

    def after_thinking(self, text: str) -> str | None:
        """What follows the thinking; None where thinking never ends.

        A closing tag behind it that closes nothing ends no thinking: it hides no answer before it.

        >>> Format().after_thinking("<think>5</think> 6"), Format().after_thinking("<think>5")
        (' 6', None)
        """
        if not self.think_open:
            return text
        if self.think_close not in text:
            return None if self.think_open in text else text
        parts = text.split(self.think_close)
        end = depth = 0  # the prompt may hold the first opening tag
        for place, part in enumerate(parts[:-1]):
            depth += part.count(self.think_open)
            if depth:
                end, depth = place, depth - 1
        return self.think_close.join(parts[end + 1 :])

    def answer(self, text: str) -> str | None:
        r"""The final answer: what stands in the answer tags after the thinking.

        None where there is none: no closed block, thinking that never ends, an answer longer than
        `MAX_ANSWER`, or blocks that contradict each other. An answer given only inside the thinking
        does not count. A box inside the tags is taken off.

        >>> Format().answer(r"<think>6</think><answer>\boxed{5}</answer>")
        '5'
        """
        found = self.content(text)
        if found is None or len(found.strip()) > MAX_ANSWER:
            return None
        return found.strip()

    def content(self, text: str) -> str | None:
        """As `answer`, of any length and with its indent: it may be a program, or a part of one."""
        text = self.after_thinking(text)
        if text is None:
            return None
        if self._boxed:
            return last_box(text[-MAX_TEXT:])
        return self._tagged(text) if self.answer_open else final_answer(text)

    def _tagged(self, text: str) -> str | None:
        """The one content of all closed answer blocks in the last `MAX_TEXT` characters."""
        blocks = {}
        for part in text[-MAX_TEXT:].split(self.answer_open)[1:]:
            content, closed, _ = part.partition(self.answer_close or "\n")
            if closed or not self.answer_close:
                bare = content.strip()
                answer = unboxed(bare)
                blocks[answer] = indented(content) if answer == bare else answer
        return next(iter(blocks.values())) if len(blocks) == 1 else None


def indented(content: str) -> str:
    r"""Without blank lines; the first line's indent stays, which a single space is not.

    >>> indented("\n    return 1\n"), indented(" 5 ")
    ('    return 1', '5')
    """
    kept = _BLANK_LINES.sub("", content.rstrip())
    return kept if kept[:2].isspace() or kept[:1] == "\t" else kept.strip()
