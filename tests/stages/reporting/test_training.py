import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.reporting.training import (
    advantage_shares,
    advantage_table,
    finding_table,
    group_shares,
    grpo_panels,
    loss_panels,
    read_curves,
    target_table,
)

SCORES = st.fixed_dictionaries({name: st.sampled_from([0.0, 0.5, 1.0, -1.0]) for name in "abc"})
WEIGHTS = {"a": 1.0, "b": 0.3, "c": -0.7}


def rollout(step: int, question: str, **rewards: float | None) -> dict:
    return {"step": step, "question": question, "rewards": rewards}


def test_two_rewards_that_agree_share_by_their_weights():
    group = [rollout(1, "q", a=1.0, b=1.0), rollout(1, "q", a=0.0, b=0.0)]
    shares = advantage_shares(group, {"a": 3.0, "b": 1.0})
    assert shares == {"a": [(1, 0.75)], "b": [(1, 0.25)]}


def test_a_reward_that_is_the_same_for_all_has_no_say():
    group = [rollout(1, "q", a=1.0, b=1.0), rollout(1, "q", a=0.0, b=1.0)]
    assert advantage_shares(group, {"a": 1.0, "b": 50.0}) == {"a": [(1, 1.0)], "b": [(1, 0.0)]}


def test_a_reward_that_pulls_against_the_rest_is_below_zero():
    group = [rollout(1, "q", a=1.0, b=0.0), rollout(1, "q", a=0.0, b=1.0)]
    shares = advantage_shares(group, {"a": 1.0, "b": 0.5})
    assert shares == {"a": [(1, 2.0)], "b": [(1, -1.0)]}


def test_groups_count_the_same_and_dead_ones_not_at_all():
    rows = [
        rollout(1, "only a", a=1.0, b=0.0), rollout(1, "only a", a=0.0, b=0.0),
        rollout(1, "only b", a=0.0, b=0.1), rollout(1, "only b", a=0.0, b=0.0),
        rollout(1, "dead", a=1.0, b=1.0), rollout(1, "dead", a=1.0, b=1.0),
        rollout(2, "dead", a=0.0, b=1.0), rollout(2, "dead", a=0.0, b=1.0),
    ]  # fmt: skip
    shares = advantage_shares(rows, {"a": 1.0, "b": 1.0})
    assert shares == {"a": [(1, 0.5)], "b": [(1, 0.5)]}
    assert advantage_shares(rows[4:], {"a": 1.0, "b": 1.0}) == {}
    assert advantage_shares([], {"a": 1.0}) == {}


def test_a_difference_by_rounding_is_a_dead_group():
    rows = [rollout(1, "q", a=0.1, b=0.2), rollout(1, "q", a=0.3, b=0.0)]
    assert 0.1 + 0.2 != 0.3
    assert advantage_shares(rows, {"a": 1.0, "b": 1.0}) == {}


@pytest.mark.parametrize("unjudged", [None, math.nan])
def test_what_was_not_judged_counts_as_nothing(unjudged):
    rows = [rollout(1, "q", a=1.0, b=unjudged), rollout(1, "q", a=0.0, b=unjudged)]
    assert advantage_shares(rows, {"a": 1.0, "b": 1.0}) == {"a": [(1, 1.0)], "b": [(1, 0.0)]}


def test_a_reward_without_a_weight_has_no_say():
    rows = [rollout(1, "q", a=1.0, b=1.0), rollout(1, "q", a=0.0, b=0.0)]
    assert advantage_shares(rows, {"a": 1.0})["b"] == [(1, 0.0)]


@given(st.lists(SCORES, min_size=2, max_size=16))
def test_a_groups_shares_are_covariances_and_sum_to_one(scores):
    rows = [rollout(1, "q", **score) for score in scores]
    shares = advantage_shares(rows, WEIGHTS)
    parts = np.array([[WEIGHTS[name] * score[name] for name in "abc"] for score in scores])
    total = parts.sum(axis=1)
    if total.std() < 1e-7:
        assert shares == {}
        return
    for i, name in enumerate("abc"):
        covariance = np.cov(parts[:, i], total, ddof=0)[0, 1]
        assert shares[name][0][1] == pytest.approx(covariance / total.var(), abs=1e-9)
    assert sum(points[0][1] for points in shares.values()) == pytest.approx(1)
    # the advantage is the total less its mean over its spread: a share is what the part adds to it
    advantage = (total - total.mean()) / total.std()
    added = [
        (advantage * (parts[:, i] - parts[:, i].mean()) / total.std()).mean() for i in range(3)
    ]
    assert [shares[name][0][1] for name in "abc"] == pytest.approx(added, abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from("pq"), SCORES), max_size=40),
       st.randoms())  # fmt: skip
def test_every_step_sums_to_one_whatever_the_order(rows, generator):
    rollouts = [rollout(step, question, **scores) for step, question, scores in rows]
    shares = advantage_shares(rollouts, WEIGHTS)
    for values in zip(*shares.values(), strict=True):
        assert sum(share for _, share in values) == pytest.approx(1)
    generator.shuffle(rollouts)
    again = advantage_shares(rollouts, WEIGHTS)
    assert {name: [step for step, _ in points] for name, points in again.items()} == {
        name: [step for step, _ in points] for name, points in shares.items()
    }
    for name, points in again.items():
        assert [v for _, v in points] == pytest.approx([v for _, v in shares[name]], abs=1e-9)


def test_a_reward_first_seen_later_was_nothing_before():
    rows = [rollout(1, "q", a=1.0), rollout(1, "q", a=0.0), rollout(2, "q", a=0.0, b=1.0),
            rollout(2, "q", a=0.0, b=0.0)]  # fmt: skip
    shares = advantage_shares(rows, {"a": 1.0, "b": 1.0})
    assert shares == {"a": [(1, 1.0), (2, 0.0)], "b": [(1, 0.0), (2, 1.0)]}


def test_group_shares_of_a_single_completion_are_none():
    assert group_shares([[1.0, 2.0]]) is None


def test_curves_are_read_without_what_is_no_number(here):
    path = here / "curve.csv"
    path.write_text("step,loss,accuracy,kl_div\n1,0.5,,nan\n2,inf,0.25,\n")
    assert read_curves(path) == {"loss": [(1, 0.5)], "accuracy": [(2, 0.25)]}
    assert read_curves(here / "none.csv") == {}


def test_panels_show_what_was_recorded():
    curve = [(1, 0.5), (2, 0.6)]
    curves = dict.fromkeys(("mean_reward", "rewards/format/mean", "rewards/format/std", "kl_div",
                            "loss", "grad_norm"), curve)  # fmt: skip
    panels = {panel.title: list(panel.curves) for panel in grpo_panels(curves, {})}
    assert panels == {
        "Reward": ["mean_reward", "format"], "KL to the SFT model": ["kl_div"], "Loss": ["loss"],
    }  # fmt: skip
    two = {"a": curve, "b": curve}
    assert "Share of the advantage" in [panel.title for panel in grpo_panels(curves, two)]
    assert grpo_panels({}, {}) == []
    assert [panel.title for panel in loss_panels({"loss": curve}, {})] == ["SFT"]


def test_the_table_of_the_rewards():
    shares = {"a": [(1, 0.5), (2, 1.0)], "b": [(1, 0.5), (2, 0.0)]}
    curves = {"rewards/a/mean": [(1, 0.125), (2, 0.5)]}
    assert advantage_table(shares, {"a": 1.0, "b": 0.25}, curves)[1:] == [
        ["a", "1", "0.125", "0.500", "75.0%"],
        ["b", "0.25", "", "", "25.0%"],
    ]


def test_thousands_of_rollouts_take_a_moment():
    generator = random.Random(0)
    rows = [rollout(i // 512, f"q{i // 8 % 64}", a=generator.random(), b=generator.random())
            for i in range(50_000)]  # fmt: skip
    shares = advantage_shares(rows, {"a": 1.0, "b": 1.0})
    assert len(shares["a"]) == 98
    assert np.mean([share for _, share in shares["a"]]) == pytest.approx(0.5, abs=0.02)


def test_findings_and_targets_are_told_by_stage():
    finding = {"name": "dead_groups", "what": "71% of groups teach nothing", "remedy": "stop",
               "severity": "info", "step": 24}  # fmt: skip
    table = finding_table({"sft": {"findings": []}, "base": {}, "grpo": {"findings": [finding]}})
    assert table[1:] == [["grpo", "24", "info", "71% of groups teach nothing", "stop"]]
    targets = [{"name": "accuracy", "goal": "> 0.7", "value": 0.93, "reached": True},
               {"name": "kl_div", "goal": "< 0.5", "value": None, "reached": None}]  # fmt: skip
    assert target_table(targets)[1:] == [
        ["accuracy", "> 0.7", "0.930", "reached"], ["kl_div", "< 0.5", "", "not measured"],
    ]  # fmt: skip
