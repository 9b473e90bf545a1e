"""What the documents show is true."""

import re

import pytest
import yaml

from stages import rewards
from stages.answers.format import Format
from stages.core.params import Reward
from tests.conftest import ROOT

REWARDS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/rewards.md").read_text(), re.DOTALL)
RIGHT = "<think>2+3=5</think><answer>5</answer>"


@pytest.mark.parametrize("block", REWARDS)
def test_every_reward_shown_can_be_configured_and_pays_a_right_answer_most(block):
    specs = {n: Reward(**(s or {})) for n, s in yaml.safe_load(block)["rewards"].items()}
    specs = {n: s for n, s in specs.items() if "my_rewards" not in (s.function or "")}
    functions, weights = rewards.load(specs, Format())
    columns = {"completions": [RIGHT, RIGHT.replace("5", "6"), ""], "gold": ["5"] * 3,
               "working": ["2+3=5"] * 3}  # fmt: skip
    if "unit_tests" in specs:
        columns["completions"][:2] = [RIGHT.replace(">5<", f">def f(): return {n}<") for n in "56"]
        columns["tests"] = [["assert f() == 5"]] * 3
    scores = zip(*(function(**columns) for function in functions), strict=True)
    totals = [sum(w * s for w, s in zip(weights, row, strict=True)) for row in scores]
    assert totals[0] > max(totals[1:])
