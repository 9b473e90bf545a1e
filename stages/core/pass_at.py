"""GRPO for the best of k completions in place of their mean (https://arxiv.org/abs/2505.15201).

The mean reward of a puzzle that is solved in most samples still grows where all of them come to be
the same; that of the best of k does not, and has most to gain where few samples are right. Each
completion is credited with its share in the best reward of every subset of k (the paper's equation
for continuous rewards, scaled so that k = 1 is GRPO itself). With that the gradient is the one of
the expected best of k; less the group's mean, as in GRPO, 1 - k/n of it in groups of n.
"""

from math import comb
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor


class PassAt:
    """Goes before TRL's GRPOTrainer, or a subclass of it, among a trainer's bases."""

    pass_at = 1  # completions of which the best one counts
    scores: "Tensor"  # of the last batch, all processes': (completions, reward functions)

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Any]:
        prepared = super()._generate_and_score_completions(inputs)
        if self.pass_at == 1 or not self.model.training:
            return prepared
        weighted = self.scores * self.reward_weights.to(self.scores.device)
        rewards = weighted.nansum(1).masked_fill(weighted.isnan().all(1), torch.nan)
        groups = rewards.split(self.num_generations)
        made = torch.cat([advantages(group, self.pass_at) for group in groups])
        logged = self._logs["advantages"]
        for _ in made:
            logged.pop()
        logged.extend(made.tolist())
        first = self.accelerator.process_index * len(inputs)
        prepared["advantages"] = made[first : first + len(inputs)].to(prepared["advantages"])
        return prepared


def advantages(rewards: "Tensor", k: int) -> "Tensor":
    """Of one group's completions, (n,); 0 for what could not be judged (NaN), as in TRL.

    Args:
        rewards: (n,), of which those that are a number count.
        k: completions of which the best one counts; where fewer were judged, all of them.
    """
    judged = ~rewards.isnan()
    made = torch.zeros_like(rewards)
    if judged.any():
        credit = credits(rewards[judged], min(k, int(judged.sum())))
        made[judged] = credit - credit.mean()
    return made


def credits(rewards: "Tensor", k: int) -> "Tensor":
    """n times each completion's share in the mean, over all subsets of k, of their best reward.

    >>> credits(torch.tensor([0.0, 1.0, 0.0, 0.0]), 1).tolist()
    [0.0, 1.0, 0.0, 0.0]
    >>> credits(torch.tensor([0.0, 1.0, 0.0, 1.0]), 2).tolist()  # a right one is in 3 subsets of 6
    [1.3333333730697632, 2.0, 1.3333333730697632, 2.0]
    """
    n = len(rewards)
    ordered, order = rewards.double().sort()
    # at place p of the rising order: subsets that it is the best of, and those with a given lesser
    best = torch.tensor([comb(p, k - 1) for p in range(n)], dtype=torch.double)
    with_lesser = torch.tensor([comb(p - 1, k - 2) if p and k > 1 else 0 for p in range(n)])
    from_above = (ordered * with_lesser.to(ordered)).flip(0).cumsum(0).flip(0).roll(-1)
    from_above[-1] = 0
    made = torch.empty_like(ordered)
    made[order] = (ordered * best.to(ordered) + from_above) * k / comb(n - 1, k - 1)
    return made.to(rewards)
