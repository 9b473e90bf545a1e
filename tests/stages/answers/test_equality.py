import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.answers.equality import equal, number


@given(st.integers(-(10**12), 10**12))
def test_an_integer_equals_itself_with_thousands_commas_and_as_a_decimal(n):
    assert number(str(n)) == n
    assert equal(str(n), f"{n:,}")
    assert equal(f"{n:,}", f"{n}.0")
    assert not equal(str(n), str(n + 1))


@given(st.integers(-999, 999), st.integers(1, 999))
def test_ratios_are_exact(a, b):
    assert number(f"{a}/{b}") == Fraction(a, b)


@given(st.text())
def test_any_text_is_judged_without_error(text):
    assert equal("5", text) in (True, False)
    assert number(text) is None or isinstance(number(text), Fraction)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("1080", "1,080"), ("5", "$5"), ("5", " 5. "), ("-3", "-$3"), ("0.5", "1/2"), ("18", "$18$"),
     ("2.50", "2.5")],
)  # fmt: skip
def test_equal(gold, answer):
    assert equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("5", None), ("5", ""), ("5", "6=5"), ("5", "5 or 6"), ("5", "5,5"), ("25000", "24999"),
     ("0.333", "1/3"), ("5", "\u0665"),
     ("5", "1/0"), ("5", "5_0"), ("5", "5" * 10_000), ("12", "1,2"),
     ("5", "__import__('os')"), ("5", "9**9**9")],
)  # fmt: skip
def test_not_equal(gold, answer):
    assert not equal(gold, answer)


def test_every_real_gsm8k_gold_equals_itself_and_no_neighbour(real_data):
    for split in ("train", "test"):
        for line in (real_data / "gsm8k" / f"{split}.jsonl").open():
            gold = json.loads(line)["answer"].rpartition("####")[2].strip()
            value = number(gold)
            assert value is not None and equal(gold, str(value))
            assert not equal(gold, str(value + 1))
