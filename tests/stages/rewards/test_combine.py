import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import rewards
from stages.answers.format import Format
from stages.core.params import Reward
from stages.rewards.combine import one

FMT = Format()
SCORES = st.lists(st.none() | st.floats(-3, 3), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("how", "scores", "wanted"),
    [
        ("sum", [1.0, 0.5, None], 2.0),
        ("mean", [1.0, 0.5, None], 2.0 / 3),
        ("max", [0.2, 0.5, 0.0], 1.0),
        ("min", [0.2, 0.5, 0.3], 0.2),
        ("product", [0.5, 0.5, None], 0.5),
        ("majority", [1.0, 0.0, 1.0], 1.0),
        ("majority", [1.0, 0.0, None], 0.0),
        ("gate", [1.0, 0.5, 0.1], 2.1),
        ("gate", [0.0, 0.5, 0.1], 0.0),
        ("gate", [None, 0.5, 0.1], None),
        ("sum", [None, None, None], None),
    ],
)
def test_one(how, scores, wanted):
    assert one(how, scores, [1.0, 2.0, 1.0]) == pytest.approx(wanted)


@given(SCORES)
def test_bounds(scores):
    known = [s for s in scores if s is not None]
    ones = [1.0] * len(scores)
    if not known:
        assert all(one(how, scores, ones) is None for how in ("sum", "mean", "max", "min"))
        return
    low, mean, high = (one(how, scores, ones) for how in ("min", "mean", "max"))
    assert low <= mean + 1e-9 and mean <= high + 1e-9
    assert one("majority", scores, ones) in (0.0, 1.0)


def test_they_nest_with_scale_and_clip():
    spec = Reward.model_validate({
        "weight": 1.0, "combine": "gate", "clip": [-1, 1.25],
        "of": {
            "correctness": {},
            "shape": {"combine": "max", "weight": 0.5, "of": {
                "format": {}, "tidy": {"function": "step_structure", "scale": 2.0}}},
        },
    })  # fmt: skip
    reward = rewards.build("mixed", spec, FMT)
    texts = [FMT.render("2", "1+1=2"), FMT.render("2", "one\ntwo"), FMT.render("3", "one\ntwo")]
    assert reward(completions=texts, gold=["2"] * 3) == [1.25, 1.25, 0.0]
    spec = spec.model_copy(update={"clip": None})
    reward = rewards.build("mixed", spec, FMT)
    assert reward(completions=texts, gold=["2"] * 3) == [1.5, 2.0, 0.0]
    assert reward.__name__ == "mixed"


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"combine": "max"}, "give both"),
        ({"of": {"format": {}}}, "give both"),
        ({"combine": "max", "of": {"format": {}}, "function": "format"}, "no `function`"),
    ],
)
def test_half_a_combination_is_refused(spec, says):
    with pytest.raises(ValueError, match=says):
        Reward.model_validate(spec)
