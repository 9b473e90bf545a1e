import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from stages.core.statistics import mcnemar, paired_difference, wilson


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(pair):
    successes, n = pair
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_agrees_with_the_exact_binomial_test(gained, lost):
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-6)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(2000, 4000))
def test_paired_difference_is_that_of_the_items(gained, lost, n):
    items = np.array([1] * gained + [-1] * lost + [0] * (n - gained - lost))
    difference, low, high = paired_difference(gained, lost, n)
    wald = 1.959964 * items.std() / np.sqrt(n)
    assert difference == pytest.approx(items.mean())
    assert low <= difference <= high
    assert (low, high) == pytest.approx((difference - wald, difference + wald), abs=2 / n)


def test_few_items_without_a_flip_are_no_certainty():
    _, low, high = paired_difference(0, 0, 12)
    assert low < -0.1 and high > 0.1
