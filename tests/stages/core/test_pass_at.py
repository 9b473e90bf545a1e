from itertools import combinations, product
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.core.pass_at import advantages, credits

REWARD = st.sampled_from([0.0, 0.2, 1.0, 1.2]) | st.floats(-2, 2, width=32)
GROUP = st.lists(REWARD, min_size=1, max_size=7).flatmap(
    lambda rewards: st.tuples(st.just(rewards), st.integers(1, len(rewards)))
)


@given(GROUP)
def test_credit_is_a_share_in_the_best_of_every_subset(group):
    rewards, k = group
    n = len(rewards)
    subsets = list(combinations(range(n), k))
    wanted = [n / len(subsets) * sum(max(rewards[j] for j in s) for s in subsets if i in s)
              for i in range(n)]  # fmt: skip
    assert credits(torch.tensor(rewards), k).tolist() == pytest.approx(wanted, abs=1e-4)


@given(st.lists(REWARD, min_size=2, max_size=8))
def test_of_one_completion_each_it_is_grpo(rewards):
    made = advantages(torch.tensor(rewards), 1)
    assert made.tolist() == pytest.approx([r - mean(rewards) for r in rewards], abs=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("weigh", "share"), [(credits, lambda k: 1), (advantages, lambda k: 1 - k / 4)]
)
def test_its_gradient_is_that_of_the_expected_best_of_k(k, weigh, share):
    """A policy of three answers: every group of four, by its probability."""
    rewards = torch.tensor([0.0, 1.0, 0.3])
    logits = torch.tensor([1.0, -0.5, 0.2], requires_grad=True)

    def probability(answers: tuple[int, ...]) -> torch.Tensor:
        return logits.log_softmax(0)[list(answers)].sum().exp()

    best = sum(probability(s) * rewards[list(s)].max() for s in product(range(3), repeat=k))
    (wanted,) = torch.autograd.grad(best, logits)
    estimate = torch.zeros(3)
    for group in product(range(3), repeat=4):
        score = logits.log_softmax(0)[list(group)]
        (slope,) = torch.autograd.grad((weigh(rewards[list(group)], k) * score).mean(), logits)
        estimate += probability(group).detach() * slope
    torch.testing.assert_close(estimate, share(k) * wanted, atol=1e-5, rtol=1e-4)


def test_what_could_not_be_judged_counts_for_nothing():
    rewards = torch.tensor([1.0, torch.nan, 0.0, 0.0])
    made = advantages(rewards, 2)
    assert made[1] == 0
    torch.testing.assert_close(made[[0, 2, 3]], advantages(rewards[[0, 2, 3]], 2))
    assert advantages(torch.tensor([1.0, torch.nan]), 2).tolist() == [0.0, 0.0]
    assert advantages(torch.full((3,), torch.nan), 2).tolist() == [0.0, 0.0, 0.0]


def test_the_rarer_a_right_one_is_the_more_it_counts():
    five, one = torch.tensor([1.0] * 5 + [0.0] * 3), torch.tensor([1.0] + [0.0] * 7)
    assert not advantages(five, 4).any(), "every four of them hold a right one"
    assert advantages(five, 2).any()
    assert advantages(one, 4)[0] > advantages(one, 2)[0] > advantages(one, 1)[0] > 0
