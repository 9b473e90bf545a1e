import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.answers.find import final_answer, unboxed
from stages.answers.format import Format

UNTAGGED = Format(answer_open="", answer_close="")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} so \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\boxed{\left\{x^{2^{3}}\right\}}$", r"\left\{x^{2^{3}}\right\}"),
        (r"\fbox{7}", "7"),
        (r"is $\boxed 2$.", "2"),
        (r"\boxed{5} but never \boxed{6", None),
        (r"\boxed{}", None),
        ("so 3\n#### 1,080", "1,080"),
        ("#### 5\nno, #### 6", "6"),
        ("The final answer is $5.50. Thanks!", "$5.50"),
        ("the answer is: 7", "7"),
        ("seven", None),
        ("", None),
    ],
)
def test_the_last_box_else_hashes_else_the_phrase(text, answer):
    assert final_answer(text) == answer
    assert UNTAGGED.answer(f"<think>\\boxed{{99}}</think>{text}") == answer


def test_without_tags_only_what_follows_the_thinking_counts():
    assert UNTAGGED.answer(r"<think>\boxed{5}</think>I do not know") is None
    assert UNTAGGED.answer(r"<think>\boxed{5}") is None
    text = UNTAGGED.render("5", "2+3")
    assert (
        UNTAGGED.compliant(text) and UNTAGGED.shows_working(text) and UNTAGGED.answer(text) == "5"
    )
    assert not UNTAGGED.compliant("so " + text)
    assert not UNTAGGED.compliant("<think>2+3</think>five")


@pytest.mark.parametrize(
    ("content", "answer"),
    [(r"\boxed{5}", "5"), (r"$\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"), ("5", "5"),
     (r"\boxed{5} or \boxed{6}", r"\boxed{5} or \boxed{6}"), (r"\boxed{5} or 6", None)],
)  # fmt: skip
def test_a_box_inside_the_tags_is_taken_off(content, answer):
    assert unboxed(content) == (answer or content)
    assert Format().answer(f"<answer>{content}</answer>") == (answer or content)


@given(st.text() | st.text(alphabet="\\boxed{}fbox# thenswri<>/k"))
def test_no_text_makes_extraction_raise(text):
    for fmt in (Format(), UNTAGGED):
        found = fmt.answer(text)
        assert found is None or isinstance(found, str)
        fmt.compliant(text)
    unboxed(text)


@given(st.text(alphabet="abc123 +{}", max_size=30).filter(str.strip))
def test_what_is_boxed_is_read_back(content):
    depths = [
        content[: i + 1].count("{") - content[: i + 1].count("}") for i in range(len(content))
    ]
    if min(depths) >= 0 and depths[-1] == 0:
        assert final_answer(f"so \\boxed{{{content}}}") == content.strip()


def test_hostile_texts_cost_little():
    texts = ["{" * 3_000, "\\boxed{" * 150_000, "\\boxed{" + "{" * 1_000_000, "#### " * 200_000,
             "the answer is " * 80_000, "\\boxed" + " " * 1_000_000, "#" * 1_000_000,
             "\\boxed{" * 3_000 + "5" + "}" * 3_000]  # fmt: skip
    started = time.process_time()
    for text in texts:
        for fmt in (Format(), UNTAGGED):
            fmt.answer(text)
            fmt.answer(f"<answer>{text}</answer>")
    assert time.process_time() - started < 10
