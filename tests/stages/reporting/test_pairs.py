import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from stages.reporting import pairs
from stages.reporting.pairs import Pair, alarm, all_pairs, compared


def rows(**correct: bool) -> list[dict]:
    return [{"task": "t", "question": q, "correct": c} for q, c in correct.items()]


def many(outcomes: list[bool], **more) -> list[dict]:
    return [
        {"task": "t", "question": f"q{i}", "correct": c, **more} for i, c in enumerate(outcomes)
    ]


def pair(before: list[bool], after: list[bool]) -> Pair:
    return compared("t", "sft", "grpo", {"sft": many(before), "grpo": many(after)})


def test_flips_are_counted_on_the_same_questions_only():
    samples = {
        "sft": rows(a=True, b=False, c=False, d=True),
        "grpo": rows(c=True, b=True, a=False, e=True),
    }
    found = compared("t", "sft", "grpo", samples)
    assert found.n == 3 and found.difference == pytest.approx(1 / 3)
    assert [now["question"] for _, now in found.gained] == ["c", "b"]
    assert [(was["question"], now["correct"]) for was, now in found.lost] == [("a", False)]


def test_a_question_asked_twice_pairs_in_order_and_not_across_tasks():
    was = [*rows(a=True), *rows(a=False), {"task": "u", "question": "a", "correct": False}]
    now = [{"task": "u", "question": "a", "correct": True}, *rows(a=True), *rows(a=True)]
    both = pairs.joined(was, now)
    assert [(b["task"], b["correct"], a["correct"]) for b, a in both] == [
        ("u", False, True), ("t", True, True), ("t", False, True),
    ]  # fmt: skip


def test_what_was_not_judged_is_no_flip():
    before, after = rows(a=True, b=True, c=False), rows(a=False, b=True, c=True)
    after[0]["error"] = "sandbox"
    found = compared("t", "sft", "grpo", {"sft": before, "grpo": after})
    assert (found.n, len(found.gained), len(found.lost), found.difference) == (2, 1, 0, 0.5)


def test_models_without_a_common_problem_are_not_compared():
    assert compared("t", "sft", "grpo", {"sft": rows(a=True), "grpo": rows(b=True)}) is None
    assert compared("t", "sft", "grpo", {"sft": rows(a=True)}) is None
    assert all_pairs({"t": {"sft": rows(a=True), "grpo": rows(a=True)}})[0].after == "grpo"


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([False] * 30 + [True] * 30, [True] * 60, "better"),
        ([True] * 60, [False] * 30 + [True] * 30, "worse"),
        ([True, False] * 30, [False, True] * 30, "within noise"),
        ([True] * 60, [True] * 60, "within noise"),
        ([False] * 4 + [True] * 56, [True] * 60, "within noise"),  # four flips may be luck
    ],
)
def test_a_verdict_takes_more_than_luck(before, after, verdict):
    assert pair(before, after).verdict == verdict


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_interval_test_and_verdict_turn_with_the_sides(outcomes):
    before, after = map(list, zip(*outcomes, strict=True))
    there, back = pair(before, after), pair(after, before)
    assert there.low <= there.difference <= there.high
    assert (len(there.gained), len(there.lost)) == (len(back.lost), len(back.gained))
    assert there.difference == -back.difference and there.p == back.p
    flips = len(there.gained) + len(there.lost)
    expected = binomtest(len(there.gained), flips).pvalue if flips else 1.0
    assert there.p == pytest.approx(expected, rel=1e-6)
    turned = {"better": "worse", "worse": "better", "within noise": "within noise"}
    if abs(there.p - pairs.SIGNIFICANT) > 0.03:  # at the edge a bootstrap may go either way
        assert back.verdict == turned[there.verdict]


def test_without_flips_the_interval_is_not_a_point():
    found = pair([True] * 50, [True] * 50)
    assert found.low < 0 < found.high


def test_mean_rewards_are_compared_where_both_were_judged():
    samples = {"sft": many([True] * 3, reward=0.5), "grpo": many([True] * 3, reward=0.75)}
    samples["grpo"][2]["reward"] = None
    assert compared("t", "sft", "grpo", samples).reward == (0.25, 0.25, 0.25)
    assert pair([True], [True]).reward is None


def drawn(*right: int, of: int = 4) -> list[dict]:
    """A row a problem, with so many right samples."""
    return [
        {"task": "t", "question": f"q{i}", "correct": True,
         "samples": [{"correct": n < count} for n in range(of)]}
        for i, count in enumerate(right)
    ]  # fmt: skip


def test_several_samples_are_compared_problem_by_problem():
    found = compared("t", "sft", "grpo", {"sft": drawn(0, 1, 4), "grpo": drawn(1, 4, 4)}).sampled
    assert list(found) == ["pass@1", "pass@4"]
    assert found["pass@1"][0] == pytest.approx((1 / 4 + 3 / 4) / 3)
    assert found["pass@4"][0] == pytest.approx(1 / 3)
    entry = pairs.as_metrics(all_pairs({"t": {"sft": drawn(0, 1), "grpo": drawn(1, 4)}}))
    assert entry["t"]["sft-grpo"]["pass@4"]["difference"] == 0.5


def test_without_as_many_samples_of_each_problem_nothing_is_said_of_them():
    fewer = {"sft": drawn(1, 1), "grpo": [*drawn(1), *drawn(1, 1, of=2)[1:]]}
    assert compared("t", "sft", "grpo", fewer).sampled == {}
    none = pair([False] * 60, [True] * 60)
    assert none.sampled == {} and pairs.reach(none) == ""


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ([0, 0, 4], [4, 1, 4], "GRPO's samples solve more problems than SFT's."),
        ([1, 1, 1], [4, 0, 4], "solve fewer problems than SFT's, each more often."),
        ([2, 1, 1], [2, 0, 1], "solve fewer problems than SFT's."),
        ([1, 2, 1], [4, 4, 3], "right more often; that they solve more problems is not shown."),
        ([1, 2, 1], [1, 2, 1], "That GRPO's samples are better is not shown."),
    ],
)
def test_what_the_samples_say_of_grpo(before, after, says):
    samples = {"sft": drawn(*before * 40), "grpo": drawn(*after * 40)}
    assert pairs.reach(compared("t", "sft", "grpo", samples)).endswith(says)


def test_harm_by_grpo_is_named_with_its_task_and_size():
    good, bad = [True] * 60, [False] * 30 + [True] * 30
    harmed = {"sft": many(good), "grpo": many(bad)}
    helped = {"sft": many(bad), "grpo": many(good), "student": many(bad)}
    said = alarm(all_pairs({"math": harmed, "gsm8k": helped, "code": harmed}))
    assert said.startswith("GRPO is worse than SFT on math (-50.0 points [") and "code (" in said
    assert "gsm8k" not in said
    assert alarm(all_pairs({"gsm8k": helped})) == "", "a worse student is no harm by GRPO"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ([False] * 30 + [True] * 30, [True] * 60, "GRPO did more than elicit"),
        ([True] * 60, [True] * 60, "that it added skill is not shown"),
        ([True] * 60, [False] * 30 + [True] * 30, "GRPO is worse than"),
    ],
)
def test_what_grpo_changed_is_said_by_the_comparison_with_the_control(before, after, says):
    assert says in pairs.against_control(pair(before, after).verdict, gained=True)


def test_where_grpo_gained_nothing_it_elicited_nothing():
    assert pairs.against_control("within noise", gained=False) == (
        "That GRPO added skill is not shown."
    )


def test_programs_get_the_same_numbers():
    found = pair([False] * 30 + [True] * 30, [True] * 60)
    entry = pairs.as_metrics([found])["t"]["sft-grpo"]
    assert entry["gained"] == 30 and entry["lost"] == 0 and entry["verdict"] == "better"
    assert entry["difference"] == 0.5 and entry["p"] == found.p
