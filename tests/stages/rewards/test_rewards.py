import shutil
import sys
from pathlib import Path

import pytest

from stages import rewards
from stages.answers.format import Format
from stages.core import graph, resume
from stages.core.errors import UserError
from stages.core.params import Reward
from tests.conftest import ROOT, watching

FMT = Format()


def load(**specs):
    return rewards.load({name: Reward(**spec) for name, spec in specs.items()}, FMT)


def test_correctness_and_format_in_trls_protocol():
    (correct, formatted), weights = load(correctness={"weight": 1}, format={"weight": 0.1})
    completions = [
        [{"role": "assistant", "content": text}]
        for text in ("<think>1+1=2</think><answer>2</answer>", "<answer>2</answer>", "2")
    ]
    columns = {"prompts": ["?"] * 3, "completion_ids": [[1]] * 3, "gold": ["2"] * 3}
    assert correct(completions=completions, **columns) == [1.0, 1.0, 0.0]
    assert formatted(completions=completions, **columns) == [1.0, 0.0, 0.0]
    assert weights == [1, 0.1]
    assert (correct.__name__, formatted.__name__) == ("correctness", "format")


OWN = """
def brevity(completions, limit=10, **_):
    return [1.0 if len(c[-1]["content"]) <= limit else None for c in completions]
"""


@pytest.fixture
def own(here, monkeypatch):
    Path("my_rewards.py").write_text(OWN)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    return here


def test_a_custom_reward_that_dvc_watches_with_its_option(own):
    Path("dvc.yaml").write_text(
        "stages: {audit: {deps: [my_rewards.py]}, grpo: {deps: [my_rewards.py]}}"
    )
    spec = {"weight": 1, "function": "my_rewards:brevity", "options": {"limit": 3}}
    (short,), _ = load(short=spec)
    messages = [[{"role": "assistant", "content": text}] for text in ("abc", "abcd")]
    assert short(completions=messages, gold=["1", "1"]) == [1.0, None]
    assert short.__name__ == "short"


def test_an_option_of_a_custom_reward_goes_before_a_column_of_its_name(own):
    Path("dvc.yaml").write_text(
        "stages: {audit: {deps: [my_rewards.py]}, grpo: {deps: [my_rewards.py]}}"
    )
    spec = {"weight": 1, "function": "my_rewards:brevity", "options": {"limit": 3}}
    (short,), _ = load(short=spec)
    messages = [[{"role": "assistant", "content": "abc"}]]
    assert short(completions=messages, limit=[1]) == [1.0]


def test_a_custom_reward_that_dvc_does_not_watch_is_refused_with_the_line_to_add(own):
    Path("dvc.yaml").write_text(
        "stages: {audit: {deps: [my_rewards.py]}, grpo: {deps: [other.py]}}"
    )
    with pytest.raises(UserError, match=r"add the line `- my_rewards\.py` to stages\.grpo\.deps"):
        load(short={"weight": 1, "function": "my_rewards:brevity"})


SHORT = {"short": Reward(function="my_rewards:brevity")}


def test_every_stage_that_evaluates_watches_a_custom_reward(own):
    watching("my_rewards.py", by=("evaluate",))
    with pytest.raises(
        UserError,
        match=r"to stages\.evaluate_also\.do\.deps and stages\.evaluate_control\.do\.deps in dvc",
    ):
        rewards.load(SHORT, FMT, "evaluate")
    watching("my_rewards.py", by=("evaluate", "evaluate_also", "evaluate_control"))
    rewards.load(SHORT, FMT, "evaluate")
    callers = {name for name, entry in graph.declared().items()
               if "stages.evaluate" in entry.get("do", entry)["cmd"]}  # fmt: skip
    assert callers == set(rewards.WATCHERS["evaluate"])


def test_what_a_custom_reward_imports_is_watched_and_no_resume_mixes_two_of_it(own):
    Path("my_rewards.py").write_text(f"import my_tools.limits, json, stages.rewards\n{OWN}")
    Path("my_tools").mkdir()
    Path("my_tools/__init__.py").write_text("")
    Path("my_tools/limits.py").write_text("from .deep import LIMIT")
    Path("my_tools/deep.py").write_text("LIMIT = 3")
    files = ["my_rewards.py", "my_tools/deep.py", "my_tools/limits.py"]
    for lacking in files:
        watching(*(file for file in files if file != lacking), by=("audit", "grpo"))
        says = rf"add the line `- {lacking}` to stages\.audit\.deps and stages\.grpo\.deps in dvc"
        with pytest.raises(UserError, match=says):
            rewards.load(SHORT, FMT)
    watching(*files, by=("audit", "grpo"))
    rewards.load(SHORT, FMT)
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    before = resume.key("grpo")
    Path("my_tools/deep.py").write_text("LIMIT = 4")
    assert resume.key("grpo") != before


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"weight": 1}, "no reward is called mine"),
        ({"weight": 1, "function": "nowhere.at:all"}, "names no function"),
        ({"weight": 1, "function": "my_rewards"}, "no reward is called my_rewards"),
        ({"weight": 1, "function": "my_rewards:missing"}, "has no function 'missing'"),
        ({"weight": 1, "function": "my_rewards:brevity", "options": {"max": 1}}, "takes limit"),
    ],
)
def test_what_cannot_be_found_is_named(own, spec, says):
    Path("dvc.yaml").write_text(
        "stages: {audit: {deps: [my_rewards.py]}, grpo: {deps: [my_rewards.py]}}"
    )
    with pytest.raises(UserError, match=says):
        load(mine=spec)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("overlong", {"limit": 40, "buffer": 0}, r"buffer must be 1 or more \(given: 0\)"),
        ("overlong", {"limit": "forty", "buffer": 4}, "limit must be a whole number"),
        ("length_cosine", {"limit": 0}, "limit must be 1 or more"),
        ("length_cosine", {"limit": 9, "right": 1.0}, "right must be two numbers"),
        ("repetition", {"words": "three"}, "words must be a whole number"),
        ("repetition", {"words": 2.5}, "words must be a whole number"),
        ("unit_tests", {"seconds": "ten"}, "seconds must be a number"),
        ("unit_tests", {"seconds": 0}, "seconds must be over 0"),
        ("unit_tests", {"strict": "sometimes"}, "strict must be true or false"),
        ("correctness", {"right": "yes"}, r"right must be a number \(given: 'yes'\)"),
        ("correctness", {"right": True}, "right must be a number"),
        ("correctness", {"right": None}, "right must be a number"),
        ("correctness", {"right": float("inf")}, "right must be a finite number"),
        ("script", {"name": 5}, "name must be a text"),
    ],
)
def test_an_option_of_the_wrong_type_is_named_with_what_it_must_be(name, options, says):
    with pytest.raises(UserError, match=rf"^grpo\.rewards\.{name}\.options\.{says}"):
        load(**{name: {"options": options}})


def test_options_that_yaml_read_as_text_or_list_are_what_the_reward_takes():
    columns = {"completions": ["a b a b", "<answer>2</answer>"], "gold": ["2", "2"],
               "completion_ids": [[1] * 2, [1] * 2]}  # fmt: skip
    (runs, cosine), _ = load(
        repetition={"options": {"words": "2"}},
        length_cosine={"options": {"limit": 2, "right": [1, 0.25], "wrong": [-1, 0]}},
    )
    assert runs(**columns) == [pytest.approx(-1 / 3), 0.0]
    assert cosine(**columns) == [0.0, 0.25]
