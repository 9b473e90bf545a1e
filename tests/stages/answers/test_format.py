import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.answers.format import Format

FMT = Format()
PLAIN_TEXT = st.text(st.characters(exclude_characters="<>"), min_size=1).filter(str.strip)


@given(answer=PLAIN_TEXT, working=PLAIN_TEXT)
def test_what_is_rendered_is_compliant_and_read_back(answer, working):
    text = FMT.render(answer, working)
    assert FMT.compliant(text)
    assert FMT.shows_working(text)
    assert FMT.answer(text) == answer.strip()


@given(answer=PLAIN_TEXT)
def test_an_answer_without_working_is_read_but_not_compliant(answer):
    text = FMT.render(answer)
    assert FMT.answer(text) == answer.strip()
    assert not FMT.compliant(text)
    assert not FMT.shows_working(text)


@pytest.mark.parametrize(
    "text",
    [
        "<think>1+1=2</think><answer>2</answer> and more",
        "Sure! <think>1+1=2</think><answer>2</answer>",
        "<think>1+1=2</think>so<answer>2</answer>",
        "<think></think><answer>2</answer>",
        "<think>1+1=2</think><answer> </answer>",
        "<think>1</think><answer>2</answer><answer>2</answer>",
        "<answer>2</answer><think>1+1=2</think>",
        "<think>1+1=2<answer>2</answer>",
        "",
    ],
)
def test_not_compliant(text):
    assert not FMT.compliant(text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>the answer is <answer>5</answer></think><answer>7</answer>", "7"),
        ("<think>the answer is <answer>5</answer></think>", None),
        ("<think>never ends <answer>5</answer>", None),
        ("<think>x</think><answer>5</answer><answer>6</answer>", None),
        ("<think>x</think><answer>5</answer><answer>5</answer>", "5"),
        ("<think>x</think><answer>5", None),
        ("<think>x</think><answer>4</answer></think><answer>5</answer>", None),
        ("x</think><answer>4</answer></think><answer>5</answer>", None),
        ("<think>x</think><answer>5</answer></think>", "5"),
        ("x <answer>4</answer></think><answer>5</answer>", "5"),
        ("<think>x</think>hm<think>y <answer>4</answer></think><answer>5</answer>", "5"),
        ("<think>x<think>y</think> <answer>4</answer></think><answer>5</answer>", "5"),
        ("5", None),
    ],
)
def test_only_what_follows_the_thinking_counts(text, answer):
    assert FMT.answer(text) == answer


def test_other_tags():
    fmt = Format("<start_working_out>", "<end_working_out>", "<SOLUTION>", "</SOLUTION>")
    text = "<start_working_out>2*3=6<end_working_out><SOLUTION>6</SOLUTION>"
    assert fmt.compliant(text)
    assert fmt.answer(text) == "6"


STYLES = [
    Format("", "", r"\boxed{", "}"),
    Format("<think>", "</think>", r"\boxed{", "}"),
    Format("", "", "####", ""),
    Format("<think>", "</think>", "####", ""),
    Format("<think>", "</think>", "", ""),
    Format("", "", "<answer>", "</answer>"),
]
NO_MARKS = st.text("ab1+= ", min_size=1).filter(str.strip)


@pytest.mark.parametrize("fmt", STYLES, ids=str)
@given(answer=NO_MARKS, working=NO_MARKS)
def test_every_style_reads_back_what_it_renders(fmt, answer, working):
    text = fmt.render(answer, working)
    assert fmt.answer(text) == answer.strip()
    assert fmt.compliant(text) and fmt.shows_working(text)
    alone = fmt.render(answer)
    assert fmt.answer(alone) == answer.strip()
    assert not fmt.compliant(alone) and not fmt.shows_working(alone)


@pytest.mark.parametrize(
    ("fmt", "text", "answer", "compliant"),
    [
        (STYLES[0], r"so \boxed{5} or \boxed{\frac{1}{2}}", r"\frac{1}{2}", False),
        (STYLES[0], "the answer is 5", None, False),
        (STYLES[1], r"<think>\boxed{5}</think> none", None, False),
        (STYLES[1], r"<think>w</think> so \boxed{5}.", "5", True),
        (STYLES[2], "2+3=5\n#### 5\nand more", "5", False),
        (STYLES[2], "w\n#### 5\n#### 6", None, False),
        (STYLES[2], "w\n####\n", "", False),
        (STYLES[4], "<think>w</think> The answer is 5.", "5", True),
    ],
)
def test_answers_without_a_pair_of_tags(fmt, text, answer, compliant):
    assert fmt.answer(text) == answer
    assert fmt.compliant(text) is compliant


def test_an_answer_is_short_its_content_need_not_be():
    long = "x = 1\n" * 400
    assert FMT.answer(FMT.render(long)) is None
    assert FMT.content(FMT.render(long)) == long.strip()


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("    return 1\n", "    return 1"),
        ("\n\n\ta = 1\n\treturn a\n\n", "\ta = 1\n\treturn a"),
        (" 5 ", "5"),
        (" \n 5", "5"),
        (r"  \boxed{5}", "5"),
        ("  ", ""),
    ],
)
def test_only_the_content_keeps_an_indent(content, kept):
    text = f"<think>w</think><answer>{content}</answer>"
    assert FMT.content(text) == kept
    assert FMT.content(f"{text}<answer>{content.strip()}</answer>") is not None
    assert FMT.answer(text) == kept.strip()


def test_hostile_completions_cost_little():
    texts = ["<think>" * 50_000, "<answer>" * 50_000, "<think>x</think>" + "<answer>" * 50_000,
             "<think> " + " \n" * 100_000 + "</think><answer> " + " " * 100_000]  # fmt: skip
    started = time.process_time()
    for text in texts:
        assert not FMT.compliant(text)
        assert FMT.answer(text) is None
    assert time.process_time() - started < 5
