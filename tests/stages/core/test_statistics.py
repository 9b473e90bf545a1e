import time
from fractions import Fraction
from itertools import combinations
from math import comb, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest

from stages.core.statistics import (
    maj_at_k,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    pass_at_k,
    standard_error,
    wilson,
)

SAMPLES = st.integers(1, 300).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))
)
SHARES = st.lists(st.floats(0, 1), min_size=2, max_size=60)


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


@pytest.mark.parametrize(("n", "c"), [(n, c) for n in range(1, 7) for c in range(n + 1)])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_sample(n, c):
    samples = [True] * c + [False] * (n - c)
    for k in range(1, n + 1):
        draws = list(combinations(samples, k))
        assert pass_at_k(n, c, k) == sum(map(any, draws)) / len(draws)


@given(SAMPLES)
def test_pass_at_k_is_right_to_the_last_bit_and_agrees_with_scipy(sizes):
    n, c, k = sizes
    assert pass_at_k(n, c, k) == float(1 - Fraction(comb(n - c, k), comb(n, k)))
    assert pass_at_k(n, c, k) == pytest.approx(stats.hypergeom(n, c, k).sf(0), abs=1e-9)
    assert 0 <= pass_at_k(n, c, k) <= 1
    assert pass_at_k(n, c, 1) == c / n
    assert pass_at_k(n, n, k) == 1 and pass_at_k(n, 0, k) == 0


@given(SAMPLES)
def test_pass_at_k_grows_with_k_and_with_the_right_samples(sizes):
    n, c, k = sizes
    if k < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c, k + 1)
    if c < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c + 1, k)


@pytest.mark.parametrize("sizes", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)])
def test_pass_at_k_of_what_cannot_be_is_refused(sizes):
    with pytest.raises(ValueError, match="does not exist"):
        pass_at_k(*sizes)


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        ("7 7 8", 1.0),
        ("8 8 7", 0.0),
        ("7 8", 1 / 2),
        ("7 8 9", 1 / 3),
        ("7 7 7.0 7.0 8 8", 2 / 3),
        ("- - - 7", 1.0),
        ("- - - 8", 0.0),
        ("- -", 0.0),
        ("", 0.0),
    ],
)
def test_a_vote_is_won_by_the_answer_with_the_most_samples(votes, expected):
    answers = [None if vote == "-" else vote for vote in votes.split()]
    assert maj_at_k(answers, {"7", "7.0"}) == pytest.approx(expected)


@given(
    st.lists(st.sampled_from("abc"), max_size=12),
    st.integers(0, 20),
    st.sets(st.sampled_from("abc")),
    st.randoms(),
)
def test_a_vote_knows_no_order_and_hears_no_silence(votes, silent, right, random):
    shuffled = [*votes, *[None] * silent]
    random.shuffle(shuffled)
    assert maj_at_k(shuffled, right) == maj_at_k(votes, right)
    assert 0 <= maj_at_k(votes, right) <= 1
    top = [a for a in "abc" if votes and votes.count(a) == max(map(votes.count, "abc"))]
    assert maj_at_k(votes, right) == (np.mean([a in right for a in top]) if top else 0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60))
def test_standard_error_and_interval_of_a_mean_agree_with_scipy(scores):
    error = standard_error(scores)
    assert error == pytest.approx(stats.sem(scores), rel=1e-9, abs=1e-9)
    expected = stats.norm.interval(0.95, np.mean(scores), stats.sem(scores) or 1e-300)
    assert mean_interval(scores) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_spread_of_a_single_item_is_not_known():
    assert isnan(standard_error([1.0])) and all(map(isnan, mean_interval([1.0])))
    low, high = mean_interval([1.0], bounds=(0, 1))
    assert low < 0.5 and high == 1


@given(SHARES)
def test_a_bounded_interval_holds_its_mean_and_stays_within(scores):
    low, high = mean_interval(scores, bounds=(0, 1))
    assert 0 <= low <= np.mean(scores) + 1e-12 and np.mean(scores) - 1e-12 <= high <= 1
    assert high - low > 0.01, "equal scores are no certainty"


@given(st.integers(30, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_bounded_interval_of_rights_and_wrongs_is_agresti_and_coulls(pair):
    successes, n = pair
    share = (successes + 2) / (n + 4)
    half = 1.959964 * np.sqrt(share * (1 - share) / (n + 4))
    low, high = mean_interval([1.0] * successes + [0.0] * (n - successes), bounds=(0, 1))
    assert low == pytest.approx(min(max(share - half, 0), successes / n), abs=1e-6)
    assert high == pytest.approx(max(min(share + half, 1), successes / n), abs=1e-6)
    assert (low, high) == pytest.approx(wilson(successes, n), abs=0.03)


def test_a_bounded_interval_holds_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(1)
    held = []
    for _ in range(2000):
        scores = generator.choice([0.0, 0.5, 1.0], size=40, p=[0.1, 0.1, 0.8])
        low, high = mean_interval(scores.tolist(), bounds=(0, 1))
        held.append(low <= 0.85 <= high)
    assert 0.93 < np.mean(held) < 0.975


@pytest.mark.parametrize("n", [25, 300])
def test_the_bootstrap_agrees_with_scipys(n):
    generator = np.random.default_rng(n)
    before = generator.normal(size=n)
    after = before + generator.exponential(0.3, size=n)
    expected = stats.bootstrap(
        (before, after),
        lambda b, a, axis: (a - b).mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(3),
    )
    difference, low, high = paired_bootstrap(before, after)
    width = expected.confidence_interval.high - expected.confidence_interval.low
    assert difference == pytest.approx((after - before).mean())
    assert low == pytest.approx(expected.confidence_interval.low, abs=width / 20)
    assert high == pytest.approx(expected.confidence_interval.high, abs=width / 20)


def test_the_bootstrap_of_two_items_is_the_enumeration():
    """Draws of {0, 1} with replacement: 0, 1/2, 1/2, 1, each a quarter of the time."""
    assert paired_bootstrap([0, 0], [0, 1]) == (0.5, 0.0, 1.0)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
def test_the_bootstrap_holds_the_difference_and_turns_with_the_sides(items):
    before, after = map(list, zip(*items, strict=True))
    difference, low, high = paired_bootstrap(before, after, resamples=500)
    changes = [a - b for b, a in items]
    assert min(changes) - 1e-9 <= low <= difference <= high <= max(changes) + 1e-9
    assert paired_bootstrap(before, after, resamples=500) == (difference, low, high), "seeded"
    turned = paired_bootstrap(after, before, resamples=500)
    assert turned == pytest.approx((-difference, -high, -low), abs=1e-9)


def test_the_bootstrap_of_flips_agrees_with_the_interval_in_closed_form():
    before = [0] * 40 + [1] * 15 + [1] * 945
    after = [1] * 40 + [0] * 15 + [1] * 945
    assert paired_bootstrap(before, after) == pytest.approx(
        paired_difference(40, 15, 1000), abs=2e-3
    )


def test_the_bootstrap_of_a_large_test_set_takes_a_moment():
    generator = np.random.default_rng(0)
    started = time.perf_counter()
    paired_bootstrap(generator.normal(size=5000), generator.normal(size=5000))
    assert time.perf_counter() - started < 10
