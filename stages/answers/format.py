"""The output format: one description that drives the prompt, the reward and the evaluation."""

import re
from dataclasses import dataclass
from functools import cached_property

from stages.answers.find import MAX_ANSWER, MAX_TEXT, final_answer, unboxed


@dataclass(frozen=True)
class Format:
    r"""Tags around the working and around the final answer, e.g. `<think>` and `<answer>`.

    With empty answer tags the answer stands in the last `\boxed{}`, see `find.final_answer`.
    """

    think_open: str = "<think>"
    think_close: str = "</think>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"

    @property
    def tags(self) -> tuple[str, str, str, str]:
        return self.think_open, self.think_close, self.answer_open, self.answer_close

    def render(self, answer: str, working: str | None = None) -> str:
        r"""A completion in this format; without working, the answer block alone.

        >>> Format().render("5", "2+3"), Format(answer_open="", answer_close="").render("5")
        ('<think>2+3</think><answer>5</answer>', '\\boxed{5}')
        """
        thinking = "" if working is None else f"{self.think_open}{working}{self.think_close}"
        if not self.answer_open:
            return f"{thinking}\\boxed{{{answer}}}"
        return f"{thinking}{self.answer_open}{answer}{self.answer_close}"

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        """The format from first to last character: working, then answer, whitespace around.

        Blocks may not be empty. Both groups are lazy and the tags literal, and `compliant`
        counts the tags first, so that a hostile completion cannot make this backtrack far.
        """
        think_open, think_close, answer_open, answer_close = map(re.escape, self.tags)
        return re.compile(
            rf"\s*{think_open}\s*\S.*?{think_close}\s*{answer_open}\s*\S.*?{answer_close}\s*",
            re.DOTALL,
        )

    def compliant(self, text: str) -> bool:
        """Exactly one working block, then exactly one answer block, and nothing else.

        With empty answer tags: exactly one working block first, then text with an answer in it.
        """
        if not self.answer_open:
            return self._untagged(text)
        return all(text.count(tag) == 1 for tag in self.tags) and bool(self._whole.fullmatch(text))

    def _untagged(self, text: str) -> bool:
        once = all(text.count(tag) == 1 for tag in (self.think_open, self.think_close))
        first = text.lstrip().startswith(self.think_open)
        return once and first and self.shows_working(text) and self.answer(text) is not None

    def shows_working(self, text: str) -> bool:
        """Does the text hold a closed, non-empty working block?"""
        _, opened, rest = text.partition(self.think_open)
        working, closed, _ = rest.partition(self.think_close)
        return bool(opened and closed and working.strip())

    def answer(self, text: str) -> str | None:
        r"""The final answer: what stands in the answer tags after the thinking.

        None where there is none: no closed block, thinking that never ends, an answer longer than
        `MAX_ANSWER`, or blocks that contradict each other. An answer given only inside the thinking
        does not count. A box inside the tags is taken off.

        >>> Format().answer(r"<think>6</think><answer>\boxed{5}</answer>")
        '5'
        """
        if self.think_close in text:
            text = text.rpartition(self.think_close)[2]
        elif self.think_open in text:
            return None
        found = self._tagged(text) if self.answer_open else final_answer(text)
        return found if found is not None and len(found) <= MAX_ANSWER else None

    def _tagged(self, text: str) -> str | None:
        """The one content of all closed answer blocks in the last `MAX_TEXT` characters."""
        blocks = set()
        for part in text[-MAX_TEXT:].split(self.answer_open)[1:]:
            content, closed, _ = part.partition(self.answer_close)
            if closed:
                blocks.add(unboxed(content.strip()))
        return blocks.pop() if len(blocks) == 1 else None
