"""What the documents show is true."""

import re
import shlex

import pytest
import yaml

from stages import rewards
from stages.answers.format import Format
from stages.core import params
from stages.core.params import Reward
from tests.conftest import ROOT, merged

REWARDS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/rewards.md").read_text(), re.DOTALL)
GRPO = (ROOT / "docs/grpo.md").read_text()
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


def settings_shown() -> dict[str, dict]:
    """Each row of docs/grpo.md's table: what it is, and what it sets below `grpo:`."""
    table = [line for line in GRPO.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]
    shown = {cell[0]: yaml.safe_load(cell[1].strip("`")) for cell in cells}
    assert len(shown) == len(table)
    return shown


@pytest.mark.parametrize("name", settings_shown())
def test_every_setting_of_grpo_shown_is_accepted(raw, name):
    shown = settings_shown()[name]
    loaded = params.validate(merged(raw, {"grpo": shown}), "docs/grpo.md").grpo
    for key, value in shown.items():
        found = getattr(loaded, key)
        if key in ("trainer", "lora") and value is not None:
            assert value.keys() <= found.keys()
        elif key != "curriculum":
            assert found == (float(value) if key == "clip_epsilon" else value)


def test_every_test_named_for_grpo_is_there():
    there = (ROOT / "tests/stages/test_grpo.py").read_text()
    for name in re.findall(r"`(test_\w+)`", GRPO):
        assert f"def {name}(" in there, name
    for path in re.findall(r"`(tests/\S+\.py)`", GRPO):
        assert (ROOT / path).exists()


def test_what_scaling_shows_is_accepted(raw):
    text, _, team = (ROOT / "docs/scaling.md").read_text().partition("\n## A team\n")
    launch, rollouts = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert params.validate(merged(raw, yaml.safe_load(launch)), "docs/scaling.md").launch.processes
    for line in rollouts.splitlines():
        shown = yaml.safe_load(line)
        loaded = params.validate(merged(raw, {"grpo": shown}), "docs/scaling.md").grpo
        assert shown["trainer"].items() <= loaded.trainer.items()
    for file in re.findall(r"`(\w+\.yaml)`", text):
        assert (ROOT / "presets/accelerate" / file).exists()
    [tracking] = re.findall(r"```yaml\n(tracking:.*?)```", team, re.DOTALL)
    shown = yaml.safe_load(tracking)
    loaded = params.validate(merged(raw, shown), "docs/scaling.md").tracking
    assert loaded.uri == shown["tracking"]["uri"]


# What stands before the lines of a table: STEPS, then DIGITS as well, then PLAIN.
WHOLE, STEPS, NUMBERS, DIGITS, SEARCH, PLAIN, NO_SEARCH = re.split(
    "(?:STEPS|DIGITS|PLAIN)='(.*)'", (ROOT / "docs/experiments.md").read_text()
)
LINE = re.compile(r"^\| `(-S .*?)` \|", re.M)
EXPERIMENTS = (
    re.findall(r"^dvc exp run --temp (-S .*)$", WHOLE, re.M)
    + LINE.findall(WHOLE)
    + [f"{STEPS} {line}" for line in LINE.findall(NUMBERS)]
    + [f"{STEPS} {DIGITS} {line}" for line in LINE.findall(SEARCH)]
    + [f"{STEPS} {DIGITS} {PLAIN} {line}" for line in LINE.findall(NO_SEARCH)]
)


@pytest.mark.parametrize("line", EXPERIMENTS)
def test_every_experiment_shown_is_accepted(line):
    preset = yaml.safe_load((ROOT / "presets/countdown.yaml").read_text())
    changed = preset
    for setting in shlex.split(line)[1::2]:
        key, _, value = setting.partition("=")
        value, names, there = yaml.safe_load(value), key.removeprefix("+").split("."), preset
        for name in names[:-1]:
            there = there.get(name, {})
        assert (names[-1] in there) != key.startswith("+"), "DVC adds a setting with a plus alone"
        for name in reversed(names):
            value = {name: value}
        changed = merged(changed, value)
    assert changed != preset and params.validate(changed, "docs/experiments.md")
