import pytest

from stages import distill
from stages.core import params
from stages.core.errors import UserError
from tests.conftest import merged


def sample(question: str, completion: str, correct: bool = True) -> dict:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": completion}],
        "correct": correct,
    }


def test_only_what_the_reward_calls_right_is_verified(raw):
    loaded = params.validate(raw, "params.yaml")
    row = {"prompt": [{"role": "user", "content": "1+1?"}], "gold": "2"}
    texts = ["<think>1+1=2</think><answer>2</answer>", "<think>2</think><answer>3</answer>", "2"]
    judged = list(distill.verified(((row, text) for text in texts), loaded))
    assert [s["correct"] for s in judged] == [True, False, False]


def test_a_prompt_and_completion_counts_once():
    samples = [sample("a", "1"), sample("a", "1"), sample("a", "2"), sample("b", "1")]
    assert len(distill.distinct(samples)) == 3


def test_too_few_verified_samples_are_an_error_that_names_the_remedies(raw):
    section = params.validate(merged(raw, {"distill": {"min_samples": 2}}), "x").distill
    kept = [sample("a", "1"), sample("b", "1")]
    assert distill.enough(kept, section) == kept
    with pytest.raises(UserError, match=r"got 1 samples right, distill\.min_samples asks for 2"):
        distill.enough(kept[:1], section)
